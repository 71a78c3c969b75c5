"""Command lines: argparse, types of numbers, and the options that every training script has.

A value comes from the command line, else from the YAML file that --config names, else from the weights that the command
names, else from the script's defaults, else from the option. Nothing here imports torch, so that --help does not wait.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from full_spike.utils.errors import UsageError

LARGEST_INT = 2**31 - 1  # of what is counted: tensors' sizes multiply
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "cosine-timm", "step")
LOSSES = ("ce", "tet", "distill")
TESTS = ("synops", "detach", "predictions", "exit_confidence")  # of a trained network
ONE_CALL = ("config", "resume", "new_schedule", "overwrite", "test_only", "no_syops", *TESTS)  # not of a run


class Args(argparse.Namespace):
    """What a command line came to: a namespace that knows its parser's defaults and the kind of each option."""

    _parser: Parser

    @property
    def data_set(self) -> str:
        """The package of the data set whose script this is, e.g. cifar."""
        return self._parser.data_set

    def of(self, *kinds: str) -> dict[str, Any]:
        """The options of these kinds: "data", "network", "recipe" or "run"."""
        return {k: v for k, v in self.all().items() if self._parser.kinds.get(k, "data") in kinds}

    def all(self) -> dict[str, Any]:
        """Every option and its value."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def default(self, name: str) -> Any:
        """What the script has where nobody gives this option."""
        return self._parser.get_default(name)

    def network(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """What the network's constructor gets: options that were given, and those defaults of the script that it has.

        Args:
            known: the network's options. One that was given and that it lacks is kept: the constructor refuses it.
        """
        given = {k: v for k, v in self.of("network").items() if k != "model" and v is not None}
        return {k: v for k, v in given.items() if k in known or v != self.default(k)}


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command is one line that `run_command` prints, and examples stand below the options.

    Args:
        doc: a command's docstring: its first line is the description, its lines that are commands are the examples.
        given: of argparse.
    """

    def __init__(self, doc: str | None = None, **given: Any) -> None:
        doc = doc or ""
        given = {"description": doc.partition("\n")[0], "epilog": _examples(doc)} | given
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **given)
        self.kinds: dict[str, str] = {}
        self.data_set = ""

    def group(self, title: str, kind: str) -> Callable[..., argparse.Action]:
        """A function that adds options to a group of --help, as add_argument does, with their default in the help.

        Args:
            kind: "network", "recipe" (must stay the same within a run), "run" (neither) or "data".
        """
        group = self.add_argument_group(title)

        def add(*flags: str, **given: Any) -> argparse.Action:
            action = add_flags(group, *flags, **given)
            self.kinds[action.dest] = kind
            return action

        return add

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += f": did you mean {close[0]}?" if close else ""
        raise UsageError(f"{message} (--help lists the options)")

    def format_help(self) -> str:
        for action in self._actions:  # defaults as they are once a script has set its own
            default = action.default
            if action.help in (None, argparse.SUPPRESS) or "(default" in action.help:
                continue
            if default not in (None, False, "", argparse.SUPPRESS):
                text = ",".join(map(str, default)) if isinstance(default, list | tuple) else default
                action.help += f" (default: {'on' if default is True else text})".replace("%", "%%")
        return super().format_help()


def _examples(doc: str) -> str | None:
    """The lines of a docstring that are commands, for the end of --help."""
    lines = [line.strip() for line in doc.splitlines()]
    found = [line for line in lines if line.startswith(("python ", "torchrun ", "full-spike "))]
    return "\n  ".join(["examples:", *found]) if found else None


def add_flags(group: Any, *flags: str, **given: Any) -> argparse.Action:
    """An argument of a parser or of a group; the released spellings with _ work, and --help does not show them."""
    shown = [flag for flag in flags if "_" not in flag] or list(flags)
    action: argparse.Action = group.add_argument(*shown, **given)
    hidden = [flag for flag in flags if flag not in shown]
    if hidden:
        group.add_argument(*hidden, **(given | {"dest": action.dest, "help": argparse.SUPPRESS}))
    return action


def positive_int(text: str) -> int:
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    if value > LARGEST_INT:
        raise argparse.ArgumentTypeError(f"{value} is above {LARGEST_INT}")
    return value


