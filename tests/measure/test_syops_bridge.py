"""The package syops, through the bridge: the numbers that it gave beside the spikingjelly that it was written for."""

import json
import sys

import pytest
import torch
from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from full_spike.models import create_model, load_published
from full_spike.utils.measure.syops import SyopsCounter, hooks_for, load_syops
from support.fill import GOLDENS, images, published_state

ROWS = json.loads((GOLDENS / "golden_syops_0.0.5.json").read_text())


def build(row):
    options = {} if row["connect_f"] is None else {"connect_f": row["connect_f"]}
    model = create_model(row["model"], num_classes=row["num_classes"], T=row["T"], **options)
    load_published(model, published_state(row["model"]))
    return model.eval()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['ignore_batch_norm']}")
def test_reproduces_every_golden(row):
    model = build(row)
    with torch.no_grad(), SyopsCounter(model) as counter:
        model(images().float())
    count = counter.count(batch_norm=not row["ignore_batch_norm"])
    assert count.total == pytest.approx(row["total_ops"], rel=1e-6)
    assert count.ac == pytest.approx(row["acs"], rel=1e-6)
    assert count.mac == pytest.approx(row["macs"], rel=1e-6)
    assert (0.9 * count.ac + 4.6 * count.mac) * 1e-9 == pytest.approx(row["energy_mJ"], rel=1e-6)
    # the released dual-stream networks hold a second head, unused: as many parameters as with a separate one
    if row["model"].startswith("dsnn"):
        model = create_model(row["model"], num_classes=row["num_classes"], aux_head="separate")
    assert sum(p.numel() for p in model.parameters()) == row["params"]


def test_driving_the_engine_equals_the_packages_own_function(monkeypatch):
    """Two batches of different sizes, through `get_model_complexity_info` and through the counter."""
    # syops' progress bar keeps the stderr that there was at its import, which may have been another test's
    monkeypatch.setattr("progress.Infinite.file", sys.stderr)
    model = create_model("dsnn18", num_classes=5, T=2, stem="cifar", width=4).eval()
    model.readout = "both"
    nn.init.constant_(model.bn1.bias, 0.7)
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x, torch.zeros(5)), batch_size=3)
    theirs, _ = load_syops().get_model_complexity_info(
        model,
        (3, 16, 16),
        loader,
        as_strings=False,
        print_per_layer_stat=False,
        custom_modules_hooks=hooks_for(model),
    )
    with torch.no_grad(), SyopsCounter(model) as counter:
        for batch, _ in loader:
            model(batch)
    count = counter.count(batch_norm=True)
    assert count.ac > 0
    assert [count.total, count.ac, count.mac] == pytest.approx(theirs[:3].tolist(), rel=1e-12)


def test_nothing_is_left_behind():
    model = create_model("dsnn18", num_classes=5, T=2, stem="cifar", width=4).eval()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    with torch.no_grad(), SyopsCounter(model):
        model(torch.randn(1, 3, 16, 16))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in model.modules())
    assert not hasattr(sj_neuron, "MultiStepIFNode")
