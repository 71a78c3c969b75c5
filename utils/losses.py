"""What a network's outputs mean: the loss over its streams, and the readouts that they are scored by."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

Outputs = Tensor | tuple[Tensor, Tensor]

SINGLE = ("output",)
DUAL = ("fsnn", "aap", "sum")


class DualStreamLoss(nn.Module):
    """CE(trunk) + w CE(pathway), the loss of Dual-Stream Training (arXiv:2301.11929, section 3.4, where w = 1).

    Args:
        label_smoothing: so much of the target is spread evenly over the classes, in [0, 1).
        aap_weight: w. At 0 the pathway's parameters still have gradients, of 0, which synchronising processes count on.
        aap_off_epoch: number of the first epoch, from 0, in which w is 0; 0 for none.

    Input: logits [N, classes], or the pair of a dual-stream network; targets: classes [N], int64, or of mixed samples
    the share that each class has, [N, classes]. Returns the mean over the samples.
    """

    def __init__(self, label_smoothing: float = 0.0, aap_weight: float = 1.0, aap_off_epoch: int = 0) -> None:
        super().__init__()
        self.label_smoothing, self.aap_weight, self.aap_off_epoch = label_smoothing, aap_weight, aap_off_epoch
        self.epoch = 0  # set by the engine

    def forward(self, outputs: Outputs, target: Tensor) -> Tensor:
        if not isinstance(outputs, tuple):
            return F.cross_entropy(outputs, target, label_smoothing=self.label_smoothing)
        trunk, pathway = (F.cross_entropy(x, target, label_smoothing=self.label_smoothing) for x in outputs)
        weight = 0.0 if 0 < self.aap_off_epoch <= self.epoch else self.aap_weight
        return trunk + weight * pathway


def readout_names(model: nn.Module) -> tuple[str, ...]:
    """The names of a network's readouts; the first is the one that a run is judged by."""
    return SINGLE if getattr(model, "aap", None) is None else DUAL


def readouts(outputs: Outputs) -> dict[str, Tensor]:
    """Logits [N, classes] in float32 by readout.

    A dual-stream network has three: its trunk alone (what is left after detaching the pathway), its pathway alone, and
    the sum of both.
    """
    if not isinstance(outputs, tuple):
        return {SINGLE[0]: outputs.float()}
    trunk, pathway = (x.float() for x in outputs)
    return dict(zip(DUAL, (trunk, pathway, trunk + pathway), strict=True))
