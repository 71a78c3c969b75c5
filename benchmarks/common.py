"""What the benchmarks share: options, the stock network, the bound, timing in turn and the table."""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer as SpikingjellysSpikformer
from torch import nn

from full_spike.models import create_model, use_fused
from full_spike.models.layers import SpikeMatmul
from full_spike.models.neuron import FromRest
from full_spike.utils.allocator import keep_freed_memory
from full_spike.utils.losses import DualStreamLoss

ALONE = "convolutions and products alone"
Side = Callable[[], Any]  # runs once what is timed
Sides = dict[str, tuple[Side, bool]]  # name -> (side, whether freed memory is kept meanwhile)


def bfloat16_in_hardware() -> bool:
    """Whether this CPU multiplies bfloat16 by instructions of its own, or there is a GPU."""
    names = ("avx512_bf16", "amx_tile")
    return torch.cuda.is_available() or any(getattr(torch.cpu, f"_is_{n}_supported", lambda: False)() for n in names)


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
        default=bfloat16_in_hardware(),
        help="ours in bfloat16 as well; default: where the hardware has it",
    )
    made.set_defaults(**defaults)
    return made


def network(args: argparse.Namespace) -> tuple[Any, torch.Tensor]:
    """The network that the options name, and random images [N, 3, H, W] for it."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    options = {"width": args.width, "stem": args.stem} | ({"connect_f": "OR"} if args.model[:2] in ("ds", "fs") else {})
    model = create_model(args.model, T=args.T, **{k: v for k, v in options.items() if v is not None}).to(args.device)
    return model, torch.randn(args.batch_size, 3, args.size, args.size, device=args.device)


def ours(model: nn.Module, images: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """A fused copy of the network, and the images, channels last."""
    last: Any = torch.channels_last
    return use_fused(copy.deepcopy(model)).to(memory_format=last), images.to(memory_format=last)


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


def spikingjellys(model: Any) -> Any:
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


def products(
    model: nn.Module, images: torch.Tensor, *, backward: bool, dtype: torch.dtype = torch.float32
) -> tuple[Side, float]:
    """(all convolutions and products of matrices of a network, on inputs of the same shapes and nothing else, channels
    last; the GFLOP that they take).

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


def training_step(model: Any, images: torch.Tensor, half: bool = False) -> Side:
    """Forward and backward pass and SGD, over both streams where there are two; half: under autocast to bfloat16."""
    target = torch.randint(model.classifier.out_features, (len(images),), device=images.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=images.is_cuda or None)
    criterion = DualStreamLoss()

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            loss = criterion(model(images), target)  # spikingjelly's Spikformer has logits for each time step
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        reset(model)

    return step


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


def seconds(side: Side, device: torch.device) -> float:
    """How long a side takes once."""
    start = time.perf_counter()
    side()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(sides: Sides, title: str, args: argparse.Namespace) -> dict[str, float]:
    """Time the sides in turn, print a table, and return each one's median in seconds.

    The first call of each is not timed with the others: it compiles.
    """
    device = torch.device(args.device)
    print(title)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, torch {torch.__version__}")
    times: dict[str, list[float]] = {name: [] for name in sides}
    first = {}
    for round_ in range(-1, args.repeats):
        for name, (side, keep) in sides.items():
            if device.type == "cpu":
                keep_freed_memory(keep)
                if keep and round_ >= 0:
                    side()  # the other sides may have given memory back: fault it in again untimed
            if round_ < 0:
                first[name] = seconds(side, device)
            else:
                times[name].append(seconds(side, device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'':32}{'median':>10}{'min':>10}{'max':>10}{'first':>10}   ms")
    for name, values in times.items():
        figures = (medians[name], min(values), max(values), first[name])
        print(f"{name:32}" + "".join(f"{1000 * figure:10.1f}" for figure in figures))
    return medians


def report_bound(args: argparse.Namespace, medians: dict[str, float], gflop: float, best: str, stock: str) -> None:
    """Print the bound in GFLOP/s and images/s, and the speeds of ours and of stock."""
    bound, images = medians[ALONE], args.batch_size
    rate = f"at {gflop / bound:.0f} GFLOP/s: {images / bound:.2f} images/s"
    print(f"bound {gflop:.1f} GFLOP of convolutions and products {rate}")
    print(f"ours ({best}) {images / medians[best]:.2f} images/s, stock {images / medians[stock]:.2f}")
