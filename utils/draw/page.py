"""A page about runs, in one file: no scripts, nothing from elsewhere, light and dark, on a phone and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from full_spike.utils.draw.charts import Curve, heat_map, line_chart, raster

NAMES = {"fsnn": "FSNN (pathway detached)", "aap": "pathway alone", "sum": "DSNN (sum of both)", "output": "network"}
SHOWN_CLASSES = 30  # of a confusion matrix


@dataclass(frozen=True)
class Mistake:
    """A sample that a network is wrong about.

    picture: a PNG.
    layers: (name, firing rate, spikes [T][neurons]) of each layer.
    """

    name: str
    true: str
    said: str
    probability: float
    picture: bytes
    layers: Sequence[tuple[str, float, Sequence[Sequence[bool]]]]


@dataclass(frozen=True)
class RunView:
    """What is shown of a run.

    title: its folder's name.
    facts: (what, value), of what was trained and how.
    options: its configuration by group.
    entries: of metrics.jsonl, those that are drawable.
    rates: of each epoch that has them, firing rates by layer.
    counts: [class][what the readout says] by readout; empty where it was not evaluated.
    classes: their names.
    energy: (network, ACs, MACs, mJ) in words.
    notes: what is missing, and why.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    options: dict[str, dict[str, Any]]
    entries: Sequence[dict[str, Any]]
    rates: Sequence[dict[str, float]] = ()
    counts: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    classes: Sequence[str] = ()
    mistakes: Sequence[Mistake] = ()
    energy: Sequence[tuple[str, str, str, str]] = ()
    notes: Sequence[str] = ()


_STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5d6878;--line:#e0e5ec;--paper:#fff;--card:#f6f8fb;--shade:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--line:#333b47;--paper:#13161b;--card:#1b2027;
--shade:#56b4e9}}
*{box-sizing:border-box}body{margin:0 auto;max-width:78rem;padding:1.5rem 1rem 4rem;color:var(--ink);
background:var(--paper);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}h3{font-size:1rem;margin:1rem 0 .3rem}
p{margin:.4rem 0}.soft,figcaption{color:var(--soft)}figure{margin:0}figcaption{font-size:.85rem;margin-bottom:.2rem}
.runs{display:grid;gap:1.2rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));align-items:start}
.runs>*{min-width:0}.wide{overflow-x:auto}.card{background:var(--card);border-radius:8px;padding:.8rem;min-width:0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}
th,td{padding:.15rem .5rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}th:first-child,td:first-child,.facts td,.facts th{text-align:left}
.facts{width:100%}.facts th{white-space:nowrap}.matrix td,.matrix th{padding:.1rem .3rem;border:0;min-width:1.9rem}
.matrix td.right{font-weight:650}.wide td,.wide th{overflow-wrap:normal}
.chart{display:block;width:100%;max-width:34rem;height:auto}
.chart text{font-size:11px;fill:var(--soft)}.chart path{fill:none;stroke-width:1.8}
.chart .grid{stroke:var(--line);stroke-width:1}.map text,.raster text{font-size:9px}.shade{fill:var(--shade)}
.raster{max-width:20rem}.raster path{stroke-width:1.6}.raster .odd{stroke:var(--shade)}.raster .even{stroke:var(--ink)}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .9rem;font-size:.8rem;color:var(--soft)}
.legend i{display:inline-block;width:.9rem;height:.25rem;margin-right:.35rem;vertical-align:middle;border-radius:2px}
.mistakes{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr))}
.mistakes img{display:block;width:96px;height:96px;object-fit:contain;image-rendering:pixelated;background:#8885}
.bar{display:block;height:.5rem;border-radius:2px;background:var(--shade)}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--soft)}
@media print{body{max-width:none;padding:0}.card{break-inside:avoid}figure{break-inside:avoid}details>*{display:block}}
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Cells are escaped here."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}">{f"<tr>{top}</tr>" if head else ""}{body}</table></div>'


