"""Everything that a training run is told: one dataclass for each group of --help."""

from __future__ import annotations

import argparse
import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from full_spike.utils.data.dataset import DataOptions
from full_spike.utils.errors import UsageError
from full_spike.utils.runtime.options import above, fraction, natural, non_negative, option, positive_int, seed
from full_spike.utils.train.optim import OptimOptions

if TYPE_CHECKING:
    import torch

HALF_TYPES = {"bf16": "bfloat16", "fp16": "float16"}  # as torch calls them


@dataclass(frozen=True)
class NetworkOptions:
    """The model, and options of its constructor: None for those that are left to it, or that it does not have."""

    model: str = option("dsnn18", "a registered model; a wrong name lists them all")
    T: int | None = option(None, "time steps that an image is shown for", parse=positive_int)
    connect_f: str | None = option(None, "connect function: ADD, AND, IAND, OR or XOR", "--connect_f", "--connect-f")
    neuron: str | None = option(None, "IF, LIF or PLIF")
    tau: float | None = option(None, "membrane time constant of LIF and PLIF, above 1", parse=above(1.0))
    surrogate: str | None = option(None, "sigmoid or atan")
    alpha: float | None = option(None, "the surrogate's sharpness", parse=above(0.0))
    stem: str | None = option(None, "imagenet or cifar")
    width: int | None = option(
        None, "channels of the first stage, of a Spikformer those of a token", parse=positive_int
    )
    depth: int | None = option(None, "of a Spikformer: pairs of attention and MLP", parse=positive_int)
    heads: int | None = option(None, "of a Spikformer's attention", parse=positive_int)
    patch: int | None = option(None, "of a Spikformer: side of a token in pixels", parse=positive_int)
    products: str | None = option(None, "of a Spikformer: qk for (QK^T)V, kv for Q(K^T V), or auto for the cheaper one")
    aux_head: str | None = option(None, "classifier of the pathway: shared or separate", "--aux-head", "--aux_head")
    aap_pool: str | None = option(
        None, "how the pathway crosses max pooling: projection or max", "--aap-pool", "--aap_pool"
    )
    zero_init_residual: bool | None = option(
        None, "start every block as the identity", "--zero_init_residual", "--zero-init-residual"
    )

    def options(self, known: dict[str, Any], defaults: NetworkOptions) -> dict[str, Any]:
        """What the model's constructor is told: what the user gave, and those defaults of the script that it knows.

        Args:
            known: the model's options. One that the user gave and the model lacks is kept: the constructor refuses it.
            defaults: the script's.
        """
        return {
            name: value
            for name, value in vars(self).items()
            if name != "model" and value is not None and (name in known or value != getattr(defaults, name))
        }


