"""One neuron layer, forward and backward: the fused one beside spikingjelly's, and beside the bytes it must move."""

from __future__ import annotations

import argparse

import torch
from torch import nn

from full_spike.models import use_fused
from full_spike.models.neuron import NEURONS, neuron_factory

from .common import compare, parser, reset, stock


def measure(args: argparse.Namespace, dtype: torch.dtype) -> str:
    """Time one dtype, print the table, and return the ratios in words."""
    torch.manual_seed(0)
    shape = (args.T, args.batch_size, args.channels, args.size, args.size)
    x = torch.randn(shape, device=args.device).to(dtype).requires_grad_()
    gradient = torch.randn(shape, device=args.device).to(dtype)
    values, spikes, grad_x = x.detach(), torch.empty_like(gradient), torch.empty_like(gradient)
    ours = use_fused(neuron_factory(args.neuron)()).to(args.device)
    theirs = stock(ours)

    def run(node: nn.Module) -> None:
        x.grad = None
        node(x).backward(gradient)
        reset(node)

    def traffic() -> None:
        spikes.copy_(values)  # forward: x in, s out
        torch.add(values, gradient, out=grad_x)  # backward: x and dL/ds in, dL/dx out

    title = f"{args.neuron}, {' x '.join(map(str, shape))}, {dtype}, forward and backward"
    sides = {"stock": (lambda: run(theirs), True), "fused": (lambda: run(ours), True), "traffic": (traffic, True)}
    medians = compare(sides, title, args)
    speedup, bound = medians["stock"] / medians["fused"], medians["fused"] / medians["traffic"]
    return f"{str(dtype).removeprefix('torch.')} stock/fused {speedup:.2f} fused/bound {bound:.2f}"


def main() -> None:
    made = parser(__doc__, batch_size=16, size=56, repeats=9)
    made.add_argument("--neuron", choices=sorted(NEURONS), default="IF")
    made.add_argument("--channels", type=int, default=64)
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    dtypes = [torch.float32, torch.bfloat16] if args.bf16 else [torch.float32]
    print("ratio neuron " + " ".join([measure(args, dtype) for dtype in dtypes]))


if __name__ == "__main__":
    main()
