"""The package syops 0.0.5, unchanged, under spikingjelly 2: numbers that can be set beside published ones.

syops was written for spikingjelly 0.0.0.0.12. Three things stand between it and a network of today:

- it imports neuron classes that spikingjelly 2 no longer has. Stand-ins are there while it is imported: it only uses
  them as keys of a table;
- it looks a layer up by its exact class, so that every subclass counts zero. Each class is registered with the hook of
  its nearest base class that syops knows, and every neuron with the one of IF (LIF and PLIF count alike);
- it leaves methods and counters on the model. They are taken off again.

What it counts is left as it is; `docs/ENERGY.md` says where that differs from an exact count.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn

from full_spike.models import returning
from full_spike.utils.errors import UserError
from full_spike.utils.measure.layers import NORMS

_GONE = ("MultiStepIFNode", "MultiStepLIFNode", "MultiStepParametricLIFNode")


def load_syops() -> Any:
    """The package `syops`, imported with the names that it misses.

    Raises:
        UserError: it is not installed.
    """
    for name in _GONE:
        setattr(sj_neuron, name, type(name, (nn.Module,), {}))
    try:
        return importlib.import_module("syops")
    except ModuleNotFoundError as error:
        if error.name not in ("syops", "progress"):
            raise
        raise UserError("the package syops is not installed: pip install syops==0.0.5 progress") from None
    finally:
        for name in _GONE:
            delattr(sj_neuron, name)


def hooks_for(model: nn.Module) -> dict[type, Any]:
    """syops' counting hook for each class in the model that it does not know itself, but knows a base class of."""
    load_syops()
    ops = importlib.import_module("syops.ops")
    known = {**ops.MODULES_MAPPING, sj_neuron.BaseNode: ops.IF_syops_counter_hook}
    hooks = {}
    for kind in {type(module) for module in model.modules()} - set(ops.MODULES_MAPPING):
        base = next((base for base in kind.__mro__ if base in known), None)
        if base is not None:
            hooks[kind] = known[base]
    return hooks


@dataclass(frozen=True)
class SyopsCount:
    """What syops counts per unit of the model's first input dimension (its notion of an image), and its firing rate."""

    total: float = 0.0
    ac: float = 0.0
    mac: float = 0.0
    rate: float | None = None


class SyopsCounter:
    """Counts with syops' engine what a model runs inside a `with` block.

    The engine's steps are driven from here and not through `get_model_complexity_info`, to read every layer's count
    before it is wiped and to share the data with the exact counter. The model runs in the mode that it is in.
    """

    def __init__(self, model: nn.Module) -> None:
        load_syops()
        self.model: Any = model
        self._engine: Any = importlib.import_module("syops.engine")
        self._hooks = hooks_for(model)
        self.inputs = 0  # what syops takes for the number of images: the sum of len(input)
        self.layers: dict[str, SyopsCount] = {}

    def __enter__(self) -> SyopsCounter:
        self._streams = returning(self.model, readout="both")
        self._streams.__enter__()
        self._before = set(vars(self.model))
        self._mapping = self._engine.CUSTOM_MODULES_MAPPING
        self._engine.CUSTOM_MODULES_MAPPING = {**self._mapping, **self._hooks}  # counters may nest
        self._engine.add_syops_counting_methods(self.model)
        self.model.start_syops_count(ost=sys.stderr, verbose=False, ignore_list=[])
        return self

    def __exit__(self, *_error: Any) -> None:
        self.inputs = self.model.__batch_counter__
        if self.inputs:
            for name, module in self.model.named_modules():
                counted = getattr(module, "__syops__", None)
                if counted is not None:
                    total, ac, mac = (counted[:3] / self.inputs).tolist()
                    rate = float(counted[3]) / 100 / self.model.__times_counter__
                    self.layers[name] = SyopsCount(total, ac, mac, rate)
        self.model.stop_syops_count()
        for name in vars(self.model).keys() - self._before:
            delattr(self.model, name)
        self._engine.CUSTOM_MODULES_MAPPING = self._mapping
        self._streams.__exit__(*_error)

    def count(self, *, batch_norm: bool = False) -> SyopsCount:
        """The sum over all layers, after the block; with `batch_norm=False` as with `ignore_modules=[BatchNorm]`."""
        norms = {name for name, module in self.model.named_modules() if isinstance(module, NORMS)}
        layers = [count for name, count in self.layers.items() if batch_norm or name not in norms]
        return SyopsCount(sum(c.total for c in layers), sum(c.ac for c in layers), sum(c.mac for c in layers))
