"""Where files go that can be made again."""

import os
from pathlib import Path


def cache_home() -> Path:
    """~/.cache/full-spike, or below $XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "full-spike"