@dataclass(frozen=True)
class Recipe(OptimOptions):
    """What a step computes, with the optimizer's options and the schedule's: it must stay the same within a run."""

    label_smoothing: float = option(0.0, "of the cross entropy", parse=fraction)
    aap_weight: float = option(
        1.0, "of the pathway's loss; the trunk's has 1", "--aap-weight", "--aap_weight", parse=non_negative
    )
    aap_off_epoch: int = option(
        0,
        "number of the first epoch that leaves the pathway's loss out; 0: none",
        "--aap-off-epoch",
        "--aap_off_epoch",
        parse=natural,
    )
    clip_grad_norm: float | None = option(
        None, "shorten the gradient of a step, all parameters together, to this norm", parse=above(0.0)
    )
    accumulate: int = option(1, "batches whose mean gradient makes a step", parse=positive_int)
    ema_decay: float | None = option(None, "keep and evaluate averaged weights, e.g. 0.9999", parse=fraction)
    amp: bool = option(False, "mixed precision")
    amp_dtype: str | None = option(None, "default: fp16 on CUDA, bf16 on the CPU", choices=tuple(HALF_TYPES))
    sync_bn: bool = option(False, "batch norm over all processes (GPUs only)")
    initial_checkpoint: str | None = option(
        None,
        "trained weights that a new run begins with, and their network: a file, a folder or a name",
        metavar="FILE|NAME",
    )
    seed: int = option(2020, "of weights, data and their order", parse=seed)

    @property
    def weighs_pathway(self) -> bool:
        """Whether the pathway's loss counts otherwise than the trunk's, which takes a network that has one."""
        return self.aap_weight != 1.0 or self.aap_off_epoch > 0

    def aap_weight_in(self, epoch: int) -> float:
        """The weight of the pathway's loss in an epoch, numbered from 0."""
        return 0.0 if 0 < self.aap_off_epoch <= epoch else self.aap_weight

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What autocast computes in, or None without it."""
        if not (self.amp and self.amp_dtype):
            return None
        import torch  # here and below: the command line is read without it, which takes seconds to import

        return getattr(torch, HALF_TYPES[self.amp_dtype])


def parse_interval(text: str) -> tuple[str, float]:
    """("steps", n) from "500" or "500steps", ("minutes", m) from "10min".

    Raises:
        UsageError: neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(steps?|min|minutes?|)", text.strip())
    if match is None or float(match[1]) <= 0 or (not match[2].startswith("min") and "." in match[1]):
        raise UsageError(f"--checkpoint-every {text!r} is no interval: write steps as 500 or minutes as 10min")
    return ("minutes" if match[2].startswith("min") else "steps"), float(match[1])


def _folder_name(text: str) -> str:
    if text in (".", "..") or "/" in text or "\0" in text or not text.strip():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no folder's name: leave out slashes, --output-dir says where it is"
        )
    return text


def _interval(text: str) -> str:
    parse_interval(text)
    return text


@dataclass(frozen=True)
class RunOptions:
    """Where a run is kept, what it reports, and what is done with it."""

    output_dir: str = option(".", "where the run's folder is made", metavar="FOLDER")
    name: str | None = option(
        None, "what the run's folder is called; default: as in the released code, and all else that is not the default",
        parse=_folder_name,
    )  # fmt: skip
    start_epoch: int = option(0, "number of the first epoch of a new run", parse=natural)
    resume: str = option(
        "", "a checkpoint to go on from, or auto: the run's newest whole one", metavar="FILE|auto", lasting=False
    )
    overwrite: bool = option(False, "begin anew in a folder that holds a run", lasting=False)
    checkpoint_every: str | None = option(
        None, "also save inside epochs: 500 (steps) or 10min", parse=_interval, metavar="N"
    )
    ema: bool = option(
        False, "averaged weights (--ema-decay) instead: with --test-only, --detach, and to tell the best checkpoint"
    )
    print_freq: int = option(10, "batches between two reports", parse=positive_int)
    tb: bool = option(False, "TensorBoard scalars and firing rates")

    def __post_init__(self) -> None:
        if self.overwrite and self.resume:
            raise UsageError("--overwrite begins anew and --resume goes on: choose one")


@dataclass(frozen=True)
class TestOptions:
    """What is done with a trained network instead of training."""

    test_only: bool = option(False, "evaluate --resume and end", lasting=False)
    synops: bool = option(False, "with --test-only: count operations and energy as well", lasting=False)
    no_syops: bool = option(False, "with --synops: leave out the package syops, it is slow", lasting=False)
    detach: bool = option(False, "with --test-only: without the pathway; saves fsnn.pth", lasting=False)
    predictions: str | None = option(
        None,
        "with --test-only: write each image's path, class and five likeliest classes",
        metavar="FILE.csv",
        lasting=False,
    )

    def __post_init__(self) -> None:
        if self.synops and not self.test_only:
            raise UsageError("--synops counts a trained network: use it with --test-only")
        if self.detach and not self.test_only:
            raise UsageError("--detach takes the pathway off a trained network: use it with --test-only")
        if self.predictions is not None and not self.test_only:
            raise UsageError("--predictions are those of a trained network: use it with --test-only")