def seed(text: str) -> int:
    """As large as torch's generators take, and not negative."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is outside 0..2^63 - 1")
    return value


def finite(text: str) -> float:
    value = float(text)
    if not abs(value) <= 3.4e38:  # the largest float32
        raise argparse.ArgumentTypeError(f"{value} is not finite in float32")
    return value


def fraction(text: str) -> float:
    value = finite(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{value} is outside [0, 1)")
    return value


def probability(text: str) -> float:
    value = finite(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{value} is outside [0, 1]")
    return value


def non_negative(text: str) -> float:
    value = finite(text)
    if value < 0.0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def above(limit: float) -> Callable[[str], float]:
    """Numbers above a limit."""

    def number(text: str) -> float:
        value = finite(text)
        if value <= limit:
            raise argparse.ArgumentTypeError(f"{value} is not above {limit:g}")
        return value

    return number


def _betas(text: str) -> tuple[float, float]:
    first, comma, second = text.partition(",")
    if not comma:
        raise argparse.ArgumentTypeError(f"{text} is no pair: write 0.9,0.999")
    return fraction(first), fraction(second)


def _probabilities(text: str) -> tuple[float, ...]:
    return tuple(probability(part) for part in text.split(","))


def interval(text: str) -> tuple[str, float]:
    """("steps", n) from "500" or "500steps", ("minutes", m) from "10min"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(steps?|min|minutes?|)", text.strip())
    if match is None or float(match[1]) <= 0 or (not match[2].startswith("min") and "." in match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no interval: write steps as 500 or minutes as 10min")
    return ("minutes" if match[2].startswith("min") else "steps"), float(match[1])


def _interval(text: str) -> str:
    interval(text)
    return text


def _folder_name(text: str) -> str:
    if text in (".", "..") or "/" in text or "\0" in text or not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder's name: leave out slashes, --output-dir says where")
    return text


def weights_name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name: give a file")
    return text


def add_network_arguments(parser: Parser) -> None:
    """The model, and options of its constructor: None for those that are left to it, or that it does not have."""
    add = parser.group("network (what is not given is the model's own default)", "network")
    add("--model", default="dsnn18", metavar="NAME", help="a registered model; a wrong name lists them all")
    add("--T", type=positive_int, metavar="N", help="time steps that an image is shown for")
    add("--connect_f", "--connect-f", metavar="NAME", help="connect function, e.g. OR; a wrong name lists them all")
    add("--neuron", metavar="NAME", help="e.g. LIF; a wrong name lists them all")
    add("--tau", type=above(1.0), metavar="X", help="membrane time constant of LIF and PLIF, above 1")
    add("--surrogate", metavar="NAME", help="sigmoid or atan")
    add("--alpha", type=above(0.0), metavar="X", help="the surrogate's sharpness")
    add("--stem", metavar="NAME", help="imagenet or cifar")
    add("--width", type=positive_int, metavar="N", help="channels of the first stage, or of a Spikformer's tokens")
    add("--depth", type=positive_int, metavar="N", help="of a Spikformer: pairs of attention and MLP")
    add("--heads", type=positive_int, metavar="N", help="of a Spikformer's attention")
    add("--patch", type=positive_int, metavar="N", help="of a Spikformer: side of a token in pixels")
    add("--products", metavar="NAME", help="of a Spikformer: qk for (QK^T)V, kv for Q(K^T V), auto for the cheaper one")
    add("--aux-head", "--aux_head", metavar="NAME", help="classifier of the pathway: shared or separate")
    add("--aap-pool", "--aap_pool", metavar="NAME", help="how the pathway crosses max pooling: projection or max")
    add(
        "--zero_init_residual", "--zero-init-residual", action="store_true", default=None,
        help="start every block as the identity",
    )  # fmt: skip


def add_recipe_arguments(parser: Parser) -> None:
    """What a step computes, the optimizer's options and the schedule's: they stay the same within a run."""
    add = parser.group("recipe", "recipe")
    add("--epochs", type=positive_int, default=320, metavar="N", help="epochs in all")
    add("--lr", type=non_negative, default=0.1, metavar="X", help="initial learning rate")
    add(
        "--cos_lr_T", "--cos-lr-T", type=positive_int, metavar="N",
        help="cosine half period (default: --epochs without the cool-down)",
    )  # fmt: skip
    add(
        "--lr-scheduler", "--lr_scheduler", choices=SCHEDULES, default="cosine",
        help="how the learning rate falls; cosine counts from the end of the warm-up, cosine-timm from the start",
    )  # fmt: skip
    add(
        "--step-size", "--step_size", "--lr-step-size", type=positive_int, default=30, metavar="N",
        help="with --lr-scheduler step: epochs between two falls of the learning rate",
    )  # fmt: skip
    add("--gamma", "--lr-gamma", type=non_negative, default=0.1, metavar="X", help="with step: factor of each fall")
    add("--warmup-epochs", type=natural, default=0, metavar="N", help="epochs of linear warm-up")
    add(
        "--warmup-lr", type=above(0.0), metavar="X",
        help="learning rate that the warm-up begins at (default: a hundredth of --lr)",
    )  # fmt: skip
    add(
        "--min-lr", type=non_negative, default=0.0, metavar="X",
        help="learning rate that the cosine ends at, and of the cool-down",
    )  # fmt: skip
    add(
        "--cooldown-epochs", type=natural, default=0, metavar="N",
        help="the last epochs stay at --min-lr; they count among --epochs",
    )  # fmt: skip
    add("--sched-on-updates", action="store_true", help="change the learning rate after every step, not every epoch")
    optimizer = add("--optimizer", choices=OPTIMIZERS, default="sgd", help="what makes a step of a gradient")
    add("--adam", dest=optimizer.dest, action="store_const", const="adam", help="the same as --optimizer adam")
    add("--momentum", type=fraction, default=0.9, metavar="X", help="of sgd")
    add(
        "--betas", type=_betas, default=(0.9, 0.999), metavar="X,X",
        help="of adam and adamw: what their two averages keep, as 0.9,0.999",
    )  # fmt: skip
    add("--eps", type=above(0.0), default=1e-8, metavar="X", help="of adam and adamw: added to the divisor")
    add(
        "--wd", "--weight-decay", dest="weight_decay", type=non_negative, default=1e-5, metavar="X",
        help="on every parameter, as released",
    )  # fmt: skip
    add("--decay-weights-only", action="store_true", help="no decay on norms, biases and position embeddings")
    add(
        "--loss", choices=LOSSES, default="ce",
        help="of each stream: ce (cross entropy), tet (of each time step's logits), distill (and the trunk imitates "
        "--teacher, or else the pathway)",
    )  # fmt: skip
    add(
        "--teacher",
        type=weights_name,
        metavar="FILE|NAME",
        help="with --loss distill: trained weights, e.g. a resnet18's",
    )
    add("--label-smoothing", type=fraction, default=0.0, metavar="X", help="of the cross entropy")
    add(
        "--aap-weight", "--aap_weight", type=non_negative, default=1.0, metavar="X",
        help="of the pathway's loss; the trunk's has 1",
    )  # fmt: skip
    add(
        "--aap-off-epoch", "--aap_off_epoch", type=natural, default=0, metavar="N",
        help="number of the first epoch that leaves the pathway's loss out; 0: none",
    )  # fmt: skip
    add(
        "--aap-weight-end", type=non_negative, metavar="X",
        help="what --aap-weight comes to in the last epoch, in equal steps (default: it stays)",
    )  # fmt: skip
    add("--clip-grad-norm", type=above(0.0), metavar="X", help="shorten the gradient of a step to this norm")
    add("--accumulate", type=positive_int, default=1, metavar="N", help="batches whose mean gradient makes a step")
    add("--ema-decay", type=fraction, metavar="X", help="keep and evaluate averaged weights, e.g. 0.9999")
    add("--amp", action="store_true", help="mixed precision")
    add("--amp-dtype", choices=("bf16", "fp16"), help="(default: fp16 on CUDA, bf16 on the CPU)")
    add("--sync-bn", action="store_true", help="batch norm over all processes (GPUs only)")
    add(
        "--initial-checkpoint", type=weights_name, metavar="FILE|NAME",
        help="trained weights that a new run begins with, and their network: a file, a folder or a name",
    )  # fmt: skip
    add("--seed", type=seed, default=2020, metavar="N", help="of weights, data and their order")


def add_run_arguments(parser: Parser) -> None:
    """Where a run is kept, what it reports and what is done with it; processes and speed."""
    add = parser.group("run", "run")
    add("--config", metavar="FILE.yaml", help="options by name, e.g. a run's config.yaml; the command line wins")
    add("--output-dir", default=".", metavar="FOLDER", help="where the run's folder is made")
    add(
        "--name", type=_folder_name, metavar="NAME",
        help="the run's folder (default: the release's name, and all else that is not the default)",
    )  # fmt: skip
    add("--start-epoch", type=natural, default=0, metavar="N", help="number of the first epoch of a new run")
    add(
        "--resume", type=weights_name, metavar="FILE|FOLDER|auto",
        help="go on from this checkpoint, in this run's folder, or from the newest of the run that the options name",
    )  # fmt: skip
    add(
        "--new-schedule", action="store_true",
        help="with --resume and other --epochs: plan the learning rate again, from --lr now to the new end",
    )  # fmt: skip
    add("--overwrite", action="store_true", help="begin anew in a folder that holds a run")
    add("--checkpoint-every", type=_interval, metavar="N", help="also save inside epochs: 500 (steps) or 10min")
    add("--ema", action="store_true", help="judge, test and detach the averaged weights (--ema-decay) instead")
    add("--print-freq", type=positive_int, default=10, metavar="N", help="batches between two reports")
    add("--tb", action="store_true", help="TensorBoard scalars and firing rates")

    add = parser.group("test", "run")
    add("--test-only", action="store_true", help="evaluate --resume and end")
    add("--synops", action="store_true", help="with --test-only: count operations and energy as well")
    add("--no-syops", action="store_true", help="with --synops: leave out the package syops, it is slow")
    add("--detach", action="store_true", help="with --test-only: without the pathway; saves fsnn.pth")
    add(
        "--predictions", metavar="FILE.csv",
        help="with --test-only: write each image's path, class and the top 5 classes",
    )  # fmt: skip
    add(
        "--exit-confidence", type=_probabilities, metavar="X,X",
        help="with --test-only: accuracy if a sample ends at the time step at which its class has this probability",
    )  # fmt: skip

    add = parser.group("processes", "run")
    add("--device", metavar="NAME", help="cuda or cpu (default: cuda where there is one)")
    add("--world-size", type=positive_int, default=1, metavar="N", help="checked only: the launcher sets it")
    add("--dist-url", default="env://", metavar="URL", help="where the processes meet")
    add("--dist-timeout", type=above(0.0), default=600.0, metavar="X", help="seconds to wait for the others")

    add = parser.group("speed (see docs/PERFORMANCE.md)", "run")
    on_off = argparse.BooleanOptionalAction
    add("--fused", action=on_off, default=False, help="batch norm, neuron and join of a layer compiled into one")
    add(
        "--channels-last", action=on_off, help="memory format of weights and maps (default: on a GPU, and with --fused)"
    )
    add("--deterministic", action="store_true", help="on GPUs: kernels that repeat every bit, as the release; slower")
    add("--keep-memory", action=on_off, default=True, help="on the CPU: keep freed memory for the next step")
    add("--compile", action="store_true", help="torch.compile of the whole network in training: minutes")
    add(
        "--memory-saving", action="store_true",
        help="compute the stem and the first third of the blocks again in the backward pass; the same gradients",
    )  # fmt: skip


def training_parser(doc: str | None, data_set: str) -> Parser:
    """The options that every training script has; it adds those of its data and sets its own defaults.

    Args:
        doc: the script's docstring, see `Parser`.
        data_set: the script's package, e.g. cifar.
    """
    parser = Parser(doc, prog=f"python -m {data_set}.train", usage="%(prog)s [options]")
    parser.data_set = data_set
    add_network_arguments(parser)
    add_recipe_arguments(parser)
    add_run_arguments(parser)
    return parser


def parse(parser: Parser, argv: Sequence[str] | None = None, below: Mapping[str, Any] | None = None) -> Args:
    """Read a training script's command line.

    Args:
        argv: what was typed; by default this process's arguments.
        below: options that count where neither the command nor --config gives them: those of trained weights.

    Raises:
        UsageError: an option is unknown, out of range, or does not fit the others.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv, Args(_parser=parser))
    if args.config is not None or below:
        values = {**_known(parser, below or {}), **(_read_config(parser, args.config) if args.config else {})}
        args = parser.parse_args([*_as_typed(parser, values), *argv], Args(_parser=parser))
    _check(args)
    args.cos_lr_T = args.cos_lr_T or args.epochs - args.cooldown_epochs
    return args


def _by_key(parser: Parser) -> dict[str, str]:
    """What a file may call an option -> its name: as in `args`, or as any of its long flags."""
    found: dict[str, str] = {}
    for action in parser._actions:
        for key in (action.dest, *(flag.removeprefix("--") for flag in action.option_strings)):
            found.setdefault(key.replace("-", "_"), action.dest)
    return found


def _known(parser: Parser, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {action.dest for action in parser._actions}
    return {name: value for name, value in values.items() if name in names}


def _as_typed(parser: Parser, values: Mapping[str, Any]) -> list[str]:
    """Options as they would be typed, so that argparse checks them alike."""
    actions = {action.dest: action for action in reversed(parser._actions)}
    typed = []
    for name, value in values.items():
        if value is None:  # not given
            continue
        flag = next(flag for flag in actions[name].option_strings if flag.startswith("--"))
        if isinstance(value, bool) or actions[name].nargs == 0:
            if value not in (True, False):
                raise UsageError(f"{name}: {value!r} is neither true nor false")
            negative = "--no-" + flag.removeprefix("--")
            typed += [flag] if value else [negative] if negative in actions[name].option_strings else []
        elif isinstance(value, dict):
            raise UsageError(f"{name}: a mapping is no value")
        else:
            typed.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    return typed


def _read_config(parser: Parser, path: str) -> dict[str, Any]:
    """The options in a YAML file; `versions`, which tells what wrote it, sets nothing."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--config {path} cannot be read ({reason}): name a YAML file of options") from None
    if not isinstance(content, dict | None):
        raise UsageError(f"--config {path} holds no options: write one `option: value` a line")
    by_key, found = _by_key(parser), {}
    for key, value in (content or {}).items():
        name = str(key).replace("-", "_")
        if name == "versions":
            continue
        if name not in by_key:
            close = difflib.get_close_matches(name, by_key, n=1, cutoff=0.0)[0]
            raise UsageError(f"--config {path}: there is no option {key!r}: did you mean {close}?")
        if name == "adam":
            name, value = "optimizer", "adam" if value else None
        found[by_key.get(name, name)] = value
    try:
        parser.parse_args(_as_typed(parser, found))
    except UsageError as error:
        raise UsageError(f"--config {path}: {error}") from None
    return found


