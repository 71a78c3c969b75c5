"""Epochs: training, testing, and the checkpoints that a run goes on from."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from full_spike.utils.checkpoints import checkpoint, resume, schema
from full_spike.utils.data.loading import Loaders
from full_spike.utils.errors import StopRequestedError, UserError
from full_spike.utils.log import RunLog
from full_spike.utils.seed import get_rng_state, set_rng_state
from full_spike.utils.train import interrupts
from full_spike.utils.train.clock import Clock, in_words
from full_spike.utils.train.config import Recipe
from full_spike.utils.train.evaluation import evaluate, readout_names
from full_spike.utils.train.folder import discard_overwritten
from full_spike.utils.train.metrics import Meter, Score, read_sums
from full_spike.utils.train.results import EpochResult
from full_spike.utils.train.step import Trainer
from full_spike.utils.versions import versions
from torch import nn

# what decides which samples the batches of an epoch hold
DEALING = {"world_size", "batch_size", "accumulate", "seed", "training_samples", "files"}


@dataclass
class Position:
    """How far a run has come: `step` batches into `epoch`, and what it has reached."""

    epoch: int = 0
    step: int = 0
    max_test_acc1: float = 0.0
    test_acc5_at_max_test_acc1: float = 0.0


@dataclass
class Run:
    """A training run: a trainer, its data, its folder."""

    trainer: Trainer
    loaders: Loaders
    log: RunLog
    folder: Path
    recipe: Recipe
    data_recipe: dict[str, Any] = field(default_factory=dict)  # what must not change on the way besides the recipe
    about: dict[str, Any] = field(default_factory=dict)  # what else checkpoints keep, see `Datasets.about`
    print_freq: int = 10
    checkpoint_every: str | None = None
    firing_rates: bool = False
    judge_averaged: bool = False  # the best checkpoint is that of the averaged weights
    compiles: bool = False  # the first step does: say how long it took
    unit: str = "images"  # what samples are called
    position: Position = field(default_factory=Position)
    still_ours: Callable[[], None] = lambda: None  # raises UserError if another job has taken the folder

    def __post_init__(self) -> None:
        self.world = self.trainer.world
        self.meter = Meter(readout_names(self.trainer.model), self.world.device)
        self.interrupts = interrupts.Interrupts(self.world, self.checkpoint_every)

    def fit(self) -> None:
        """Train from the current position to the last epoch.

        Raises:
            UserError: the loss is no longer finite.
            StopRequestedError: a scheduler asked to stop; the run has saved.
        """
        self.clock = Clock(self._done, self.recipe.epochs)
        started = time.monotonic()
        with self.interrupts.listening():
            while self.position.epoch < self.recipe.epochs:
                self._epoch()
        self.log.say(
            f"done in {in_words(time.monotonic() - started)}, best test top-1 "
            f"{self.position.max_test_acc1:.2f} %, top-5 then {self.position.test_acc5_at_max_test_acc1:.2f} %, "
            f"in {self.folder}"
        )

    @property
    def _done(self) -> float:
        """Epochs that have been trained."""
        return self.position.epoch + self.position.step / max(1, self.loaders.sampler.batches)

    def _epoch(self) -> None:
        """Train what is left of the epoch, evaluate, report, save."""
        epoch = self.position.epoch
        speed = self._train_epoch()
        objective, train = self._read_meter()
        lr = self.trainer.lr
        test, rates = self._test(self.trainer.model, firing_rates=self.firing_rates)
        averaged: dict[str, Score] = {}
        if self.trainer.ema is not None:
            averaged, _ = self._test(self.trainer.ema.module, title="ema")
        self.trainer.end_epoch()
        with self.world.main_only("reporting the epoch"):
            self.still_ours()
        self._report(EpochResult(epoch, objective, train, test, averaged, rates, lr, speed, self.clock.left(epoch + 1)))

        primary = next(iter((averaged if self.judge_averaged else test).values()))
        best = primary.acc1 > self.position.max_test_acc1
        if best:
            self.position.max_test_acc1 = primary.acc1
            self.position.test_acc5_at_max_test_acc1 = primary.acc5
        self.position.epoch, self.position.step = epoch + 1, 0
        self.meter.sums.zero_()
        # the release keeps every 64th epoch and the last one for good
        keep = [f"checkpoint_{epoch}.pth"] if epoch % 64 == 0 or epoch == self.recipe.epochs - 1 else []
        self._save([*keep, *([checkpoint.BEST] if best else [])])
        if self.interrupts.after_epoch() == interrupts.STOP and self.position.epoch < self.recipe.epochs:
            raise self._interrupted()

    def _test(self, model: nn.Module, **options: Any) -> tuple[dict[str, Score], dict[str, float]]:
        """Scores and firing rates; where a stop is asked for meanwhile, what was trained is saved and not tested."""

        def stop_if_asked() -> None:
            if self.interrupts.after_test_batch() == interrupts.STOP:
                self._save()
                raise self._interrupted()

        return evaluate(model, self.loaders.test, self.world, self.log, after_batch=stop_if_asked, **options)

    def _train_epoch(self) -> float:
        """Train from the current step to the epoch's end; returns samples per second over all processes."""
        epoch, first = self.position.epoch, self.position.step
        self.loaders.sampler.start_at(epoch, first)
        batches = self.loaders.sampler.batches
        self.trainer.wrapped.train()
        self.trainer.aap_weight = self.recipe.aap_weight_in(epoch)
        images_seen, began = 0, time.monotonic()
        window_seen, window_began = 0, began
        with self.log.progress(f"epoch {epoch + 1}/{self.recipe.epochs}", batches, first) as progress:
            for step, (images, target) in enumerate(self.loaders.train, start=first):
                images = images.to(self.world.device, non_blocking=True)
                target = target.to(self.world.device, non_blocking=True)
                group_start = step - step % self.recipe.accumulate
                group = min(self.recipe.accumulate, batches - group_start)
                update = step + 1 == group_start + group
                with progress.waiting("compiling") if self.compiles else contextlib.nullcontext():
                    asked = time.monotonic()
                    logits, objective = self.trainer.step(images, target, group=group, update=update)
                if self.compiles:
                    took = time.monotonic() - asked
                    self.log.say(f"first step {took:.1f} s, mostly compiling")
                    self.clock.leave_out(took)
                    self.compiles = False
                self.meter.update(logits, target, objective)
                images_seen += len(target) * self.world.size
                window_seen += len(target) * self.world.size
                progress.advance()
                self.position.step = step + 1
                if (step + 1) % self.print_freq == 0:
                    objective_so_far, scores = self._read_meter()
                    now = time.monotonic()
                    progress.show(
                        f"loss {objective_so_far:.4f}  acc1 {next(iter(scores.values())).acc1:.2f}  "
                        f"lr {self.trainer.lr:.5g}  {window_seen / (now - window_began):.1f} {self.unit}/s  "
                        f"left {in_words(self.clock.left(self._done))}"
                    )
                    window_seen, window_began = 0, now
                if update and step + 1 < batches:
                    request = self.interrupts.after_step()
                    if request != interrupts.NOTHING:
                        self._save()
                    if request == interrupts.STOP:
                        raise self._interrupted()
        return images_seen / max(time.monotonic() - began, 1e-9)

    def _read_meter(self) -> tuple[float, dict[str, Score]]:
        """The epoch so far; every process sees the same numbers, so all stop together at a loss that is not finite."""
        objective, scores = self.meter.read(self.world)
        if not math.isfinite(objective):
            raise UserError(
                f"the loss became {objective} in epoch {self.position.epoch + 1}, batch {self.position.step} or before:"
                " lower --lr, or use --amp-dtype bf16 or no --amp; the checkpoints of the run are untouched"
            )
        return objective, scores

    def _report(self, result: EpochResult) -> None:
        self.log.say(result.line(self.recipe.epochs, self.unit))
        self.log.scalars("train", result.train_tags(), result.epoch)
        self.log.scalars("te", result.test_tags(), result.epoch)
        self.log.record(result.entry())

    def _interrupted(self) -> StopRequestedError:
        return StopRequestedError(
            f"asked to stop; saved epoch {self.position.epoch + 1}, batch {self.position.step} in "
            f"{self.folder / checkpoint.LATEST}: go on with --resume auto"
        )

    def _save(self, also: list[str] | None = None) -> None:
        """Write the newest checkpoint, and give it more names."""
        sums = self.world.sum(self.meter.sums)
        if not math.isfinite(read_sums(sums, self.meter.names)[0]) and self.position.step:
            self._read_meter()  # raises: weights that made such a loss replace no checkpoint
        random_states = self.world.gather(get_rng_state(self.world.device))
        with self.world.main_only("writing a checkpoint") as main:
            if main:
                self.still_ours()
                state = {
                    **self.trainer.state(),
                    **dataclasses.asdict(self.position),
                    "meter": sums.cpu(),
                    "random_states": random_states,
                    "world_size": self.world.size,
                    "recipe": self._fixed(),
                    "versions": versions(),
                    **self.about,
                }
                wrong = schema.problem(state, schema.RUN)
                if wrong:  # it could not be read back: the last step can spoil weights that no loss has been seen of
                    raise UserError(
                        f"not saved after epoch {self.position.epoch}, batch {self.position.step}, since {wrong}: "
                        "lower --lr, or use --amp-dtype bf16 or no --amp; the checkpoints of the run are untouched"
                    )
                latest = checkpoint.write_latest(self.folder, state)
                for name in also or []:
                    checkpoint.copy(latest, self.folder / name)
                discard_overwritten(self.folder)
        self.interrupts.saved()

    def _fixed(self) -> dict[str, Any]:
        """What must stay as it is from the first step of a run to its last: plain values by option."""
        recipe = dataclasses.asdict(self.recipe)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in {**recipe, **self.data_recipe}.items()}

    def starting_point(self) -> dict[str, Any]:
        """All that the next step depends on and every process must have alike, by what it is called."""
        state = self.trainer.state()
        return {
            "options": self._fixed(),
            "number of samples": [self.loaders.sampler.length, len(self.loaders.test.dataset)],  # type: ignore[arg-type]
            "position": dataclasses.asdict(self.position),
            "network": state["config"],
            "weights and statistics": state["model"],
            "averaged weights": state["ema"],
            "optimizer": [state[name] for name in ("optimizer", "lr_scheduler", "scaler")],
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's content, bit for bit where it stopped.

        Raises:
            UserError: it stopped inside an epoch and the data would now be dealt out differently, or it does not fit.
            UsageError: its learning rate goes another course.
        """
        self.position = Position(**{f.name: state[f.name] for f in dataclasses.fields(Position)})
        then = {**resume.as_now(state["recipe"]), "world_size": state["world_size"]}
        now = {**self._fixed(), "world_size": self.world.size}
        # what an older checkpoint does not know of was not an option then
        changed = [
            f"{k} {then[k]} -> {now[k]}"
            for k in now
            # a run may be made longer; what it began with is told by who starts it
            if k in then and then[k] != now[k] and k not in ("epochs", "initial_checkpoint")
        ]
        resume.require_same_course(then, now)
        dealing = sorted(DEALING & then.keys())
        if self.position.step and any(then[name] != now.get(name) for name in dealing):
            raise UserError(
                f"the checkpoint stopped inside epoch {self.position.epoch + 1}, where the data are dealt out by "
                f"{', '.join(dealing)} ({'; '.join(changed)}): use the same ones until the epoch ends"
            )
        wrong = None
        if self.position.step > self.loaders.sampler.batches:
            wrong = f"it stopped after batch {self.position.step} of {self.loaders.sampler.batches}"
        elif state["meter"].shape != self.meter.sums.shape:
            wrong = f"its sums are of {len(state['meter']) - 1} readouts instead of {len(self.meter.names)}"
        elif len(state["random_states"]) != state["world_size"]:
            wrong = f"it has random states of {len(state['random_states'])} processes and was of {state['world_size']}"
        elif min(map(len, state["random_states"])) < len(get_rng_state(torch.device("cpu"))):
            wrong = "its random states are cut off"
        if wrong:
            raise UserError(f"the checkpoint does not fit this run ({wrong}): use another one")
        self.trainer.load(state)
        if changed:
            self.log.say(
                f"warning: options changed since the checkpoint ({'; '.join(changed)}): the optimizer and the schedule "
                "go on as they were saved, the rest as given now; another world or batch size changes what a step is"
            )
        if self.world.is_main:  # the sums are of all processes, so one of them carries them on
            self.meter.sums.copy_(state["meter"])
        if state["world_size"] == self.world.size:
            set_rng_state(state["random_states"][self.world.rank], self.world.device)
