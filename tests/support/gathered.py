"""Results of every study as CSV files, made up: what is drawn and fitted of them is known."""

import math
from pathlib import Path

from studies.gathering import write_csv
from studies.grid import read_study

STUDIES = sorted((Path(__file__).parent.parent.parent / "studies").glob("*.yaml"))
BLOCKS = {"18": 8, "34": 16, "50": 16, "101": 33}
SIDES = {"stock": 1000.0, "stock, channels last": 700.0, "fused": 250.0, "convolutions and products alone": 200.0}
NOISE = (-1.0, 0.4, 0.6, 0.0, 0.0)  # of the seeds


def noise(row, seed):
    """Differs between rows, and is 0 on average over the first three seeds."""
    return (1 + len(row) % 3) * NOISE[seed]


def error(options, row, seed):
    """A power law of what the study of scaling varies, and noise; AND is far worse."""
    law = (
        45
        * (options.get("width", 16) / 16) ** -0.3
        * (options.get("T", 4) / 4) ** -0.1
        * (options["epochs"] / 5) ** -0.2
    )
    return min((1.6 if row.startswith("and") else 1.0) * law * math.exp(0.01 * noise(row, seed)), 90.0)


def lines(run):
    """Of one run: its line, those of its epochs and of its blocks."""
    row, seed, options = run.row, run.seed, run.options
    score = round(100 - error(options, row, seed), 4)
    model = options["model"]
    names = {"fsnn": 0.0, "aap": 2.5, "sum": 1.5} if model.startswith("ds") else {"output": 0.0}
    line = {"row": row, "seed": seed, "epochs": run.epochs, "parameters_detached": 700_000}
    line |= {f"final_{name}": score + more for name, more in names.items()}
    if "synops" in run.after:
        ac, mac = (0.0, 9.5e6) if model.startswith("resnet") else (8e6 + 1e5 * len(row), 1.5e6)
        line |= {"detached_ac": ac, "detached_mac": mac, "detached_mj": (0.9 * ac + 4.6 * mac) * 1e-9}
        line["trained_mj"] = line["detached_mj"] + (9.2e-3 if len(names) == 3 else 0.0)
    for bits in run.after:
        if bits.startswith("integer"):
            line |= {bits: score - 1 / int(bits[7:]), f"{bits}_floats": score}
    epochs = [
        {"row": row, "seed": seed, "epoch": i, **{f"test_{n}": (score + m) * i / run.epochs for n, m in names.items()}}
        for i in range(1, run.epochs + 1)
    ]
    blocks = [
        {"row": row, "seed": seed, "when": when, "block": str(i), "gradient_norm": 0.1 * 0.9**i * (seed + 1),
         "firing_rate": 0.3 + 0.01 * i}
        for when in ("start", "end")
        for i in range(1, 1 + BLOCKS[model[4:]])
    ] if "blocks" in run.after else []  # fmt: skip
    return line, epochs, blocks


def timed(title, side):
    """What a benchmark keeps of a side."""
    median = SIDES[side]
    line = {"title": title, "side": side, "device": "cpu", "median_ms": median, "min_ms": 0.9 * median}
    return line | {"max_ms": 1.2 * median, "rounds": 3, "machine": "x86_64", "threads": 2, "torch": "2", "command": "x"}


def write_results(folder, seeds=3):
    """The CSV files of every study, of its first seeds, and of benchmarks."""
    folder.mkdir(exist_ok=True)
    write_csv(folder / "speed.csv", [timed(title, side) for title in ("a step", "another") for side in SIDES])
    for path in STUDIES:
        study = read_study(path)
        found = [lines(run) for run in study.runs() if run.seed in study.seeds[:seeds]]
        write_csv(folder / f"{study.name}.csv", [line for line, *_ in found])
        write_csv(folder / f"{study.name}_epochs.csv", [entry for _, epochs, _ in found for entry in epochs])
        write_csv(folder / f"{study.name}_blocks.csv", [entry for *_, blocks in found for entry in blocks])
