"""What a network's outputs mean: the loss over its streams, and the readouts that they are scored by."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

Outputs = Tensor | tuple[Tensor, Tensor]

SINGLE = ("output",)
DUAL = ("fsnn", "aap", "sum")


def streams_loss(outputs: Outputs, target: Tensor, label_smoothing: float = 0.0, aap_weight: float = 1.0) -> Tensor:
    """Cross entropy, summed over the streams: CE(trunk) + w CE(pathway) (arXiv:2301.11929, section 3.4, where w = 1).

    Args:
        outputs: logits [N, classes], or the pair of a dual-stream network.
        target: classes [N], int64; or of mixed samples the share that each class has, [N, classes].
        label_smoothing: so much of the target is spread evenly over the classes, whichever form it has.
        aap_weight: w. At 0 the pathway's parameters still have gradients, of 0, which synchronising processes count on.
    """
    logits = outputs if isinstance(outputs, tuple) else (outputs,)
    losses = [F.cross_entropy(x, target, label_smoothing=label_smoothing) for x in logits]
    return losses[0] if len(losses) == 1 else losses[0] + aap_weight * losses[1]


def readouts(outputs: Outputs) -> dict[str, Tensor]:
    """Logits [N, classes] in float32 by readout; the first is the one that a run is judged by.

    A dual-stream network has three: its trunk alone (what is left after detaching the pathway), its pathway alone, and
    the sum of both.
    """
    if not isinstance(outputs, tuple):
        return {SINGLE[0]: outputs.float()}
    trunk, pathway = (x.float() for x in outputs)
    return dict(zip(DUAL, (trunk, pathway, trunk + pathway), strict=True))
