"""Pictures of a run: learning curves and firing rates, from its metrics.jsonl.

python -m utils.plots RUN_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from utils.draw.curves import firing_rates, learning_curves
from utils.runtime.errors import UserError, run_command
from utils.runtime.log import read_metrics
from utils.runtime.options import Parser


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m utils.plots", description="Draw a run's learning curves and firing rates.")
    parser.add_argument("folder", type=Path, help="the run's folder, the one with metrics.jsonl")
    folder = parser.parse_args(argv).folder
    if not (folder / "metrics.jsonl").exists():
        raise UserError(f"there is no {folder / 'metrics.jsonl'}: name the folder of a run")
    entries = read_metrics(folder)
    if not entries:
        raise UserError(f"{folder / 'metrics.jsonl'} holds no epoch yet: wait for the first one")
    learning_curves(entries, folder / "learning_curves.png")
    print(f"wrote {folder / 'learning_curves.png'}")
    if "firing_rate" in entries[-1]:
        firing_rates(entries[-1]["firing_rate"], folder / "firing_rates.png")
        print(f"wrote {folder / 'firing_rates.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
