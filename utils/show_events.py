"""A look at event data: pictures of a recording's frames, and of the spikes that they cause in a network.

    python -m utils.show_events user01_led.aedat --trial 3
    python -m utils.show_events cat_0.aedat --checkpoint runs/.../checkpoint_latest.pth --output pictures

The file is a recording as DVS128 Gesture (AEDAT 3.1) or CIFAR10-DVS (AEDAT 2.0) publish them, or an .npz file of events
(t, x, y, p) or of frames, as they are kept below <data path>/full-spike/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from full_spike.utils.trained import add_network_arguments
from full_spike.utils.data.events.options import SENSOR
from full_spike.utils.errors import UsageError, UserError, escaped, run_command
from full_spike.utils.files import check_output_folder
from full_spike.utils.options import Parser, natural, positive_int

if TYPE_CHECKING:  # what takes seconds to import comes where it is used: the command line is read without it
    import numpy as np
    from full_spike.utils.data.events.aedat import Events
    from full_spike.utils.draw.frames import Times

MOST_FRAMES = 256  # that one looks at, and that an animation's bar tells apart
LONGEST_SIDE, MOST_PIXELS = (1 << 16) - 1, 1 << 25  # of a picture: what matplotlib draws, and what is not too much


@dataclass(frozen=True)
class Sample:
    """What is shown.

    name: of the files that are written.
    frames: event counts [T, 2, H, W].
    times: each frame's first and last event, in ms from the sample's first one; None where a file does not keep them.
    words: events, duration, polarities and size.
    label: its class, where that is known.
    """

    name: str
    frames: np.ndarray
    times: Times | None
    words: str
    label: int | None = None


def _polarities(darker: float, brighter: float) -> str:
    share = 100 * brighter / (darker + brighter)
    return f"{share:.1f} % brighter, {100 - share:.1f} % darker"


def _from_frames(args: argparse.Namespace, frames: np.ndarray) -> Sample:
    for option in ("trial", "start_us", "end_us"):
        if getattr(args, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} is for events, and {args.file} holds frames: leave it out")
    from full_spike.utils.draw.frames import picture_size

    T, _, height, width = frames.shape
    if T > MOST_FRAMES:
        raise UserError(f"{args.file} holds T={T} frames: at most {MOST_FRAMES} can be shown, use a file with fewer")
    sides = picture_size(T, height, width)
    if max(sides) > LONGEST_SIDE or sides[0] * sides[1] > MOST_PIXELS:
        raise UserError(
            f"{args.file} holds T={T} frames of {height}x{width} pixels, too many for a picture ({sides[0]}x{sides[1]} "
            "pixels): use a file with fewer or smaller ones"
        )
    if args.T not in (None, T) or args.frame_size not in (None, height):
        wanted = f"T={args.T or T} of {args.frame_size or height} pixels"
        raise UsageError(
            f"{args.file} holds T={T} frames of {height}x{width} pixels, and {wanted} are wanted, by the command "
            "or the checkpoint: use other frames, or the events"
        )
    counts = frames.sum(axis=(0, 2, 3), dtype="float64")
    if not counts.any():
        raise UserError(f"{args.file} holds no events: there is nothing to show")
    words = f"{counts.sum():,.0f} events, times not kept, {_polarities(*counts)}, {height}x{width} pixels"
    return Sample(args.file.stem, frames, None, words)


def _from_events(args: argparse.Namespace, events: Events) -> Sample:
    from full_spike.utils.data.events.frames import integrate
    from full_spike.utils.data.events.recordings import read_trial

    label, name = None, args.file.stem
    start, end = args.start_us, args.end_us
    if args.trial is not None:
        if (start, end) != (None, None):
            raise UsageError("--trial says when it starts and ends: leave out --start-us and --end-us")
        trial = read_trial(args.file, args.trial)
        label, start, end = trial.label - 1, trial.start, trial.end
        name += f"_trial{args.trial}"
    elif (start, end) != (None, None):
        name += f"_{start or 0}-{'end' if end is None else end}us"
    t = events["t"]
    if not len(t):
        raise UserError(f"{args.file} holds no events: there is nothing to show")
    chosen = (t >= (t.min() if start is None else start)) & (t < (t.max() + 1 if end is None else end))
    if not chosen.any():
        raise UserError(
            f"{args.file} has no event from {start or 0} us to {'its end' if end is None else f'{end} us'}: "
            f"its events are from {t.min()} to {t.max()} us"
        )
    events = {key: array[chosen] for key, array in events.items()}
    T, size = args.T or 16, args.frame_size or SENSOR
    try:
        frames = integrate(events, T, size)
    except ValueError as error:
        raise UserError(f"{args.file}: {error}: use a smaller --T") from None
    from spikingjelly.datasets.utils import cal_fixed_frames_number_segment_index  # seconds to import

    ms = (events["t"] - events["t"].min()) / 1000
    bounds = zip(*cal_fixed_frames_number_segment_index(ms, "number", T), strict=True)
    times = [(float(ms[a:b].min()), float(ms[a:b].max())) for a, b in bounds]
    brighter = int(events["p"].sum())
    words = f"{len(ms):,} events in {ms.max():,.1f} ms, {_polarities(len(ms) - brighter, brighter)}"
    words += f", {SENSOR}x{SENSOR} pixels" + (f" shown as {size}x{size}" if size != SENSOR else "")
    return Sample(name, frames, times, words, label)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments, those that it leaves out taken from the checkpoint.

    Raises:
        UsageError: they are wrong.
        UserError: the checkpoint cannot be read.
    """
    parser = Parser(__doc__, prog="python -m utils.show_events")
    parser.add_argument("file", type=Path, help="a recording (.aedat), or events or frames made of one (.npz)")
    parser.add_argument("--output", type=Path, default=Path(), help="folder to write to (default: the current one)")
    parser.add_argument(
        "--frame-size", type=positive_int, metavar="PIXELS", help=f"side of a frame (default: {SENSOR})"
    )
    parser.add_argument(
        "--trial", type=positive_int, metavar="N", help="only row N of the table of a Gesture recording"
    )
    parser.add_argument("--start-us", type=natural, metavar="US", help="only events from this time on, as recorded")
    parser.add_argument("--end-us", type=natural, metavar="US", help="only events before this time")
    add_network_arguments(parser, optional=True)
    args = parser.parse_args(argv)
    if args.checkpoint:
        from full_spike.utils.checkpoints.weights import settings_of
        from full_spike.utils.trained import trained

        config, recipe = settings_of(*trained(args))
        args.T = config.get("T") if args.T is None else args.T
        args.frame_size = args.frame_size or recipe.get("frame_size")
    elif args.model or args.connect_f or args.num_classes or args.option:
        raise UsageError("there is no --checkpoint: a network is only shown with trained weights")
    if args.T is not None and not 1 <= args.T <= MOST_FRAMES:
        raise UsageError(f"--T {args.T} is out of range: 1 to {MOST_FRAMES} frames can be shown")
    if args.frame_size and SENSOR % args.frame_size:
        raise UsageError(f"--frame-size {args.frame_size} does not divide {SENSOR}: use {SENSOR}, 64, 32 or 16")
    return args


