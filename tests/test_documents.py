"""Documents hold together: links lead somewhere, and code that they name is there."""

import re

import pytest

from support.command import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "*/README.md", "tests/goldens/*.md")
    for path in ROOT.glob(pattern)
    if not path.relative_to(ROOT).parts[0].startswith((".", "build", "dist", "runs", "logs"))
)


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"(?m)^ {4,}.*$", "", re.sub(r"(?ms)^```.*?^```", "", text))


def anchor(heading):
    """What GitHub makes of a heading in addresses."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken(text, folder):
    """Links and images of a page in this folder that lead to no file, or to no heading."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        place, _, part = target.partition("#")
        path = folder / place if place else None
        if path is not None and not path.exists():
            found.append(target)
            continue
        page = text if path is None else path.read_text() if path.suffix == ".md" else ""
        if part and part not in [anchor(heading) for heading in re.findall(r"(?m)^#+ (.*)$", prose(page))]:
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    assert broken((ROOT / page).read_text(), (ROOT / page).parent) == []


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "there.md").write_text("# A `heading`, of it\n")
    text = (
        "# Top\n[a](there.md) ![b](none.png) [c](there.md#a-heading-of-it) [d](there.md#other) [e](#top) [f](#bottom)\n"
    )
    assert broken(text, tmp_path) == ["none.png", "there.md#other", "#bottom"]


def test_code_that_the_method_names_is_there():
    found = re.findall(r"`((?:models|utils)/[\w/]+\.py)`((?: `\w+`(?:, )?)+)", (ROOT / "docs/METHOD.md").read_text())
    assert len(found) > 20
    missing = [
        (file, name)
        for file, names in found
        for name in re.findall(r"\w+", names)
        if not re.search(rf"(?m)^ *(?:def|class) {name}\b", (ROOT / file).read_text())
    ]
    assert missing == []
