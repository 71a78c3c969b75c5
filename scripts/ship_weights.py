"""Make pretrained weights of a finished run: networks, integers, and a card for each with every number measured.

python scripts/ship_weights.py runs/mine --name cifar10 --data-path ~/data/cifar10 --about-data "CIFAR-10 as JPEG files"

The weights are those of the last epoch, so none is chosen by the test set. Runs that a run began with
(--initial-checkpoint) are on the card as well.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # Python puts the folder of the script there, not the project's

from full_spike.utils.errors import UsageError, UserError, run_command  # noqa: E402
from full_spike.utils.files import check_output_folder, replacing  # noqa: E402
from full_spike.utils.options import Parser, positive_int  # noqa: E402

# options of a run that are about a machine, not about its weights
PLACES = {
    "data_path", "cache_dataset", "download", "workers", "initial_checkpoint", "output_dir", "name", "device", "tb",
    "world_size", "dist_url", "dist_timeout", "print_freq", "checkpoint_every", "start_epoch", "versions",
}  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, prog="python scripts/ship_weights.py")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that has ended")
    parser.add_argument("--name", required=True, help="of the weights, e.g. cifar10")
    parser.add_argument("--about-data", required=True, metavar="TEXT", help="what they were trained on, in words")
    parser.add_argument("--data-path", metavar="FOLDER", help="where the data are (default: where they were)")
    parser.add_argument("--output", type=Path, default=ROOT / "weights", metavar="FOLDER", help="default: weights/")
    parser.add_argument("--images", type=positive_int, metavar="N", help="to count and certify on (default: all)")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"\w[\w.-]*", args.name):
        raise UsageError(f"--name {args.name} is no folder's name: use letters, digits, - and _")
    if (args.output / args.name).exists():
        raise UsageError(f"{args.output / args.name} is there already: remove it, or choose another --name")
    check_output_folder(args.output, "--output")
    return args


def printed(function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """What a function prints; UserError if it is a command that fails."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = function(*args, **options)
    if isinstance(status, int) and status:
        raise UserError(f"{shlex.join(args[0])} ended with status {status}")
    return out.getvalue().strip()


def training(checkpoint: Path, data_set: str) -> list[dict[str, Any]]:
    """The run of a checkpoint, after the runs whose weights it began with: options, epochs, and the command.

    Raises:
        UserError: a checkpoint is not of the end of an epoch.
    """
    from full_spike.utils.checkpoint import load
    from full_spike.utils.log import read_metrics, training_seconds
    from studies.gathering import read_config

    config, content = read_config(checkpoint.parent), load(checkpoint)
    if content["step"] or not content["epoch"]:
        raise UserError(f"{checkpoint} stopped inside an epoch: go on with --resume auto until it ends")
    initial = config["initial_checkpoint"]
    before = []
    if initial and Path(initial).is_file() and Path(initial).with_name("config.yaml").is_file():
        before = training(Path(initial), data_set)
        initial = Path("runs", *Path(initial).parts[-2:])
    entries = [entry for entry in read_metrics(checkpoint.parent) if entry["epoch"] < content["epoch"]]
    run = f"--config run{len(before) + 1}.yaml --output-dir runs --name {checkpoint.parent.name}"
    began = f" --initial-checkpoint {initial}" if initial else ""
    found = {
        "options": {name: value for name, value in config.items() if name not in PLACES and value is not None},
        "versions": config["versions"],
        "epochs": f"{content['epoch']} of {config['epochs']}",
        "time": timedelta(seconds=round(training_seconds(entries) or 0)),
        "entries": entries,
        "command": f"python -m {data_set}.train {run}{began}" + " --data-path FOLDER" * bool(config["data_path"]),
    }
    return [*before, found]


def log_lines(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each epoch of each run."""
    return [
        {"run": i, "epoch": entry["epoch"] + 1, "lr": entry["lr"], "train_loss": round(entry["train_loss"], 4)}
        | {f"{part}_{name}": round(s["acc1"], 2) for part in ("train", "test") for name, s in entry[part].items()}
        for i, run in enumerate(runs, start=1)
        for entry in run["entries"]
    ]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    import jinja2
    import yaml
    from torch.utils.data import DataLoader, Subset, default_collate

    from full_spike.models import detach_aap, save_pretrained
    from full_spike.utils import commands
    from full_spike.utils.checkpoint import load
    from full_spike.utils.export.__main__ import main as export
    from full_spike.utils.measure.certificate import certify
    from full_spike.utils.measure.synops import write_report
    from studies.blocks import load_run
    from studies.gathering import read_config, write_csv
    from studies.running import LATEST

    data_path = args.data_path or read_config(args.run).get("data_path")
    model, data = load_run(args.run, data_path)
    if "mean" not in data.inputs:
        raise UserError(f"{args.run} was trained on event frames: weights are shipped of networks that read images")
    data_set = load(args.run / LATEST)["data_set"]
    runs = training(args.run / LATEST, data_set)
    networks = {model.config["model"]: model}
    if getattr(model, "aap", None) is not None:
        detached: Any = detach_aap(model)
        networks[detached.config["model"]] = detached.eval()
    *_, trunk = networks
    count = min(args.images or len(data.test), len(data.test))
    chosen = Subset(data.test, [i * len(data.test) // count for i in range(count)])
    loader = DataLoader(chosen, 64, collate_fn=data.collate or default_collate)
    recipe = {name: value for name, value in data.recipe.items() if name != "files"}
    metadata = {"data_set": data_set, "classes": list(data.classes), "inputs": data.inputs, "recipe": recipe}
    facts = {"name": args.name, "about_data": args.about_data, "data_path": data_path, "data": data, "runs": runs,
             "data_set": data_set, "images": count, "trunk": trunk, "networks": list(networks)}  # fmt: skip
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT / "studies"), keep_trailing_newline=True)
    with replacing(args.output / args.name) as folder, tempfile.TemporaryDirectory() as aside:
        for name, network in networks.items():
            save_pretrained(network, folder / name, metadata)
        for i, run in enumerate(runs, start=1):
            (folder / f"run{i}.yaml").write_text(yaml.safe_dump(run["options"], sort_keys=False))
        write_csv(folder / "log.csv", log_lines(runs))
        print("counting", flush=True)
        report = printed(write_report, model, loader, aside, syops=False, data=args.about_data)
        for name, network in networks.items():
            print(f"testing and certifying {name}", flush=True)
            words = ["test", data_set, "--resume", str(folder / name), "--device", "cpu"]
            test = printed(commands.main, words + (["--data-path", data_path] if data_path else []))
            card = templates.get_template("card.md.j2").render(
                **facts,
                model=name,
                config=network.config,
                energy=report.rpartition("\nsaved ")[0],
                certificate=certify(network, loader),
                test=test.replace(str(folder / name), f"{args.name}/{name}"),
                parameters=sum(p.numel() for p in network.parameters()),
                size=(folder / name / "model.safetensors").stat().st_size,
            )  # fmt: skip
            (folder / name / "README.md").write_text(card)
        print(f"exporting {trunk} to integers", flush=True)
        integers = folder / f"{trunk}_integer"
        words = ["--checkpoint", str(folder / trunk), "--to", "integer", "--output", str(integers)]
        printed(export, words + (["--data", data_path] if data_path else []))
        comparison = json.loads((integers / "comparison.json").read_text())
        size = (integers / "integer.pth").stat().st_size
        card = templates.get_template("integer_card.md.j2").render(**facts, model=trunk, size=size, found=comparison)
        (integers / "README.md").write_text(card)
    print(f"wrote {args.output / args.name}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
