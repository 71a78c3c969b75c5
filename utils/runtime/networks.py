"""What the rest of the project asks of a module that builds networks: of the package `models`, or one of your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn


class Networks(Protocol):
    """Builds networks by name and reads their weights: enough for counting and certifying (`--factory`)."""

    def create_model(self, model: str, **options: Any) -> nn.Module:
        """The network of this name, with a `config` from which it can be built again; ValueError if it is wrong."""
        ...

    def list_models(self) -> list[str]:
        """The names that there are."""
        ...

    def load_published(self, model: nn.Module, state_dict: Mapping[str, Any]) -> None:
        """Load weights in this project's or the published naming; ValueError, and no change, if they do not fit."""
        ...

    def detach_aap(self, model: nn.Module) -> nn.Module:
        """A copy without the auxiliary accumulation pathway; ValueError if there is none."""
        ...


class TrainableNetworks(Networks, Protocol):
    """What training asks for besides."""

    def model_options(self, model: str) -> dict[str, Any]:
        """The options of a network with their defaults; ValueError if there is no such network."""
        ...

    def use_fused(self, model: nn.Module, on: bool = True) -> nn.Module:
        """Choose compiled layers or plain ones, and return the model."""
        ...

    def save_memory(self, model: nn.Module, on: bool = True) -> nn.Module:
        """Choose to compute some activations again in the backward pass, and return the model."""
        ...
