"""The error over width, time steps, epochs and depth, and the power law through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from full_spike.utils.draw.card import CARD, SOFT, Canvas

from studies.figures.parts import WITH, Drawn, share_y, ticks
from studies.fit import PowerLaw
from studies.ran import Ran
from studies.scaling import BASE, Run, law, runs

AXES = {"width": "width (channels of the first stage)", "T": "time steps T", "epochs": "epochs", "depth": "layers"}
HIGH, TOP, GAP, LEFT = 230, 58, 22, 70


def _groups(found: Sequence[Run], factor: str) -> list[tuple[dict[str, Any], list[Run]]]:
    """Runs that differ in this factor alone, with the others' values: those of the base first, then near ones.

    Near are those that differ from the base in one thing besides. Groups in which nothing varies are left out.
    """
    groups: dict[tuple[Any, ...], list[Run]] = {}
    others = [name for name in BASE if name != factor]
    for run in found:
        groups.setdefault(tuple(run.options[name] for name in others), []).append(run)
    shown = []
    for values, own in groups.items():
        place = dict(zip(others, values, strict=True))
        far = sum(place[name] != BASE[name] for name in others)
        if far < 2 and len({run.options[factor] for run in own}) > 1:
            shown.append((far, place, own))
    return [(place, own) for _, place, own in sorted(shown, key=lambda entry: entry[0])]


def _said(place: Mapping[str, Any]) -> str:
    """In what a group differs from the base."""
    words = {"width": "width {}", "T": "T = {}", "epochs": "{} epochs", "depth": "{} layers"}
    return ", ".join(words[name].format(value) for name, value in place.items() if value != BASE[name])


def _draw(axes: Any, factor: str, place: Mapping[str, Any], own: Sequence[Run], power: PowerLaw | None) -> None:
    """A group's runs, and the law through them; hollow marks if it is not the base."""
    base = not _said(place)
    values = sorted({run.options[factor] for run in own})
    if power is not None and factor in power.factors:
        xs = np.geomspace(values[0], values[-1], 30)
        middle, low, high = zip(*(power.at({**place, factor: x}) for x in xs), strict=True)
        if base:
            axes.fill_between(xs, low, high, color=SOFT, alpha=0.2, linewidth=0)
        axes.plot(xs, middle, color=SOFT, linewidth=1.2, linestyle="-" if base else (0, (3, 2)))
    face = {"markeredgecolor": CARD} if base else {"markerfacecolor": CARD, "markeredgewidth": 1.4}
    xs, ys = [run.options[factor] for run in own], [run.error for run in own]
    axes.plot(xs, ys, **{**WITH, "linewidth": 0, "markersize": 6, **face})


def scaling(rans: Mapping[str, Ran]) -> Drawn | None:
    """A chart for each factor that any run varies."""
    found = runs(rans)
    varied = {factor: groups for factor in AXES if (groups := _groups(found, factor))}
    if not varied:
        return None
    try:
        power: PowerLaw | None = law(found)
    except ValueError:
        power = None
    errors = [run.error for groups in varied.values() for _, own in groups for run in own]
    limits = (min(errors) / 1.12, max(errors) * 1.2)
    wide = min((1000 - LEFT - 24 - GAP * (len(varied) - 1)) / len(varied), 460)
    hollow = {}
    with Canvas(1000, TOP + HIGH + 58, "scaling") as on:
        on.text(24, 26, "CIFAR-10: OR, trained with the pathway, trunk alone", size=10, at="left", weight="bold")
        for i, (factor, groups) in enumerate(varied.items()):
            left = LEFT + i * (wide + GAP)
            axes = on.plot(left, TOP, wide, HIGH, xscale="log", yscale="log", ylim=limits, xlabel=AXES[factor])
            ticks(axes.yaxis, (1, 1.5, 2, 3, 4, 5, 6, 7, 8))
            ticks(axes.xaxis)
            values = sorted({run.options[factor] for _, own in groups for run in own})
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_xlim(values[0] / 1.15, values[-1] * 1.15)
            for place, own in groups:
                _draw(axes, factor, place, own, power)
                if _said(place):
                    hollow[AXES[factor]] = _said(place)
            if power is not None and factor in power.factors:
                exponent, error = power.exponent(factor)
                on.text(left + wide - 4, TOP + 12, f"exponent {exponent:.2f} ± {error:.2f}", at="right", size=8.5)
            share_y(axes, i, "test error, %, log scale")
        svg = on.svg()
    caption = (
        f"Marks are single runs. Filled ones differ from width {BASE['width']}, T = {BASE['T']}, {BASE['epochs']} "
        f"epochs, {BASE['depth']} layers in one thing alone"
    )
    caption += "".join(f"; hollow ones over {axis} have {words}" for axis, words in hollow.items()) + "."
    if power is not None:
        caption += (
            " The line is the fit of the table below, the band its 95 % interval; exponents are with standard errors "
            f"({power.points} runs, {power.freedom} degrees of freedom)."
        )
    return Drawn(svg, "Test error over width, time steps, epochs and depth, on logarithmic axes", caption)
