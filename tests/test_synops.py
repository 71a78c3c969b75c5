"""The exact counter against brute force, published figures and torch's own; the report; bad input."""

import argparse
import csv
import doctest
import gc
import itertools
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torchvision
from full_spike.models import create_model, detach_aap, load_published, model_options, to_published
from full_spike.models.connect import get_join
from full_spike.models.layers import halving_pool, over_time
from full_spike.models.neuron import neuron_factory
from full_spike.models.resnet import BasicBlock, Bottleneck
from full_spike.utils.checkpoint import load
from full_spike.utils.checkpoints.weights import set_weights
from full_spike.utils.trained import random_inputs, set_norms
from full_spike.utils.errors import UserError, run_command
from full_spike.utils.measure.ann import plain_resnet
from full_spike.utils.measure.counter import ExactCounter, is_binary, is_whole
from full_spike.utils.measure.energy import EnergyModel, Totals
from full_spike.utils.measure.reach import reach
from full_spike.utils.measure.synops import Network, count, write_report
from full_spike.utils.synops import main
from PIL import Image
from spikingjelly.activation_based.neuron import IFNode
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]


def run_exact(model, *batches):
    with torch.no_grad(), ExactCounter(model.eval()) as counter:
        for batch in batches:
            model(batch)
    return {row.name: row for row in counter.rows()}


def inputs_of(model, kinds, *batches):
    """name -> every input of the layers of these kinds, seen independently of the counter."""
    seen, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            handles.append(
                module.register_forward_hook(
                    lambda _m, args, out, name=name: seen.setdefault(name, []).append((args[0], out))
                )
            )
    with torch.no_grad():
        for batch in batches:
            model.eval()(batch)
    for handle in handles:
        handle.remove()
    return seen


