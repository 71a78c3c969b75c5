"""The exact counter against brute force, published figures and torch's own."""

import itertools

import pytest
import torch
import torchvision
from spikingjelly.activation_based.neuron import IFNode
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from full_spike.models import create_model, detach_aap
from full_spike.models.connect import Join, JoinLayer, get_join
from full_spike.models.layers import halving_pool, over_time
from full_spike.models.neuron import neuron_factory
from full_spike.models.resnet import BasicBlock, Bottleneck
from full_spike.utils.errors import UserError
from full_spike.utils.measure.counter import ExactCounter, is_binary, is_whole
from full_spike.utils.measure.energy import EnergyModel, Totals
from full_spike.utils.measure.hooks import hooked
from full_spike.utils.measure.layers import reach
from full_spike.utils.measure.synops import plain_resnet
from full_spike.utils.trained import random_inputs, set_norms


def run_exact(model, *batches):
    with torch.no_grad(), ExactCounter(model.eval()) as counter:
        for batch in batches:
            model(batch)
    return {row.name: row for row in counter.rows()}


def seen_by(model, kinds, *batches):
    """name -> every (input, output) of the layers of these kinds."""
    seen = {}

    def watch(name, module):
        return module.register_forward_hook(lambda _m, args, out: seen.setdefault(name, []).append((args[0], out)))

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    with torch.no_grad(), hooked(watch(*layer) for layer in layers):
        for batch in batches:
            model.eval()(batch)
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
    seen = seen_by(model, nn.Conv2d, *batches)["layer"]
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
    seen = seen_by(model, nn.Conv2d, x)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert len(layers) == (5 if block is Bottleneck else 4)  # with the stem and the shortcut
    for name, layer in layers.items():
        if name != "stem":
            assert rows[name].ac * 2 == brute_force(layer, *seen[name][0]) > 0, name
    output = model(x)
    assert rows["block.join"].logic * 2 == output.numel()
    assert rows["block.sn1"].updates * 2 == seen["block.conv1.0"][0][1].numel()
    assert rows["stem"].mac == 4 * 6 * 6 * 27


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_counts_do_not_depend_on_precision(dtype):
    """Half precision cannot hold the counts: 257 spikes are not a bfloat16 number."""
    torch.manual_seed(0)
    model = Spikes(2, nn.Conv2d(4, 3, 1, bias=False)).to(dtype)
    x = torch.randn(2, 3, 33, 33).to(dtype)
    ((spikes, _),) = seen_by(model, nn.Conv2d, x)["layer"]
    expected = spikes.double().sum().item() * 3
    row = run_exact(model, x)["layer"]
    assert row.ac * 2 == expected > 3 * 2048
    assert row.rate == expected / 3 / spikes.numel()


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


def test_linear_layers_pool_and_heads():
    """Of a linear layer 1s reach all outputs; two streams through one head are two rows."""
    stem, first, hidden, last = nn.Linear(5, 6), IFNode(), nn.Linear(6, 7), IFNode()
    model, x = nn.Sequential(stem, first, hidden, last, nn.Linear(7, 3)), torch.ones(4, 5)
    nn.init.ones_(stem.weight)
    rows = run_exact(model, x)
    assert rows["2"].ac == 6 * 7
    assert (rows["0"].mac, rows["0"].part, rows["4"].part) == (30, "stem", "head")
    model = create_model("dsnn18", stem="cifar", width=4, T=2, num_classes=5)
    x = torch.randn(2, 3, 16, 16)
    set_norms(model, x)
    rows = run_exact(model, x)
    assert (rows["avgpool"].spikes, rows["avgpool (call 2)"].spikes) == (True, False)
    assert rows["fc"].mac == rows["fc (call 2)"].mac == 32 * 5


def test_what_is_binary_and_what_is_whole():
    for value in (0.5, -1.0, float("nan"), float("inf"), 1 - 2**-24):
        assert not is_binary(torch.tensor([0.0, 1.0, value]))
        assert not is_whole(torch.tensor([0.0, 3.0, value]))
    assert is_binary(torch.tensor([0.0, 1.0, -0.0]))
    assert not is_binary(torch.tensor([0.0, 1.0, 2.0]))
    assert is_whole(torch.tensor([0.0, 1.0, 255.0]))


def test_a_join_of_unknown_cost_is_refused():
    model = create_model("fsnn18", width=4)
    model.layer1[0].join = JoinLayer(Join("SOFT", "spikes", "multiplication", lambda **_: None))
    with pytest.raises(UserError, match=r"^layer1\.0\.join joins by 'SOFT', whose cost 'multiplication' is not known"):
        ExactCounter(model)
