"""Gradient norm and firing rate of each block, before and after training.

    python -m studies.blocks runs/studies/digits_depth/d50_with_seed0

writes blocks.json into the run's folder, from the loss on 128 training images. "start" is the network as the run's seed
initialises it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from full_spike.models import create_model
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.errors import run_command
from full_spike.utils.files import write_file
from full_spike.utils.losses import DualStreamLoss
from full_spike.utils.options import Parser
from full_spike.utils.trained import add_data_set_arguments, add_network_arguments, build_network, load_data_set
from studies.gathering import read_config
from studies.running import LATEST

SAMPLES = 128


def by_block(model: Any, images: Tensor, classes: Tensor) -> list[dict[str, float]]:
    """L2 norm of the loss's gradient over each block's parameters, and firing rate of the block's output.

    images: [N, C, H, W] or frames [T, N, C, H, W]. In training mode, so batch norms use the batch; their statistics are
    restored and no gradients are left.
    """
    rates: list[float] = []
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handles = [
        block.register_forward_hook(lambda _, __, result: rates.append(result[0].float().mean().item()))
        for block in model.blocks()
    ]
    try:
        model.train().zero_grad(set_to_none=True)
        DualStreamLoss()(model(images), classes).backward()
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


def load_run(run: Path, data_path: str | None = None) -> tuple[Any, Datasets]:
    """(network, data) of the newest checkpoint in a run's folder.

    Args:
        data_path: where the data are now, if not where the run found them.

    Raises:
        UserError: it is no run, or the data are missing.
    """
    config = read_config(run)
    parser = Parser()
    add_network_arguments(parser, optional=True)
    add_data_set_arguments(parser)
    path = data_path or config.get("data_path")
    args = parser.parse_args(["--checkpoint", str(run / LATEST), *(["--data", path] if path else [])])
    model = build_network(args)
    return model, load_data_set(args, model)[0]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__, prog="python -m studies.blocks")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that has ended")
    run = parser.parse_args(argv).run
    trained, data = load_run(run)
    samples = [data.train[i] for i in torch.linspace(0, len(data.train) - 1, SAMPLES).long().tolist()]
    images, classes = (data.collate or default_collate)(samples)
    torch.manual_seed(read_config(run)["seed"])
    untrained = create_model(**trained.config)
    found = []
    for when, model in (("start", untrained), ("end", trained)):
        for i, entry in enumerate(by_block(model, images, classes), start=1):
            found.append({"when": when, "block": str(i), **{name: float(f"{v:.6g}") for name, v in entry.items()}})
    write_file(run / "blocks.json", json.dumps(found).encode())
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
