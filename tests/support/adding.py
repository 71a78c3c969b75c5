"""The pieces of code of docs/ADDING.md."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "ADDING.md").read_text()


def blocks():
    """Code by the place that its first line names."""
    return dict(re.findall(r"```python\n# ([^\n]+)\n(.*?)```", TEXT, re.DOTALL))


def code(place):
    return blocks()[place]
