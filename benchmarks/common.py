"""What the benchmarks share: options, the stock network, interleaved timing and the table."""

from __future__ import annotations

import argparse
import copy
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer as SpikingjellysSpikformer
from torch import nn

from full_spike.models import create_model, use_fused
from full_spike.models.layers import SpikeMatmul
from full_spike.models.neuron import FromRest
from full_spike.utils.allocator import keep_freed_memory
from studies.gathering import read_csv, write_csv

ALONE = "convolutions and products alone"


def _bfloat16_in_hardware() -> bool:
    """Whether this CPU multiplies bfloat16 by instructions of its own."""
    cpu = torch.cpu
    return any(getattr(cpu, f"_is_{name}_supported", lambda: False)() for name in ("avx512_bf16", "amx_tile"))


def parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """--device, --model, --batch-size, --size, --T, --repeats, --threads, with a benchmark's defaults."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--model", default="dsnn18")
    made.add_argument("--batch-size", type=int, default=4, help="images")
    made.add_argument("--size", type=int, default=112, help="height and width in pixels")
    made.add_argument("--T", type=int, default=4, help="time steps")
    made.add_argument("--width", type=int, help="channels of the first stage; default: the model's")
    made.add_argument("--stem", help="imagenet or cifar; default: the model's")
    made.add_argument("--repeats", type=int, default=5, help="rounds; in each, every side runs once")
    made.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    made.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available() or _bfloat16_in_hardware(),
        help="ours in bfloat16 as well; default: where the hardware has it",
    )
    made.add_argument("--csv", type=Path, metavar="FILE", help="keep the times there, in place of former ones")
    made.set_defaults(**defaults)
    return made


def stock(model: nn.Module) -> nn.Module:
    """A copy of the network with spikingjelly's own stateful nodes; `reset` has to follow each forward pass."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, FromRest):
            module.__class__ = type(module).__mro__[2]  # IFNode(FromRest, spikingjelly's IFNode)
            if module.gain != 1.0:
                module.register_forward_pre_hook(lambda node, inputs: (inputs[0] * node.gain,))
    return copied


reset = functional.reset_net


