"""One neuron layer, forward and backward: the fused one beside spikingjelly's, and beside the bytes it must move."""

from __future__ import annotations

import torch

from models import use_fused
from models.neuron import NEURONS, neuron_factory

from .common import compare, parser, reset, stock


def main() -> None:
    made = parser(__doc__, batch_size=8, size=56, repeats=9)
    made.add_argument("--neuron", choices=sorted(NEURONS), default="IF")
    made.add_argument("--channels", type=int, default=64)
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    shape = (args.T, args.batch_size, args.channels, args.size, args.size)
    words = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        x = torch.randn(shape, device=device).to(dtype).requires_grad_()
        gradient = torch.randn(shape, device=device).to(dtype)
        target = torch.empty_like(gradient)
        half = gradient.flatten()[: gradient.numel() // 2]
        ours = use_fused(neuron_factory(args.neuron)()).to(device)
        theirs = stock(ours)

        def run(node, x=x, gradient=gradient):  # type: ignore[no-untyped-def]
            x.grad = None
            node(x).backward(gradient)
            reset(node)

        def traffic(gradient=gradient, target=target, half=half):  # type: ignore[no-untyped-def]
            # five arrays pass: x in and s out, then x and dL/ds in and dL/dx out; a copy passes two
            target.copy_(gradient)
            target.copy_(gradient)
            target.flatten()[: half.numel()].copy_(half)

        print(f"{args.neuron}, {' x '.join(map(str, shape))}, {dtype}, forward and backward")
        sides = {
            "stock": (lambda theirs=theirs: run(theirs), True),
            "fused": (lambda ours=ours: run(ours), True),
            "traffic": (traffic, True),
        }
        medians = compare(sides, args.repeats, device)
        print(f"bound {medians['fused'] / medians['traffic']:.2f} x the time of copying as many bytes")
        words.append(
            f"{str(dtype).removeprefix('torch.')} stock/fused {medians['stock'] / medians['fused']:.2f} "
            f"fused/bound {medians['fused'] / medians['traffic']:.2f}"
        )
    print("ratio neuron " + " ".join(words))


if __name__ == "__main__":
    main()
