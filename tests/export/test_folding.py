"""Networks with folded batch norms against the ones they come from."""

import pytest
import torch
from torch import nn

from full_spike.models import create_model, detach_aap, fold_batchnorm, model_options


def network(name, dtype, **options):
    """A small network whose batch norms have statistics and weights of their own."""
    torch.manual_seed(0)
    known = model_options(name)
    small = {option: value for option, value in {"stem": "cifar", "heads": 2, "depth": 2}.items() if option in known}
    model = create_model(name, width=8, num_classes=10, T=3, **small, **options).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.7)
            if "heads" in known:  # LIF neurons take in half of a current
                nn.init.uniform_(module.bias, 0.7, 1.7)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    "name", ["dsnn18", "dsnn50", "spiking_resnet18", "dsnn_wide7b", "sew_7b", "ds_spikformer_4_384"]
)
@torch.no_grad()
def test_logits_stay(name, dtype, relative):
    model = network(name, dtype, **({"connect_f": "OR"} if name.startswith("ds") else {}))
    images = torch.randn(2, model.in_channels, 16, 16, dtype=dtype)
    for full in (model, detach_aap(model)) if name.startswith("ds") else (model,):
        folded = fold_batchnorm(full)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        outputs, expected = folded(images), full(images)
        for ours, theirs in zip(*(o if isinstance(o, tuple) else (o,) for o in (outputs, expected)), strict=True):
            assert theirs.std() > 0
            assert (ours - theirs).norm() <= relative * theirs.norm()


@torch.no_grad()
def test_synchronised_batch_norms_are_folded_as_well():
    model = network("dsnn18", torch.float64, connect_f="OR")
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = fold_batchnorm(model)(images)
    folded = fold_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(model))
    assert all(torch.equal(a, b) for a, b in zip(folded(images), expected, strict=True))


def test_one_convolution_by_hand():
    """gamma (w x - mean) / sqrt(var + eps) + beta for one weight and one pixel, in plain numbers."""
    model = network("sew_resnet18", torch.float64)
    layer, folded = model.layer1[0].conv1, fold_batchnorm(model).layer1[0].conv1
    weight, norm = layer[0].weight, layer[1]
    scale = (norm.weight[3] / (norm.running_var[3] + norm.eps) ** 0.5).item()
    assert folded[0].weight[3, 2, 1, 1].item() == pytest.approx(weight[3, 2, 1, 1].item() * scale, rel=1e-14)
    expected = norm.bias[3].item() - norm.running_mean[3].item() * scale
    assert folded[0].bias[3].item() == pytest.approx(expected, rel=1e-13)


def test_the_model_given_stays_and_a_folded_one_is_refused():
    model = network("sew_resnet18", torch.float32).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded = fold_batchnorm(model)
    assert (model.training, folded.training) == (True, False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="no batch norm to fold"):
        fold_batchnorm(folded)
