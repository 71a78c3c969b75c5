"""Pictures of runs and of spikes show the numbers that they are made of."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from spikingjelly.activation_based.neuron import BaseNode

from full_spike.models import create_model
from full_spike.utils import plots
from full_spike.utils.measure.spikes import record_spikes
from full_spike.utils.trained import set_norms
from support.refusals import command


def entry(epoch, readouts=("fsnn", "aap"), **more):
    scores = {name: {"acc1": 50.0 + 10 * epoch + i, "loss": 2.0 / (epoch + 1)} for i, name in enumerate(readouts)}
    return {"epoch": epoch, "train_loss": 3.0 - epoch, "train": scores, "test": scores, **more}


def write_metrics(folder, *entries):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in entries))


def test_a_run_is_drawn_beside_its_metrics(tmp_path):
    write_metrics(tmp_path, entry(0, firing_rate={"sn1": 0.1}), entry(1, firing_rate={"sn1": 0.2}))
    done = command("utils.plots", tmp_path)
    assert done.out == f"wrote {tmp_path}/learning_curves.png\nwrote {tmp_path}/firing_rates.png\n"
    for name in ("learning_curves", "firing_rates"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width == 1200


def test_curves_are_those_of_the_metrics():
    left, right = plots.learning_curves([entry(0), entry(1)]).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in (*left.lines, *right.lines)}
    assert drawn["training objective"] == [[1, 3], [2, 2]]
    assert drawn["test, FSNN (pathway detached)"] == [[1, 50], [2, 60]]
    left, right = plots.compared_curves([("a$_$", [entry(0)]), ("b", [entry(0), entry(1)])]).axes
    assert [line.get_xydata().tolist() for line in right.lines] == [[[1, 50]], [[1, 50], [2, 60]]]


def test_firing_rates_are_those_of_the_metrics():
    assert plots.firing_rates([entry(0)]) is None
    epochs = [entry(i, firing_rate={"a": 0.1 * i, "b": 0.5}) for i in range(3)]
    bars, over, _ = plots.firing_rates(epochs).axes
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([20, 50])
    np.testing.assert_allclose(over.images[0].get_array(), [[0, 10, 20], [50, 50, 50]])


def test_energy_of_a_layer_is_that_of_its_operations():
    layers = [
        {"name": "conv", "ac": 2e9, "mac": 1e9, "energy_mj": 6.4},
        {"name": "norm", "ac": 0, "mac": 0, "energy_mj": 0},
        {"name": "fc", "ac": 0, "mac": 2e9, "energy_mj": 9.2},
    ]
    (axes,) = plots.energy([{"network": "net", "energy_mj": 15.6, "layers": layers}], {"ac": 0.9, "mac": 4.6}).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["conv", "fc"]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ends == pytest.approx([1.8, 0, 6.4, 9.2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no .*metrics.jsonl: name the folder of a run"),
        ("", "holds no epoch yet: wait for the first one"),
        ('5\n{"epoch": "x"}', "holds no epoch yet"),
        ('{"epoch": 0}', "holds no epoch yet"),
    ],
)
def test_nothing_to_draw_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    done = command("utils.plots", tmp_path)
    assert done.status == 1
    assert re.search(message, done.err.splitlines()[-1])


def test_the_raster_shows_the_networks_spikes():
    torch.manual_seed(0)
    network = create_model("dsnn_7b", width=4, T=5)
    frames = torch.poisson(torch.full((5, 1, 2, 32, 32), 0.5))
    set_norms(network, frames.repeat(1, 2, 1, 1, 1))
    network.eval()
    fired = {}
    for name, module in network.named_modules():
        if isinstance(module, BaseNode):
            module.register_forward_hook(lambda _m, _i, out, name=name: fired.update({name: out.flatten(1)}))
    layers, _ = record_spikes(network, frames)
    raster, rates = plots.spikes(layers, "title").axes[1:3]
    assert [layer.name for layer in layers] == list(fired)
    for i, (layer, lines) in enumerate(zip(layers, raster.collections, strict=True)):
        truth = fired[layer.name]
        assert layer.neurons == truth.shape[1]
        assert len(set(layer.chosen)) == len(layer.chosen) == min(64, layer.neurons)
        points = {(segment[:, 0].mean(), segment[0, 1]) for segment in lines.get_segments()}
        step, neuron = np.nonzero(truth[:, layer.chosen].numpy())
        expected = {(t + 1.0, i + (n + 0.5) / len(layer.chosen)) for t, n in zip(step, neuron, strict=True)}
        assert {(round(x, 6), round(y, 6)) for x, y in points} == {(round(x, 6), round(y, 6)) for x, y in expected}
        np.testing.assert_allclose(rates.images[0].get_array()[i], 100 * truth.mean(1), rtol=1e-5)
    assert sum(len(lines.get_segments()) for lines in raster.collections) > 50
    again, _ = record_spikes(network, frames)
    assert all((a.chosen == b.chosen).all() for a, b in zip(layers, again, strict=True))
