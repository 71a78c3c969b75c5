"""Documents hold together: links lead somewhere, code they name is there, the picture is as its script draws it."""

import re
import subprocess
import sys

import pytest
from full_spike.utils.draw.card import same_drawing
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


def test_the_picture_of_the_method_is_what_its_script_draws(tmp_path):
    subprocess.run([sys.executable, ROOT / "scripts/draw_method.py", tmp_path], check=True, timeout=120)
    assert same_drawing((tmp_path / "method.svg").read_text(), (ROOT / "figs/method.svg").read_text())
    assert (tmp_path / "method.png").stat().st_size > 50_000


def test_a_picture_with_anything_moved_is_another():
    kept = (ROOT / "figs/method.svg").read_text()
    (first, *_) = re.findall(r"\d+\.\d{6}", kept)
    assert same_drawing(kept.replace(first, f"{float(first) + 0.001:.6f}"), kept)
    assert not same_drawing(kept.replace(first, f"{float(first) + 0.1:.6f}"), kept)
    assert not same_drawing(kept.replace("#0072b2", "#d55e00"), kept)
    assert not same_drawing(kept.replace("<use", "<path", 1), kept)
    name = re.search(r'id="(p[0-9a-f]+)"', kept)[1]
    assert same_drawing(kept.replace(name, "other"), kept)
    assert not same_drawing(kept.replace(f"url(#{name})", "url(#other)"), kept)
