"""From a network to its description: what each layer read is seen while the network runs once.

Layers pass tensors on as they are or as views, so the memory that a layer reads tells which layer filled it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from spikingjelly.activation_based.neuron import BaseNode
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from full_spike.models.connect import JoinLayer
from full_spike.models.deploy import fold_batchnorm
from full_spike.models.neuron import use_fused

from .nodes import INPUT, Add, Attention, Conv, Fire, Gate, Graph, Head, Pool

_FREE = (nn.Identity, nn.Dropout)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value), int(value))


def _numbers(parameter: Tensor) -> Tensor:
    return parameter.detach().clone().float()


def _conv(name: str, module: nn.Conv2d, **node: Any) -> Conv:
    if module.padding_mode != "zeros" or _pair(module.dilation) != (1, 1) or isinstance(module.padding, str):
        raise ValueError(f"{name} is dilated or pads with other values than zeros: use a plain convolution")
    bias = torch.zeros(module.out_channels) if module.bias is None else _numbers(module.bias)
    return Conv(
        weight=_numbers(module.weight), bias=bias, stride=_pair(module.stride), padding=_pair(module.padding),
        groups=module.groups, name=name, **node,
    )  # fmt: skip


def _fire(name: str, module: Any, **node: Any) -> Fire:
    spec = getattr(module, "spec", None)
    if spec is None or spec.kind not in ("IF", "LIF", "PLIF") or module.v_reset != 0.0:
        raise ValueError(
            f"{name} is a {type(module).__name__}: only IF, LIF and PLIF with a reset to 0 can be described"
        )
    if not getattr(module, "decay_input", True):
        raise ValueError(f"{name} takes its current in undecayed: use decay_input=True")
    time = float(spec.rate) if spec.rate is not None else spec.tau
    return Fire(neuron=spec.kind, threshold=spec.threshold, time=time, gain=spec.gain, name=name, **node)


def _join(name: str, module: JoinLayer, inputs: tuple[str, ...], shape: tuple[int, ...]) -> Gate | Add:
    residual, identity = inputs  # as `JoinLayer.forward` takes them
    function: Any = module.join.function
    bits = [(i, r, float(function(identity=float(i), residual=float(r)))) for i in (0, 1) for r in (0, 1)]
    if all(value in (0.0, 1.0) for _, _, value in bits) and module.acts_on == "spikes":
        table: Any = tuple(int(value) for _, _, value in bits)
        return Gate(join=module.name, table=table, name=name, inputs=(identity, residual), shape=shape)
    if any(value != i + r for i, r, value in bits):
        raise ValueError(f"{name} joins by {module.name}, which is neither a gate nor a sum: use another join")
    return Add(name=name, inputs=(identity, residual), shape=shape)


def _pool(name: str, module: nn.MaxPool2d, **node: Any) -> Pool:
    if _pair(module.dilation) != (1, 1):
        raise ValueError(f"{name} is dilated: use a plain max-pooling")
    return Pool(
        kernel=_pair(module.kernel_size), stride=_pair(module.stride), padding=_pair(module.padding), name=name, **node
    )


_MAKERS: dict[Any, Any] = {nn.Conv2d: _conv, BaseNode: _fire, JoinLayer: _join, nn.MaxPool2d: _pool}


class _Trace:
    """Nodes in the order in which their modules ran."""

    def __init__(self, model: Any, example: Tensor) -> None:
        self.model = model
        self.nodes: list[Any] = []
        self._alive: list[Tensor] = [example]  # so that no other tensor is given their memory
        self._made = {example.untyped_storage().data_ptr(): INPUT}
        self._pooled: list[str] = []  # what the average pooling reads

    def _source(self, name: str, tensor: Tensor) -> str:
        try:
            return self._made[tensor.untyped_storage().data_ptr()]
        except KeyError:
            raise ValueError(
                f"{name} reads what no layer of a known kind gave: write what is between as a layer of models.layers"
            ) from None

    def watch(self) -> Iterator[Any]:
        """Hooks on every layer."""
        for name, module in self.model.named_modules():
            maker = next((maker for kind, maker in _MAKERS.items() if isinstance(module, kind)), None)
            if module is self.model.classifier or maker is not None:
                yield module.register_forward_hook(self._hook(name, maker), with_kwargs=True)
            elif callable(getattr(module, "product", None)):  # of attention: what it reshapes on the way is no view
                module.product = self._product(name, module)
            elif isinstance(module, nn.AdaptiveAvgPool2d):
                yield module.register_forward_pre_hook(
                    lambda _m, args, name=name: self._pooled.append(self._source(name, args[0]))
                )
            elif isinstance(module, _BatchNorm | nn.Linear | nn.modules.pooling._AvgPoolNd):
                raise ValueError(f"{name} ({type(module).__name__}) is of a kind that cannot be described")

    def _product(self, name: str, module: Any) -> Any:
        product = module.product

        def see(*qkv: Tensor) -> Tensor:
            inputs = tuple(self._source(name, x) for x in qkv)
            output: Tensor = product(*qkv)
            node = Attention(f"{name}.product", inputs, tuple(output.shape[-3:]), int(module.heads))
            self._add(node, output)
            return output

        return see

    def _add(self, node: Any, output: Tensor) -> None:
        self.nodes.append(node)
        self._made[output.untyped_storage().data_ptr()] = node.name
        self._alive.append(output)

    def _hook(self, name: str, maker: Any) -> Any:
        def see(module: Any, args: tuple, kwargs: dict, output: Tensor) -> None:
            if maker is None or module is self.model.classifier:
                self.nodes.append(
                    Head(name, tuple(self._pooled), tuple(output.shape[1:]), _numbers(module.weight),
                         _numbers(module.bias))
                )  # fmt: skip
                return
            inputs = tuple(self._source(name, x) for x in (*args, *kwargs.values()))
            self._add(maker(name, module, inputs=inputs, shape=tuple(output.shape[-3:])), output)

        return see


@torch.no_grad()
def describe(model: Any, size: tuple[int, int]) -> Graph:
    """The description of a network of this package at one image size (height, width), batch norms folded.

    Raises:
        ValueError: its pathway is attached, a layer is of a kind that cannot be described, or the images are too small.
    """
    if getattr(model, "aap", None) is not None:
        raise ValueError(
            f"{model.config['model']} still has its pathway, which adds: take it off by detach_aap, or use --detach-aap"
        )
    plain: Any = copy.deepcopy(model).eval().cpu().float()
    if any(isinstance(module, _BatchNorm) for module in plain.modules()):
        plain = fold_batchnorm(plain)
    use_fused(plain, False)
    shape = (int(plain.in_channels), *size)
    example = torch.zeros(1, 1, *shape)
    trace = _Trace(plain, example)
    with ExitStack() as hooks:
        for handle in trace.watch():
            hooks.callback(handle.remove)
        try:
            plain(example)
        except RuntimeError as error:
            raise ValueError(
                f"images of {size[0]}x{size[1]} do not fit this network: {str(error).splitlines()[0]}"
            ) from None
    config = dict(getattr(model, "config", {}))
    return Graph(tuple(trace.nodes), int(plain.T), bool(plain.event_frames), shape, config)