def prediction(outputs: Any) -> str:
    """The class that each readout of a network's outputs says, with its probability."""
    from full_spike.utils.losses import readouts

    found = []
    for name, logits in readouts(outputs).items():
        probability, label = logits[0].softmax(0).max(0)
        found.append(f"{label} ({name}, {100 * probability:.1f} %)")
    return "predicted class: " + ", ".join(found)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    import numpy as np
    from full_spike.utils.data.events.recordings import read_file
    from full_spike.utils.draw.frames import frames_gif, frames_picture

    check_output_folder(args.output, "--output")
    content = read_file(args.file)
    sample = _from_frames(args, content) if isinstance(content, np.ndarray) else _from_events(args, content)
    print(f"{escaped(args.file.name)}: {sample.words}")
    title = f"{escaped(sample.name)}: {sample.words}"
    pictures: dict[str, Callable[[Path], None]] = {
        "frames.png": lambda path: frames_picture(sample.frames, sample.times, title, path),
        "frames.gif": lambda path: frames_gif(sample.frames, sample.times, path),
    }
    if args.checkpoint:  # first, so that nothing is written where it does not fit
        import torch
        from full_spike.utils.trained import build_network
        from full_spike.utils.draw.spikes import record_spikes, spikes_picture

        network: Any = build_network(args)
        frames = torch.from_numpy(sample.frames.astype(np.float32)).unsqueeze(1).to(args.device)  # [T, 1, 2, H, W]
        try:
            layers, outputs = record_spikes(network, frames, args.seed)
        except (ValueError, RuntimeError) as error:  # it reads something else than two polarities, or larger frames
            reason = str(error).splitlines()[0]
            raise UserError(f"{args.checkpoint}: {reason}: use a network that was trained on such event data") from None
        if not layers:
            raise UserError(f"{args.checkpoint}: the network has no spiking neurons: use one that has")
        words = prediction(outputs)
        print(words + ("" if sample.label is None else f"; class in the table: {sample.label}"))
        pictures["spikes.png"] = lambda path: spikes_picture(
            layers, sample.times, f"{network.config['model']} at {escaped(sample.name)}, {words}", path
        )
    args.output.mkdir(parents=True, exist_ok=True)
    for suffix, draw in pictures.items():
        path = args.output / f"{sample.name}_{suffix}"
        draw(path)
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
