"""Make pretrained weights of a finished run: networks, integers, and a card for each with every number measured.

python scripts/ship_weights.py runs/mine --name cifar10 --data-path ~/data/cifar10 --about-data "CIFAR-10 as JPEG files"

The weights are those of the last epoch, so none is chosen by the test set.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
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


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    import jinja2
    import yaml

    from full_spike.models import detach_aap, save_pretrained
    from full_spike.utils.checkpoint import LATEST, read_trained
    from full_spike.utils.distributed import World
    from full_spike.utils.engine import evaluate
    from full_spike.utils.export.__main__ import main as export
    from full_spike.utils.log import RunLog, read_metrics, table, training_seconds
    from full_spike.utils.measure import synops
    from full_spike.utils.measure.certificate import certify
    from full_spike.utils.report import read_config
    from full_spike.utils.trained import batches
    from studies.blocks import load_run

    config = read_config(args.run)
    data_path = args.data_path or config["data_path"]
    model, data = load_run(args.run, data_path)
    trained = read_trained(args.run / LATEST)
    if trained.content["step"]:
        raise UserError(f"{args.run} stopped inside an epoch: go on with --resume auto until it ends")
    if "mean" not in data.inputs:
        raise UserError(f"{args.run} was trained on event frames: weights are shipped of networks that read images")
    networks: dict[str, Any] = {model.config["model"]: model}
    if getattr(model, "aap", None) is not None:
        detached = detach_aap(model).eval()
        networks[detached.config["model"]] = detached
    *_, trunk = networks
    counted = batches(data.test, data.collate, 64, args.images)
    metadata = {**trained.metadata, "recipe": {k: v for k, v in data.recipe.items() if k != "files"}}
    template = jinja2.Template((ROOT / "studies/card.md.j2").read_text(), keep_trailing_newline=True)
    with replacing(args.output / args.name) as folder:
        for name, network in networks.items():
            save_pretrained(network, folder / name, metadata)
        options = {name: value for name, value in config.items() if name not in PLACES and value is not None}
        (folder / "run.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
        integers = folder / f"{trunk}_integer"
        words = ["--checkpoint", str(folder / trunk), "--to", "integer", "--output", str(integers)]
        export(words + (["--data", data_path] if data_path else []))
        energy = synops.table(synops.count(networks, counted, syops=False))
        for name, network in networks.items():
            scores = evaluate(network, batches(data.test, data.collate, 64), World(), RunLog(World()))
            card = template.render(
                name=args.name, model=name, trunk=trunk, networks=list(networks), config=network.config, data=data,
                about_data=args.about_data, data_set=trained.metadata["data_set"], data_path=data_path, run=config,
                time=timedelta(seconds=round(training_seconds(read_metrics(args.run)) or 0)),
                scores=table(scores, data.unit), energy=energy, certificate=certify(network, counted),
                integers=json.loads((integers / "comparison.json").read_text()),
                parameters=sum(p.numel() for p in network.parameters()),
                size=(folder / name / "model.safetensors").stat().st_size,
            )  # fmt: skip
            (folder / name / "README.md").write_text(card)
    print(f"wrote {args.output / args.name}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
