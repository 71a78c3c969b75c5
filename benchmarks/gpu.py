"""What a GPU makes of this project, for a machine that is at hand for minutes, bare and without a network.

    python -m benchmarks.gpu --minutes 8 --out FOLDER
    python -m benchmarks.gpu --minutes 8 --out FOLDER --train 6 --recipe FILE.yaml -- --data-path FOLDER
    python -m benchmarks.gpu --table --out FOLDER                          # for docs/PERFORMANCE.md
    python -m benchmarks.gpu --device cpu --minutes 3 --out FOLDER         # the same in small, where there is no GPU

Items run in order of worth. Each appends its result to FOLDER/results.jsonl as it comes, so a run that is cut off keeps
what it had. One that fails is a line with its error; so is one that hangs, or takes its process with it.

What a machine with PyTorch, scikit-learn, matplotlib, tensorboard and pytest lacks are two wheels of pure Python:

    pip download --no-deps -d wheels spikingjelly==2.0.0 loguru                                         # to be carried
    pip install --no-index --no-deps --target site wheels/*.whl; export PYTHONPATH=site                 # there

spikingjelly 2.0 chooses its backend: Triton's on a GPU, torch's where the environment says so. It has none of CuPy's.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import functools
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from full_spike.models import create_model, detach_aap, fold_batchnorm, use_fused
from full_spike.utils.distributed import end_with_parent
from full_spike.utils.trained import set_norms
from full_spike.utils.versions import commit, machine, versions

from .common import ALONE, Side, network, products, seconds, stock, training_step
from .inference import evaluation

Found = dict[str, Any]
ROOT = Path(__file__).parent.parent
RESULTS = "results.jsonl"
LIMIT = 300.0  # seconds for an item
LAST: Any = torch.channels_last

OURS, COMPILED, IN_TORCH = "ours", "spikingjelly, compiled", "spikingjelly, torch"
SIDES: dict[str, Callable[[Any], nn.Module]] = {  # name -> what it makes of our network
    OURS: lambda model: use_fused(model).to(memory_format=LAST),
    "ours, not fused": lambda model: model.to(memory_format=LAST),
    "spikingjelly, Triton": stock,
    "spikingjelly, Triton, channels last": lambda model: stock(model).to(memory_format=LAST),
    "plain ResNet-18": lambda model: create_model("resnet18", **{k: model.config[k] for k in ("width", "stem")}).to(
        model.fc.weight.device, memory_format=LAST
    ),
    IN_TORCH: stock,
    COMPILED: lambda model: torch.compile(stock(model)),
}


def cases(device: torch.device) -> list[Found]:
    """Options of FSNN-18 with its pathway and of its batches, those first that count most."""
    if device.type == "cpu":
        common, sizes = {"T": 2, "width": 4}, [(4, 32, "imagenet"), (2, 32, "imagenet"), (4, 16, "cifar")]
    else:
        common, sizes = {"T": 4, "width": 64}, [(256, 224, "imagenet"), (64, 224, "imagenet"), (512, 32, "cifar")]
    common = {"model": "dsnn18", "device": device, "threads": torch.get_num_threads(), **common}
    return [{"batch_size": batch, "size": size, "stem": stem, **common} for batch, size, stem in sizes]


def describe(device: torch.device) -> Found:
    """The machine: what it is, what runs on it, how fast it copies and multiplies."""
    cuda = device.type == "cuda"
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    a, n = torch.empty(2**30 if cuda else 2**24, dtype=torch.uint8, device=device), 8192 if cuda else 256
    b, x = torch.empty_like(a), torch.randn(n, n, dtype=torch.bfloat16, device=device)
    copying, multiplying = (min(seconds(f, device) for _ in range(5)) for f in (lambda: b.copy_(a), lambda: x @ x))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device, 1),
        "driver": subprocess.check_output(query, text=True).strip() if cuda else None,
        "versions": {**versions(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
        "commit": commit(),
        "copy_gb_per_s": 2 * a.numel() / copying / 1e9,  # read and written
        "bf16_tflop_per_s": 2 * n**3 / multiplying / 1e12,
    }


def test(device: torch.device, results: Path) -> Found:
    """The device tests; each has a line of its own."""
    options = ["-q", "-m", "", "-p", "no:cacheprovider", "--device", str(device), "--lines", str(results)]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, "tests/train/test_device.py"], cwd=ROOT)
    return {"status": done.returncode}


def rate(side: Side, images: int, device: torch.device) -> Found:
    """Images a second, the median of three times half a second; what the first call takes, and the peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = seconds(side, device)
    enough = 0.5 if device.type == "cuda" else 0.02
    calls = max(1, round(enough / min(seconds(side, device) for _ in range(3))))
    each = sorted(seconds(lambda: [side() for _ in range(calls)], device) / calls for _ in range(3))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"images_per_second": images / each[1], "seconds": each, "first_seconds": first, "peak_gib": peak}


