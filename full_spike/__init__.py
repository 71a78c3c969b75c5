"""Full-spike neural networks trained with the Auxiliary Accumulation Pathway (arXiv:2301.11929).

`full_spike.create_model("dsnn18", T=4)` builds a network; `full_spike.models` has its parts, `full_spike.utils`
how it is trained, counted and exported.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

if not (Path(__file__).parent / "models").is_dir():  # a checkout: the packages lie beside this one, not in it
    __path__.append(str(Path(__file__).parent.parent))

# imported when asked for: the commands read their options without waiting for torch
_HOMES = {
    "full_spike.models": (
        "create_model", "detach_aap", "fold_batchnorm", "list_models", "list_pretrained", "load_published",
        "model_options", "register_join", "register_model", "save_memory", "save_pretrained", "to_published",
        "use_fused",
    ),
    "full_spike.utils.data.transform": ("transform",),
    "full_spike.utils.export": ("Stream", "exact", "quantize"),
}  # fmt: skip
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("full_spike.losses")
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'full_spike' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
