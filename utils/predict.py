"""The classes of images, and pictures of the spikes at them.

    python -m utils.predict cat.jpg more_pictures/
    python -m utils.predict --checkpoint runs/.../checkpoint_max_test_acc1.pth cat.jpg

prints the five most probable classes of each image, and writes a picture of it beside the spikes of every layer.
Without --checkpoint it takes weights that come along: those of FSNN-18, trained on CIFAR-10.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_spike.utils.trained import add_data_set_arguments, add_network_arguments
from full_spike.utils.errors import UsageError, UserError, escaped, run_command
from full_spike.utils.files import check_output_folder, read_text
from full_spike.utils.options import Parser, positive_int

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
SHOWN_SIDE = 256  # pixels of the image in the picture
SHIPPED = "cifar10", "fsnn18"  # whose weights are taken if none are named


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python -m utils.predict")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image, or a folder of them")
    parser.add_argument("--top", type=positive_int, default=5, metavar="N", help="classes to print (default: 5)")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="the classes' names, one a line")
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder for the pictures (default: the current one)"
    )
    parser.add_argument("--no-pictures", action="store_true", help="print alone")
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
    """The images that are named, and those of the folders that are, in the order of their names.

    Raises:
        UserError: a path is not there, or a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"{path} holds no image: name a folder that does")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no {path}: check the path")
    return found


def _class_names(path: Path | None, kept: list[str], count: int) -> list[str]:
    """Of a file, or those that the checkpoint keeps, or numbers."""
    if path is None:
        return [escaped(name) for name in kept] if len(kept) == count else [str(k) for k in range(count)]
    names = [escaped(line.strip()) for line in read_text(path).splitlines() if line.strip()]
    if len(names) != count:
        raise UserError(f"{path} names {len(names)} classes and the network has {count}: give one a line")
    return names


def _lines(logits: Any, names: list[str], top: int) -> list[str]:
    probabilities, classes = logits.softmax(0).topk(min(top, len(names)))
    pairs = zip(classes.tolist(), probabilities.tolist(), strict=True)
    return [f"  {100 * probability:5.1f} %  {names[k]}" for k, probability in pairs]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    check_output_folder(args.output, "--output")
    images = find_images(args.images)
    import numpy as np  # this and what follows takes seconds to import
    from full_spike.utils.checkpoints.weights import classes_of
    from full_spike.utils.trained import image_reader
    from full_spike.utils.trained import build_network, trained
    from full_spike.utils.data.images.folder import load_image
    from full_spike.utils.draw.spikes import record_spikes, spikes_picture
    from full_spike.utils.losses import readouts

    network: Any = build_network(args)
    if getattr(network, "event_frames", False):
        raise UsageError("this network reads frames of events, not images: use python -m utils.show_events")
    read = image_reader(args, network.in_channels)
    weights, content = trained(args)
    names = _class_names(args.classes, classes_of(content), network.classifier.out_features)
    print(f"{network.config['model']} from {escaped(str(weights))}")
    taken: set[str] = set()
    for path in images:
        image = load_image(path)
        layers, outputs = record_spikes(network, read(image).unsqueeze(0).to(args.device), args.seed)
        logits = next(iter(readouts(outputs).values()))[0]
        lines = _lines(logits, names, args.top)
        print("\n".join([escaped(str(path)), *lines]))
        if args.no_pictures:
            continue
        args.output.mkdir(parents=True, exist_ok=True)
        stem = path.stem
        while stem in taken:
            stem += "_"
        taken.add(stem)
        target = args.output / f"{stem}_spikes.png"
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        title = f"{network.config['model']} at {escaped(path.name)}: {lines[0].strip()}"
        spikes_picture(layers, None, title, target, np.asarray(image))
        print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
