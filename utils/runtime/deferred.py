"""Modules that are imported when something of them is called, for tables that name it before that."""

from __future__ import annotations

import importlib
from typing import Any


class Deferred:
    """Stands for a module, or for what it holds: `Deferred("torch.optim").SGD(...)` imports torch when it is called."""

    def __init__(self, module: str, *path: str) -> None:
        self._module, self._path = module, path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copying, pickling and the like ask for
            raise AttributeError(name)
        return Deferred(self._module, *self._path, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        found: Any = importlib.import_module(self._module)
        for name in self._path:
            found = getattr(found, name)
        return found(*args, **options)
