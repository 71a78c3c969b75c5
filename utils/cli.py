"""The options that all training scripts share. A script only sets defaults and adds what its data need."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

import torch

from utils.runtime.errors import UsageError
from utils.train.interrupts import parse_interval

# Options that go to the model's constructor, if they are given and the model has them.
MODEL_OPTIONS = (
    "T", "connect_f", "neuron", "tau", "surrogate", "alpha", "stem", "width", "aux_head", "aap_pool",
    "zero_init_residual",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command is one line that `run_command` prints."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the options)")


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{value} is outside [0, 1)")
    return value


def non_negative(text: str) -> float:
    value = float(text)
    if not value >= 0.0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def make_parser(description: str, **defaults: Any) -> Parser:
    """The shared options, with a script's defaults. Those of the released ImageNet code keep their names.

    Defaults of model options apply where the model has that option; what the user gives must.
    """
    parser = Parser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    data = parser.add_argument_group("data")
    data.add_argument("--data-path", help="folder of the data set")
    data.add_argument("-b", "--batch-size", type=positive_int, default=32, help="samples of each process in a step")
    data.add_argument("-j", "--workers", type=natural, default=16, help="loading processes of each process")

    data.add_argument(
        "--cache-dataset", action="store_true", help="keep the list of a folder's images for later starts"
    )

    model = parser.add_argument_group("network (defaults below are the model's own unless one is shown)")
    model.add_argument("--model", default="dsnn18", help="a registered model; a wrong name lists them all")
    model.add_argument("--T", type=positive_int, help="time steps that an image is shown for")
    model.add_argument("--connect_f", "--connect-f", help="connect function: ADD, AND, IAND, OR or XOR")
    model.add_argument("--neuron", help="IF, LIF or PLIF")
    model.add_argument("--tau", type=float, help="membrane time constant of LIF and PLIF, above 1")
    model.add_argument("--surrogate", help="sigmoid or atan")
    model.add_argument("--alpha", type=float, help="the surrogate's sharpness")
    model.add_argument("--stem", help="imagenet or cifar")
    model.add_argument("--width", type=positive_int, help="channels of the first stage")
    model.add_argument("--aux-head", "--aux_head", help="classifier of the pathway: shared or separate")
    model.add_argument("--aap-pool", "--aap_pool", help="how the pathway crosses max pooling: projection or max")
    model.add_argument(
        "--zero_init_residual", "--zero-init-residual", action="store_true", default=None,
        help="start every block as the identity",
    )  # fmt: skip

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--epochs", type=positive_int, default=320)
    recipe.add_argument("--start-epoch", type=natural, default=0, help="number of the first epoch of a new run")
    recipe.add_argument("--lr", type=non_negative, default=0.1, help="initial learning rate")
    recipe.add_argument("--cos_lr_T", "--cos-lr-T", type=positive_int, help="cosine half period; default: --epochs")
    recipe.add_argument("--lr-scheduler", "--lr_scheduler", choices=("cosine", "step"), default="cosine")
    recipe.add_argument(
        "--step-size", "--step_size", "--lr-step-size", type=positive_int, default=30,
        help="with --lr-scheduler step: epochs between two falls of the learning rate",
    )  # fmt: skip
    recipe.add_argument("--gamma", "--lr-gamma", type=non_negative, default=0.1, help="with step: factor of each fall")
    recipe.add_argument("--warmup-epochs", type=natural, default=0, help="epochs of linear warm-up")
    recipe.add_argument("--momentum", type=fraction, default=0.9, help="of SGD")
    recipe.add_argument("--wd", "--weight-decay", dest="weight_decay", type=non_negative, default=1e-5)
    recipe.add_argument("--adam", action="store_true", help="Adam instead of SGD")
    recipe.add_argument("--label-smoothing", type=fraction, default=0.0)
    recipe.add_argument("--accumulate", type=positive_int, default=1, help="batches whose mean gradient makes a step")
    recipe.add_argument("--ema-decay", type=fraction, help="keep and evaluate averaged weights, e.g. 0.9999")
    recipe.add_argument("--amp", action="store_true", help="mixed precision")
    recipe.add_argument("--amp-dtype", choices=("bf16", "fp16"), help="default: fp16 on CUDA, bf16 on the CPU")
    recipe.add_argument("--sync-bn", action="store_true", help="batch norm over all processes (GPUs only)")
    recipe.add_argument("--seed", type=natural, default=2020)

    run = parser.add_argument_group("run")
    run.add_argument("--output-dir", default=".", help="where the run's folder is made")
    run.add_argument("--resume", default="", help="a checkpoint to go on from, or auto: the run's newest whole one")
    run.add_argument("--overwrite", action="store_true", help="begin anew in a folder that holds a run")
    run.add_argument("--checkpoint-every", type=_interval, help="also save inside epochs: 500 (steps) or 10min")
    run.add_argument("--test-only", action="store_true", help="evaluate --resume and end")
    run.add_argument("--synops", action="store_true", help="with --test-only: count operations and energy as well")
    run.add_argument("--no-syops", action="store_true", help="with --synops: leave out the package syops, it is slow")
    run.add_argument("--detach", action="store_true", help="with --test-only: without the pathway; saves fsnn.pth")
    run.add_argument("--print-freq", type=positive_int, default=10, help="batches between two reports")
    run.add_argument("--tb", action="store_true", help="TensorBoard scalars and firing rates")

    machines = parser.add_argument_group("machines")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    machines.add_argument("--device", default=default_device, help="cuda or cpu")
    machines.add_argument("--world-size", type=positive_int, default=1, help="checked only: the launcher sets it")
    machines.add_argument("--dist-url", default="env://", help="where the processes meet")
    machines.add_argument("--dist-timeout", type=non_negative, default=600.0, help="seconds to wait for the others")

    speed = parser.add_argument_group("speed (see docs/PERFORMANCE.md)")
    speed.add_argument(
        "--fused", action=argparse.BooleanOptionalAction, default=False,
        help="batch norm, neuron and join of a layer compiled into one; the first step compiles (T = 16: a minute)",
    )  # fmt: skip
    speed.add_argument(
        "--channels-last", action=argparse.BooleanOptionalAction,
        help="memory format of weights and maps; default: as --fused",
    )  # fmt: skip
    speed.add_argument(
        "--keep-memory", action=argparse.BooleanOptionalAction, default=True,
        help="on the CPU: keep freed memory for the next step instead of returning it to the system",
    )  # fmt: skip
    speed.add_argument("--compile", action="store_true", help="torch.compile of the whole network in training: minutes")
    speed.add_argument(
        "--memory-saving", action="store_true",
        help="compute the stem and the first third of the blocks again in the backward pass; the same gradients",
    )  # fmt: skip

    parser.set_defaults(**defaults)
    return parser


def _interval(text: str) -> str:
    parse_interval(text)
    return text


def model_options(args: argparse.Namespace, parser: argparse.ArgumentParser, known: dict[str, Any]) -> dict[str, Any]:
    """The model's options among the arguments: what the user gave, and the script's defaults that the model has."""
    chosen = {}
    for name in MODEL_OPTIONS:
        value = getattr(args, name)
        if value is not None and (name in known or value != parser.get_default(name)):
            chosen[name] = value
    return chosen


def amp_dtype(args: argparse.Namespace) -> torch.dtype | None:
    if not args.amp:
        return None
    name = args.amp_dtype or ("fp16" if args.device.startswith("cuda") else "bf16")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[name]


def run_name(args: argparse.Namespace, config: dict[str, Any], defaults: dict[str, Any]) -> str:
    """The run's folder: the release's name, and what else differs from the script's defaults.

    Args:
        config: the model's.
        defaults: of the model's options, in this script.
    """
    name = f"{args.model}_b{args.batch_size}_lr{args.lr}_T{config.get('T', args.T)}"
    if config.get("zero_init_residual"):
        name += "_zi"
    if args.weight_decay:
        name += f"_wd{args.weight_decay}"
    name += f"_coslr{args.cos_lr_T}" if args.lr_scheduler == "cosine" else f"_steplr{args.step_size}_{args.gamma}"
    name += "_adam" if args.adam else "_sgd"
    if config.get("connect_f"):
        name += f"_cnf_{config['connect_f']}"
    for option in ("neuron", "tau", "surrogate", "alpha", "stem", "width", "aux_head", "aap_pool"):
        if option in config and config[option] != defaults.get(option):
            name += f"_{option.replace('_', '')}{config[option]}"
    return name