def speed(name: str, case: Found) -> Found:
    """A side's training step under autocast to bfloat16, and its inference in bfloat16 without the pathway."""
    model, images = network(argparse.Namespace(**case))
    images, half = images.to(memory_format=LAST), images.to(torch.bfloat16, memory_format=LAST)

    def side(network: Any, backward: bool) -> Side:
        if name == ALONE:
            return products(network, images, backward=backward, dtype=torch.bfloat16)[0]
        if backward:
            return training_step(SIDES[name](network), images, half=True)
        made = SIDES[name](fold_batchnorm(network) if name == OURS else network)
        return evaluation(made.eval().to(torch.bfloat16), half, stateful=True)

    train = rate(side(copy.deepcopy(model), True), len(images), case["device"])
    set_norms(model, images[:4])
    return {"train": train, "infer": rate(side(detach_aap(model).eval(), False), len(images), case["device"])}


def profile(case: Found) -> Found:
    """The ten kernels (on the CPU: operators) that take the most of our training step."""
    model, images = network(argparse.Namespace(**case))
    step = training_step(SIDES[OURS](model), images.to(memory_format=LAST), half=True)
    for _ in range(3):
        step()
    with torch.profiler.profile() as profiler:
        seconds(step, case["device"])
    cuda = case["device"].type == "cuda"
    events = [event for event in profiler.key_averages() if not cuda or event.device_type.name == "CUDA"]
    took = {e.key[:100]: (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1000 for e in events}
    return {"ms": sum(took.values()), "kernels": dict(sorted(took.items(), key=lambda x: -x[1])[:10])}


def items(args: argparse.Namespace) -> dict[str, Callable[[], Found]]:
    """Everything there is to run, by name, in order of worth."""
    device = torch.device(args.device)
    sizes = cases(device)
    usual = [OURS, ALONE, *(name for name in SIDES if name not in (OURS, IN_TORCH, COMPILED))]
    return {
        "device": lambda: describe(device),
        "tests": lambda: test(device, args.out / RESULTS),
        "profile": lambda: profile(sizes[0]),
        **{
            f"{name}: {case['batch_size']} x {case['size']} x {case['size']}": functools.partial(speed, name, case)
            for names in (usual, [IN_TORCH], [COMPILED])
            for case in sizes
            for name in names
        },
    }


def write(results: Path, item: str, **found: Any) -> None:
    """Append a line, and have it on the disk."""
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps({"item": item, **found}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(results: Path) -> list[Found]:
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def work(args: argparse.Namespace) -> None:
    """Run these items, in a process of its own, up to the first that fails: it may have broken the device."""
    end_with_parent()
    torch.backends.cudnn.benchmark = True
    for name in args.work:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        began = time.monotonic()
        try:
            write(args.out / RESULTS, name, **items(args)[name](), seconds=time.monotonic() - began)
        except Exception as error:
            return write(args.out / RESULTS, name, error=f"{type(error).__name__}: {error}"[:2000])
        gc.collect()
        torch.cuda.empty_cache()


def supervise(args: argparse.Namespace) -> None:
    """All items, in a process for as long as that lives, until the time is over."""
    end, results = time.monotonic() + 60 * args.minutes, args.out / RESULTS
    names = [name for name in items(args) if not args.only or any(part in name for part in args.only)]
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(args.out), "--device", args.device, "--work"]
    for in_torch, group in itertools.groupby(names, lambda name: name.startswith(IN_TORCH)):
        left = list(group)
        env = {**os.environ, **({"SJ_IF_CUDA_IMPLEMENTATION": "torch"} if in_torch else {})}  # read when imported
        while left and time.monotonic() < end:
            before = len(read(results))
            process = subprocess.Popen([*command, *left], cwd=ROOT, start_new_session=True, env=env)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(end - time.monotonic())
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and all that it has started
            done = {line["item"] for line in read(results)[before:]}
            left = [name for name in left if name not in done]
            if process.wait() and left:
                write(results, left.pop(0), error=f"its process ended with status {process.returncode}")


def train(args: argparse.Namespace) -> None:
    """Train on CIFAR-10 by a recipe, for as long as is given: its folder, with metrics and weights, is below --out."""
    recipe = ["--config", args.recipe] if args.recipe else ["--dataset", "cifar10"]
    command = ["cifar.train", "--device", args.device, *recipe, "--output-dir", str(args.out / "train"), *args.options]
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, preexec_fn=end_with_parent)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60 * args.train)
    process.terminate()  # it saves, and ends
    write(args.out / RESULTS, "train", command=command, status=process.wait())


