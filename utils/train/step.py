"""One training step, and everything that the next one depends on."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from full_spike.utils.checkpoints import schema
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.train.objectives import readouts, streams_loss
from full_spike.utils.train.parallel import data_parallel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Trainer:
    """A network with its optimizer: steps, mixed precision, gradient accumulation, averaged weights.

    Args:
        model: the network, on the world's device; one output or a pair.
        optimizer, schedule: over its parameters; the schedule is stepped once an epoch, by `end_epoch`.
        world: the processes; gradients are averaged over them.
        amp_dtype: autocast to bfloat16 or float16 (then with loss scaling), or None.
        label_smoothing: of the cross entropy.
        clip_grad_norm: the largest norm that the gradients of a step may have together; longer ones are shortened.
        sched_on_updates: step the schedule after each step that the optimizer makes instead; one that the loss scaler
            leaves out does not count.
        ema_decay: keep an exponential moving average of the weights, this much of it at each step.
        compiled: torch.compile the network for its steps; evaluation runs it as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
        world: World,
        *,
        amp_dtype: torch.dtype | None = None,
        label_smoothing: float = 0.0,
        clip_grad_norm: float | None = None,
        sched_on_updates: bool = False,
        ema_decay: float | None = None,
        compiled: bool = False,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.world = world
        self.amp_dtype = amp_dtype
        self.label_smoothing = label_smoothing
        self.aap_weight = 1.0  # of the pathway's loss; the run sets it at each epoch
        self.clip_grad_norm = clip_grad_norm
        self.sched_on_updates = sched_on_updates
        if sched_on_updates:
            optimizer.register_step_post_hook(lambda *_: schedule.step())
        self.wrapped: Any = torch.compile(model) if compiled else model
        if world.size > 1:
            self.wrapped = data_parallel(self.wrapped, world)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=amp_dtype is torch.float16)
        self.ema: AveragedModel | None = None
        if ema_decay is not None:
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True)
            # after steps that the optimizer made: the loss scaler leaves some out
            optimizer.register_step_post_hook(lambda *_: averaged.update_parameters(model))
            self.ema = averaged

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def end_epoch(self) -> None:
        """The learning rate of the next epoch."""
        if not self.sched_on_updates:
            self.schedule.step()

    def step(
        self, images: Tensor, target: Tensor, *, group: int = 1, update: bool = True
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Forward and backward for one batch, and an optimizer step unless more batches are to be accumulated.

        The network stays in the mode it is in, training or evaluation.

        Args:
            images: [N, C, H, W] or [T, N, C, H, W] on the device.
            target: classes [N], or the share that each class has in each sample [N, classes].
            group: batches whose mean gradient makes the update.
            update: whether this is the last of them.

        Returns:
            (logits by readout, the mean objective), detached, on the device.
        """
        together: contextlib.AbstractContextManager = contextlib.nullcontext()
        if not update and isinstance(self.wrapped, DistributedDataParallel):
            together = self.wrapped.no_sync()
        with together:
            with torch.autocast(images.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
                outputs = self.wrapped(images)
                loss = streams_loss(outputs, target, self.label_smoothing, self.aap_weight)
            self.scaler.scale(loss / group).backward()
        if update:
            if self.clip_grad_norm is not None:
                self.scaler.unscale_(self.optimizer)  # the limit is on gradients, not on scaled ones
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            return readouts(outputs), loss.detach()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors, numbers and strings alone."""
        return {
            "config": self.model.config,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of the same network, all or nothing.

        Raises:
            UsageError: it has no averaged weights and this run keeps some, or the other way round.
            UserError: it is of another network, optimizer or schedule.
        """
        wrong = schema.misfit(state, self.model, self.optimizer, self.schedule.state_dict())
        if wrong:
            raise UserError(f"the checkpoint does not fit this run ({wrong}): use another one, or the options of then")
        if (state["ema"] is None) != (self.ema is None):
            has, wants = ("no ", "keeps") if state["ema"] is None else ("", "keeps no")
            raise UsageError(f"the checkpoint has {has}averaged weights and this run {wants}: use the same --ema-decay")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["lr_scheduler"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