def write_config(args: Args, versions: Mapping[str, Any]) -> str:
    """Every option of a run as YAML that --config reads, and what it was made with."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in args.all().items() if k not in ONE_CALL}
    return yaml.safe_dump({**values, "versions": dict(versions)}, sort_keys=False, allow_unicode=True, width=1000)


def _check(args: Args) -> None:
    """Options that only make sense together."""
    if args.start_epoch >= args.epochs:
        raise UsageError(f"--start-epoch {args.start_epoch} leaves no epoch of --epochs {args.epochs}: start below it")
    for name in TESTS:
        if getattr(args, name) and not args.test_only:
            raise UsageError(f"--{name.replace('_', '-')} is of a trained network: use it with --test-only")
    if args.teacher and args.loss != "distill":
        raise UsageError(f"--teacher {args.teacher} is not used by --loss {args.loss}: add --loss distill")
    if args.test_only and not args.resume:
        raise UsageError("--test-only needs weights: name a checkpoint by --resume")
    if args.overwrite and args.resume:
        raise UsageError("--overwrite begins anew and --resume goes on: choose one")
    if args.ema and args.ema_decay is None and not args.test_only:
        raise UsageError("--ema takes averaged weights, and this run keeps none: add --ema-decay")
    _check_schedule(args)


def _check_schedule(args: Args) -> None:
    for flag, rate in (("--warmup-lr", args.warmup_lr), ("--min-lr", args.min_lr)):
        if rate is not None and rate > args.lr:
            raise UsageError(f"{flag} {rate} is above --lr {args.lr}: take a smaller one")
    warmup, cooldown, epochs = args.warmup_epochs, args.cooldown_epochs, args.epochs
    period, cosine = args.cos_lr_T or epochs - cooldown, args.lr_scheduler.startswith("cosine")
    if cooldown and warmup + cooldown >= epochs:
        raise UsageError(
            f"--warmup-epochs {warmup} and --cooldown-epochs {cooldown} leave nothing of --epochs {epochs}: take fewer"
        )
    if cosine and warmup >= period:
        raise UsageError(f"--warmup-epochs {warmup} leaves nothing of --cos_lr_T {period}: take fewer")
    if cooldown and not args.min_lr:
        raise UsageError(f"--cooldown-epochs {cooldown} would train at a learning rate of 0: give a --min-lr")
    if cosine and cooldown and period + cooldown != epochs:
        raise UsageError(
            f"--cos_lr_T {period} and --cooldown-epochs {cooldown} do not make up --epochs {epochs}: change one of them"
        )
