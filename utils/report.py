"""A page about a run, or several side by side: one file without scripts, to be opened in any browser.

    python -m utils.report runs/.../digits_dsnn18_...
    python -m utils.report RUN OTHER_RUN --output both.html

It shows what was trained and how, results and curves of every readout, firing rates (of training with --tb) and energy
(of --test-only --synops).
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from full_spike.utils import plots
from full_spike.utils.errors import UserError, run_command
from full_spike.utils.files import check_output_folder, read_text, write_file
from full_spike.utils.log import training_seconds
from full_spike.utils.measure.energy import millijoules, quantity
from full_spike.utils.options import Parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG, SYNOPS = "config.yaml", "synops/synops.json"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python -m utils.report")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, with config.yaml in it")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (default: report.html in the first folder)"
    )
    return parser.parse_args(argv)


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml: its options, and `versions`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / CONFIG
    if not path.exists():
        raise UserError(f"there is no {path}: name the folder of a run")
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError:
        raise UserError(f"{path} is no YAML: name the folder of another run") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no options: name the folder of another run")
    return content


class Run:
    """What the page shows of a run.

    Raises:
        UserError: it is no run's folder, or a file in it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self.options = read_config(folder)
        self.versions: dict[str, Any] = self.options.pop("versions", {})
        self.epochs = plots.scored_epochs(folder)
        script = self.versions.get("script")
        self.command = f"python -m {script} --config {shlex.quote(str(folder / CONFIG))}" if script else None
        path = folder / SYNOPS
        try:
            self.synops = json.loads(read_text(path)) if path.exists() else None
        except ValueError:
            raise UserError(f"{path} is damaged: count again with --test-only --synops") from None

    @property
    def facts(self) -> dict[str, Any]:
        get = self.options.get
        facts = {
            "network": " ".join(str(get(name)) for name in ("model", "connect_f") if get(name)) + f", T = {get('T')}",
            "data": ", ".join(str(get(name)) for name in ("dataset", "data_path") if get(name)) or "-",
        }
        seconds = training_seconds(self.epochs) if self.epochs else None
        if seconds is not None:
            time = timedelta(seconds=round(seconds))
            facts["time"] = f"{time} of training in {len(self.epochs)} epochs, tests not counted"
        return {**facts, **self.versions}

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """By readout: the last epoch's scores, and those of the best one."""
        rows = {}
        for name, test in self.epochs[-1]["test"].items() if self.epochs else ():
            best = max(self.epochs, key=lambda entry: entry["test"][name]["acc1"])
            rows[plots.READOUTS.get(name, name)] = {
                "train": self.epochs[-1]["train"][name],
                "test": test,
                "best": best["test"][name],
                "best_epoch": best["epoch"],
            }
        return rows


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Options that are not the same in all runs, with the value of each."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    rows = {name: [run.options.get(name) for run in runs] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def short_titles(names: Sequence[str]) -> list[str]:
    """The words of the runs' names that not all of them have; the whole names if those do not tell them apart."""
    words = [name.split("_") for name in names]
    common = set(words[0]).intersection(*words[1:])
    short = ["_".join(word for word in own if word not in common) for own in words]
    return short if all(short) and len(set(short)) == len(short) else list(names)


def inlined(figure: Figure) -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def page(runs: Sequence[Run]) -> str:
    """The page about runs, as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of files and classes are text, whatever they hold
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"quantity": quantity, "millijoules": millijoules, "inlined": inlined}
    names = [run.name for run in runs]
    titled = list(zip(short_titles(names) if len(runs) > 1 else names, runs, strict=True))
    return pages.get_template("report.html").render(
        plots=plots,
        title=f"{len(runs)} runs" if len(runs) > 1 else names[0],
        runs=titled,
        readouts=list(dict.fromkeys(name for run in runs for name in run.results)),
        differing=differing(runs),
        curves=[(title, run.epochs) for title, run in titled if run.epochs],
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    output = args.output or args.runs[0] / "report.html"
    check_output_folder(output.parent, "--output")
    content = page([Run(folder) for folder in args.runs])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, content.encode(errors="replace"))
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
