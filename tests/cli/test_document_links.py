"""Documents hold together: links lead somewhere, and files, names and commands that they mention exist."""

import re

import pytest

from full_spike.utils.commands import COMMANDS
from support.command import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "*/README.md", "tests/goldens/*.md")
    for path in ROOT.glob(pattern)
)
ROOMS = "models|utils|cifar|cifar10dvs|dvsgesture|imagenet|studies|benchmarks|scripts|tests|docs|weights|full_spike"


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"(?m)^ {4,}.*$", "", re.sub(r"(?ms)^```.*?^```", "", text))


def anchors(text):
    """The addresses that GitHub gives to a page's headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(text))
    return [re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings]


def broken(page):
    """Links and images of a page that lead to no file, or to no heading."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        place, _, anchor = target.partition("#")
        linked = page.parent / place if place else page
        if not place.startswith(("http://", "https://", "mailto:")):
            there = linked.exists() and (not anchor or anchor in anchors(linked.read_text()))
            found += [] if there else [target]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    assert broken(ROOT / page) == []


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "there.md").write_text("# A `heading`, of it\n")
    text = "# Top\n[a](there.md) ![b](none.png) [c](there.md#a-heading-of-it) [d](there.md#other) [e](#top) [f](#no)\n"
    (tmp_path / "page.md").write_text(text)
    assert broken(tmp_path / "page.md") == ["none.png", "there.md#other", "#no"]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])  # which names what is gone
def test_what_a_page_names_exists(page):
    text = (ROOT / page).read_text()
    missing = [path for path in re.findall(rf"`((?:{ROOMS})/[\w./-]*)`", text) if not (ROOT / path).exists()]
    for file, names in re.findall(rf"`((?:{ROOMS})/[\w/]+\.py)`((?: `\w+`,?)+)", text):
        code = (ROOT / file).read_text() if (ROOT / file).exists() else ""
        missing += [name for name in re.findall(r"\w+", names) if not re.search(rf"(?m)^ *(def|class) {name}\b", code)]
    for module in re.findall(rf"-m (?:full_spike\.)?((?:{ROOMS})\.[\w.]+)", text):
        path = ROOT / module.rstrip(".").replace(".", "/")
        missing += [] if path.with_suffix(".py").exists() or (path / "__main__.py").exists() else [module]
    missing += [name for name in re.findall(r"(?:^ {4}|`)full-spike ([\w-]+)", text, re.M) if name not in COMMANDS]
    assert missing == []
