"""The figures of docs/RESULTS.md, made of the CSV files alone: figs/results_NAME.svg.

Each is a function of all results; it gives None where none of what it shows has been gathered.
"""

from __future__ import annotations

from collections.abc import Callable

from studies.figures.blocks import blocks
from studies.figures.compared import choices, depth, joins, others
from studies.figures.curves import curves, curves_others
from studies.figures.energy import energy
from studies.figures.parts import Drawn
from studies.figures.scaling import scaling
from studies.figures.speed import speed
from studies.ran import Results

FIGURES: dict[str, Callable[[Results], Drawn | None]] = {
    figure.__name__: figure
    for figure in (joins, curves, energy, depth, blocks, choices, others, curves_others, scaling, speed)
}
