"""DVS128 Gesture: recordings of several gestures each, with tables of when each one begins and ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from full_spike.utils.data.events.aedat import Events, read_aedat3
from full_spike.utils.data.events.dataset import EventDataset, Split
from full_spike.utils.data.events.frames import Originals
from full_spike.utils.data.events.gestures import read_trials, table_of
from full_spike.utils.data.events.simulated import write_as_gestures
from full_spike.utils.data.prepared import read_record
from full_spike.utils.distributed import World
from full_spike.utils.errors import UserError
from full_spike.utils.files import read_text

FOLDER = "DvsGesture"
NAMES = (  # of gesture_mapping.csv
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter-clockwise",
    "left arm clockwise", "left arm counter-clockwise", "arm roll", "air drums", "air guitar", "other gestures",
)  # fmt: skip
CLASSES = len(NAMES)
SLACK = 1_000_000  # us by which a trial may end after its recording's last event: nothing moves, nothing fires


def resources() -> list[tuple[str, str, str]]:
    from spikingjelly.datasets import DVS128Gesture

    return DVS128Gesture.resource_url_md5()


def write_digits(folder: Path, keep_alive: Callable[[], None]) -> None:
    write_as_gestures(folder / FOLDER, keep_alive)


def open_originals(extract: Path, real: bool) -> Originals:
    """The recordings that trials_to_train.txt and trials_to_test.txt name.

    Raises:
        UserError: a list, a recording or its table is missing.
    """
    folder = extract / FOLDER
    splits: dict[Path, str] = {}
    for split in ("train", "test"):
        trials = folder / f"trials_to_{split}.txt"
        if not trials.is_file():
            raise UserError(f"there is no {trials}: {extract} is incomplete; delete it and unpack the archive again")
        names = read_text(trials).split()
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise UserError(f"{trials} names {outside[0]}, which is not a file beside it: unpack the archive again")
        splits |= {folder / name: split for name in names}
    tables = [table_of(recording) for recording in splits]
    missing = [path for path in (*splits, *tables) if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(
            f"{missing[0]}{more} is missing: {extract} is incomplete; delete it and unpack the archive again"
        )
    classes = CLASSES if real else 10

    def read(recording: Path) -> Iterator[tuple[str, Events]]:
        return cut_trials(recording, splits[recording], classes)

    lists = [folder / f"trials_to_{split}.txt" for split in ("train", "test")]
    return Originals(list(splits), [*lists, *tables], read)


def cut_trials(recording: Path, split: str, classes: int) -> Iterator[tuple[str, Events]]:
    """(name, events) of each row of a recording's table, e.g. ("train/7/user01_led_1", ...).

    As spikingjelly cuts them: start <= t < end, rows may overlap, trials of a class are numbered within a recording.

    Raises:
        UserError: the table or the recording is damaged, or they don't belong together.
    """
    events = read_aedat3(recording)
    t, table = events["t"], table_of(recording)
    last = int(t.max(initial=0))
    seen = [0] * classes
    for trial in read_trials(table):
        label, start, end = trial.label, trial.start, trial.end
        where = f"{table}, row {trial.row}"
        if not 1 <= label <= classes:
            raise UserError(f"{where}: class {label} is outside 1..{classes}: is --dataset right?")
        if start >= last or end > last + SLACK:
            raise UserError(
                f"{where}: {start} to {end} us is past the end of {recording.name} at {last} us: "
                "one of them is cut off or of another recording; fetch both again"
            )
        chosen = (t >= start) & (t < end)
        if not chosen.any():
            raise UserError(f"{where}: no event between {start} and {end} us: fetch it again")
        yield f"{split}/{label - 1}/{recording.stem}_{seen[label - 1]}", {k: v[chosen] for k, v in events.items()}
        seen[label - 1] += 1


def divide(folder: Path, world: World) -> tuple[Split, Split]:
    """(training samples, test samples); users are in one or the other."""
    found: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for name in sorted(read_record(folder)["files"]):
        sample = re.fullmatch(r"(train|test)/([0-9]{1,3})/[^/]+", name)
        if sample is None or int(sample[2]) >= CLASSES:
            raise UserError(f"{folder} holds {name!r}, which is no sample of a class: delete it; it is made again")
        found[sample[1]].append((name, int(sample[2])))
    return found["train"], found["test"]


GESTURE = EventDataset("dvsgesture", NAMES, 0.75, resources, write_digits, open_originals, divide)
load = GESTURE.load
