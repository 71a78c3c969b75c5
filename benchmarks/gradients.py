"""Norm of the gradient by block on scikit-learn's digits, with the pathway and without, for each Boolean join.

The same trunk, first weights and batches for both; measured on a batch of its own, at the start and after some steps.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from full_spike.cifar.data import Digits
from full_spike.cifar.train import make_parser
from full_spike.models import BOOLEAN_FUNCTIONS, create_model, detach_aap, use_fused
from full_spike.utils.losses import DualStreamLoss, readouts
from full_spike.utils.options import parse
from studies.blocks import by_block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="ds_spikformer_4_384", help="a network with the pathway")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--heads", type=int, default=6, help="of a Spikformer")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--size", type=int, default=16, help="side of the images in pixels")
    parser.add_argument("--fused", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    heads = {"heads": args.heads} if "spikformer" in args.model else {}
    options = parse(make_parser(), ["--image-size", str(args.size)])
    train, test = (Digits(options, train=split) for split in (True, False))
    images, classes = torch.stack([image for image, _ in test]), test.classes
    criterion = DualStreamLoss()
    print(f"{args.model}, width {args.width}, digits of {args.size} pixels, AdamW, lr 0.002, {args.steps} steps of 64")
    for connect_f in sorted(BOOLEAN_FUNCTIONS):
        for pathway in (True, False):
            torch.manual_seed(0)
            model: Any = create_model(
                args.model, width=args.width, num_classes=10, in_channels=1, connect_f=connect_f, **heads
            )
            model = use_fused(model if pathway else detach_aap(model), args.fused)
            probe = images[:128], classes[:128]
            start = by_block(model, *probe)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.05)
            generator = torch.Generator().manual_seed(0)
            for _ in range(args.steps):
                batch = [train[i] for i in torch.randint(len(train), (64,), generator=generator).tolist()]
                loss = criterion(model(torch.stack([x for x, _ in batch])), torch.tensor([y for _, y in batch]))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            end = by_block(model, *probe)
            what = f"{connect_f:5}{'with' if pathway else 'without':8}"
            for when, norms in (("start", start), ("end", end)):
                print(f"{what}{when:6}" + "".join(f"{entry['gradient_norm']:9.2e} " for entry in norms))
            with torch.no_grad():
                trunk = next(iter(readouts(model.eval()(images)).values()))
            accuracy = 100.0 * trunk.argmax(1).eq(classes).double().mean()
            print(f"{what}test accuracy of the trunk {accuracy:.1f} %", flush=True)


if __name__ == "__main__":
    main()