def brute_force(layer, x, output):
    """Additions of a convolution: for every spike, try every output position of its group, tap by tap."""
    additions = 0
    (sh, sw), (dh, dw), (kh, kw) = layer.stride, layer.dilation, layer.kernel_size
    ph, pw = (d * (k - 1) // 2 for d, k in zip((dh, dw), (kh, kw))) if layer.padding == "same" else layer.padding  # noqa: B905
    outputs_per_group = layer.out_channels // layer.groups
    for _n, _c, h, w in x.nonzero().tolist():
        for _o, oh, ow in itertools.product(range(outputs_per_group), range(output.shape[-2]), range(output.shape[-1])):
            for i, j in itertools.product(range(kh), range(kw)):
                additions += oh * sh - ph + i * dh == h and ow * sw - pw + j * dw == w
    return additions


class Spikes(nn.Module):
    """A stem and a neuron over T steps, then a layer over [T * N, C, H, W]."""

    def __init__(self, T, layer, channels=4):
        super().__init__()
        self.T = T
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.neuron = IFNode(step_mode="m")
        self.layer = layer

    def forward(self, x):
        self.neuron.reset()
        return over_time(self.layer, self.neuron(2 * self.stem(x).expand(self.T, -1, -1, -1, -1)))


CONVOLUTIONS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "no padding": {"kernel_size": 3},
    "7x7 stride 2": {"kernel_size": 7, "padding": 3, "stride": 2},
    "1x1": {"kernel_size": 1},
    "1x1 stride 2": {"kernel_size": 1, "stride": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4, "stride": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "uneven": {"kernel_size": (3, 2), "padding": (0, 1), "stride": (1, 2)},
    "same, even kernel": {"kernel_size": 4, "padding": "same"},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolutions_additions_are_those_of_brute_force(options, T):
    torch.manual_seed(0)
    model = Spikes(T, nn.Conv2d(4, 8, bias=False, **options))
    batches = [torch.randn(n, 3, 7, 6) for n in (1, 2)]
    seen = inputs_of(model, nn.Conv2d, *batches)["layer"]
    expected = sum(brute_force(model.layer, x, out) for x, out in seen)
    row = run_exact(model, *batches)["layer"]
    assert 0 < row.rate < 1
    assert row.ac * 3 == expected  # three images in two batches
    assert row.mac == 0


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_blocks_additions_are_those_of_brute_force(block, T):
    torch.manual_seed(1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.neuron = neuron_factory()()
            self.block = block(4, 4, 2, get_join("OR"), neuron_factory())

        def forward(self, x):
            return self.block(self.neuron(2 * self.stem(x).expand(T, -1, -1, -1, -1)))[0]

    model, x = Network(), torch.randn(2, 3, 6, 6)
    set_norms(model, x)
    rows = run_exact(model, x)
    seen = inputs_of(model, nn.Conv2d, x)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert len(layers) == 2 + len(BasicBlock.convolutions(4, 4, 1)) + (block is Bottleneck)
    for name, layer in layers.items():
        if name != "stem":
            assert rows[name].ac * 2 == brute_force(layer, *seen[name][0]) > 0, name
    output = model(x)
    assert rows["block.join"].logic * 2 == output.numel()
    assert rows["block.sn1"].updates * 2 == seen["block.conv1.0"][0][1].numel()
    assert rows["stem"].mac == 4 * 6 * 6 * 27


def test_a_linear_layers_additions_are_its_spikes_times_its_outputs():
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.first, self.hidden, self.last = nn.Linear(5, 6), IFNode(), nn.Linear(6, 7), IFNode()
            self.head = nn.Linear(7, 3)

        def forward(self, x):
            return self.head(self.last(self.hidden(self.first(3 * self.stem(x)))))

    model, x = Network(), torch.randn(4, 5)
    spikes = model.first(3 * model.stem(x))
    model.first.reset()
    rows = run_exact(model, x)
    assert rows["hidden"].ac * 4 == spikes.sum().item() * 7 > 0
    assert (rows["stem"].mac, rows["stem"].part, rows["head"].part) == (30, "stem", "head")


@pytest.mark.parametrize(
    "layer",
    [nn.AvgPool2d(2), nn.AvgPool2d(3, stride=1, padding=1), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((2, 4))],
    ids=repr,
)
def test_reach_of_average_pooling_is_what_one_position_changes(layer):
    size = (7, 6)
    axes = reach(layer, size, layer(torch.zeros(1, 1, *size)).shape[2:])
    covered = torch.zeros(size)
    for h, w in itertools.product(*map(range, size)):
        x = torch.zeros(1, 1, *size)
        x[0, 0, h, w] = 1
        covered[h, w] = layer(x).count_nonzero()
    assert torch.equal(axes[0][:, None] * axes[1], covered.long())


def test_max_pooling_takes_one_gate_less_than_each_window_holds():
    torch.manual_seed(0)
    row = run_exact(Spikes(2, nn.MaxPool2d(3, stride=2, padding=1)), torch.randn(1, 3, 5, 5))["layer"]
    rows = columns = [2, 3, 2]  # positions of a 5-long axis inside windows -1..1, 1..3, 3..5
    assert row.logic == 2 * 4 * sum(h * w - 1 for h, w in itertools.product(rows, columns))
    assert (row.ac, row.mac) == (0, 0)
    bordered = run_exact(Spikes(2, nn.MaxPool2d(2, 2, ceil_mode=True)), torch.randn(1, 3, 5, 5))["layer"]
    rows = columns = [2, 2, 1]
    assert bordered.logic == 2 * 4 * sum(h * w - 1 for h, w in itertools.product(rows, columns))
    assert halving_pool().ceil_mode


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_dense_counts_are_torchs_own(model):
    network = getattr(torchvision.models, model)().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        network(x)
    totals = Totals.of(run_exact(network, x).values())
    assert 2 * totals.mac == flops.get_total_flops()


def test_the_figures_of_the_published_table():
    """At 224x224 with T = 4; the published figures are those of syops-counter's README."""
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    dsnn = create_model("dsnn18")
    networks = {"dsnn": dsnn, "fsnn": detach_aap(dsnn), "ann": plain_resnet(dsnn)}
    rows = {name: list(run_exact(network, x).values()) for name, network in networks.items()}
    totals = {name: Totals.of(layers) for name, layers in rows.items()}

    unfolded = totals["ann"].mac + totals["ann"].norm_mac
    assert (totals["ann"].mac, unfolded) == (1_814_073_344, 1_819_040_768)
    assert f"{unfolded / 1e9:.2f}" == "1.82"
    assert f"{EnergyModel().operations(0, unfolded):.2f}" == "8.37"

    assert {row.name: row.mac for row in rows["fsnn"] if row.mac} == {"conv1": 118_013_952, "fc": 512_000}

    assert f"{totals['dsnn'].mac / 1e9:.2f}" == "0.20"
    projections = sum(row.mac for row in rows["dsnn"] if row.part == "pathway")
    assert projections == 4 * sum(9 * c * p + 2 * c * c * p for c, p in [(64, 28**2), (128, 14**2), (256, 7**2)])


def test_the_figures_of_the_event_networks():
    """At 128x128 with T = 16, as docs/ENERGY.md has them: MACs grow with T, so two steps are enough to count."""
    for layout, stem, pathway in (("7b", 16_777_216, 114_637_312), ("wide7b", 33_554_432, 416_737_280)):
        model = create_model(f"dsnn_{layout}", T=2)
        x = random_inputs(model, 1)
        assert x.shape == (2, 1, 2, 128, 128)
        set_norms(model, x)
        rows = run_exact(model, x).values()
        parts = {part: sum(row.mac for row in rows if row.part == part) for part in ("stem", "body", "pathway")}
        assert parts == {"stem": stem / 8, "body": 0, "pathway": pathway / 8}
        channels = [32] * 8 if layout == "7b" else [64] * 4 + [128] * 4  # before the first pooling, ..., in the head
        sides = [128 // 2**i for i in range(8)]
        crossed = zip(channels, channels[1:], sides[1:], strict=False)
        assert pathway == 16 * sum((9 * c + c * wider) * side**2 for c, wider, side in crossed)
        assert stem == 16 * 2 * channels[0] * 128**2


def test_pooled_sums_cost_no_multiplication():
    model = create_model("dsnn_7b", T=2, width=4, aap_pool="max")
    rows = run_exact(model, random_inputs(model, 2, 16)).values()
    sums = 2 * 4 * (16**2 + 8**2 + 4**2 + 2**2 + 1 + 1 + 1)  # T steps of 4 channels in 7 blocks
    gates = 2 * 4 * 3 * (8**2 + 4**2 + 2**2 + 1)  # three for each 2x2 window, none for a map of one pixel
    assert Totals.of(r for r in rows if r.part == "pathway") == Totals(sums, mac=0, logic=gates, updates=0, norm_mac=0)


def test_the_events_of_a_count_are_added_one_by_one():
    """Brute force on the first event of each position, the second, ..."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), IFNode())
    counts = [torch.poisson(torch.full((n, 2, 5, 4), 1.0)) for n in (1, 2)]
    row = run_exact(model, *counts)["0"]
    outputs = torch.zeros(1, 3, 3, 2)
    events = sum(brute_force(model[0], (x > c).float(), outputs) for x in counts for c in range(int(x.max())))
    assert row.event_ac * 3 == events > counts[0].count_nonzero()
    assert (row.ac, row.mac) == (0, 3 * 3 * 2 * 18)
    model[1].reset()
    assert run_exact(model, counts[0], torch.full((1, 2, 5, 4), 0.5))["0"].event_ac is None


def test_whole_numbers():
    assert is_whole(torch.tensor([0.0, 1.0, 255.0]))
    for value in (0.5, -1.0, float("nan"), float("inf")):
        assert not is_whole(torch.tensor([0.0, 3.0, value]))


def test_a_sum_is_multiplied_from_the_first_layer_that_reads_it():
    model = create_model("sew_resnet18", connect_f="ADD", stem="cifar", width=4, T=2, num_classes=5)
    x = torch.randn(2, 3, 16, 16)
    set_norms(model, x)
    rows = run_exact(model, x)
    body = [row for row in rows.values() if row.kind == "conv" and row.part == "body"]
    assert next(row.name for row in body if row.mac) == "layer1.1.conv1.0"
    assert rows["layer1.0.join"].ac == 2 * 4 * 16 * 16


def test_one_batch_of_values_makes_a_layer_multiply():
    """0/1 in one batch and not in the next: all of it counts as MACs."""
    model = Spikes(1, nn.Conv2d(4, 2, 1, bias=False))
    model.neuron = nn.Identity()
    model.neuron.reset = lambda: None
    model.add_module("unused_neuron", IFNode())  # without a neuron at all, nothing can be a spike
    nn.init.zeros_(model.stem.bias)
    binary, other = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.3)
    only_binary = run_exact(model, binary)["layer"]
    assert (only_binary.spikes, only_binary.ac, only_binary.mac) == (True, 0, 0)
    both = run_exact(model, binary, other)["layer"]
    assert (both.spikes, both.ac, both.mac) == (False, 0, 4 * 4 * 4 * 2)


def test_values_that_are_no_spikes():
    for value in (0.5, -1.0, 2.0, float("nan"), float("inf"), 1 - 2**-24):
        assert not is_binary(torch.tensor([0.0, 1.0, value]))
    assert is_binary(torch.tensor([0.0, 1.0, -0.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_counts_do_not_depend_on_precision(dtype):
    """Half precision cannot hold the counts: 257 spikes are not a bfloat16 number."""
    torch.manual_seed(0)
    model = Spikes(2, nn.Conv2d(4, 3, 1, bias=False)).to(dtype)
    x = torch.randn(2, 3, 33, 33).to(dtype)
    ((spikes, _),) = inputs_of(model, nn.Conv2d, x)["layer"]
    expected = spikes.double().sum().item() * 3
    row = run_exact(model, x)["layer"]
    assert row.ac * 2 == expected > 3 * 2048
    assert row.rate == expected / 3 / spikes.numel()


def test_no_tensor_is_kept_for_a_batch():
    def live():
        gc.collect()
        return sum(x.numel() for x in gc.get_objects() if issubclass(type(x), torch.Tensor))

    model, x = small("fsnn18"), torch.randn(2, 3, 16, 16)
    with torch.no_grad(), ExactCounter(model) as counter:
        model(x)
        after_one = live()
        for _ in range(5):
            model(x)
        assert live() == after_one
    assert counter.images == 12


def test_frames_and_images_count_by_image():
    model = create_model("fsnn18", stem="cifar", width=4, T=3, num_classes=5)
    x = torch.randn(2, 3, 16, 16)
    set_norms(model, x)
    still, moving = run_exact(model, x), run_exact(model, x.expand(3, -1, -1, -1, -1))
    assert moving["conv1"].mac == 3 * still["conv1"].mac  # every frame passes the stem
    assert moving["layer2.0.conv1.0"].ac == still["layer2.0.conv1.0"].ac > 0


def test_a_batch_norm_after_no_convolution_counts():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.folded, self.again = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False)

        def forward(self, x):
            return self.again(self.folded(self.conv(x)).relu())

    rows = run_exact(Network(), torch.randn(2, 3, 4, 4))
    assert (rows["folded"].mac, rows["folded"].norm_mac) == (0, 2 * 2 * 16)
    assert (rows["again"].mac, rows["again"].norm_mac) == (2 * 16, 0)


def test_two_streams_through_one_head_are_two_rows():
    model = create_model("dsnn18", stem="cifar", width=4, T=2, num_classes=5)
    x = torch.randn(2, 3, 16, 16)
    set_norms(model, x)
    rows = run_exact(model, x)
    assert (rows["avgpool"].spikes, rows["avgpool (call 2)"].spikes) == (True, False)
    assert rows["fc"].mac == rows["fc (call 2)"].mac == 32 * 5


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.ConvTranspose2d(4, 4, 3), r"layer layer \(ConvTranspose2d\) has weights"),
        (nn.GroupNorm(2, 4), r"layer layer \(GroupNorm\) has weights"),
        (nn.Sequential(nn.MultiheadAttention(4, 1)), r"layer layer\.0 \(MultiheadAttention\) has weights"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "layer layer pads with padding_mode='circular'"),
    ],
    ids=["transposed", "group norm", "attention", "circular"],
)
def test_a_layer_that_cannot_be_counted_is_named(layer, message):
    with pytest.raises(UserError, match=message) as error:
        ExactCounter(Spikes(1, layer))
    assert "\n" not in str(error.value)


def test_layers_that_never_ran_or_are_unknown_are_noted():
    model = Spikes(1, nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU()))
    model.forgotten = nn.Conv2d(1, 1, 1)
    (report,) = count([Network("net", model)], [(torch.randn(1, 3, 4, 4), torch.zeros(1))], syops=False)
    assert report.notes == [
        "layer forgotten never ran",
        "layer layer.1 (GELU) is of an unknown kind without weights: not counted",
    ]


def small(name="dsnn18", **options):
    torch.manual_seed(0)
    stem = {"stem": "cifar"} if "stem" in model_options(name) else {}
    model = create_model(name, **{"num_classes": 5, "T": 2, "width": 8, **stem, **options})
    set_norms(model, random_inputs(model, 4, 16))
    return model


def loader(frames=False, images=5):
    x = torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(TensorDataset(x, torch.zeros(images)), batch_size=3)
    return [(x.expand(4, -1, -1, -1, -1), y) for x, y in batches] if frames else batches


def event_loader():
    """Two batches as those of `loader(frames=True)`: T = 4, of 3 and of 2 samples."""
    counts = torch.poisson(torch.full((4, 5, 2, 16, 16), 0.4), generator=torch.Generator().manual_seed(0))
    return [(x, torch.zeros(x.shape[1])) for x in counts.split(3, 1)]


EVENT_NETS = ["dsnn_7b", "dsnn_wide7b", "sew_7b", "spiking_wide7b", "plain_7b"]
CASES = [*itertools.product(["dsnn18", "dsnn50", "sew_resnet18", "spiking_resnet18"], [False, True])]


@pytest.mark.parametrize(("name", "frames"), [*CASES, *((name, True) for name in EVENT_NETS)])
def test_the_reasons_sum_to_the_whole_difference(name, frames):
    (report,) = count([Network(name, small(name))], event_loader() if name in EVENT_NETS else loader(frames))
    assert report.syops.inputs == (8 if frames else 5)
    assert sum(d.ac for d in report.differences) == pytest.approx(report.syops.folded.ac - report.totals.ac, abs=10)
    assert sum(d.mac for d in report.differences) == pytest.approx(report.syops.folded.mac - report.totals.mac, abs=10)
    assert any("divides by the input's first dimension" in d.reason for d in report.differences) == frames


def test_the_report_is_saved_whole(tmp_path, capsys):
    model = small(width=64)
    model.train()
    reports = write_report(
        model,
        loader(),
        tmp_path / "new",
        detached=detach_aap(model),
        ann=plain_resnet(model),
        data="<b>data & more</b>",
    )
    assert model.training
    assert [report.title for report in reports] == ["dsnn18 OR, AAP kept", "dsnn18 OR, AAP detached", "ANN ResNet-18"]
    saved = json.loads((tmp_path / "new/synops.json").read_text())
    rows = list(csv.DictReader((tmp_path / "new/synops.csv").open()))
    page = (tmp_path / "new/synops.html").read_text()
    for report, network in zip(reports, saved["networks"], strict=True):
        assert network["totals"]["ac"] == report.totals.ac > 0
        energy = [float(row["energy_mj"]) for row in rows if row["network"] == report.title]
        assert sum(energy) == pytest.approx(network["energy_mj"]) == pytest.approx(report.energy_mj)
        assert report.title in page
    assert reports[0].totals.mac > reports[1].totals.mac
    assert reports[1].part("body").mac == 0
    assert "&lt;b&gt;data &amp; more&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "syops minus exact" in capsys.readouterr().out


def test_of_frames_the_plain_network_sees_their_mean(tmp_path):
    model = small(width=64)
    spiking, plain = write_report(model, loader(frames=True), tmp_path, ann=plain_resnet(model), syops=False)
    assert spiking.title == "dsnn18 OR"
    assert (spiking.images, plain.images) == (5, 5)
    assert spiking.part("stem").mac == 4 * plain.part("stem").mac  # four frames, one image


def test_networks_without_a_plain_counterpart_say_so(tmp_path, capsys):
    model = small("dsnn_7b")
    assert plain_resnet(model) is None
    kept, detached = write_report(model, event_loader(), tmp_path, detached=detach_aap(model), ann=plain_resnet(model))
    assert (kept.title, kept.images, detached.images) == ("dsnn_7b OR, AAP kept", 5, 5)
    assert detached.part("body").mac == 0 < kept.part("pathway").mac
    stem = next(row for row in kept.layers if row.part == "stem")
    events = sum(x.sum().item() for x, _ in event_loader())
    assert (stem.mac, stem.event_ac) == (4 * 2 * 8 * 16 * 16, events * 8 / 5)
    notes = [f"{row.stem_in_words()}" for row in detached.layers if row.part == "stem"]
    assert detached.notes == notes
    assert kept.notes == [*notes, "no ANN beside it: there is no plain network of this shape to compare with"]
    printed, page = capsys.readouterr().out, (tmp_path / "synops.html").read_text()
    assert all(note in printed and note in page for note in kept.notes)
    saved = json.loads((tmp_path / "synops.json").read_text())["networks"]
    assert saved[0]["layers"][0]["event_ac"] == stem.event_ac
    assert all(row.kind != "join none" for row in count([Network("p", small("plain_7b"))], event_loader())[0].layers)


def test_bad_data_is_refused():
    with pytest.raises(UserError, match="the data set is empty"):
        count([Network("net", small())], [])
    with pytest.raises(UserError, match="has 2 images and 4 targets: give images"):
        count([Network("net", small())], [(torch.randn(4, 2, 3, 16, 16), torch.zeros(4))])


def test_the_worked_examples_of_the_documentation_hold():
    failures, examples = doctest.testfile(str(ROOT / "docs/ENERGY.md"), module_relative=False)
    assert examples > 15
    assert failures == 0


# --- the command ---

OPTIONS = ["--model", "dsnn18", "--T", "2", "--num-classes", "5", "--option", "stem=cifar", "--option", "width=8"]


@pytest.fixture
def command(capsys):
    """Runs the command here; (exit status, standard error), standard error without warnings."""

    def run(*arguments):
        status = run_command(lambda: main([str(argument) for argument in arguments]))
        return status, "".join(
            line for line in capsys.readouterr().err.splitlines(keepends=True) if not line.startswith("warning: ")
        )

    return run


def save_checkpoint(path, model):
    content = {"format": {"name": "full-spike-aap", "version": 1}, "config": model.config, "model": model.state_dict()}
    torch.save(content, path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), (200, 30, 90)).save(tmp_path / "val" / name / "1.png")
    return tmp_path


def test_the_command_counts_a_checkpoint_on_a_data_set(command, tmp_path, folder):
    """What the command leaves out, the checkpoint's config says."""
    path = save_checkpoint(tmp_path / "dsnn18.pth", small())
    arguments = ["--checkpoint", path, "--data", folder, "--size", 16, "--output", tmp_path / "out"]
    assert command("--model", "dsnn18", *arguments) == (0, "")
    saved = json.loads((tmp_path / "out/synops.json").read_text())
    assert saved["rates_are_real"]
    assert [network["images"] for network in saved["networks"]] == [2, 2, 2]
    plain = create_model("resnet18", width=8, stem="cifar", num_classes=5)
    with FlopCounterMode(display=False) as flops:
        plain(torch.zeros(1, 3, 16, 16))
    assert saved["networks"][2]["network"] == "ANN resnet18"
    assert saved["networks"][2]["totals"]["mac"] == flops.get_total_flops() / 2


@pytest.mark.parametrize(
    ("data_set", "options", "side"),
    [("cifar", [], 32), ("imagenet", [], 224), ("cifar", ["--data-option", "image_size=24"], 24)],
)
def test_images_are_read_as_the_data_set_of_the_checkpoint_reads_them(
    command, tmp_path, folder, data_set, options, side
):
    model = small()
    content = {"format": {"name": "full-spike-aap", "version": 1}, "config": model.config, "model": model.state_dict()}
    torch.save({**content, "data_set": data_set}, tmp_path / "named.pth")
    arguments = ["--model", "dsnn18", "--checkpoint", tmp_path / "named.pth", "--images", 1, "--no-syops", *options]
    arguments += ["--data", folder, "--output", tmp_path / "out"]
    assert command(*arguments) == (0, "")
    saved = json.loads((tmp_path / "out/synops.json").read_text())
    assert saved["networks"][0]["parts"]["stem"]["mac"] == 8 * 3 * 3 * 3 * side**2
    status, error = command(*arguments, "--size", 16)
    assert status == 2
    assert f"--size 16 is not used, since images are read as those of {data_set}" in error
    (folder / "val").rename(folder / "test")
    told = ["--model", "fsnn18", "--option", "width=8", "--data", folder, "--images", 2, "--no-syops"]
    assert command(*told, "--data-set", data_set, *options, "--output", tmp_path / "told") == (0, "")
    (told,) = json.loads((tmp_path / "told/synops.json").read_text())["networks"][:1]
    assert told["parts"]["stem"]["mac"] == 8 * 3 * 7 * 7 * ((side + 1) // 2) ** 2


def test_without_data_the_command_counts_random_event_frames(command, tmp_path):
    arguments = ["--model", "dsnn_wide7b", "--option", "width=4", "--T", 3, "--size", 16, "--batch-size", 1]
    assert command(*arguments, "--output", tmp_path) == (0, "")
    saved = json.loads((tmp_path / "synops.json").read_text())
    assert saved["data"] == "random frames of event counts, random weights"
    assert [network["images"] for network in saved["networks"]] == [2, 2]
    assert saved["networks"][0]["parts"]["stem"]["mac"] == 3 * 2 * 4 * 16 * 16


def test_without_data_the_command_warns(tmp_path):
    arguments = [*OPTIONS, "--no-syops", "--size", "16", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "utils.synops", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.startswith("warning: firing rates are not real")
    assert "dsnn18 OR, AAP detached" in done.stdout
    assert "Firing rates are not real" in (tmp_path / "synops.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "dsnn19"], 2, "model='dsnn19' is unknown: did you mean dsnn18"),
        ([], 2, "the following arguments are required: --model"),
        ([*OPTIONS, "--batch-size", "0"], 2, "--batch-size 0 is out of range"),
        ([*OPTIONS, "--option", "width"], 2, "--option width is not of the form NAME=VALUE"),
        (
            [*OPTIONS, "--option", "width=wide"],
            2,
            "an option of dsnn18 is of the wrong type or out of range: T=2, num_classes=5, ",
        ),
        ([*OPTIONS, "--factory", "no_such"], 2, "--factory no_such: there is no module named no_such"),
        ([*OPTIONS, "--factory", "json"], 2, "--factory json has no create_model"),
        ([*OPTIONS, "--device", "abacus"], 2, "--device abacus is unknown"),
        ([*OPTIONS, "--mac-pj", "-1"], 2, "--mac-pj -1.0 is out of range"),
        ([*OPTIONS, "--checkpoint", "none.pth"], 1, "there is no checkpoint none.pth"),
        ([*OPTIONS, "--checkpoint", ROOT / "setup.py"], 1, f"{ROOT}/setup.py is damaged or no checkpoint"),
        ([*OPTIONS, "--data", "none"], 1, "there is no folder none"),
        ([*OPTIONS, "--T", "1", "--images", "1", "--size", "8"], 1, "Expected more than 1 value per channel"),
        ([*OPTIONS, "--option", "in_channels=2", "--data", "docs"], 2, "--data holds images of 3 channels, not 2"),
        ([*OPTIONS, "--data", ROOT / "docs"], 1, f"Couldn't find any class folder in {ROOT}/docs"),
    ],
)
def test_bad_input_is_one_line(command, tmp_path, arguments, status, message):
    found, error = command(*arguments, "--output", tmp_path)
    assert found == status
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_checkpoints_of_another_model_are_refused(command, tmp_path):
    ours = save_checkpoint(tmp_path / "ours.pth", small(T=3))
    status, error = command(*OPTIONS, "--checkpoint", ours)
    assert status == 2
    assert error == f"error: {ours} was saved from another network (T=3 instead of 2): give the same options as then\n"
    status, error = command(*[option.replace("dsnn", "fsnn") for option in OPTIONS], "--checkpoint", ours)
    assert status == 2
    assert "model=dsnn18 instead of fsnn18" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"conv1.weight": torch.zeros(1)}}, r"does not fit dsnn18 \(missing: "),
        ({"model": None}, "holds no weights"),
        ({"model": {"fc.bias": 3}, "args": argparse.Namespace(T=4)}, "holds no weights"),
        ([torch.zeros(1)], "holds a list, not a checkpoint"),
        (torch.zeros(1), "holds a Tensor, not a checkpoint"),
        ({"model": Path("x")}, r"holds pathlib[\w.]*PosixPath, which is not plain data"),
    ],
    ids=["too few", "nothing", "no tensor", "list", "tensor", "objects"],
)
def test_files_that_do_not_fit_are_refused(command, tmp_path, content, message):
    torch.save(content, tmp_path / "file.pth")
    status, error = command(*OPTIONS, "--checkpoint", tmp_path / "file.pth")
    assert status == 1
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_a_cut_off_checkpoint_is_refused(command, tmp_path):
    path = save_checkpoint(tmp_path / "cut.pth", small())
    path.write_bytes(path.read_bytes()[:5000])
    status, error = command(*OPTIONS, "--checkpoint", path)
    assert (status, error.count("\n")) == (1, 1)
    assert error.startswith(f"error: {path} is damaged")


