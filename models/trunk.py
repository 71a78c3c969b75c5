"""What every network here does: first spikes, a body of blocks that an AAP may listen to, and the classification.

An architecture is a file beside this one: its blocks, its trunk and the families it is registered in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .accumulation import AUX_HEADS, AccumulationPathway, Change
from .choices import require_one_of, require_sizes
from .connect import Join, JoinLayer
from .layers import GlobalAvgPool, SpikingLayer, spike
from .recompute import recomputed

READOUTS = ("fsnn", "aap", "sum", "both")


class Block(nn.Module):
    """A chain of spiking layers and a shortcut over it, which meet in the last one.

    Returns (output o_l, own spikes s_l), both [T, N, out_channels, H / stride, W / stride], of
    [T, N, in_channels, H, W].
    """

    def __init__(self, join: Join, in_channels: int, out_channels: int | None = None, stride: int = 1) -> None:
        super().__init__()
        self.join = JoinLayer(join)
        self.in_channels = in_channels
        self.out_channels = in_channels if out_channels is None else out_channels
        self.stride = stride

    @property
    def changes_shape(self) -> bool:
        return self.stride != 1 or self.in_channels != self.out_channels

    def spiking_layers(self) -> list[SpikingLayer]:
        """All of it, in the order in which it runs; the last one has the join."""
        raise NotImplementedError


class Trunk(nn.Module):
    """Images or frames -> logits. A subclass makes the layers and says which are the stem, the body and the classifier.

    The stem and the body run one after the other; the pathway starts from what enters the body's first block.

    Args:
        aux_head: None for a single stream; "shared" or "separate" for an accumulation pathway, classified by the
            trunk's head or by its own.
        T: time steps that a static image is shown for, >= 1.
        sizes: other options that must be at least 1.

    Input: images [N, in_channels, H, W], shown T times, or a sequence of frames [T', N, in_channels, H, W] of any
    length T'. Returns logits [N, num_classes]; with the pathway, in training the pair (trunk's logits, pathway's), in
    evaluation what `readout` says.

    Attributes:
        readout: what a network with a pathway returns in evaluation: "fsnn" (the trunk's logits; the pathway is not
            computed), "aap" (the pathway's), "sum" (of both) or "both" (the pair).
        by_step: return logits of each time step [T, N, num_classes], whose mean is what is returned otherwise.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    event_frames = False  # made for frames of event counts rather than for static images
    readout = "fsnn"
    by_step = False
    stem_stride = 1
    _config: Mapping[str, Any] = MappingProxyType({})
    classes: Sequence[str] = ()  # names of the classes, where the weights tell them
    inputs: Mapping[str, Any] = MappingProxyType({})  # how an image is read: channels, resize, crop, mean, std

    def __init__(self, aux_head: str | None, *, T: int, in_channels: int, **sizes: int) -> None:
        super().__init__()
        require_sizes(T=T, in_channels=in_channels, **sizes)
        if aux_head is not None:
            require_one_of("aux_head", aux_head, AUX_HEADS)
        self.T = T
        self.in_channels = in_channels
        self.aap: AccumulationPathway | None = None
        self.recomputed_blocks = 0  # set by `save_memory`; with any, the stem is recomputed as well

    def complete(self, aux_head: str | None, pool: str = "projection") -> None:
        """The last layers that a subclass makes: average pooling and, if there is to be one, the pathway.

        pool: how the pathway crosses a stride, see `AccumulationPathway`.
        """
        self.avgpool = GlobalAvgPool()
        if aux_head is not None:
            size = self.classifier.in_features, self.classifier.out_features
            head = nn.Linear(*size) if aux_head == "separate" else None
            self.aap = AccumulationPathway(self.changes(), head, pool)

    def changes(self) -> list[Change]:
        """How shapes change between what is accumulated, read off the body: in front of each block's spikes, from those
        of the block before (or from what enters the first), and in front of the head."""
        found: list[Change] = []
        index, stride = 0, 1
        before = channels = None  # of the last spikes, and of what the body has come to since
        for part in self.body():
            if isinstance(part, Block) and before is None:
                before = channels = part.in_channels
            if before is None:
                continue
            channels = getattr(part, "out_channels", channels)  # pooling has none
            stride *= getattr(part, "stride", 1)
            if isinstance(part, Block):
                found.append(Change(index, before, part.out_channels, stride))
                before, stride, index = part.out_channels, 1, index + 1
        if before is not None and channels is not None:
            found.append(Change(index, before, channels, stride))
        return [change for change in found if not change.is_none]

    def silence_residuals(self) -> None:
        """Make every block start as the identity: at each step its own spikes are those that its join passes over.

        Raises:
            ValueError: there are no shortcuts, or the join changes them whatever it is given.
        """
        for block in self.blocks():
            last, join = block.spiking_layers()[-1], block.join.join
            if join.function is None:
                raise ValueError(
                    "zero_init_residual=True silences a plain network, which has no shortcuts: leave it out"
                )
            neutral = join.neutral()
            if neutral is None:
                raise ValueError(
                    f"zero_init_residual=True needs a join that can pass the shortcut on unchanged, and {join.name} "
                    "cannot: leave it out"
                )
            nn.init.zeros_(last.norm.weight)
            kind = getattr(getattr(last.neuron, "spec", None), "kind", type(last.neuron).__name__)
            if neutral and kind not in ("IF", "LIF", "PLIF"):
                raise ValueError(
                    f"zero_init_residual=True with {join.name} needs IF, LIF or PLIF, which can be made to fire "
                    f"always, not {kind}: leave it out"
                )
            if neutral:
                nn.init.constant_(last.norm.bias, last.neuron.firing_current())

    @property
    def classifier(self) -> nn.Linear:
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "classifier":  # nn.Module would register a second module under the property's name
            name = next(key for key, module in self._modules.items() if module is self.classifier)
        super().__setattr__(name, value)

    @property
    def config(self) -> dict[str, Any]:
        """What `create_model` was called with; T and num_classes are what they are now."""
        now = {"T": self.T, "num_classes": getattr(self.classifier, "out_features", None)}
        return {k: now[k] if now.get(k) is not None else v for k, v in self._config.items()}

    @config.setter
    def config(self, config: Mapping[str, Any]) -> None:
        self._config = config

    @property
    def num_features(self) -> int:
        """What the classifier reads, [N, num_features]."""
        return self.classifier.in_features

    def get_classifier(self) -> nn.Linear:
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Make new classifiers, of both streams where the pathway has its own, for so many classes."""
        require_sizes(num_classes=num_classes)
        old, self.classes = self.classifier, ()
        self.classifier = nn.Linear(old.in_features, num_classes).to(old.weight)
        if self.aap is not None and self.aap.head is not None:
            self.aap.head = nn.Linear(old.in_features, num_classes).to(old.weight)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the stem and all blocks again in the backward pass; `save_memory` does so for a third of them."""
        self.recomputed_blocks = len(self.blocks()) if enable else 0

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Of each stage, at whose end the resolution falls: `num_chs`, `reduction`, and `index` of its last part in the
        body."""
        found: list[dict[str, Any]] = []
        reduction, channels, blocks = self.stem_stride, 0, 0
        for i, part in enumerate([*self.body(), None]):
            stride = getattr(part, "stride", 1)
            if blocks and (part is None or stride != 1):
                found.append({"num_chs": channels, "reduction": reduction, "index": i - 1})
                blocks = 0
            reduction *= stride
            channels = getattr(part, "out_channels", channels)
            blocks += isinstance(part, Block)
        return found

    def body(self) -> Sequence[nn.Module]:
        """Blocks, and what lies between them, first to last."""
        raise NotImplementedError

    def stem_layer(self) -> SpikingLayer:
        """The first spiking layer, which reads values."""
        raise NotImplementedError

    def stem(self, frames: Tensor, T: int | None) -> Tensor:
        """The first spikes o_0 of frames [T, N, in_channels, H, W], or of a single one shown T times."""
        first = self.stem_layer()
        return spike((first.conv, first.norm), first.neuron, frames, T)

    def blocks(self) -> list[Block]:
        """All residual blocks, first to last."""
        return [layer for layer in self.body() if isinstance(layer, Block)]

    def spiking_layers(self) -> list[SpikingLayer]:
        """Every spiking layer in the order in which they run, named as its neuron is in `named_modules`."""
        names = {id(module): name for name, module in self.named_modules()}
        layers = [self.stem_layer()]
        for part in self.body():
            layers += getattr(part, "spiking_layers", list)()  # pooling has none
        return [layer._replace(name=names[id(layer.neuron)]) for layer in layers]

    def encode(self, x: Tensor) -> Tensor:
        """The first spikes o_0 [T, N, C, H', W'] of images or frames."""
        if not isinstance(x, Tensor):
            raise ValueError(f"an input is a {type(x).__name__}: give a tensor, as torch.as_tensor makes one")
        if not x.is_floating_point():
            raise ValueError(f"an input is {x.dtype}: give floats, normalised as full_spike.transform(model) does")
        weights = self.stem_layer().conv.weight.dtype
        if x.dtype != weights and torch.float64 in (x.dtype, weights):
            raise ValueError(f"an input is {x.dtype} and the weights are {weights}: convert one of them by .to()")
        if x.ndim not in (4, 5):
            raise ValueError(
                f"an input of shape {tuple(x.shape)} has {x.ndim} dimensions: "
                "give images [N, C, H, W] or frames [T, N, C, H, W]"
            )
        if x.shape[-3] != self.in_channels:
            raise ValueError(f"an input of shape {tuple(x.shape)} has {x.shape[-3]} channels, not {self.in_channels}")
        if x.ndim == 5:
            return self.stem(x, None)
        return self.stem(x.unsqueeze(0), self.T)  # a static image is convolved once; every step sees the same current

    def streams(self, x: Tensor, aap: AccumulationPathway | None) -> tuple[Tensor, Tensor]:
        """(o_L, a_L) of images or frames, both [T, N, C, H, W]: the last spikes, and what the pathway adds up."""
        o = recomputed(self.encode, self, x) if self.recomputed_blocks else self.encode(x)
        a = o
        l = 0  # noqa: E741  (as in the equations)
        for layer in self.body():
            result = recomputed(layer, layer, o) if l < self.recomputed_blocks else layer(o)
            if not isinstance(layer, Block):  # pooling, a change of channels: a_0 is what enters the first block
                o = result
                a = o if l == 0 else a
                continue
            o, s = result  # o_l = g(s_l, o_{l-1})
            if aap is not None:
                a = aap(l, a, s)  # a_l = P_l(a_{l-1}) + s_l
            l += 1  # noqa: E741
        return o, a if aap is None else aap.cross(l, a)

    def forward_features(self, x: Tensor) -> Tensor:
        """The trunk's last spikes o_L [T, N, C, H, W] of images or frames."""
        return self.streams(x, None)[0]

    def forward_head(self, maps: Tensor, classifier: nn.Module | None = None) -> Tensor:
        """Logits of maps [T, N, C, H, W]: global average pooling, the mean over time, the classifier (the trunk's)."""
        if maps.ndim != 5:
            raise ValueError(
                f"maps of shape {tuple(maps.shape)} are not [T, N, C, H, W]: take those of forward_features"
            )
        features = self.avgpool(maps)  # [T, N, C]
        return (classifier or self.classifier)(features if self.by_step else features.mean(dim=0))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        require_one_of("readout", self.readout, READOUTS)
        readout = "both" if self.training else self.readout
        aap = None if readout == "fsnn" else self.aap
        o, a = self.streams(x, aap)
        logits = self.forward_head(o)
        if aap is None:
            return logits
        aap_logits = self.forward_head(a, aap.head or self.classifier)
        if readout == "both":
            return logits, aap_logits
        return aap_logits if readout == "aap" else logits + aap_logits


class FeatureMaps(nn.Module):
    """The last spikes of each stage of a trunk, [T, N, C, H, W] each, of images or frames; see `Trunk.feature_info`."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        trunk.classifier = nn.Identity()  # type: ignore[assignment]
        self.trunk, self.feature_info = trunk, trunk.feature_info

    def forward(self, x: Tensor) -> list[Tensor]:
        trunk, maps = self.trunk, []
        o = recomputed(trunk.encode, trunk, x) if trunk.recomputed_blocks else trunk.encode(x)
        for i, part in enumerate(trunk.body()):
            result = recomputed(part, part, o) if i < trunk.recomputed_blocks else part(o)
            o = result[0] if isinstance(part, Block) else result
            if any(stage["index"] == i for stage in self.feature_info):
                maps.append(o)
        return maps


@contextlib.contextmanager
def returning(model: Any, **what: Any) -> Iterator[None]:
    """A block in which a network returns what is asked for by `readout` and `by_step`, see `Trunk`.

    A network of another kind, without these attributes, is left as it is.
    """
    own = vars(model)  # where the attributes are that are not the class's
    before = dict(own)
    own.update({name: value for name, value in what.items() if hasattr(model, name)})
    try:
        yield
    finally:
        for name in what:
            own.pop(name, None)
        own.update({name: before[name] for name in what if name in before})
