"""The classes of images, and pictures of the spikes at them.

    python -m full_spike.utils.predict cat.jpg more_pictures/
    python -m full_spike.utils.predict --checkpoint runs/.../checkpoint_max_test_acc1.pth cat.jpg

prints the top-5 classes of each image and draws it beside the spikes of every layer. Without --checkpoint it takes the
weights of FSNN-18 on CIFAR-10 that come along.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_spike.utils.errors import UsageError, UserError, escaped, run_command
from full_spike.utils.files import check_output_folder, is_image, passed_over, read_text, write_picture
from full_spike.utils.options import Parser, positive_int, probability
from full_spike.utils.trained import add_data_set_arguments, add_network_arguments

SHOWN_SIDE = 256  # pixels of the image in the picture
SHIPPED = "cifar10", "fsnn18"  # default weights


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python -m full_spike.utils.predict")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image, or a folder of them")
    parser.add_argument("--top", type=positive_int, default=5, metavar="N", help="classes to print (default: 5)")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="the classes' names, one a line")
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder for the pictures (default: the current one)"
    )
    parser.add_argument(
        "--exit-confidence", type=probability, metavar="X",
        help="stop at the time step at which a class has this probability (default: at the last)",
    )  # fmt: skip
    parser.add_argument("--no-pictures", action="store_true", help="only print")
    add_data_set_arguments(parser)
    add_network_arguments(parser, optional=True)
    args = parser.parse_args(argv)
    if args.checkpoint is None:
        if args.data_set is not None:
            raise UsageError(
                f"--data-set {args.data_set} needs a --checkpoint: the weights that come along are of CIFAR-10"
            )
        args.checkpoint = Path(SHIPPED[0])
        args.model = args.model or SHIPPED[1]
    return args


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images among these paths, and those in the folders among them by name.

    Raises:
        UserError: a path is not there, or a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.iterdir())
            images = [p for p in inside if is_image(p.name)]
            if not images:
                raise UserError(f"{path} holds no image: name a folder that does")
            if len(images) < len(inside):
                print(escaped(passed_over(path, [p.name for p in inside if p not in images])))
            found += images
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no {path}: check the path")
    return found


def class_names(path: Path | None, kept: list[str], count: int) -> list[str]:
    """Those of a file, or those that the checkpoint keeps, or numbers."""
    if path is None:
        return [escaped(name) for name in kept] if len(kept) == count else [str(k) for k in range(count)]
    names = [escaped(line.strip()) for line in read_text(path).splitlines() if line.strip()]
    if len(names) != count:
        raise UserError(f"{path} names {len(names)} classes and the network has {count}: give one a line")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    check_output_folder(args.output, "--output")
    images = find_images(args.images)
    import numpy as np

    from full_spike.utils import plots
    from full_spike.utils.data.images import load_image
    from full_spike.utils.export.run import Stream
    from full_spike.utils.losses import readouts
    from full_spike.utils.measure.spikes import record_spikes
    from full_spike.utils.trained import build_network, image_reader, trained

    network: Any = build_network(args)
    if getattr(network, "event_frames", False):
        raise UsageError("this network reads frames of events, not images: take one trained on images")
    read = image_reader(args, network.in_channels)
    weights: Any = trained(args)
    names = class_names(args.classes, weights.metadata.get("classes", []), network.classifier.out_features)
    print(f"{network.config['model']} from {escaped(str(weights.path))}")
    stream, T = Stream(network), network.T
    written: set[Path] = set()
    for path in images:
        image = load_image(path)
        x, after = read(image).unsqueeze(0).to(args.device), ""
        if args.exit_confidence is not None:
            network.T = T
            stream.until_sure(x, args.exit_confidence)
            network.T, after = stream.steps, f", after {stream.steps} of {T} time steps"
        layers, outputs = record_spikes(network, x, args.seed)
        probabilities = next(iter(readouts(outputs).values()))[0].softmax(0)
        top = [
            f"{100 * p:5.1f} %  {names[k]}" for p, k in zip(*probabilities.topk(min(args.top, len(names))), strict=True)
        ]
        print("\n  ".join([escaped(str(path)) + after, *top]))
        if args.no_pictures:
            continue
        target = args.output / f"{path.stem}_spikes.png"
        while target in written:  # images of one name from two folders
            target = target.with_name(f"{target.stem}_.png")
        written.add(target)
        args.output.mkdir(parents=True, exist_ok=True)
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        title = f"{network.config['model']} at {escaped(path.name)}: {top[0].strip()}"
        write_picture(target, plots.spikes(layers, title, np.asarray(image)))
        print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
