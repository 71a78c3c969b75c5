"""Spikformer: attention by hand, its operations one by one, and spikingjelly's network of the same weights."""

import itertools

import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer as Theirs

from full_spike.models import CONNECT_FUNCTIONS, detach_aap, to_published
from full_spike.models.layers import SpikeMatmul
from full_spike.utils.measure.certificate import certify
from full_spike.utils.measure.counter import ExactCounter
from full_spike.utils.trained import random_loader
from support.networks import lively, small

NAME = "ds_spikformer_4_384"
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def spikes(*shape):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4).double()


def excited(model):
    return lively(model, 1.4)  # LIF neurons take in half of a current


def attention(products, **options):
    return small(NAME, products=products, **options).blocks()[1]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("products", "tokens"), [("qk", 4), ("kv", 4), ("auto", 4), ("auto", 2)])
def test_attention_head_by_head(products, tokens, layout):
    """Q K^T V of each head, the channels of which lie side by side, in plain loops over tokens and channels."""
    q, k, v = spikes(3, 2, 1, 16, tokens, 2).unbind()
    q, k, v = (x.flatten(0, 1).to(memory_format=layout).unflatten(0, (2, 1)) for x in (q, k, v))
    expected = torch.zeros_like(q)
    per_head, columns = 8, 2
    for t, head, i, j in itertools.product(range(2), range(2), range(2 * tokens), range(2 * tokens)):
        of_head = slice(head * per_head, (head + 1) * per_head)
        (row, column), (other_row, other_column) = divmod(i, columns), divmod(j, columns)
        overlap = (q[t, 0, of_head, row, column] * k[t, 0, of_head, other_row, other_column]).sum()
        expected[t, 0, of_head, row, column] += overlap * v[t, 0, of_head, other_row, other_column]
    assert torch.equal(attention(products).product(q, k, v), expected)


@pytest.mark.parametrize("products", ["qk", "kv"])
def test_additions_of_attention_one_by_one(products):
    """Each product element by element: a 1 of the first matrix meets an operand of the second, and that is an AC."""
    model = excited(small(NAME, products=products)).eval()
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, SpikeMatmul):
            module.register_forward_hook(lambda _m, pair, out, name=name: inputs.__setitem__(name, (*pair, out)))
    with torch.no_grad(), ExactCounter(model) as counter:
        model(IMAGES[:2])
    rows = {row.name: row for row in counter.rows()}
    assert len(inputs) == 4
    for name, (first, second, output) in inputs.items():
        result, additions = torch.zeros_like(output), 0
        batch = [range(n) for n in first.shape[:-2]]
        for index in itertools.product(*batch):
            for i, j in first[index].nonzero().tolist():
                assert first[index][i, j] == 1
                for m in range(second.shape[-1]):
                    result[index][i, m] += second[index][j, m]
                    additions += 1
        assert torch.equal(result, output)
        assert additions > 0
        assert (rows[name].kind, rows[name].part, rows[name].spikes) == ("matmul", "body", True)
        assert (rows[name].ac, rows[name].mac) == (additions / 2, 0)


def test_a_product_of_values_multiplies():
    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.product = SpikeMatmul()

        def forward(self, first, second):
            return self.product(first, second)

    model = Product()
    with ExactCounter(model) as counter:
        model(torch.rand(2, 3, 4, 5), torch.rand(2, 3, 5, 6))
    (row,) = counter.rows()
    assert (row.ac, row.mac) == (0, 3 * 4 * 5 * 6)


