"""Run studies, gather their results, and write the tables and figures that are made of these.

python scripts/study.py run studies/digits.yaml --jobs 2                   # goes on where it was stopped
python scripts/study.py run studies/cifar10_joins.yaml --data cifar10=~/data/cifar10
python scripts/study.py run studies/digits.yaml --task 7                   # the eighth run alone, for a job array
python scripts/study.py list studies/digits.yaml                           # its runs, and the command of each
python scripts/study.py gather studies/*.yaml                              # into studies/results/*.csv
python scripts/study.py write                                              # the tables and figures of docs/RESULTS.md
python scripts/study.py --check                                            # that they are what the CSVs give
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # what is run is a file of this folder, and Python looks no further by itself

from full_spike.utils.errors import UsageError, UserError, run_command  # noqa: E402
from full_spike.utils.options import Parser, natural, positive_int  # noqa: E402

from studies.grid import Planned, read_study  # noqa: E402

RUNS = Path("runs/studies")


def _data(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is no data set and its folder: write cifar10=~/data/cifar10")
    return name, str(Path(folder).expanduser().resolve())


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python scripts/study.py")
    parser.add_argument("what", nargs="?", choices=("run", "list", "gather", "write"), help="see above")
    parser.add_argument("studies", type=Path, nargs="*", metavar="STUDY.yaml", help="for run, list and gather")
    parser.add_argument("--check", action="store_true", help="compare tables and figures with what the CSVs give")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help=f"of the runs (default: {RUNS})")
    parser.add_argument("--data", type=_data, action="append", default=[], metavar="NAME=FOLDER",
                        help="where the data are that a study names; may be repeated")  # fmt: skip
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument("--row", action="append", default=[], metavar="NAME", help="of this row alone; may be repeated")
    parser.add_argument("--seed", type=natural, action="append", default=[], metavar="N", help="of this seed alone")
    parser.add_argument("--task", type=natural, metavar="N", help="the run of this number alone, as `list` counts them")
    args = parser.parse_intermixed_args(argv)  # options may stand before the studies
    if args.check == (args.what is not None):
        raise UsageError("say what to do: run, list, gather or write, or --check alone")
    if (args.what in ("run", "list", "gather")) != bool(args.studies):
        raise UsageError("run, list and gather need studies, e.g. studies/digits.yaml; write and --check take none")
    return args


def planned(args: argparse.Namespace) -> list[Planned]:
    """The runs that are asked for.

    Raises:
        UsageError: a study cannot be read, or has no such row, seed or number.
    """
    found: list[Planned] = []
    for path in args.studies:
        study = read_study(path)
        for row in args.row:
            if row not in study.rows:
                raise UsageError(f"--row {row}: {path} has none of this name: choose from {', '.join(study.rows)}")
        for seed in args.seed:
            if seed not in study.seeds:
                raise UsageError(f"--seed {seed}: {path} has {', '.join(map(str, study.seeds))}")
        runs = [r for r in study.runs() if r.row in (args.row or study.rows) and r.seed in (args.seed or study.seeds)]
        found += runs
    if args.task is not None:
        if args.task >= len(found):
            raise UsageError(f"--task {args.task}: there are {len(found)} runs, numbered from 0")
        found = [found[args.task]]
    return found


def run(args: argparse.Namespace) -> int:
    from studies.running import Runner

    data = dict(args.data)
    runs = planned(args)
    for name in {r.study.data for r in runs} - {None}:
        if name not in data:
            raise UsageError(f"--data {name}=FOLDER is missing: say where the data are that the study is made on")
    runner = Runner(args.runs.resolve(), data, args.jobs)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, runner.stop)
    wrong = 0
    for done, problem in runner.all(runs):
        wrong += problem is not None
        if problem or not runner.left(done):  # else it was stopped, or not begun
            print(problem or f"{done.study.name}: {done.name}", flush=True)
    if runner.stopping.is_set():
        raise UserError("stopped: the same command goes on where it was")
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.what == "run":
        return run(args)
    if args.what == "list":
        for i, one in enumerate(planned(args)):
            print(f"{i:3}  {one.study.name}/{one.name}  {one.command()}")
        return 0
    if args.what == "gather":
        from studies.gathering import gather

        for path in args.studies:
            study = read_study(path)
            print(f"{study.name}: {gather(study.runs(), args.runs)} of {len(study.runs())} runs have ended")
        return 0
    from studies.results import check, write

    return check() if args.check else write()


if __name__ == "__main__":
    sys.exit(run_command(main))
