"""The changes of docs/ADDING.md."""

import re
import subprocess
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "ADDING.md").read_text()


def apply(title, project):
    """Make the changes of a section in a copy of the project: its diffs, and its files."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)[1]
    blocks = re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
    assert blocks
    for kind, text in blocks:
        if kind == "diff":
            subprocess.run(["git", "apply", "-C1", "-"], cwd=project, input=text, text=True, check=True)
        else:
            file = project / text.partition("\n")[0].removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
