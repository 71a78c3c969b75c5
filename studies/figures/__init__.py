"""The figures of docs/RESULTS.md, made of the CSV files alone: figs/results_NAME.svg.

Each is a function of all studies by name; it gives None where none of the runs that it shows has been gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from studies.figures.blocks import blocks
from studies.figures.compared import choices, depth, joins, others
from studies.figures.curves import curves, curves_others
from studies.figures.energy import energy
from studies.figures.parts import Drawn
from studies.figures.scaling import scaling
from studies.ran import Ran

FIGURES: dict[str, Callable[[Mapping[str, Ran]], Drawn | None]] = {
    figure.__name__: figure
    for figure in (joins, curves, energy, depth, blocks, choices, others, curves_others, scaling)
}
