"""What is peculiar to 7B-Net and Wide-7B-Net: pooling between blocks, and how the pathway crosses it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from full_spike.models import create_model, detach_aap, from_published, load_published, to_published
from full_spike.models.layers import halving_pool
from support.fill import frames, published_state


def small(name, **options):
    torch.manual_seed(0)
    model = create_model(name, **{"num_classes": 5, "T": 2, "width": 4, **options})
    for module in model.modules():  # norms with which all of it fires
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 1.0, 0.5)
            nn.init.uniform_(module.running_var, 0.2, 0.6)
    model.readout = "both"
    return model.eval()


def counts(*shape):
    return torch.poisson(torch.full(shape, 0.4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", ["7b", "wide7b"])
def test_published_sizes(layout):
    """Parameters of a block: two 3x3 convolutions, norms of two per channel, one w per neuron."""
    blocks = [32] * 7 if layout == "7b" else [64] * 4 + [128] * 3
    first, last, classes = blocks[0], blocks[-1], 11 if layout == "7b" else 10
    expected = sum(2 * (9 * c * c + 2 * c + 1) for c in blocks) + (2 + 2) * first + 1 + (last + 1) * classes
    expected += 0 if first == last else first * last + 2 * last + 1
    assert sum(p.numel() for p in create_model(f"fsnn_{layout}").parameters()) == expected


@pytest.mark.parametrize("size", [*range(1, 10), 100, 128])
def test_pooling_halves_as_a_strided_convolution_does(size):
    """So that the pathway's projection fits at any size; on powers of two it is the published pooling."""
    x = (torch.rand(1, 2, 3, size, size + 1) < 0.3).float()
    pooled = halving_pool()(x)
    assert pooled.shape[3:] == nn.Conv2d(3, 3, 3, stride=2, padding=1)(x[0]).shape[2:]
    assert torch.equal(pooled[0, :, :, : size // 2], F.max_pool2d(x[0], 2, ceil_mode=True)[:, :, : size // 2])
    if size % 2 == 0:
        even = x[..., :size]
        assert torch.equal(halving_pool()(even)[0], F.max_pool2d(even[0], 2))


@pytest.mark.parametrize("name", ["dsnn_7b", "dsnn_wide7b"])
@pytest.mark.parametrize("aap_pool", ["projection", "max"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (37, 5), (1, 1)])
@torch.no_grad()
def test_any_input_size(name, aap_pool, height, width):
    model = small(name, aap_pool=aap_pool)
    for logits in model(counts(3, 2, 2, height, width)):
        assert logits.shape == (2, 5)
        assert logits.isfinite().all()


def projected(a, weights, prefix, strided):
    """P(a) for a [N, C, H, W] in evaluation mode, from the state dict alone."""
    if strided:
        a = F.conv2d(a, weights[f"{prefix}.depthwise.weight"], stride=2, padding=1, groups=a.shape[1])
    a = F.conv2d(a, weights[f"{prefix}.pointwise.0.weight"])
    norm = [weights[f"{prefix}.pointwise.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(a, *norm).relu()


@pytest.mark.parametrize("aap_pool", ["projection", "max"])
@pytest.mark.parametrize("name", ["dsnn_7b", "dsnn_wide7b"])
@torch.no_grad()
def test_the_pathway_by_hand(name, aap_pool):
    """a_0 = o_0, a_l = P_l(a_{l-1}) + s_l, and P once more in front of the head: with torch's functions alone."""
    model = small(name, aap_pool=aap_pool).double()
    seen = []
    model.blocks()[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for block in model.blocks():
        block.register_forward_hook(lambda _m, _i, out: seen.append(out[1]))
    x = counts(3, 2, 2, 40, 40).double()
    _, logits = model(x)
    first, *spikes = (s.flatten(0, 1) for s in seen)
    assert all(0 < s.mean() < 1 for s in spikes)
    weights, a = model.state_dict(), first + spikes[0]
    for block in range(1, 8):
        widens = name == "dsnn_wide7b" and block == 4
        prefix = f"aap.projections.{block}"
        if aap_pool == "projection":
            a = projected(a, weights, prefix, strided=True)
        else:
            a = F.max_pool2d(a, 2, ceil_mode=True)
            a = projected(a, weights, f"{prefix}.1", strided=False) if widens else a
        assert a.shape[1] == (8 if name == "dsnn_wide7b" and block >= 4 else 4)
        if block < 7:
            a = a + spikes[block]
    features = a.mean((2, 3)).unflatten(0, (3, 2)).mean(0)
    torch.testing.assert_close(F.linear(features, model.out.weight, model.out.bias), logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("aap_pool", ["projection", "max"])
def test_names_of_the_pathway_are_the_same_in_both_namings(aap_pool):
    model = small("dsnn_wide7b", aap_pool=aap_pool, aux_head="separate")
    published = to_published(model)
    assert {k for k in published if k.startswith("aap.")} == {
        k for k in model.state_dict() if k.startswith("aap.projections.")
    }
    again = from_published(model, published)
    assert {k: v.data_ptr() for k, v in again.items()} == {k: v.data_ptr() for k, v in model.state_dict().items()}
    assert any(k.startswith("aap.projections.") for k in again)


def test_the_trunk_of_a_dual_network_takes_published_weights():
    """Published weights of the SEW network in the detached trunk, nested as SEW-ResNet's event code saves them."""
    state = published_state("sew_wide7b")
    fsnn = detach_aap(create_model("dsnn_wide7b", connect_f="IAND", T=4)).double().eval()
    sew = create_model("sew_wide7b", connect_f="IAND", T=4).double().eval()
    load_published(fsnn, {"net": state, "epoch": 3})
    load_published(sew, state)
    x = frames(size=32)
    with torch.no_grad():
        assert torch.equal(fsnn(x), sew(x))
    assert set(to_published(fsnn)) == set(state)
