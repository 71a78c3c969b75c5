"""The error over width, time steps, epochs and depth, and the power law through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from studies.figures.parts import WITH, Drawn, ticks
from studies.fit import PowerLaw
from studies.ran import Ran
from studies.scaling import BASE, FACTORS, Run, law, runs
from utils.draw.card import CARD, SOFT, Canvas

AXES = {"width": "width, channels of the first stage", "T": "time steps T", "epochs": "epochs", "depth": "layers"}
HIGH, TOP, GAP, LEFT = 230, 58, 22, 70


def _near(found: Sequence[Run], factor: str) -> list[Run]:
    """Those that differ from the base in this factor at most."""
    return [run for run in found if all(run.options[name] == BASE[name] for name in BASE if name != factor)]


def scaling(rans: Mapping[str, Ran]) -> Drawn | None:
    """A chart for each factor that any run varies."""
    found = runs(rans)
    near = {factor: _near(found, factor) for factor in AXES}
    varied = {factor: own for factor, own in near.items() if len({run.options[factor] for run in own}) > 1}
    if not varied:
        return None
    try:
        power: PowerLaw | None = law(found)
    except ValueError:
        power = None
    errors = [run.error for own in varied.values() for run in own]
    limits = (min(errors) / 1.12, max(errors) * 1.12)
    wide = min((1000 - LEFT - 24 - GAP * (len(varied) - 1)) / len(varied), 460)
    with Canvas(1000, TOP + HIGH + 58, "scaling") as on:
        on.text(24, 26, "CIFAR-10: OR, trained with the pathway, trunk alone", size=10, at="left", weight="bold")
        for i, (factor, own) in enumerate(varied.items()):
            left = LEFT + i * (wide + GAP)
            axes = on.plot(left, TOP, wide, HIGH, xscale="log", yscale="log", ylim=limits, xlabel=AXES[factor])
            ticks(axes.yaxis, (1, 1.5, 2, 3, 4, 5, 6, 7, 8))
            ticks(axes.xaxis)
            values = sorted({run.options[factor] for run in own})
            axes.set_xticks(values, [str(value) for value in values])
            if power is not None and factor in power.factors:
                xs = np.geomspace(min(values), max(values), 30)
                middle, low, high = zip(*(power.at({**BASE, factor: x}) for x in xs), strict=True)
                axes.fill_between(xs, low, high, color=SOFT, alpha=0.2, linewidth=0)
                axes.plot(xs, middle, color=SOFT, linewidth=1.2)
                exponent, error = power.exponent(factor)
                on.text(left + wide - 4, TOP + 12, f"exponent {exponent:.2f} ± {error:.2f}", at="right", size=8.5)
            axes.plot([run.options[factor] for run in own], [run.error for run in own], linewidth=0, markersize=6,
                      markeredgecolor=CARD, **WITH)  # fmt: skip
            axes.set_xlim(min(values) / 1.15, max(values) * 1.15)
            if i:
                axes.tick_params(labelleft=False)
            else:
                axes.set_ylabel("test error, %, log scale")
        svg = on.svg()
    base = ", ".join(f"{name} {BASE[name]}" for name in (*FACTORS, "depth"))
    caption = f"Marks are single runs; each chart has those that differ from {base} in one thing alone."
    if power is not None:
        caption += (
            " The line is the fit of the table below, the band its 95 % interval; exponents are with standard errors "
            f"({power.points} runs, {power.freedom} degrees of freedom)."
        )
    return Drawn(svg, "Test error over width, time steps, epochs and depth, on logarithmic axes", caption)
