"""The cards of weights that come along: what they are, how they were made, what they reach, how to use them."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from studies.provenance import Stage


@dataclass(frozen=True)
class Measured:
    """What there is to say of one network's weights.

    name: of the weights, e.g. cifar10.
    network: with its `config`.
    file: model.safetensors.
    test, energy, certificate: as the commands print them.
    data, samples: what it was trained on, in words and in numbers.
    stages: the runs that made it, in their order.
    counted: images that operations were counted and spikes certified on.
    """

    name: str
    network: Any
    file: Path
    test: str
    energy: str
    certificate: str
    data: str
    stages: list[Stage]
    samples: str
    classes: tuple[str, ...]
    inputs: dict[str, Any]
    counted: int

    @property
    def model(self) -> str:
        return self.network.config["model"]

    @property
    def data_set(self) -> str:
        return self.stages[-1].script.partition(".")[0]

    @property
    def where(self) -> str:
        """What commands are told of the data, if these do not come along."""
        return " --data-path FOLDER" if self.stages[-1].config.get("data_path") else ""


def block(text: str, language: str = "") -> str:
    """A block of code, not wrapped."""
    return f"```{language}\n{text}\n```"


def wrapped(text: str) -> str:
    """A paragraph in lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def rows(facts: dict[str, Any]) -> str:
    """A table of two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def _size(path: Path, network: Any) -> str:
    parameters = sum(p.numel() for p in network.parameters())
    return f"{parameters:,} parameters; `{path.name}` has {path.stat().st_size:,} bytes"


def _input(measured: Measured) -> str:
    inputs = measured.inputs
    mean, std = (", ".join(f"{x:.4g}" for x in inputs[n]) for n in ("mean", "std"))
    return (
        f"images [N, {inputs['channels']}, {inputs['crop']}, {inputs['crop']}] of 0 to 1, less {mean} and divided by "
        f"{std} (by channel); a photograph is resized so that its shorter side fits, and its centre cropped"
    )


def _use(measured: Measured) -> str:
    name, model, data_set = measured.name, measured.model, measured.data_set
    dataset = " --dataset folder" if measured.where and "dataset" in measured.stages[-1].config else ""
    commands = f"""full-spike predict --checkpoint {name} --model {model} photo.jpg
full-spike test {data_set} --resume {name} --model {model}{measured.where}
full-spike train {data_set} --initial-checkpoint {name} --model {model}{dataset}{measured.where}"""
    code = f"""from full_spike.models import create_model

model = create_model("{model}", pretrained="{name}").eval()"""
    hub = f'torch.hub.load(REPOSITORY, "{model}", source="local", pretrained="{name}")'
    text = wrapped(f"`{hub}` does the same. It reads {_input(measured)}.")
    return f"{block(commands)}\n\n{block(code, 'python')}\n\n{text}"


def _stage(stage: Stage) -> str:
    facts = {
        "epochs": f"{stage.epoch} of {stage.config.get('epochs')}",
        "time": stage.time,
        "seed": stage.config.get("seed"),
        **{
            name: stage.versions[name]
            for name in ("machine", "python", "torch", "spikingjelly")
            if name in stage.versions
        },
        "commit": stage.versions.get("commit", "not recorded"),
    }
    recipe = yaml.safe_dump(stage.told(), sort_keys=False).strip()
    return f"{block(stage.command())}\n\n{rows(facts)}\n\n{block(recipe, 'yaml')}"


def _training(measured: Measured) -> str:
    stages = measured.stages
    if len(stages) == 1:
        text = _stage(stages[0])
    else:
        parts = (f"### Run {number}\n\n{_stage(stage)}" for number, stage in enumerate(stages, start=1))
        text = f"{len(stages)} runs, each of which began with the weights of the one before.\n\n" + "\n\n".join(parts)
    return f"{text}\n\nEvery epoch's loss and accuracies: [log.csv](../log.csv)."


def card(measured: Measured, others: list[str]) -> str:
    """The card of a network's weights.

    Args:
        others: networks that have weights of the same run.
    """
    config = measured.network.config
    told = ", ".join(
        f"{name}={config[name]}" for name in ("T", "width", "stem", "connect_f", "neuron") if name in config
    )
    same = f" The weights of {' and '.join(others)} are of the same run." if others else ""
    kind = "a network whose certificate does not hold, see below"
    if getattr(measured.network, "aap", None) is not None:
        kind = "a full-spike network with its accumulation pathway"
    elif measured.certificate.startswith("full-spike: yes"):
        kind = "a full-spike network"
    counted = f"Of one image, a mean over {measured.counted:,} test images; batch norms folded"
    what = f"{measured.model}: {kind}, {told}, trained on {measured.data}.{same}"
    shown = f"What the second command above prints ({measured.data}), of the weights of the last epoch:"
    return f"""# {measured.name}/{measured.model}

{wrapped(what)}

## Use

{_use(measured)}

## Accuracy

{wrapped(shown)}

{block(measured.test)}

## Data

{wrapped(f"{measured.data}: {measured.samples}. Classes: {', '.join(measured.classes)}.")}

## Training

{_training(measured)}

## Operations and energy

{counted} ([how it is counted](../../../docs/ENERGY.md)):

{block(measured.energy)}

## Certificate

{block(measured.certificate)}

## Size

{_size(measured.file, measured.network)}.
"""


def integer_card(measured: Measured, path: Path, comparison: dict[str, Any]) -> str:
    """The card of a network in whole numbers."""
    images = comparison["images"]
    right = {name: 100 * comparison[f"right_{name}"] / images for name in ("original", "runtime")}
    facts = {
        "test images": f"{images:,}",
        f"top-1 of {measured.model} in floats": f"{right['original']:.2f} %",
        "top-1 in whole numbers": f"{right['runtime']:.2f} %",
        "images of another class": f"{comparison['classes_original']:,}",
        "weights": comparison["facts"]["weights"],
        "integer.pth": f"{path.stat().st_size:,} bytes",
        "model.safetensors, of floats": f"{measured.file.stat().st_size:,} bytes",
    }
    place = f"{measured.name}/{measured.model}"
    code = f"""import torch
from full_spike.models import find_pretrained, graph

folder = find_pretrained("{place}").parent / "{path.parent.name}"
saved = torch.load(folder / "integer.pth", weights_only=True)
whole = graph.FastRunner(graph.from_plain(saved["graph"]))"""
    write = """from pathlib import Path

from full_spike.utils.export.targets import TARGETS

Path("in_c").mkdir()
TARGETS["c"].write(whole, Path("in_c"))  # classify.c and classify.h; TARGETS["onnx"] writes model.onnx"""
    export = f"full-spike export --checkpoint {measured.name} --model {measured.model} --to integer --output integers"
    where = " --data FOLDER" if measured.where else ""
    return f"""# {measured.name}/{path.parent.name}

[{place}](../{measured.model}/README.md) in whole numbers alone. What such a network computes:
[DEPLOY](../../../docs/DEPLOY.md#integer-networks).

{rows(facts)}

Layer by layer: [comparison.json](comparison.json) (its times are of a machine on which other programs ran).

## Use

{block(code, "python")}

`whole(images)` are int32 logits, of images as {measured.model} reads them; times `whole.graph.logit_scale` they are in
its unit. As C without any dependency, or as ONNX, which compute the same logits:

{block(write, "python")}

Made by

{block(export + where)}

How the weights were trained and on what: [{place}](../{measured.model}/README.md).
"""
