"""Pictures of a run: learning curves and firing rates, from its metrics.jsonl.

python -m utils.plots RUN_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from full_spike.utils.draw.curves import drawable, firing_rates, learning_curves, rates_of
from full_spike.utils.errors import UserError, run_command, warn
from full_spike.utils.log import METRICS, read_metrics
from full_spike.utils.options import Parser


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__, prog="python -m utils.plots")
    parser.add_argument("folder", type=Path, help="the run's folder, the one with metrics.jsonl")
    folder = parser.parse_args(argv).folder
    if not (folder / METRICS).exists():
        raise UserError(f"there is no {folder / METRICS}: name the folder of a run")
    entries = read_metrics(folder, warn)
    if not entries:
        raise UserError(f"{folder / METRICS} holds no epoch yet: wait for the first one")
    curves = drawable(entries)
    if not curves:
        raise UserError(f"{folder / METRICS} holds no loss and accuracy that could be drawn: name the folder of a run")
    learning_curves(curves, folder / "learning_curves.png")
    print(f"wrote {folder / 'learning_curves.png'}")
    rates = rates_of(entries[-1])
    if rates:
        firing_rates(rates, folder / "firing_rates.png")
        print(f"wrote {folder / 'firing_rates.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