def products(
    model: nn.Module, images: torch.Tensor, *, backward: bool, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[], None], float]:
    """(all convolutions and products of matrices of a network on inputs of the same shapes and nothing else, channels
    last; GFLOP they take).

    What no fusing can avoid: the bound of this machine in this precision.
    """
    calls: list[tuple[nn.Module, tuple[torch.Size, ...]]] = []
    handles = [
        m.register_forward_hook(lambda m, inputs, _y: calls.append((m, tuple(x.shape for x in inputs))))
        for m in model.modules()
        if isinstance(m, nn.Conv2d | SpikeMatmul)
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    flop = 0
    work = []
    for i, (module, shapes) in enumerate(calls):
        convolves = isinstance(module, nn.Conv2d)
        last = {"memory_format": torch.channels_last} if convolves else {}
        layer: Any = copy.deepcopy(module).to(dtype, **last)
        inputs = [torch.rand(shape, device=images.device).to(dtype, **last) for shape in shapes]
        for x in inputs:
            x.requires_grad_(backward and i > 0)  # the images need no gradient
        with torch.no_grad():
            gradient = torch.rand_like(layer(*inputs))
        passes = 1 if not backward else 3 if i > 0 else 2
        flop += 2 * passes * gradient.numel() * (layer.weight[0].numel() if convolves else shapes[0][-1])
        work.append((layer, inputs, gradient))

    def side() -> None:
        for layer, inputs, gradient in work:
            for x in inputs:
                x.grad = None
            with torch.set_grad_enabled(backward):
                y = layer(*inputs)
            if backward:
                y.backward(gradient)

    return side, flop / 1e9


def bound_line(images: int, gflop: float, seconds: float) -> str:
    rate, speed = gflop / seconds, images / seconds
    return f"bound {gflop:.1f} GFLOP of convolutions and products at {rate:.0f} GFLOP/s: {speed:.2f} images/s"


def training_step(model: nn.Module, images: torch.Tensor, classes: int, **autocast: Any) -> Callable[[], None]:
    """Forward and backward pass and SGD, over both streams where there are two."""
    target = torch.randint(classes, (len(images),), device=images.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        with torch.autocast(images.device.type, **{"enabled": False, **autocast}):
            outputs = model(images)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            outputs = tuple(x.mean(0) if x.ndim == 3 else x for x in outputs)  # spikingjelly's has one for each step
            loss = torch.stack([F.cross_entropy(logits, target) for logits in outputs]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        reset(model)

    return step


def spikingjellys(model: nn.Module) -> nn.Module | None:
    """spikingjelly's own Spikformer of a network's size, without a pathway; None for networks that it does not have."""
    config = model.config
    if "spikformer" not in config["model"]:
        return None
    theirs = SpikingjellysSpikformer(
        T=config["T"],
        in_channels=config["in_channels"],
        patch_size=config["patch"],
        num_classes=config["num_classes"],
        embed_dims=config["width"],
        num_heads=config["heads"],
        depths=config["depth"],
    )
    theirs.classifier = theirs.head  # as ours call it
    return theirs


def kept_bytes(model: nn.Module, images: torch.Tensor) -> int:
    """What a forward pass keeps for the backward pass: bytes of distinct storages, without buffers and weights.

    Autocast's copies of weights, known by their sizes, are not counted either.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), images)}
    sizes = {tuple(sorted(p.shape)) for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tuple(sorted(tensor.shape)) not in sizes:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(images)  # held until all is counted
    reset(model)
    del outputs
    return sum(storages.values())


def ours(model: nn.Module, images: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    """A fused copy of the network, and the images, channels last."""
    last: Any = torch.channels_last
    return use_fused(copy.deepcopy(model)).to(memory_format=last), images.to(memory_format=last)


def network(args: argparse.Namespace) -> tuple[nn.Module, torch.Tensor]:
    """The network that the options name, and random images [N, 3, H, W] for it."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    options: dict[str, Any] = {"connect_f": "OR"} if args.model.startswith(("ds", "fs")) else {}
    if args.width:
        options["width"] = args.width
    if args.stem:
        options["stem"] = args.stem
    model = create_model(args.model, T=args.T, **options).to(args.device)
    return model, torch.randn(args.batch_size, 3, args.size, args.size, device=args.device)


def _seconds(side: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        side()
        ended.record()
        torch.cuda.synchronize()
        return began.elapsed_time(ended) / 1000
    start = time.perf_counter()
    side()
    return time.perf_counter() - start


Sides = dict[str, tuple[Callable[[], Any], bool]]


def compare(sides: Sides, title: str, args: argparse.Namespace) -> dict[str, float]:
    """Time the sides in turn, print a table, and return each one's median in seconds.

    Args:
        sides: name -> (what to time, whether freed memory is kept meanwhile). The first call of each is not timed
            with the others: it compiles.
        title: what is timed, for people.
        args: of `parser`: --repeats, --device, --csv.
    """
    repeats, device = args.repeats, torch.device(args.device)
    print(title)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, torch {torch.__version__}")
    times: dict[str, list[float]] = {name: [] for name in sides}
    first = {}
    for round_ in range(-1, repeats):
        for name, (side, keep) in sides.items():
            if device.type == "cpu":
                keep_freed_memory(keep)
                if keep and round_ >= 0:
                    side()  # the other sides may have given memory back: fault it in again untimed
            elapsed = _seconds(side, device)
            if round_ < 0:
                first[name] = elapsed
            else:
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'':32}{'median':>10}{'min':>10}{'max':>10}{'first':>10}   ms")
    for name, values in times.items():
        figures = (medians[name], min(values), max(values), first[name])
        print(f"{name:32}" + "".join(f"{1000 * figure:10.1f}" for figure in figures))
    if args.csv is not None:
        _keep(args.csv, title, args.device, times)
    return medians


def _keep(path: Path, title: str, device: str, times: dict[str, list[float]]) -> None:
    """Write the sides' times in ms into a CSV that keeps what it says of other titles."""
    versions = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    lines = [
        {"title": title, "side": name, "device": device}
        | {f"{which.__name__}_ms": round(1000 * which(values), 2) for which in (statistics.median, min, max)}
        | {"rounds": len(values), **versions, "command": shlex.join(["python", *sys.orig_argv[1:]])}
        for name, values in times.items()
    ]
    write_csv(path, [*(line for line in read_csv(path) if line["title"] != title), *lines])