def test_a_published_checkpoint_loads(tmp_path):
    model = small()
    nested = {"model": {f"module.{name}": value for name, value in to_published(model).items()}}
    torch.save({**nested, "args": argparse.Namespace(T=2), "epoch": 3}, tmp_path / "file.pth")
    loaded = small(zero_init_residual=True)
    set_weights(tmp_path / "file.pth", load(tmp_path / "file.pth"), loaded, load_published)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_a_network_with_an_unknown_layer_is_refused_by_the_command(command, tmp_path, monkeypatch):
    (tmp_path / "other_factory.py").write_text(
        "from torch import nn\n"
        "def create_model(model, **options): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))\n"
        "def list_models(): return ['net']\n"
        "load_published = detach_aap = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    status, error = command("--model", "net", "--factory", "other_factory", "--size", 8, "--output", tmp_path)
    assert status == 1
    assert error.startswith("error: layer 1 (GroupNorm) has weights and is of a kind that cannot be counted")


def test_a_join_that_no_hook_can_see_is_refused():
    """Networks of others may keep theirs as a plain object; its operations would be missing in silence."""
    model = create_model("fsnn18", num_classes=5, width=4)
    block = model.blocks()[0]
    del block.join
    object.__setattr__(block, "join", types.SimpleNamespace(name="OR"))
    with pytest.raises(UserError, match=r"the join of block layer1\.0 is no module, so it cannot be counted"):
        ExactCounter(model)
