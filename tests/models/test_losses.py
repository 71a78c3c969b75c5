"""Criteria against their equations, written out, and against spikingjelly."""

import math

import pytest
import torch
from spikingjelly.activation_based import functional

import full_spike
from full_spike.cifar.train import make_parser
from full_spike.losses import DistillationLoss, DualStreamLoss, TETLoss
from full_spike.models import save_pretrained
from full_spike.utils.distributed import World
from full_spike.utils.errors import UsageError
from full_spike.utils.losses import LOSSES, make_criterion
from full_spike.utils.options import parse
from support.networks import images, small

T, N, K = 3, 5, 4


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def entropy(logits, k):
    """-log softmax of one sample's class k, in plain Python."""
    return math.log(sum(math.exp(z) for z in logits)) - logits[k]


def test_the_losses_are_where_they_are_looked_for():
    assert full_spike.losses.TETLoss is TETLoss


def test_tet_is_its_equation_and_spikingjellys():
    trunk, pathway, target = draw(T, N, K), draw(T, N, K), torch.tensor([0, 1, 2, 3, 1])
    each = [entropy(trunk[t, n].tolist(), target[n]) for t in range(T) for n in range(N)]
    penalty = sum((z - 2.0) ** 2 for z in trunk.flatten().tolist()) / trunk.numel()
    expected = 0.7 * sum(each) / len(each) + 0.3 * penalty
    assert TETLoss(penalty=0.3, level=2.0)(trunk, target).item() == pytest.approx(expected, rel=1e-12)
    theirs = functional.temporal_efficient_training_cross_entropy
    ours = TETLoss(aap_weight=0.5, penalty=0.0)((trunk, pathway), target)
    torch.testing.assert_close(ours, theirs(trunk, target) + 0.5 * theirs(pathway, target), rtol=1e-12, atol=0)
    ours.backward()
    assert pathway.grad.abs().min() > 0
    shares = torch.nn.functional.one_hot(target, K).double()  # as of mixed samples
    torch.testing.assert_close(TETLoss()(trunk, shares), TETLoss()(trunk, target), rtol=1e-12, atol=0)


def test_cross_entropy_of_steps_is_that_of_their_mean():
    logits, target = draw(T, N, K), torch.arange(N) % K
    torch.testing.assert_close(DualStreamLoss()(logits, target), DualStreamLoss()(logits.mean(0), target))


def test_the_trunk_imitates_the_pathway_and_teaches_it_nothing():
    trunk, pathway, target = draw(N, K), draw(N, K), torch.arange(N) % K
    p, q = ((x / 3.0).softmax(1) for x in (pathway, trunk))
    divergence = (p * (p / q).log()).sum() / N
    loss = DistillationLoss(aap_weight=0.0, temperature=3.0)((trunk, pathway), target)
    torch.testing.assert_close(loss, DualStreamLoss()(trunk, target) + 9.0 * divergence, rtol=1e-12, atol=0)
    loss.backward()
    assert pathway.grad.abs().max() == 0 < trunk.grad.abs().min()


def test_a_teacher_is_asked_about_the_same_images():
    teacher, student, target = small("resnet18"), small("fsnn18"), torch.tensor([0, 3])
    criterion = DistillationLoss(teacher=teacher, temperature=1.0)
    criterion.inputs = images(student)
    assert not any(p.requires_grad for p in criterion.parameters())
    logits = student(criterion.inputs)
    p, q = teacher(criterion.inputs).log_softmax(1), logits.log_softmax(1)
    expected = DualStreamLoss()(logits, target) + (p.exp() * (p - q)).sum() / 2
    torch.testing.assert_close(criterion(logits, target), expected)


def test_a_command_names_its_teacher(tmp_path):
    options, model = ["--loss", "distill", "--teacher", str(tmp_path)], small("fsnn18")
    teacher = small("resnet18")
    save_pretrained(teacher, tmp_path)
    made = make_criterion(parse(make_parser(), options), model, World())
    assert torch.equal(made.teacher.fc.weight, teacher.fc.weight)
    with pytest.raises(UsageError, match=r"--teacher .* has num_classes=5 and the network 7: take one"):
        make_criterion(parse(make_parser(), options), small("fsnn18", num_classes=7), World())
    kinds = [type(make_criterion(parse(make_parser(), ["--loss", kind]), small("dsnn18"), World())) for kind in LOSSES]
    assert kinds == list(LOSSES.values())


def test_the_pathways_weight_may_fall():
    criterion = DualStreamLoss(aap_weight=1.0, aap_weight_end=0.0, epochs=5)
    weights = []
    for criterion.epoch in range(5):
        weights.append(criterion.weight)
    assert weights == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert DualStreamLoss(aap_weight=0.3, epochs=5).weight == 0.3


@pytest.mark.parametrize("criterion", [DualStreamLoss(), TETLoss(), DistillationLoss()])
def test_frames_in_another_order_are_refused(criterion):
    logits = draw(T, 2, K) if criterion.by_step else draw(2, K)
    with pytest.raises(ValueError, match="logits are of 2 samples and targets of 5: frames are"):
        criterion((logits, logits), torch.zeros(N, dtype=torch.int64))
