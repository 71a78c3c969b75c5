"""Pictures of a sample of event data, and of the spikes that it causes in a network.

    python -m utils.show_events --data-set dvsgesture --data ~/data/dvsgesture --sample 12
    python -m utils.show_events --checkpoint runs/.../checkpoint_latest.pth --output pictures

draws the frames of a test sample, still and as an animation, and with a checkpoint the spikes of every layer and the
predicted class.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from full_spike.utils.errors import UsageError, escaped, run_command
from full_spike.utils.files import check_output_folder
from full_spike.utils.options import Parser, natural
from full_spike.utils.trained import add_data_set_arguments, add_network_arguments


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python -m utils.show_events")
    parser.add_argument("--sample", type=natural, default=0, metavar="N", help="which one, from 0 on (default: 0)")
    parser.add_argument("--train", action="store_true", help="of the training samples (default: of the test samples)")
    parser.add_argument("--output", type=Path, default=Path(), help="folder to write to (default: the current one)")
    add_data_set_arguments(parser)
    add_network_arguments(parser, optional=True)
    args = parser.parse_args(argv)
    if args.checkpoint is None:
        if args.data_set is None:
            raise UsageError("there are no data: name them by --data-set, or a --checkpoint that was trained on some")
        if args.model or args.connect_f or args.num_classes or args.option:
            raise UsageError("there is no --checkpoint: a network is only shown with trained weights")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    check_output_folder(args.output, "--output")
    from full_spike.utils import plots
    from full_spike.utils.losses import readouts
    from full_spike.utils.measure.spikes import record_spikes
    from full_spike.utils.trained import build_network, load_data_set

    network: Any = build_network(args) if args.checkpoint else SimpleNamespace(T=args.T or 16, config={})
    data, _ = load_data_set(args, network)
    samples, split = (data.train, "train") if args.train else (data.test, "test")
    if args.sample >= len(samples):
        raise UsageError(f"--sample {args.sample}: there are {len(samples)} {split} samples, counted from 0")
    sample, label = samples[args.sample]  # [T, 2, H, W]
    if sample.ndim != 4:
        raise UsageError("the samples are images, not frames of events: use python -m utils.predict")
    classes = data.classes or tuple(map(str, range(data.num_classes)))
    frames = sample.numpy()
    T, _, height, width = frames.shape
    title = f"{split} sample {args.sample}, class {escaped(classes[int(label)])}: {frames.sum():,.0f} events, "
    title += f"{T} frames of {height}x{width} pixels"
    print(title)
    figures = {"frames": plots.event_frames(frames, title)}
    if args.checkpoint:
        layers, outputs = record_spikes(network, sample.unsqueeze(1).float().to(args.device), args.seed)
        found = []
        for name, logits in readouts(outputs).items():
            probability, k = logits[0].softmax(0).max(0)
            found.append(f"{escaped(classes[int(k)])} ({name}, {100 * probability:.1f} %)")
        prediction = f"predicted: {', '.join(found)}"
        print(prediction)
        figures["spikes"] = plots.spikes(
            layers, f"{network.config['model']} at {split} sample {args.sample}, {prediction}"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    name = f"{split}_{args.sample}"
    for kind, figure in figures.items():
        figure.savefig(args.output / f"{name}_{kind}.png", dpi=120)
        print(f"wrote {args.output / f'{name}_{kind}.png'}")
    plots.save_animation(frames, args.output / f"{name}_frames.gif")
    print(f"wrote {args.output / f'{name}_frames.gif'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