def _facts(run: RunView) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in run.facts)
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in run.notes)
    groups = "".join(
        f"<h3>{escape(title)}</h3>" + _table((), ([name, _plain(value)] for name, value in options.items()), "facts")
        for title, options in run.options.items()
    )
    return f'<table class="facts">{rows}</table>{notes}<details><summary>all options</summary>{groups}</details>'


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def differing(runs: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """(option, its value in each run) of the options that are not the same in all."""
    flat = [{name: value for group in run.options.values() for name, value in group.items()} for run in runs]
    names = dict.fromkeys(name for options in flat for name in options)
    rows = [(name, [_plain(options.get(name)) for options in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def short_titles(titles: Sequence[str]) -> list[str]:
    """What tells runs apart by: the words of their folders' names that not all of them have, or all of the name."""
    words = [title.split("_") for title in titles]
    common = set(words[0]).intersection(*words[1:])
    short = ["_".join(word for word in own if word not in common) for own in words]
    return short if all(short) and len(set(short)) == len(short) else list(titles)


def _accuracy(entry: dict[str, Any], readout: str) -> float:
    return float(entry["test"][readout]["acc1"])


def _together(runs: Sequence[RunView]) -> str:
    """Several runs in one table and one chart each of loss and accuracy."""
    titles = short_titles([run.title for run in runs])
    head = ["", *titles]
    readouts = list(dict.fromkeys(name for run in runs if run.entries for name in run.entries[0]["test"]))
    rows: list[list[str]] = []
    for name in readouts:
        for what, pick in (("last", lambda values: values[-1]), ("best", max)):
            cells = []
            for run in runs:
                values = [_accuracy(entry, name) for entry in run.entries if name in entry["test"]]
                cells.append(f"{pick(values):.2f}" if values else "-")
            rows.append([f"{NAMES.get(name, name)}, {what} top-1, %", *cells])
    energy = {network for run in runs for network, *_ in run.energy}
    for network in sorted(energy):
        found = [next((row[3] for row in run.energy if row[0] == network), "-") for run in runs]
        rows.append([f"energy of {network}, mJ", *found])
    different = differing(runs)
    curves = [[], []]  # type: list[list[Curve]]
    for i, run in enumerate(runs):
        if run.entries:
            first = next(iter(run.entries[0]["test"]))
            epochs = [entry["epoch"] + 1 for entry in run.entries]
            curves[0].append(Curve(titles[i], epochs, [_accuracy(entry, first) for entry in run.entries], i))
            curves[1].append(Curve(titles[i], epochs, [entry["train_loss"] for entry in run.entries], i))
    charts = line_chart(curves[0], "epoch", "top-1 on the test set, %, first readout")
    charts += line_chart(curves[1], "epoch", "training objective", log=True)
    words = _table(head, ([name, *values] for name, values in different)) if different else "<p>no option differs</p>"
    return (
        f"<h2>Side by side</h2>{_table(head, rows)}<h2>What differs</h2>{words}"
        f'<h2>Curves</h2><div class="runs">{charts}</div>'
    )


def _curves(run: RunView) -> str:
    if not run.entries:
        return '<p class="soft">no epoch has been recorded</p>'
    epochs = [entry["epoch"] + 1 for entry in run.entries]
    readouts = list(run.entries[0]["test"])
    accuracy, loss = [], [Curve("training objective", epochs, [entry["train_loss"] for entry in run.entries], 6)]
    for i, name in enumerate(readouts):
        title = NAMES.get(name, name)
        accuracy.append(Curve(title, epochs, [_accuracy(entry, name) for entry in run.entries], i))
        train = [entry["train"][name]["acc1"] for entry in run.entries]
        accuracy.append(Curve(f"{name}, training", epochs, train, i, dashed=True))
        loss.append(Curve(title, epochs, [entry["test"][name]["loss"] for entry in run.entries], i))
    charts = [
        line_chart(accuracy, "epoch", "top-1, %"),
        line_chart(loss, "epoch", "loss on the test set, by readout", log=True),
    ]
    rates = [
        (e, entry["lr"]) for e, entry in zip(epochs, run.entries, strict=True) if isinstance(entry.get("lr"), float)
    ]
    if rates:
        charts.append(
            line_chart(
                [Curve("learning rate", [e for e, _ in rates], [r for _, r in rates], 4)], "epoch", "learning rate"
            )
        )
    return f'<div class="runs">{"".join(charts)}</div>'


def _by_class(run: RunView) -> str:
    first, matrix = next(iter(run.counts.items()))
    rows = []
    for i, name in enumerate(run.classes):
        total = sum(matrix[i])
        cells = [f"{100 * counts[i][i] / total:.1f}" if total else "-" for counts in run.counts.values()]
        share = 100 * matrix[i][i] / total if total else 0.0
        bar = f'<td style="min-width:5rem"><span class="bar" style="width:{share:.1f}%"></span></td>'
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><td>{escape(name)}</td><td>{total}</td>{values}{bar}</tr>")
    names = "".join(f"<th>{escape(name)}</th>" for name in run.counts)
    head = f"<tr><th>class</th><th>count</th>{names}<th>{escape(first)}</th></tr>"
    table = f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'
    return f'<div class="runs"><div><h3>Top-1 by class, %</h3>{table}</div>{_matrix(run, first, matrix)}</div>'


def _matrix(run: RunView, readout: str, matrix: Sequence[Sequence[int]]) -> str:
    if len(run.classes) > SHOWN_CLASSES:
        words = f"a confusion matrix of {len(run.classes)} classes is too large to be read: see --predictions"
        return f'<p class="soft">{words}</p>'
    totals = [max(1, sum(row)) for row in matrix]
    head = "".join(f"<th>{i}</th>" for i in range(len(matrix)))
    body = ""
    for i, row in enumerate(matrix):
        cells = "".join(
            f'<td class="{"right" if i == j else ""}" style="background:color-mix(in srgb,var(--shade) '
            f'{60 * count / totals[i]:.0f}%,transparent)">{count or ""}</td>'
            for j, count in enumerate(row)
        )
        name = run.classes[i]
        body += f"<tr><th>{i}{'' if name == str(i) else ' ' + escape(name)}</th>{cells}</tr>"
    return (
        f"<div><h3>Confusion: a class in each row, what {escape(readout)} says across</h3>"
        f'<div class="wide"><table class="matrix"><tr><th></th>{head}</tr>{body}</table></div></div>'
    )


def _mistakes(run: RunView) -> str:
    cards = []
    for mistake in run.mistakes:
        picture = base64.b64encode(mistake.picture).decode()
        cards.append(
            f'<div class="card"><img alt="{escape(mistake.name, quote=True)}" src="data:image/png;base64,{picture}">'
            f"<p><b>{escape(mistake.true)}</b>, said to be <b>{escape(mistake.said)}</b> at "
            f'{100 * mistake.probability:.1f} %<br><span class="soft">{escape(mistake.name)}</span></p>'
            f"{raster(mistake.layers)}</div>"
        )
    return f'<div class="mistakes">{"".join(cards)}</div>'


def _rates(run: RunView) -> str:
    layers = list(run.rates[-1])
    rows = [[float(epoch.get(layer, 0.0)) for epoch in run.rates] for layer in layers]
    most = max((value for row in rows for value in row), default=1.0)
    return heat_map(
        rows, layers, f"epochs, first to last; the last one's rate on the right, full colour {most:.2f}", most=most
    )


def _section(title: str, runs: Sequence[RunView], draw: Any, there: Any) -> str:
    """A part of the page for each run that has it, side by side."""
    chosen = [run for run in runs if there(run)]
    if not chosen:
        return ""
    many = len(runs) > 1
    parts = [f"<section>{f'<h3>{escape(run.title)}</h3>' if many else ''}{draw(run)}</section>" for run in chosen]
    return f"<h2>{title}</h2>" + (f'<div class="runs">{"".join(parts)}</div>' if many else parts[0])


def _energy(run: RunView) -> str:
    return _table(["network", "AC", "MAC", "energy, mJ"], run.energy)


def render(runs: Sequence[RunView]) -> str:
    """The page, as HTML. Everything that comes from files is escaped."""
    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(runs) > 1:
        parts.append(_together(runs))
    parts += [
        _section("What was trained, and how", runs, _facts, lambda run: True),
        _section("Curves", runs, _curves, lambda run: len(runs) == 1 or len(run.entries) > 0),
        _section("Classes", runs, _by_class, lambda run: run.counts),
        _section("The most confident mistakes, and spikes that they cause", runs, _mistakes, lambda run: run.mistakes),
        _section("Firing rates of layers over epochs", runs, _rates, lambda run: run.rates),
        _section("Operations and energy per sample", runs, _energy, lambda run: run.energy),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
