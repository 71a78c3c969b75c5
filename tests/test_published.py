"""State dicts that are none, or hold what no network can use, are refused in one line and change nothing."""

import pytest
import torch
from test_models import small

from full_spike.models import load_published


@pytest.mark.parametrize("value", [torch.zeros(5, dtype=torch.complex64), torch.zeros(5).to_sparse(), [0.0] * 5, None])
def test_weights_that_are_no_dense_real_tensors_are_refused(value):
    model = small("fsnn18")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"no dense tensor of real numbers: fc\.bias") as error:
        load_published(model, {**model.state_dict(), "fc.bias": value})
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("state", [[1, 2], None, {"model": [1]}, {1: torch.zeros(1)}])
def test_what_is_no_state_dict_is_refused(state):
    with pytest.raises(ValueError, match=r"state dict") as error:
        load_published(small("fsnn18"), state)
    assert "\n" not in str(error.value)
