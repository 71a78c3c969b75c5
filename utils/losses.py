"""What a network's outputs mean: the losses over its streams, and the readouts that they are scored by."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from full_spike.models import create_model
from full_spike.utils.checkpoint import read_trained
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, as_usage_error

Outputs = Tensor | tuple[Tensor, Tensor]

SINGLE = ("output",)
DUAL = ("fsnn", "aap", "sum")


def mean_over_time(logits: Tensor) -> Tensor:
    """[N, classes] of logits [T, N, classes] of each time step; those of the mean [N, classes] stay as they are."""
    return logits.mean(dim=0) if logits.ndim == 3 else logits


class DualStreamLoss(nn.Module):
    """CE(trunk) + w CE(pathway), the loss of Dual-Stream Training (arXiv:2301.11929, section 3.4, where w = 1).

    Args:
        label_smoothing: so much of the target is spread evenly over the classes, in [0, 1).
        aap_weight: w. At 0 the pathway's parameters still have gradients, of 0, which synchronising processes count on.
        aap_off_epoch: number of the first epoch, from 0, in which w is 0; 0 for none.
        aap_weight_end: w in the last of `epochs`, to which it goes from `aap_weight` in equal steps; None to stay.

    Input: logits [N, classes], or of each time step [T, N, classes]; or the pair of a dual-stream network. Targets:
    classes [N], int64, or of mixed samples the share that each class has, [N, classes]. Returns the mean over the
    samples.
    """

    by_step = False  # whether it needs logits of each time step, which the engine then asks the network for

    def __init__(
        self,
        label_smoothing: float = 0.0,
        aap_weight: float = 1.0,
        aap_off_epoch: int = 0,
        aap_weight_end: float | None = None,
        epochs: int = 1,
    ) -> None:
        super().__init__()
        self.label_smoothing, self.aap_weight, self.aap_off_epoch = label_smoothing, aap_weight, aap_off_epoch
        self.aap_weight_end = aap_weight if aap_weight_end is None else aap_weight_end
        self.epochs = epochs
        self.epoch = 0  # set by the engine, as are the inputs of each batch
        self.inputs: Tensor | None = None

    @property
    def weight(self) -> float:
        """w in this epoch."""
        if 0 < self.aap_off_epoch <= self.epoch:
            return 0.0
        return self.aap_weight + (self.aap_weight_end - self.aap_weight) * self.epoch / max(1, self.epochs - 1)

    def of_stream(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one stream's logits."""
        return F.cross_entropy(mean_over_time(logits), target, label_smoothing=self.label_smoothing)

    def forward(self, outputs: Outputs, target: Tensor) -> Tensor:
        streams = outputs if isinstance(outputs, tuple) else (outputs,)
        if streams[0].shape[-2] != len(target):
            raise ValueError(
                f"logits are of {streams[0].shape[-2]} samples and targets of {len(target)}: frames are "
                "[T, N, C, H, W], time steps first"
            )
        trunk, *pathway = (self.of_stream(logits, target) for logits in streams)
        return trunk + self.weight * pathway[0] if pathway else trunk


class TETLoss(DualStreamLoss):
    """Temporal efficient training: (1 - penalty) mean_t CE(z_t) + penalty mean_t MSE(z_t, level), in each stream.

    arXiv:2202.11946, equations 9 to 11, of the logits z_t of each time step; `penalty` is lambda and `level` is phi.
    """

    by_step = True

    def __init__(self, *args: Any, penalty: float = 1e-3, level: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.penalty, self.level = penalty, level

    def of_stream(self, logits: Tensor, target: Tensor) -> Tensor:
        of_steps = target.expand(len(logits), *target.shape).flatten(0, 1)
        each = F.cross_entropy(logits.flatten(0, 1), of_steps, label_smoothing=self.label_smoothing)
        return (1.0 - self.penalty) * each + self.penalty * (logits - self.level).square().mean()


class DistillationLoss(DualStreamLoss):
    """Dual-Stream Training, and the trunk imitates a teacher: + K^2 KL(softmax(teacher / K) || softmax(trunk / K)).

    arXiv:1503.02531, section 2, with the temperature K.

    Args:
        teacher: a network that reads the same inputs; None for the pathway.
    """

    def __init__(self, *args: Any, teacher: nn.Module | None = None, temperature: float = 4.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.teacher, self.temperature = teacher and teacher.eval().requires_grad_(False), temperature

    def forward(self, outputs: Outputs, target: Tensor) -> Tensor:
        trunk, *pathway = outputs if isinstance(outputs, tuple) else (outputs,)
        teacher = pathway[0] if self.teacher is None else self.teacher(self.inputs)
        trunk, teacher = (mean_over_time(x).div(self.temperature).log_softmax(dim=1) for x in (trunk, teacher))
        imitation = F.kl_div(trunk, teacher.detach(), reduction="batchmean", log_target=True)
        return super().forward(outputs, target) + self.temperature**2 * imitation


LOSSES = {"ce": DualStreamLoss, "tet": TETLoss, "distill": DistillationLoss}


def make_criterion(args: Any, model: Any, world: World) -> DualStreamLoss:
    """The criterion that a training script's options name.

    Raises:
        UsageError: there is no teacher, or it is of other classes or channels.
        UserError: its weights cannot be used.
    """
    options: dict[str, Any] = {}
    if args.loss == "distill" and args.teacher is not None:
        weights = read_trained(args.teacher)
        with as_usage_error():
            teacher = create_model(weights.config.get("model", "unknown"), pretrained=weights).to(world.device)
        for what in ("num_classes", "in_channels"):
            if teacher.config[what] != model.config[what]:
                raise UsageError(
                    f"--teacher {args.teacher} has {what}={teacher.config[what]} and the network {model.config[what]}: "
                    "take one that was trained on the same data"
                )
        options["teacher"] = teacher
    elif args.loss == "distill" and model.aap is None:
        raise UsageError(f"--loss distill needs a --teacher, or a network with a pathway, which {args.model} has not")
    return LOSSES[args.loss](
        args.label_smoothing, args.aap_weight, args.aap_off_epoch, args.aap_weight_end, args.epochs, **options
    )


def readout_names(model: nn.Module) -> tuple[str, ...]:
    """The names of a network's readouts; the first is the one that a run is judged by."""
    return SINGLE if getattr(model, "aap", None) is None else DUAL


def readouts(outputs: Outputs) -> dict[str, Tensor]:
    """Logits [N, classes] in float32 by readout, of outputs that may also be of each time step [T, N, classes].

    A dual-stream network has three: its trunk alone (what is left after detaching the pathway), its pathway alone, and
    the sum of both.
    """
    if not isinstance(outputs, tuple):
        return {SINGLE[0]: mean_over_time(outputs.float())}
    trunk, pathway = (mean_over_time(x.float()) for x in outputs)
    return dict(zip(DUAL, (trunk, pathway, trunk + pathway), strict=True))


def early_exit(logits: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """The running mean [N, classes] of logits [T, N, classes], at the first time step at which it is sure, and how many
    steps that took [N].

    It is sure where its softmax gives a class at least this probability, and after the last step.
    """
    steps = torch.arange(1, len(logits) + 1, device=logits.device)
    means = logits.cumsum(dim=0) / steps[:, None, None]
    sure = means.softmax(dim=-1).amax(dim=-1) >= confidence  # [T, N]
    sure[-1] = True
    first = sure.int().argmax(dim=0)
    return means[first, torch.arange(logits.shape[1], device=logits.device)], first + 1