@dataclass(frozen=True)
class MachineOptions:
    """On what it runs, and with which other processes."""

    device: str | None = option(None, "cuda or cpu; default: cuda where there is one")
    world_size: int = option(1, "checked only: the launcher sets it", parse=positive_int)
    dist_url: str = option("env://", "where the processes meet")
    dist_timeout: float = option(600.0, "seconds to wait for the others", parse=above(0.0))


@dataclass(frozen=True)
class SpeedOptions:
    """What makes it faster or smaller and leaves what it computes as it is."""

    fused: bool = option(
        False, "batch norm, neuron and join of a layer compiled into one; the first step compiles (T = 16: a minute)",
        negatable=True,
    )  # fmt: skip
    channels_last: bool | None = option(None, "memory format of weights and maps; default: as --fused", negatable=True)
    keep_memory: bool = option(
        True, "on the CPU: keep freed memory for the next step instead of returning it to the system", negatable=True
    )
    compile: bool = option(False, "torch.compile of the whole network in training: minutes")
    memory_saving: bool = option(
        False, "compute the stem and the first third of the blocks again in the backward pass; the same gradients"
    )


@dataclass(frozen=True)
class Config:
    """All options of a training script."""

    data: Annotated[DataOptions, "data"]
    network: Annotated[NetworkOptions, "network (of another --model some defaults are others)"]
    recipe: Annotated[Recipe, "recipe"]
    run: Annotated[RunOptions, "run"]
    testing: Annotated[TestOptions, "test"]
    machines: Annotated[MachineOptions, "machines"]
    speed: Annotated[SpeedOptions, "speed (see docs/PERFORMANCE.md)"]

    def __post_init__(self) -> None:
        start, epochs = self.run.start_epoch, self.recipe.epochs
        if start >= epochs:
            raise UsageError(f"--start-epoch {start} leaves no epoch of --epochs {epochs}: start below it")
        if (self.testing.test_only or self.testing.detach) and not self.run.resume:
            raise UsageError("--test-only needs weights: name a checkpoint by --resume")
        if self.run.ema and self.recipe.ema_decay is None and not self.testing.test_only:
            raise UsageError("--ema takes averaged weights, and this run keeps none: add --ema-decay")

    def resolved(self) -> Config:
        """With the values that defaults depending on others take, so that what is kept of a run is what was used."""
        import torch

        device = self.machines.device or ("cuda" if torch.cuda.is_available() else "cpu")
        half = "fp16" if device.startswith("cuda") else "bf16"
        amp_dtype = (self.recipe.amp_dtype or half) if self.recipe.amp else self.recipe.amp_dtype
        last = self.speed.channels_last
        return dataclasses.replace(
            self,
            machines=dataclasses.replace(self.machines, device=device),
            recipe=dataclasses.replace(self.recipe, cos_lr_T=self.recipe.period, amp_dtype=amp_dtype),
            speed=dataclasses.replace(self.speed, channels_last=self.speed.fused if last is None else last),
        )

    def alike(self) -> dict[str, Any]:
        """The options that all processes of a run must have been given alike. Paths may differ between machines."""
        run = dataclasses.asdict(self.run) | {"output_dir": None, "resume": bool(self.run.resume)}
        groups = {name: dataclasses.asdict(getattr(self, name)) for name in ("network", "recipe", "testing", "speed")}
        groups["testing"]["predictions"] = None
        return {**groups, "run": run, "--batch-size": self.data.batch_size}

    def with_network(self, config: dict[str, Any]) -> Config:
        """With the network's options as the model that was built has them; None for those that it does not have."""
        had: dict[str, Any] = {field.name: config.get(field.name) for field in dataclasses.fields(self.network)}
        return dataclasses.replace(self, network=dataclasses.replace(self.network, **had))
