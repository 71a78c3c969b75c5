"""The gradient's norm and the firing rate of each block, before training and after it.

    python -m studies.blocks runs/studies/digits_depth/d50_with_seed0

writes blocks.json into the folder of a run: of the loss on 128 training images, the norm of the gradient over all
parameters of a block, and the mean of the spikes that leave it. "start" is with weights drawn by the seed of the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from full_spike.models import create_model
from full_spike.utils.checkpoints.weights import read_weights
from full_spike.utils.cli.inspection import load_data
from full_spike.utils.errors import UserError, run_command
from full_spike.utils.files import write_file
from full_spike.utils.report import guess_script, read_config
from full_spike.utils.options import Parser
from full_spike.utils.losses import streams_loss
from torch import Tensor
from torch.utils.data import default_collate

SAMPLES = 128


def by_block(model: Any, images: Tensor, classes: Tensor) -> list[dict[str, float]]:
    """For each block, the L2 norm of the loss's gradient over its parameters and the firing rate of what leaves it.

    images: [N, C, H, W] or frames [T, N, C, H, W]. In training mode, so norms are of the batch; statistics and
    gradients are left as they were found.
    """
    rates: list[float] = []
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handles = [
        block.register_forward_hook(lambda _, __, result: rates.append(result[0].float().mean().item()))
        for block in model.blocks()
    ]
    try:
        model.train().zero_grad(set_to_none=True)
        streams_loss(model(images), classes).backward()
    finally:
        for handle in handles:
            handle.remove()
    norms = []
    for block in model.blocks():
        gradients = [p.grad.norm() for p in block.parameters() if p.grad is not None]
        norms.append(torch.stack(gradients).norm().item() if gradients else 0.0)
    model.zero_grad(set_to_none=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    return [{"gradient_norm": norm, "firing_rate": rate} for norm, rate in zip(norms, rates, strict=True)]


def measure(folder: Path) -> list[dict[str, Any]]:
    """Entries of when (start, end), block (from 1), gradient_norm and firing_rate of a run that has ended.

    Raises:
        UserError: it is no run's folder, or its checkpoint or data are not what they should be.
    """
    script = guess_script(read_config(folder))
    if script is None:
        raise UserError(f"{folder}/config.yaml does not say what trained it: name the folder of another run")
    data, options = load_data(script, folder / "config.yaml", None)
    samples = [data.train[i] for i in torch.linspace(0, len(data.train) - 1, SAMPLES).long().tolist()]
    images, classes = (data.collate or default_collate)(samples)
    config, state = read_weights(folder / "checkpoint_latest.pth")
    if config is None:
        raise UserError(f"{folder}/checkpoint_latest.pth does not say of which network it is: name another run")
    torch.manual_seed(options.recipe.seed)
    model: Any = create_model(**config)
    found = []
    for when in ("start", "end"):
        if when == "end":
            model.load_state_dict(state)
        for i, entry in enumerate(by_block(model, images, classes), start=1):
            found.append({"when": when, "block": str(i), **{name: float(f"{v:.6g}") for name, v in entry.items()}})
    return found


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__, prog="python -m studies.blocks")
    parser.add_argument("run", type=Path, help="the folder of a run that has ended")
    folder = parser.parse_args(argv).run
    write_file(folder / "blocks.json", json.dumps(measure(folder)).encode())
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
