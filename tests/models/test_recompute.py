"""Training that keeps less for the backward pass must be the same training."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from full_spike.models import create_model, save_memory, use_fused


def kept(step):
    """Bytes that a forward pass keeps for the backward pass, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return step(), sum(storages.values())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dsnn18", {"T": 3}),
        ("dsnn50", {"T": 2}),
        ("dsnn_wide7b", {}),
        ("ds_spikformer_4_384", {"heads": 2, "depth": 2, "T": 2}),
    ],
)
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


@pytest.mark.slow
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


@pytest.mark.parametrize("fused", [False, True])
def test_synchronised_batch_norms_are_recomputed_as_well(fused):
    """nn.SyncBatchNorm itself, in a single process: it counts batches, and refuses to run without its counter."""
    torch.manual_seed(0)
    model = create_model("dsnn18", width=4, num_classes=5, T=2, stem="cifar")
    model = use_fused(nn.SyncBatchNorm.convert_sync_batchnorm(model), fused)
    x = torch.randn(2, 3, 16, 16)
    results = []
    for on in (False, True):
        network = save_memory(copy.deepcopy(model), on)
        for _ in range(2):
            sum(logits.square().sum() for logits in network(x)).backward()
        assert network.bn1.num_batches_tracked == 2
        assert network.bn1.momentum == 0.1
        results.append([*(p.grad for p in network.parameters()), *network.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# Trains two steps on this process's own images and prints a digest of gradients, weights and buffers.
SYNCHRONISED = """
import hashlib, os, sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from full_spike.models import create_model, save_memory

rank, file, saving = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "saving"
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)

class Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return Sum.forward(None, gradient.contiguous())

class Synchronised(_BatchNorm):  # torch's runs on accelerators alone; what it does, and what it insists on
    def _check_input_dim(self, x):
        assert x.ndim == 4

    def forward(self, x):
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        count = 2 * x.numel() / x.shape[1]
        mean = Sum.apply(x.sum((0, 2, 3))) / count
        variance = Sum.apply((x - mean[:, None, None]).square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]

torch.manual_seed(0)
model = create_model("fsnn18", width=4, num_classes=5, T=2, stem="cifar")
for name, norm in list(model.named_modules()):
    if isinstance(norm, nn.BatchNorm2d):
        model.set_submodule(name, Synchronised(norm.num_features))
model = save_memory(model, saving)
parallel = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(2):
    torch.manual_seed(10 * step + rank)
    optimizer.zero_grad()
    parallel(torch.randn(2, 3, 16, 16)).square().sum().backward()
    optimizer.step()
digest = hashlib.sha256()
for value in (*(p.grad for p in model.parameters()), *model.state_dict().values()):
    digest.update(value.contiguous().numpy().tobytes())
print(digest.hexdigest(), model.bn1.num_batches_tracked.item(), flush=True)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # at times the group's threads, which the wrapped network still holds, abort the interpreter's shutdown
"""


@pytest.mark.slow
def test_statistics_of_several_processes_are_recomputed(tmp_path):
    """The norms' collective operations run again within the backward pass, between those of gradients."""
    printed = []
    for mode in ("keeping", "saving"):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", SYNCHRONISED, str(rank), str(tmp_path / mode), mode],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        outputs = [process.communicate() for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        printed += [out for out, _ in outputs]
    assert len(set(printed)) == 1
    assert printed[0].endswith(" 2\n")


def test_only_networks_of_ours():
    with pytest.raises(ValueError, match="Linear has no blocks"):
        save_memory(nn.Linear(2, 2))
