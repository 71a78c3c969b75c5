"""The report as one self-contained page: no scripts, nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from full_spike.utils.measure.energy import EnergyModel
from full_spike.utils.measure.report import PARTS, NetworkReport

_STYLE = """
:root { --ink: #1d2430; --soft: #667085; --line: #e3e7ee; --rate: #7c8db5; --ac: #2f8f6b; --mac: #c8553d;
  --energy: #d29a2c; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 2rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { max-width: 60rem; margin: .4rem 0; } .soft { color: var(--soft); }
.warning { background: #fff4e0; border-left: 4px solid var(--energy); padding: .5rem .8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: .8rem; vertical-align: bottom; }
th:first-child, td:first-child, .left { text-align: left !important; }
td.wrap { white-space: normal; }
.headline th { white-space: normal; } .headline td { padding: .45rem .6rem; } .strong { font-weight: 650; }
.layers td { font-size: .82rem; padding: .1rem .6rem; } .layers td:first-child { font-family: ui-monospace, monospace; }
.layers { table-layout: fixed; min-width: 66rem; } .layers col.bar { width: 7.5rem; } .layers col.name { width: 15rem; }
.layers tr:hover td { background: #f6f8fb; }
.bar svg { display: block; width: 100%; height: 9px; background: #f3f5f9; border-radius: 2px; }
tfoot td { font-weight: 650; border-bottom: 0; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
"""

_COLUMNS = '<colgroup><col class="name"><col>' + '<col><col class="bar">' * 4 + "</colgroup>"


def quantity(value: float) -> str:
    """An operation count for reading: 1.819 G, 0.118 G, 80.2 M, 25.1 k, 0."""
    if abs(value) >= 0.9995e8:
        return f"{value / 1e9:.3f} G"
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def millijoules(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def _row(cells: Sequence[str], tag: str = "td") -> str:
    return "<tr>" + "".join(cell if cell.startswith("<t") else f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _bar(fraction: float, colour: str) -> str:
    width = 100 * min(max(fraction, 0.0), 1.0)
    return (
        '<td class="bar"><svg viewBox="0 0 100 9" preserveAspectRatio="none" role="img" '
        f'aria-label="{width:.1f} % of the scale">'
        f'<rect width="{width:.2f}" height="9" fill="var(--{colour})"/></svg></td>'
    )


def _headline(networks: Sequence[NetworkReport]) -> str:
    head = ["Network", "AC", "MAC", *(f"MAC in {part}" for part in PARTS.values()), "Energy, mJ"]
    head += ["Energy, mJ, batch norm as written", "Apart: neuron updates, mJ", "Apart: memory, estimate, mJ"]
    rows = []
    for network in networks:
        totals = network.totals
        rows.append(
            _row(
                [
                    f'<td class="strong">{escape(network.title)}</td>',
                    quantity(totals.ac),
                    quantity(totals.mac),
                    *(quantity(network.part(part).mac) for part in PARTS),
                    f'<td class="strong">{millijoules(network.energy_mj)}</td>',
                    millijoules(network.unfolded_energy_mj),
                    millijoules(network.energy.updates(totals.updates)),
                    millijoules(network.energy.memory(totals.ac, totals.mac)),
                ]
            )
        )
    return f'<div class="wide"><table class="headline">{_row(head, "th")}{"".join(rows)}</table></div>'


def _layers(network: NetworkReport, most: float, most_energy: float) -> str:
    """Bars share one scale over all networks: operations for AC and MAC, 0 to 1 for firing rates."""
    energy = network.energy
    head = ["Layer", '<th class="left">Kind</th>', "Firing rate", "", "AC", "", "MAC", "", "Energy, mJ", ""]
    rows = []
    for layer in network.layers:
        if not (layer.ac or layer.mac or layer.rate is not None):
            continue
        joules = energy.operations(layer.ac, layer.mac)
        rows.append(
            _row(
                [
                    escape(layer.name),
                    f'<td class="left">{escape(layer.kind)}</td>',
                    "-" if layer.rate is None else f"{layer.rate:.3f}",
                    _bar(layer.rate or 0.0, "rate"),
                    quantity(layer.ac) if layer.ac else "-",
                    _bar(layer.ac / most, "ac"),
                    quantity(layer.mac) if layer.mac else "-",
                    _bar(layer.mac / most, "mac"),
                    millijoules(joules) if joules else "-",
                    _bar(joules / most_energy, "energy"),
                ]
            )
        )
    totals = network.totals
    foot = ["All layers", "", "", "", quantity(totals.ac), "", quantity(totals.mac), ""]
    foot += [millijoules(network.energy_mj), ""]
    body = f"<thead>{_row(head, 'th')}</thead><tbody>{''.join(rows)}</tbody><tfoot>{_row(foot)}</tfoot>"
    return f'<div class="wide"><table class="layers">{_COLUMNS}{body}</table></div>'


def _syops(network: NetworkReport) -> str:
    if network.syops is None:
        return ""
    totals, folded, unfolded = network.totals, network.syops.folded, network.syops.unfolded
    counts = {
        "exact": (totals.ac, totals.mac),
        "exact, batch norm as written": (totals.ac, totals.mac + totals.norm_mac),
        "syops, batch norm ignored": (folded.ac, folded.mac),
        "syops, batch norm counted": (unfolded.ac, unfolded.mac),
    }
    rows = [
        _row([name, quantity(ac), quantity(mac), millijoules(network.energy.operations(ac, mac))])
        for name, (ac, mac) in counts.items()
    ]
    reasons = [
        _row([f'<td class="wrap">{escape(d.reason)}</td>', quantity(d.ac), quantity(d.mac)])
        for d in network.differences
    ]
    reasons.append(_row(["sum", quantity(folded.ac - totals.ac), quantity(folded.mac - totals.mac)]))
    return (
        f"<h3>{escape(network.title)}</h3>"
        f"<table>{_row(['Counter', 'AC', 'MAC', 'Energy, mJ'], 'th')}{''.join(rows)}</table>"
        f"<p></p><table>{_row(['syops (batch norm ignored) minus exact', 'AC', 'MAC'], 'th')}{''.join(reasons)}</table>"
    )


def _assumptions(energy: EnergyModel) -> str:
    return (
        "<h2>How to read this</h2><ul>"
        f"<li>Per image, all time steps together. Energy = {energy.mac} pJ x MAC + {energy.ac} pJ x AC (45 nm, 32-bit "
        "floating point; Horowitz, ISSCC 2014). Batch norm is folded into its convolution.</li>"
        "<li>AC: an addition that a spike causes, counted spike by spike with the outputs that it really reaches, and "
        "the additions of joins, of the AAP and of average pooling. MAC: every multiplication of a layer whose input "
        "is not 0/1 in every batch, of the stem, and of the AAP's projections; padding included.</li>"
        "<li>A firing rate is that of a neuron's output or of a layer's input. Layers without one, an AC or a MAC "
        "(folded batch norms, gates, pooling by maximum) are in the CSV and JSON only.</li>"
        f"<li>Apart, and in no total: neuron updates at {energy.update} pJ each; an estimate of on-chip memory traffic "
        f"without any reuse at {energy.access} pJ per 32-bit access (8 kB SRAM, 45 nm), {energy.AC_ACCESSES} accesses "
        f"per AC and {energy.MAC_ACCESSES} per MAC.</li></ul>"
    )


def render(networks: Sequence[NetworkReport], *, data: str, rates_are_real: bool) -> str:
    """The page, as HTML.

    Args:
        networks: at least one.
        data: what was counted on, in words.
        rates_are_real: False puts a warning on top.
    """
    layers = [layer for network in networks for layer in network.layers]
    most = max(max(layer.ac, layer.mac) for layer in layers) or 1.0
    most_energy = max(networks[0].energy.operations(layer.ac, layer.mac) for layer in layers) or 1.0
    warning = (
        ""
        if rates_are_real
        else (
            '<p class="warning">Firing rates are not real: random weights or random images. ACs and energies of '
            "spiking layers are placeholders; MACs of layers that are always dense are right.</p>"
        )
    )
    notes = [f"<li>{escape(n.title)}: {escape(note)}</li>" for n in networks for note in n.notes]
    images = networks[0].images
    parts = [
        f"<h1>Synaptic operations and energy</h1><p class='soft'>{escape(data)}; {images} image"
        f"{'s' if images != 1 else ''}.</p>{warning}",
        _headline(networks),
        *(
            f"<h2>{escape(network.title)}, layer by layer</h2>{_layers(network, most, most_energy)}"
            for network in networks
        ),
    ]
    if any(network.syops for network in networks):
        parts.append("<h2>Beside the package syops 0.0.5</h2>" + "".join(map(_syops, networks)))
    if notes:
        parts.append(f"<h2>Notes</h2><ul>{''.join(notes)}</ul>")
    parts.append(_assumptions(networks[0].energy))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Synaptic operations and energy</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
