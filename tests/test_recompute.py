"""Training that keeps less for the backward pass must be the same training."""

import copy
import json

import pytest
import torch
from command import TINY, succeed
from torch import nn

from models import create_model, save_memory, use_fused


def kept(step):
    """Bytes that a forward pass keeps for the backward pass, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return step(), sum(storages.values())


@pytest.mark.parametrize(("name", "options"), [("dsnn18", {"T": 3}), ("dsnn50", {"T": 2}), ("dsnn_wide7b", {})])
def test_the_same_step_with_less_memory(name, options):
    torch.manual_seed(0)
    model = create_model(name, width=8, num_classes=5, **options)
    x = torch.randn(3, 2, 2, 32, 32).abs() if model.event_frames else torch.randn(2, 3, 64, 64)
    results = []
    for on in (False, True):
        network = save_memory(copy.deepcopy(model), on)
        outputs, size = kept(lambda network=network: network(x))
        sum(logits.square().sum() for logits in outputs).backward()
        results.append((outputs, [p.grad for p in network.parameters()], list(network.buffers()), size))
    (o, g, b, size), (o2, g2, b2, less) = results
    assert all(torch.equal(p, q) for p, q in zip((*o, *g, *b), (*o2, *g2, *b2), strict=True))
    assert less < 0.6 * size


def test_fused_layers_are_recomputed_as_well():
    torch.manual_seed(0)
    model = use_fused(create_model("fsnn18", width=4, num_classes=5, T=2))
    x = torch.randn(2, 3, 32, 32)
    results = []
    for on in (False, True):
        network = save_memory(copy.deepcopy(model), on)
        network(x).square().sum().backward()
        results.append([*(p.grad for p in network.parameters()), *network.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_only_networks_of_ours():
    with pytest.raises(ValueError, match="Linear has no blocks"):
        save_memory(nn.Linear(2, 2))


def test_the_training_flags(tmp_path):
    weights, losses = [], []
    for i, flags in enumerate(([], ["--memory-saving"], ["--memory-saving", "--channels-last"])):
        succeed("cifar.train", *TINY, "--epochs", 1, "--output-dir", tmp_path / str(i), *flags)
        (file,) = (tmp_path / str(i)).rglob("checkpoint_latest.pth")
        weights.append(torch.load(file, weights_only=True)["model"])
        losses.append(json.loads((file.parent / "metrics.jsonl").read_text())["train_loss"])
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert weights[2]["conv1.weight"].is_contiguous(memory_format=torch.channels_last)
    assert losses[2] == pytest.approx(losses[0], rel=0.01)


def test_fused_and_recomputed_runs_resume_exactly(tmp_path):
    flags = (*TINY, "--fused", "--memory-saving", "--checkpoint-every", 1)
    weights = []
    for name, pieces in (("whole", [2]), ("again", [2]), ("pieces", [1, 2])):
        for epochs in pieces:
            succeed("cifar.train", *flags, "--cos_lr_T", 2, "--epochs", epochs, "--output-dir", tmp_path / name,
                    "--resume", "auto")  # fmt: skip
        (file,) = (tmp_path / name).rglob("checkpoint_latest.pth")
        weights.append(torch.load(file, weights_only=True)["model"])
    assert all(torch.equal(weights[0][k], other[k]) for other in weights[1:] for k in other)