def table(folder: Path) -> None:
    """Print what docs/PERFORMANCE.md says of a device."""
    found = {line["item"]: line for line in read(folder / RESULTS)}
    about, outcomes = found["device"], [line["outcome"] for item, line in found.items() if item.startswith("test ")]
    print(f"### {about['machine']}\n\n{about['date'][:10]}, driver {about['driver']}, versions:")
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()) + ".")
    print(f"Copies {about['copy_gb_per_s']:.0f} GB/s, multiplies {about['bf16_tflop_per_s']:.0f} TFLOP/s in bfloat16.")
    print(f"Of {len(outcomes)} device tests {outcomes.count('passed')} passed, {outcomes.count('failed')} failed.")
    print("\n| | training, images/s | of the bound | peak, GiB | inference, images/s | of the bound |")
    print("|---|---|---|---|---|---|")
    speeds = {item: line for item, line in found.items() if "infer" in line}
    for item, line in speeds.items():
        bound, peak = speeds.get(f"{ALONE}: {item.partition(': ')[2]}", line), line["train"]["peak_gib"] or 0.0
        (train, most), (infer, most_) = (
            [x[kind]["images_per_second"] for x in (line, bound)] for kind in ("train", "infer")
        )
        print(f"| {item} | {train:.0f} | {train / most:.2f} | {peak:.1f} | {infer:.0f} | {infer / most_:.2f} |")
    print("\n| the costliest kernels of our training step | ms |\n|---|---|")
    for name, ms in found.get("profile", {}).get("kernels", {}).items():
        print(f"| `{name[:60]}` | {ms:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with tiny sizes (default: cuda)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all but the training (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--table", action="store_true", help="print what docs/PERFORMANCE.md says of the results there")
    parser.add_argument("--only", nargs="+", help="items whose names contain one of these")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="train as well, for so long at most")
    parser.add_argument("--recipe", metavar="FILE.yaml", help="of cifar.train (default: its defaults, on CIFAR-10)")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="after --: of cifar.train")
    args = parser.parse_args()
    args.out = args.out.absolute()
    if args.table or args.work:
        return table(args.out) if args.table else work(args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / RESULTS).touch()
    supervise(args)
    if args.train:
        train(args)


if __name__ == "__main__":
    main()
