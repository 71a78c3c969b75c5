"""A trained network written for another runtime, run there, and compared: what `export` does."""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_spike.utils.checkpoints import checkpoint
from full_spike.utils.cli.data_sets import batches, inputs_of, load_data_set
from full_spike.utils.cli.factory import build_network, load_factory, trained
from full_spike.utils.cli.finetune import finetune
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.export.compare import Comparison, compare
from full_spike.utils.export.targets import TARGETS, Target
from full_spike.utils.files import replacing, write_file

INTEGER = "integer.pth"


def _factory(name: str) -> Any:
    factory: Any = load_factory(name)
    if not hasattr(factory, "graph"):
        raise UsageError(f"--factory {name} has no graph, which describes networks: name a module that has, as models")
    return factory


def _detached(factory: Any, model: Any) -> Any:
    return factory.detach_aap(model) if getattr(model, "aap", None) is not None else model


def _exported(args: argparse.Namespace, factory: Any, plain: Any, data: Any) -> Any:
    """The runner of what is to be written.

    Raises:
        UserError: the network cannot become that.
    """
    shape = data.test[0][0].shape
    graph = factory.graph
    try:
        described = graph.exact_sums(graph.describe(plain, tuple(shape[-2:])))
        if args.to in ("nir", "integer", "c"):
            described.require_binary(args.to)
        bits = args.bits or (8 if args.to in ("integer", "c") else None)
        if bits:
            calibration = list(inputs_of(batches(data.train, data.collate, args.batch_size, args.calibrate)))
            described = graph.quantize_graph(described, calibration, bits)
        return graph.Runner(described)
    except ValueError as error:
        raise UserError(str(error)) from None


def read_integer(path: Path, factory: Any) -> Any:
    """The runner of an integer network that was exported.

    Raises:
        UserError: the file is damaged, or no integer network.
    """
    content = checkpoint.load(path)
    try:
        return factory.graph.FastRunner(
            factory.graph.from_plain(content.get("graph") if isinstance(content, dict) else None)
        )
    except ValueError as error:
        raise UserError(f"{path} is damaged or no integer network ({error}): export it again") from None


def _integer_target(factory: Any) -> Target:
    def write(runner: Any, folder: Path) -> None:
        checkpoint.write(folder / INTEGER, {"graph": factory.graph.to_plain(runner.graph)})

    class Runtime:
        def __init__(self, runner: Any) -> None:
            self.spikes, self.logits = runner.spikes, runner

    return Target(
        True, "torch, in integers", (INTEGER,), lambda: None, write,
        lambda folder, _graph, _build: Runtime(read_integer(folder / INTEGER, factory)),
    )  # fmt: skip


def _facts(args: argparse.Namespace, folder: Path, files: Sequence[str], runner: Any, runtime: Any) -> dict[str, Any]:
    graph = runner.graph
    facts: dict[str, Any] = {name: f"{(folder / name).stat().st_size:,} bytes" for name in files}
    path, _ = trained(args)
    weights = [path] if path.is_file() else path.glob("*.safetensors")
    facts["checkpoint"] = f"{sum(file.stat().st_size for file in weights):,} bytes"
    if graph.integer:
        fractions = sorted({node.fraction for node in graph.of_kind("fire")})
        facts["weights"] = f"{graph.bits} bits; membranes with {', '.join(map(str, fractions))} fraction bits"
    if hasattr(runtime, "memory"):
        flash, ram = runtime.memory()
        facts["flash"], facts["RAM"] = f"{flash:,} bytes", f"{ram:,} bytes"
    return facts


def export(args: argparse.Namespace) -> Comparison:
    """Write, run, compare; the folder appears whole or not at all."""
    factory = _factory(args.factory)
    target = _integer_target(factory) if args.to == "integer" else TARGETS[args.to]
    target.require()
    model = build_network(args)
    data, _ = load_data_set(args, model)
    original = _detached(factory, model)
    if args.finetune:
        model = finetune(
            copy.deepcopy(model), data, factory, bits=args.bits or 8, epochs=args.finetune, lr=args.lr,
            batch_size=args.batch_size, seed=args.seed,
        )  # fmt: skip
    runner = _exported(args, factory, _detached(factory, model), data)
    tested = batches(data.test, data.collate, args.batch_size, args.images)
    with replacing(args.output) as folder, tempfile.TemporaryDirectory() as build:
        folder.mkdir(parents=True)
        try:
            target.write(runner, folder)
        except ValueError as error:
            raise UserError(str(error)) from None
        runtime = target.open(folder, runner.graph, Path(build))
        found = compare(original.eval(), runner, runtime, tested)
        found.facts = _facts(args, folder, target.files, runner, runtime)
        if not found.same:
            print("\n".join(found.lines(target.runtime)))
            raise UserError(f"{target.runtime} does not give what PyTorch gives here: nothing was written")
        write_file(folder / "comparison.json", (json.dumps(found.as_dict(), indent=1) + "\n").encode())
    print("\n".join(found.lines(target.runtime)))
    print(f"saved {', '.join(str(args.output / name) for name in target.files)} and comparison.json beside it")
    return found
