"""What a network returns: one stream or both, of all time steps or of each, and where it may stop."""

import pytest
import torch

from full_spike.losses import early_exit
from full_spike.models import create_model, detach_aap, returning
from support.networks import ONE_OF_EACH, images, lively, small


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_dual_network_returns_the_readout_that_is_asked_for(name):
    model = lively(small(name)).eval()
    x = images(model)
    with torch.no_grad():
        trunk, pathway = model(x)
        expected = {"fsnn": trunk, "aap": pathway, "sum": trunk + pathway}
        for model.readout, logits in expected.items():
            assert torch.equal(model(x), logits)
    assert len(model.train()(x)) == 2
    assert create_model(**model.config).readout == "fsnn"
    model.eval().readout = "mean"
    with pytest.raises(ValueError, match="readout='mean' is unknown: choose one of fsnn, aap, sum, both"):
        model(x)


def test_the_pathway_is_not_computed_where_nobody_reads_it():
    model = small("dsnn18").eval()
    model.aap.register_forward_hook(lambda *_: pytest.fail("the pathway ran"))
    model.readout = "fsnn"
    x = images(model)
    assert torch.equal(model(x), detach_aap(model)(x))


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "resnet18"])
@pytest.mark.parametrize("training", [False, True])
def test_the_mean_of_the_logits_of_each_step_is_the_output(name, training):
    model = lively(small(name), mean=1.0).double().train(training)
    x = torch.randn(2, 3, model.in_channels, 32, 32, dtype=torch.float64)  # two frames
    with torch.no_grad():
        whole = model(x)
        with returning(model, by_step=True):
            steps = model(x)
    whole, steps = (outputs if isinstance(outputs, tuple) else (outputs,) for outputs in (whole, steps))
    for logits, each in zip(whole, steps, strict=True):
        assert each.shape == (2, 3, 5)
        torch.testing.assert_close(each.mean(0), logits, rtol=1e-12, atol=1e-12)
        assert not torch.equal(each[0], each[1])


def test_what_was_asked_for_ends_with_the_block():
    model = create_model("dsnn18", width=4, stem="cifar")
    with returning(model, readout="sum"):
        assert model.readout == "sum"
    with pytest.raises(ZeroDivisionError), returning(model, readout="sum"):
        1 / 0  # noqa: B018
    assert (model.readout, "readout" in vars(model)) == ("fsnn", False)
    foreign = torch.nn.Linear(1, 1)
    with returning(foreign, readout="both"):
        assert not hasattr(foreign, "readout")


def test_early_exit_one_sample_after_the_other():
    torch.manual_seed(0)
    logits = torch.randn(5, 64, 3, dtype=torch.float64) * 2
    for confidence in (0.0, 0.6, 0.9, 1.1):
        means, steps = early_exit(logits, confidence)
        for n in range(64):
            for t in range(1, 6):
                mean = sum(logits[i, n] for i in range(t)) / t
                if mean.softmax(0).max() >= confidence:
                    break
            assert steps[n] == t
            torch.testing.assert_close(means[n], mean, rtol=1e-12, atol=1e-12)
        assert {0.0: steps.max() == 1, 1.1: steps.min() == 5}.get(confidence, len(steps.unique()) > 2)
