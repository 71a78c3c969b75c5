"""A page about a run, or about several side by side: one file, to be opened in any browser.

    python -m utils.report runs/.../digits_dsnn18_...
    python -m utils.report RUN OTHER_RUN --output both.html

It tells what was trained and how, draws curves, evaluates the run's newest checkpoint on its test set (accuracy by
class, confusion matrix, the most confident mistakes with the spikes that they cause), and shows firing rates and energy
where the run's folder has them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from full_spike.utils.errors import UsageError, UserError, run_command, warn
from full_spike.utils.files import check_output_folder, open_regular, write_file
from full_spike.utils.log import METRICS, read_metrics, training_seconds
from full_spike.utils.options import Parser

if TYPE_CHECKING:
    from full_spike.utils.draw.page import RunView

SCRIPTS = ("cifar.train", "imagenet.train", "dvsgesture.train", "cifar10dvs.train")
CONFIG, LATEST, SYNOPS = "config.yaml", "checkpoint_latest.pth", "synops/synops.json"
GROUPS = {  # of options on the page, by the first one of each in config.yaml
    "data_path": "data", "model": "network", "epochs": "recipe", "output_dir": "run", "device": "machines",
    "fused": "speed",
}  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; UsageError if they are wrong."""
    parser = Parser(__doc__, prog="python -m utils.report")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, with config.yaml in it")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (default: report.html in the first folder)"
    )
    parser.add_argument("--script", choices=SCRIPTS, help="what trained it (default: as the run's config.yaml says)")
    parser.add_argument("--data-path", metavar="FOLDER", help="where the data are (default: where they were)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="to evaluate on (default: cpu)")
    parser.add_argument("--no-test", action="store_true", help="do not evaluate: no classes, no mistakes")
    return parser.parse_args(argv)


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from full_spike.utils.runtime.plain_yaml import read_mapping

    path = folder / CONFIG
    if not path.exists():
        raise UserError(f"there is no {path}: name the folder of a run")
    try:
        content = read_mapping(path, "the configuration")
    except UsageError as error:  # of a run, and not of this command
        raise UserError(str(error)) from None
    if not all(isinstance(name, str) for name in content):
        raise UserError(f"{path} is no configuration of a run: name the folder of another one")
    return content


def guess_script(config: dict[str, Any]) -> str | None:
    """What trained a run: as it says itself, or, of a run from before it did, as its options show."""
    versions = config.get("versions")
    said = versions.get("script") if isinstance(versions, dict) else None
    if said in SCRIPTS:
        return said
    if "train_crop_size" in config:
        return "imagenet.train"
    if "image_size" in config:
        return "cifar.train"
    if "frame_size" in config:
        wide = "wide7b" in str(config.get("model")) or config.get("dataset") == "cifar10dvs"
        return "cifar10dvs.train" if wide else "dvsgesture.train"
    return None


def _groups(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    title = "data"
    for name, value in config.items():
        title = GROUPS.get(name, title)
        if name != "versions":
            found.setdefault(title, {})[name] = value
    return found


def _duration(entries: Sequence[dict[str, Any]]) -> str | None:
    """How long training took, in words."""
    seconds = training_seconds(entries)
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} of training in {len(entries)} epochs, tests not counted"


def _energy(folder: Path) -> list[tuple[str, str, str, str]]:
    """What `--synops` counted, if it was."""
    from full_spike.utils.measure.html import millijoules, quantity

    path = folder / SYNOPS
    if not path.is_file():
        return []
    try:
        with open_regular(path) as file:
            networks = json.loads(file.read())["networks"]
        return [
            (str(n["network"]), quantity(n["totals"]["ac"]), quantity(n["totals"]["mac"]), millijoules(n["energy_mj"]))
            for n in networks
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        warn(f"{path} is damaged: left out; count again with --test-only --synops")
        return []


def view(folder: Path, args: argparse.Namespace) -> RunView:
    """All that the page shows of a run.

    Raises:
        UserError: it is no run's folder.
    """
    from full_spike.utils.draw.curves import drawable, rates_of
    from full_spike.utils.draw.page import RunView

    config = read_config(folder)
    recorded = read_metrics(folder, warn) if (folder / METRICS).exists() else []
    entries = drawable(recorded)
    rates = [rates_of(entry) for entry in entries]
    said = config.get("versions")
    versions: dict[str, Any] = said if isinstance(said, dict) else {}
    script = args.script or guess_script(config)
    facts = [
        ("network", f"{config.get('model')} {config.get('connect_f') or ''}, T = {config.get('T')}".replace(" ,", ",")),
        ("data", ", ".join(str(config[n]) for n in ("dataset", "data_path") if config.get(n)) or "-"),
        ("trained by", f"python -m {script}" if script else "-"),
    ]
    notes: list[str] = []
    found = None
    if args.no_test:
        notes.append("not evaluated: --no-test")
    elif script is None:
        notes.append("not evaluated: its config.yaml does not say what trained it; give --script")
    else:
        try:
            from full_spike.utils.cli.inspection import inspect

            found = inspect(script, folder / CONFIG, folder / LATEST, data_path=args.data_path, device=args.device)
            facts.append(("parameters", f"{found.parameters:,}"))
        except UserError as error:  # data that are elsewhere now, say: the rest is still worth a page
            warn(f"{folder} is not evaluated: {error}")
            notes.append(f"not evaluated: {error}")
    if entries:
        last = entries[-1]
        scores = ", ".join(f"{name} {score['acc1']:.2f}" for name, score in last["test"].items())
        facts.append(("result", f"top-1 on the test set after epoch {last['epoch'] + 1}, %: {scores}"))
        facts += [("time", text)] if (text := _duration(entries)) else []
        written = datetime.datetime.fromtimestamp((folder / METRICS).stat().st_mtime)
        facts.append(("last epoch ended", f"{written:%Y-%m-%d %H:%M}"))
    facts.append(("device", str(config.get("device"))))
    facts += [(name, str(value)) for name, value in versions.items() if name != "script"]
    if not any(rates):
        notes.append("no firing rates were recorded: train with --tb for them")
    energy = _energy(folder)
    if not energy:
        notes.append("operations were not counted: --test-only --resume auto --synops does")
    return RunView(
        folder.resolve().name,
        facts,
        _groups(config),
        entries,
        [rate for rate in rates if rate],
        found.counts if found else {},
        found.classes if found else (),
        found.mistakes if found else (),
        energy,
        notes,
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    output = args.output or args.runs[0] / "report.html"
    check_output_folder(output.parent, "--output")
    from full_spike.utils.draw.page import render

    content = render([view(folder, args) for folder in args.runs])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, content.encode(errors="replace"))
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