@pytest.mark.filterwarnings("ignore:connect_f=ADD")
@pytest.mark.parametrize("connect_f", sorted(CONNECT_FUNCTIONS))
def test_the_certificate(connect_f):
    """Of all layers, attention's products among them; the sum of two spikes is first read by the first block's Q."""
    model = detach_aap(excited(small(NAME, connect_f=connect_f)))
    result = certify(model, random_loader(IMAGES, 2))
    lines = result.lines()
    assert result.holds == (connect_f != "ADD")
    if connect_f == "ADD":
        assert lines[0].startswith("full-spike: no: block.0.attn.q_conv reads 2, which is no spike")
    else:
        convolutions = 3 + 1 + 2 * (4 + 2)
        assert lines[0] == f"full-spike: yes: only 0 and 1 enter {convolutions} weighted layers past the stem, 4 images"
        assert lines[1].startswith("4 products of matrices: one input is spikes, which say where the other is added: ")
        assert max(result.products.values()) > 1


def test_a_product_with_something_else_than_counts_fails_the_certificate():
    model = detach_aap(excited(small(NAME)))
    product = model.block[1]["attn"].product2
    product.register_forward_pre_hook(lambda _m, pair: (pair[0], pair[1] + 0.5), prepend=True)
    result = certify(model, random_loader(IMAGES, 2))
    assert result.lines()[0].startswith("full-spike: no: block.1.attn.product2 reads a second input that is no count")


def theirs_of(ours):
    """spikingjelly's network with our weights; it has Q, K and V in one layer, and no biases."""
    config = ours.config
    theirs = Theirs(
        T=config["T"], in_channels=3, img_size_h=16, img_size_w=16, patch_size=4, num_classes=config["num_classes"],
        embed_dims=config["width"], num_heads=config["heads"], depths=config["depth"],
    ).double()  # fmt: skip
    state = to_published(ours)
    prefixes = {f"patch_embed.stages.{i}.conv_bn.block": f"patch_embed.proj_%s{i or ''}" for i in range(4)}
    prefixes["patch_embed.positional_encoding.conv_bn.block"] = "patch_embed.rpe_%s"
    for i in range(config["depth"]):
        prefixes[f"blocks.{i}.attn.qkv_conv_bn"] = f"block.{i}.attn.[qkv]_%s"
        prefixes[f"blocks.{i}.attn.proj_conv_bn"] = f"block.{i}.attn.proj_%s"
        prefixes |= {f"blocks.{i}.mlp.fc{n}": f"block.{i}.mlp.fc{n}_%s" for n in (1, 2)}
    filled = {}
    for key, value in theirs.state_dict().items():
        prefix, place, name = key.rpartition(".")[0].rpartition(".")[0], key.split(".")[-2], key.split(".")[-1]
        if prefix not in prefixes:
            filled[key] = state[key]
            continue
        published = prefixes[prefix] % ("conv" if place == "0" else "bn") + f".{name}"
        parts = [published.replace("[qkv]", q) for q in "qkv"] if "[qkv]" in published else [published]
        together = torch.cat([state[p] for p in parts]) if value.ndim else state[parts[0]]
        filled[key] = together.reshape(value.shape)
    theirs.load_state_dict(filled)
    return theirs.eval()


def without_biases(T):
    """Convolutions without biases, as spikingjelly has them; neurons that fire often enough, but not always."""
    ours = excited(small("spikformer_8_512", T=T, patch=4)).double().eval()
    for module in ours.modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            torch.nn.init.zeros_(module.bias)
    return ours


def test_spikingjellys_network_gives_the_same_logits_at_one_time_step():
    """There all of it agrees: the largest current of a window fires if any of them does."""
    ours = without_biases(T=1)
    expected = theirs_of(ours)(IMAGES.double()).mean(0)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours(IMAGES.double()), expected, rtol=1e-9, atol=1e-12)


def test_spikingjellys_blocks_give_the_same_logits_over_time():
    """Its stages pool the current in front of the neuron, ours, as the release, the spikes: all after that agrees."""
    ours = without_biases(T=4)
    theirs = theirs_of(ours)
    seen = []
    ours.position.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    logits = ours(IMAGES.double())
    theirs.patch_embed.stages = torch.nn.Identity()
    expected = theirs(seen[0]).mean(0)
    assert 0.02 < seen[0].mean() < 0.9
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)
    functional.reset_net(theirs)
