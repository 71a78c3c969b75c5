"""The tables of docs/RESULTS.md, made of the CSV files alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from studies.gathering import RESULTS, read_csv
from studies.grid import Study, read_study
from studies.statistics import Summary, paired, summary
from utils.runtime.errors import UserError
from utils.runtime.files import read_text, write_file

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "RESULTS.md"
# a table stands between a line that names its study and a line that ends it
PLACE = re.compile(r"(<!-- study: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
JUDGED = ("final_fsnn", "final_output")  # what is left to be deployed; the one that a row has
OTHERS = {"pathway alone": "final_aap", "both": "final_sum"}


def by_seed(lines: list[dict[str, Any]], row: str, *columns: str) -> dict[int, float]:
    """A row's values by seed, of the first of these columns that it has; empty if it has none."""
    found: dict[int, float] = {}
    for line in lines:
        values = [line[column] for column in columns if line.get(column) is not None]
        if line["row"] == row and values:
            found[line["seed"]] = values[0]
    return found


def _cell(values: dict[int, float], digits: int = 2) -> str:
    if not values:
        return "-"
    found = summary(list(values.values()))
    spread = "" if found.deviation is None else f" ± {found.deviation:.{digits}f}"
    return f"{found.mean:.{digits}f}{spread}"


def _difference(found: Summary) -> str:
    if found.half is None:
        return f"{found.mean:+.2f} (one seed: no interval)"
    return f"{found.mean:+.2f} [{found.mean - found.half:+.2f}, {found.mean + found.half:+.2f}]"


def _verdict(found: Summary) -> str:
    if found.shown is None:
        return "open"
    if not found.shown:
        return "not shown"
    return "better" if found.mean > 0 else "worse"


def _energy(lines: list[dict[str, Any]], row: str) -> list[str]:
    return [
        _cell({s: v / 1e6 for s, v in by_seed(lines, row, f"detached_{what}").items()}, 3) for what in ("ac", "mac")
    ] + [_cell({s: 1000 * v for s, v in by_seed(lines, row, "detached_mj").items()}, 2)]


def table(study: Study, lines: list[dict[str, Any]]) -> str:
    """The study's results in Markdown: a line for each row, then one for each pair that is compared."""
    counted = any(line.get("detached_mj") is not None for line in lines)
    whole = any(line.get("integer8") is not None for line in lines)
    head = ["row", "seeds", "top-1 of what is deployed, %", *(f"{name}, %" for name in OTHERS), "parameters"]
    head += ["AC, M", "MAC, M", "µJ an image"] if counted else []
    head += ["integers, 8 bits, %", "4 bits, %"] if whole else []
    text = [f"*Reproduced here.* {study.title}. {study.about}", "", _line(head), _line(["---"] * len(head))]
    for row in study.rows:
        scores = by_seed(lines, row, *JUDGED)
        if not scores:
            text.append(_line([row, "0", "not run", *["-"] * (len(head) - 3)]))
            continue
        parameters = next(line["parameters_detached"] for line in lines if line["row"] == row)
        cells = [row, str(len(scores)), _cell(scores), *(_cell(by_seed(lines, row, c)) for c in OTHERS.values())]
        cells.append(f"{parameters:,}")
        cells += _energy(lines, row) if counted else []
        cells += [_cell(by_seed(lines, row, name)) for name in ("integer8", "integer4")] if whole else []
        text.append(_line(cells))
    compared = {
        what: paired(*both)
        for what, rows in study.pairs.items()
        if all(both := [by_seed(lines, row, *JUDGED) for row in rows]) and both[0].keys() & both[1].keys()
    }
    if compared:
        text += ["", _line(["compared", "seeds", "difference in points [95 % interval]", ""]), _line(["---"] * 4)]
        text += [_line([what, str(d.n), _difference(d), _verdict(d)]) for what, d in compared.items()]
    return "\n".join(text) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def rendered(page: str, results: Path = RESULTS) -> str:
    """The page with every table made anew.

    Raises:
        UsageError: a study that the page names cannot be read.
    """

    def made(match: re.Match[str]) -> str:
        study = read_study(Path(__file__).parent / f"{match[2]}.yaml")
        return f"{match[1]}{table(study, read_csv(results / f'{study.name}.csv'))}{match[3]}"

    return PLACE.sub(made, page)


def write(page: Path = PAGE, results: Path = RESULTS) -> int:
    """Make the tables of the page anew."""
    write_file(page, rendered(read_text(page), results).encode())
    print(f"wrote {page}")
    return 0


def check(page: Path = PAGE, results: Path = RESULTS) -> int:
    """Compare the page's tables with what the CSV files give.

    Raises:
        UserError: they differ.
    """
    text = read_text(page)
    count = len(PLACE.findall(text))
    if rendered(text, results) != text:
        raise UserError(f"{page} differs from what {results} gives: run `python scripts/study.py write`")
    print(f"{page}: its {count} tables are those that {results} gives")
    return 0
