"""A network fed one time step at a time, against the same network fed the whole sequence."""

import pytest
import torch
from spikingjelly.activation_based import neuron as stock

from full_spike import Stream, create_model, detach_aap, quantize
from full_spike.losses import early_exit
from full_spike.models import returning
from support.networks import lively, small


def half_leaky():
    return stock.LIFNode(tau=1.5, v_reset=None, decay_input=False)


@pytest.mark.parametrize(
    ("name", "options", "readout"),
    [
        ("fsnn18", {"neuron": "PLIF"}, "fsnn"),
        ("dsnn18", {"neuron": "CLIF"}, "sum"),
        ("dsnn_wide7b", {"neuron": half_leaky}, "aap"),
        ("fs_spikformer_4_384", {}, "fsnn"),
    ],
)
@torch.no_grad()
def test_each_step_gives_the_logits_of_the_sequence_so_far(name, options, readout):
    model = lively(small(name, **options), mean=1.0).double().eval()
    model.readout = readout
    frames = torch.randn(4, 2, model.in_channels, 32, 32, dtype=torch.float64)
    stream = Stream(model)
    for t in range(1, 5):
        so_far = model(frames[:t])  # the network may be used otherwise meanwhile
        torch.testing.assert_close(stream.step(frames[t - 1]), so_far, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(so_far, model(frames[:1]))
    with pytest.raises(ValueError, match="3 samples cannot go on where 2 were"):
        stream.step(torch.zeros(3, *frames.shape[2:], dtype=torch.float64))
    stream.reset()
    assert torch.equal(stream.step(frames[0]), model(frames[:1]))


def test_what_no_stream_can_be_of_is_one_line():
    model = create_model("dsnn18", width=4)
    with pytest.raises(ValueError, match=r"call eval\(\) on the network first"):
        Stream(model)
    model.eval().readout = "both"
    with pytest.raises(ValueError, match="a stream has one readout"):
        Stream(model)


@torch.no_grad()
def test_it_stops_where_every_sample_is_sure():
    model = detach_aap(lively(small("dsnn18", T=6))).eval()
    x = torch.randn(5, 3, 32, 32)
    with returning(model, by_step=True):
        each = model(x)
    confidence = float(each[:2].mean(0).softmax(1).amax(1).median())  # so half of them after two steps
    logits, steps = early_exit(each, confidence)
    assert len(steps.unique()) > 1
    stream = Stream(model)
    for sample, expected, step in zip(x, logits, steps, strict=True):
        torch.testing.assert_close(stream.until_sure(sample[None], confidence)[0], expected)
        assert stream.steps == step
    stream.until_sure(x, confidence)
    assert stream.steps == steps.max()
    stream.until_sure(x, 1.1)
    assert stream.steps == 6
    whole = Stream(quantize(model, [x]))
    ours = whole.until_sure(x, 0.9)  # in units of the logits' scale, summed over time
    scale = whole.network.graph.logit_scale * 6 / whole.steps
    assert (ours * scale).softmax(1).amax(1).min() >= 0.9 or whole.steps == 6
    assert 1 <= whole.steps <= 6
