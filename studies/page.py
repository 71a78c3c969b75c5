"""docs/RESULTS.md: its tables and figures made from the CSV files, or compared with them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from full_spike.utils.errors import UserError
from full_spike.utils.files import write_file
from studies.claims import claims_table
from studies.figures import FIGURES, draw
from studies.gathering import RESULTS
from studies.results import fit_table, read_results, table

ROOT = Path(__file__).parent.parent
TABLES = {"claims": claims_table, "scaling": fit_table}
PAGE, FIGS = ROOT / "docs/RESULTS.md", ROOT / "figs"
PLACE = re.compile(r"(<!-- (study|table): (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)  # of what is generated


def make(page: Path = PAGE, folder: Path = RESULTS, figs: Path = FIGS, *, write: bool) -> list[str]:
    """Tables and figures that are not what the CSV files give; `write` makes them so.

    Raises:
        UserError: the page has a place for a study that there is not.
    """
    results, different = read_results(folder), []

    def table_of(match: re.Match[str]) -> str:
        kind, name = match[2], match[3]
        known = results if kind == "study" else TABLES
        if name not in known:
            raise UserError(f"{page} names the {kind} {name}, which there is not: choose from {', '.join(known)}")
        text = table(results[name]) if kind == "study" else TABLES[name](results)
        if text != match[4]:
            different.append(f"the {kind} {name}")
        return f"{match[1]}{text}{match[5]}"

    text = PLACE.sub(table_of, page.read_text())
    if write:
        write_file(page, text.encode())
    for name, (_, studies) in FIGURES.items():
        files = [folder / f"{study}{part}.csv" for study in studies for part in ("", "_blocks")]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()
        path = figs / f"results_{name}.svg"
        if write or not path.exists() or digest not in path.read_text():
            different.append(str(path))
        if write:
            draw(name, results, path, digest)
    return different
