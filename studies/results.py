"""The tables and figures of docs/RESULTS.md, made of the CSV files alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from full_spike.utils.draw.card import same_drawing
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import read_text, write_file

from studies.figures import FIGURES
from studies.gathering import RESULTS
from studies.ran import Results
from studies.scaling import fit_table
from studies.tables import table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "RESULTS.md"
FIGS = ROOT / "figs"
PREFIX = "results_"  # of the figures' files, which are nobody else's
# what is made stands between a line that names it and a line that ends it
PLACE = re.compile(r"(<!-- (study|figure|fit): (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
LARGEST = 1 << 24  # bytes of a figure


def _choose(name: str, known: Mapping[str, object], what: str) -> None:
    if name not in known:
        raise UsageError(f"the page names the {what} {name!r}, which there is not: choose from {', '.join(known)}")


def make(page: str, results: Path = RESULTS) -> tuple[str, dict[str, str]]:
    """The page with everything made anew, and the figures that it shows, file -> SVG.

    Raises:
        UsageError: the page names a study or a figure that there is not, or a study cannot be read.
    """
    rans = Results(results)
    figures: dict[str, str] = {}

    def made(match: re.Match[str]) -> str:
        kind, name = match[2], match[3]
        if kind == "figure":
            _choose(name, FIGURES, kind)
            drawn = FIGURES[name](rans)
            if drawn is None:
                text = "*No figure yet*: what it shows has not been gathered.\n"
            else:
                file = f"{PREFIX}{name}.svg"
                figures[file] = drawn.svg
                text = f"![{drawn.alt}](../figs/{file})\n\n{drawn.caption}\n"
        else:
            _choose(name, rans, "study")
            text = table(rans[name]) if kind == "study" else fit_table(rans)
        return f"{match[1]}{text}{match[5]}"

    return PLACE.sub(made, page), figures


def write(page: Path = PAGE, results: Path = RESULTS, figs: Path = FIGS) -> int:
    """Make tables and figures anew; figures that no runs are there for any more are removed."""
    text, figures = make(read_text(page), results)
    write_file(page, text.encode())
    for file, svg in figures.items():
        write_file(figs / file, svg.encode())
    for path in figs.glob(f"{PREFIX}*.svg"):
        if path.name not in figures:
            path.unlink()
    print(f"wrote {page} and {len(figures)} figures of {figs}")
    return 0


def check(page: Path = PAGE, results: Path = RESULTS, figs: Path = FIGS) -> int:
    """Compare the page and its figures with what the CSV files give.

    Raises:
        UserError: they differ.
    """
    kept = read_text(page)
    text, figures = make(kept, results)
    places = list(zip(PLACE.finditer(kept), PLACE.finditer(text), strict=True))
    wrong = [f"the {old[2]} {old[3]} in {page.name}" for old, new in places if old[0] != new[0]]
    files = {path.name for path in figs.glob(f"{PREFIX}*.svg")}
    for file in sorted(figures.keys() | files):
        if file not in files:
            wrong.append(f"{figs / file}, which is missing")
        elif file not in figures:
            wrong.append(f"{figs / file}, which is of no runs")
        elif not same_drawing(read_text(figs / file, LARGEST), figures[file]):
            wrong.append(str(figs / file))
    if wrong:
        raise UserError(f"not what {results} gives: {', '.join(wrong)}: run `python scripts/study.py write`")
    print(f"{page}: its {len(places) - len(figures)} tables and {len(figures)} figures are those that {results} gives")
    return 0
