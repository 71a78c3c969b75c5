"""Gradient norm and firing rate of each block, before and after training.

    python -m studies.blocks runs/studies/digits_depth/d50_with_seed0

writes blocks.json into the run's folder, from the loss on 128 training images. "start" is the network as the run's seed
initialises it.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from full_spike.models import create_model
from full_spike.utils.checkpoint import LATEST
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.errors import run_command
from full_spike.utils.files import write_file
from full_spike.utils.losses import DualStreamLoss
from full_spike.utils.options import Parser
from full_spike.utils.report import read_config
from full_spike.utils.trained import (
    add_data_set_arguments,
    add_network_arguments,
    batches,
    build_network,
    load_data_set,
)

SAMPLES = 128


def by_block(model: Any, images: Tensor, classes: Tensor) -> list[dict[str, float]]:
    """L2 norm of the loss's gradient over each block's parameters, and firing rate of the block's output.

    In training mode, so batch norms use the batch; the model is left as it is.

    Args:
        images: [N, C, H, W] or frames [T, N, C, H, W].
    """
    model = copy.deepcopy(model).train()
    model.zero_grad()
    rates: list[float] = []
    for block in model.blocks():
        block.register_forward_hook(lambda _, __, streams: rates.append(streams[0].float().mean().item()))
    DualStreamLoss()(model(images), classes).backward()
    gradients = [[p.grad for p in block.parameters() if p.grad is not None] for block in model.blocks()]
    return [
        {"gradient_norm": get_total_norm(found).item(), "firing_rate": rate}
        for found, rate in zip(gradients, rates, strict=True)
    ]


def load_run(run: Path, data_path: str | None = None) -> tuple[Any, Datasets]:
    """(network, data) of the newest checkpoint in a run's folder.

    Args:
        data_path: where the data are now, if not where the run found them.

    Raises:
        UserError: it is no run, or the data are missing.
    """
    path = data_path or read_config(run).get("data_path")
    parser = Parser()
    add_network_arguments(parser, optional=True)
    add_data_set_arguments(parser)
    args = parser.parse_args(["--checkpoint", str(run / LATEST), *(["--data", path] if path else [])])
    model = build_network(args)
    return model, load_data_set(args, model)[0]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__, prog="python -m studies.blocks")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that has ended")
    run = parser.parse_args(argv).run
    trained, data = load_run(run)
    images, classes = next(iter(batches(data.train, data.collate, SAMPLES, SAMPLES)))
    torch.manual_seed(read_config(run)["seed"])
    found = [
        {"when": when, "block": str(i), **entry}
        for when, model in (("start", create_model(**trained.config)), ("end", trained))
        for i, entry in enumerate(by_block(model, images, classes), start=1)
    ]
    write_file(run / "blocks.json", json.dumps(found).encode())
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
