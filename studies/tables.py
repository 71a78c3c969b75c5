"""A study's results in Markdown: a line for each row, then one for each pair that is compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from studies.ran import Ran
from studies.statistics import Summary, paired, summary

OTHERS = {"pathway alone, %": "final_aap", "both, %": "final_sum"}
ENERGY = {  # column -> (of the CSV, what makes it of the unit, digits)
    "AC, M": ("detached_ac", 1e-6, 3),
    "MAC, M": ("detached_mac", 1e-6, 3),
    "µJ an image": ("detached_mj", 1e3, 2),
    "µJ with the pathway kept": ("trained_mj", 1e3, 2),
}
INTEGERS = {"integers, 8 bits, %": "integer8", "4 bits, %": "integer4"}


def lines_of(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """A table's lines."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


def _cell(values: Iterable[float], digits: int = 2) -> str:
    values = list(values)
    if not values:
        return "-"
    found = summary(values)
    spread = "" if found.deviation is None else f" ± {found.deviation:.{digits}f}"
    return f"{found.mean:.{digits}f}{spread}"


def difference(found: Summary) -> str:
    """Points, and their interval."""
    if found.half is None:
        return f"{found.mean:+.2f} (one seed: no interval)"
    return f"{found.mean:+.2f} [{found.mean - found.half:+.2f}, {found.mean + found.half:+.2f}]"


def verdict(found: Summary) -> str:
    """What three seeds or more show."""
    if found.shown is None:
        return "open"
    if not found.shown:
        return "not shown"
    return "better" if found.mean > 0 else "worse"


def _cells(ran: Ran, row: str) -> dict[str, str]:
    """What is said of a row that has been run, by column; "-" where it has none of that."""
    kept = ran.values(row, "final_sum")
    found = {"top-1 of what is deployed, %": _cell(ran.deployed(row).values())}
    found |= {column: _cell(ran.values(row, of).values()) for column, of in OTHERS.items()}
    found["parameters"] = f"{next(iter(ran.values(row, 'parameters_detached').values())):,}"
    for column, (of, factor, digits) in ENERGY.items():
        values = ran.values(row, of).values() if kept or of != "trained_mj" else ()
        found[column] = _cell((factor * value for value in values), digits)
    return found | {column: _cell(ran.values(row, of).values()) for column, of in INTEGERS.items()}


def _rows(ran: Ran) -> list[str]:
    """A line for each row; columns are those that any row fills."""
    found = {row: _cells(ran, row) for row in ran.study.rows if ran.deployed(row)}
    columns = [name for name in next(iter(found.values())) if any(cells[name] != "-" for cells in found.values())]
    body = []
    for row in ran.study.rows:
        cells = [found[row][name] for name in columns] if row in found else ["not run", *["-"] * (len(columns) - 1)]
        body.append([ran.label(row), f"`{row}`", str(len(ran.deployed(row))), *cells])
    return lines_of(["network", "row", "seeds", *columns], body)


def _compared(ran: Ran) -> Iterator[tuple[str, Summary]]:
    for pair in ran.pairs():
        yield pair.what, pair.difference
    for row in ran.study.rows:
        for bits in ("8", "4"):
            if whole := ran.values(row, f"integer{bits}"):
                what = f"integers of {bits} bits against floats, {ran.label(row)}"
                yield what, paired(whole, ran.values(row, f"integer{bits}_floats"))


def table(ran: Ran) -> str:
    """The study's tables under what has to be known to read them; that it has not been run if it has not."""
    study = ran.study
    if not ran.lines:
        return f"*Not run.* {study.title}. {study.about} Its grid is `studies/{study.name}.yaml`.\n"
    text = [f"*Reproduced here.* {study.title}. {study.about}", "", *_rows(ran)]
    compared = [[what, str(found.n), difference(found), verdict(found)] for what, found in _compared(ran)]
    if compared:
        text += ["", *lines_of(["compared", "seeds", "difference in points [95 % interval]", ""], compared)]
    return "\n".join(text) + "\n"
