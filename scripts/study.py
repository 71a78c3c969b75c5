"""Run studies, gather their results, and write the tables and figures that are made from these.

python scripts/study.py run studies/digits.yaml --jobs 2                   # resumes what was stopped
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
sys.path.insert(0, str(ROOT))  # Python puts the folder of the script there, not the project's

from full_spike.utils.errors import UsageError, UserError, run_command  # noqa: E402
from full_spike.utils.options import Parser, natural, positive_int  # noqa: E402
from studies.grid import Run, read_study  # noqa: E402

RUNS = Path("runs/studies")


def _data(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is no data set and its folder: write cifar10=~/data/cifar10")
    return name, str(Path(folder).expanduser().resolve())


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python scripts/study.py")
    parser.add_argument("what", nargs="?", choices=("run", "list", "gather", "write"), help="see below")
    parser.add_argument("studies", type=Path, nargs="*", metavar="STUDY.yaml", help="for run, list and gather")
    parser.add_argument("--check", action="store_true", help="compare tables and figures with what the CSVs give")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FOLDER", help=f"of the runs (default: {RUNS})")
    parser.add_argument("--data", type=_data, action="append", default=[], metavar="NAME=FOLDER",
                        help="where the data are that a study names; may be repeated")  # fmt: skip
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument("--row", metavar="NAME", help="this row alone")
    parser.add_argument("--seed", type=natural, metavar="N", help="this seed alone")
    parser.add_argument("--task", type=natural, metavar="N", help="the run of this number alone, as `list` counts them")
    args = parser.parse_intermixed_args(argv)  # options may stand before the studies
    if args.check == (args.what is not None):
        raise UsageError("say what to do: run, list, gather or write, or --check alone")
    if (args.what in ("run", "list", "gather")) != bool(args.studies):
        raise UsageError("run, list and gather need studies, e.g. studies/digits.yaml; write and --check take none")
    return args


def chosen(args: argparse.Namespace) -> list[Run]:
    """The runs that --row, --seed and --task choose."""
    found = [run for path in args.studies for run in read_study(path).runs()]
    found = [run for run in found if args.row in (None, run.row) and args.seed in (None, run.seed)]
    if not found or (args.task or 0) >= len(found):
        raise UsageError(f"--row, --seed and --task leave no run of {len(found)}: `list` without them shows all")
    return found if args.task is None else [found[args.task]]


def run(args: argparse.Namespace) -> int:
    from studies.running import Runner

    runs, data = chosen(args), dict(args.data)
    for missing in {run.study.data for run in runs} - {None} - data.keys():
        raise UsageError(f"--data {missing}=FOLDER is missing: say where the data are that the study is made on")
    runner = Runner(args.runs.resolve(), data, args.jobs)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, runner.stop)
    problems = 0
    for done, problem in runner.all(runs):
        problems += problem is not None
        if problem:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        elif not runner.stopping.is_set():
            print(f"{done.study.name}: {done.name}", flush=True)
    if runner.stopping.is_set():
        raise UserError("stopped: the same command goes on where it was")
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.what == "run":
        return run(args)
    if args.what == "list":
        for i, one in enumerate(chosen(args)):
            print(f"{i:3}  {one.study.name}/{one.name}  {one.command()}")
    elif args.what == "gather":
        from studies.gathering import gather

        for study in map(read_study, args.studies):
            print(f"{study.name}: {gather(study, args.runs)} of {len(study.runs())} runs have ended")
    else:
        from studies.page import make

        found = make(write=not args.check)
        if args.check and found:
            raise UserError(f"not what the CSV files give: {', '.join(found)}: run `python scripts/study.py write`")
        print("\n".join(f"wrote {what}" for what in found) or "tables and figures are what the CSV files give")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
