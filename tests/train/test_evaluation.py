"""What --test-only says of each class, and of each sample."""

import re

import pytest
import torch

from full_spike.utils.distributed import World
from full_spike.utils.testing import ByClass, Exits, Predictions
from support.command import TINY, only, row, run_together, succeed

TRAIN = "full_spike.cifar.train"
ALONE = World()


def counted(classes, target, predicted):
    found = ByClass(("fsnn",), classes, torch.device("cpu"))
    for part in (slice(0, 3), slice(3, None)):
        logits = torch.nn.functional.one_hot(predicted[part], classes).float()
        found.update({"fsnn": logits}, target[part])
    return found.read(ALONE)


def test_counts_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    target, predicted = (torch.randint(0, 4, (40,), generator=generator) for _ in range(2))
    matrix = counted(4, target, predicted)["fsnn"]
    for i in range(4):
        for j in range(4):
            assert matrix[i, j] == sum(1 for a, b in zip(target, predicted, strict=True) if (a, b) == (i, j))


def test_the_table_of_a_few_classes():
    counts = counted(3, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 1]))
    lines = ByClass.table(counts, ("cat", "dog", "owl"), "images").splitlines()
    assert lines[0].split() == ["class", "images", "fsnn", "|", "0", "1", "2", "by", "fsnn"]
    assert lines[1].split() == ["0", "cat", "3", "66.67", "|", "2", "1", "."]
    assert lines[2].split() == ["1", "dog", "2", "100.00", "|", ".", "2", "."]
    assert lines[3].split() == ["2", "owl", "0", "-", "|", ".", ".", "."]


def test_the_table_of_many_classes_has_the_worst():
    target = torch.arange(30).repeat(2)
    predicted = target.clone()
    predicted[[5, 35, 7]] = torch.tensor([6, 6, 8])
    lines = ByClass.table(counted(30, target, predicted), tuple(f"c{i}" for i in range(30)), "images").splitlines()
    assert len(lines) == 12
    assert lines[1].split() == ["5", "c5", "2", "0.00", "|", "6", "c6", "(2)"]
    assert lines[2].split() == ["7", "c7", "2", "50.00", "|", "8", "c8", "(1)"]
    assert "the 10 of 30 classes" in lines[-1]


def test_the_top_5_are_torchs():
    logits = torch.randn(7, 9, generator=torch.Generator().manual_seed(1))
    found = Predictions()
    found.update({"output": logits[:4]}, torch.arange(4))
    found.update({"output": logits[4:]}, torch.arange(4, 7))
    rows = found.rows(ALONE, 7)
    assert [label for label, _ in rows] == list(range(7))
    for (_, top), expected in zip(rows, logits.double().softmax(1), strict=True):
        values, indices = expected.topk(5)
        assert [i for i, _ in top["output"]] == indices.tolist()
        assert [p for _, p in top["output"]] == pytest.approx(values.tolist())


def test_the_table_of_exits_counts_samples_one_by_one():
    logits = 3 * torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    target = torch.arange(50) % 3
    found = Exits((0.9,), torch.device("cpu"))
    found.update(logits[:, :20], target[:20])
    found.update(logits[:, 20:], target[20:])
    steps = right = 0
    for n in range(50):
        means = [logits[:t, n].mean(0) for t in range(1, 5)]
        t = next((t for t, mean in enumerate(means, 1) if mean.softmax(0).max() >= 0.9), 4)
        steps, right = steps + t, right + int(means[t - 1].argmax() == target[n])
    at_the_end = int((logits.mean(0).argmax(1) == target).sum())
    rows = [line.split() for line in found.table(ALONE).splitlines()[1:]]
    assert rows == [["0.9", f"{steps / 50:.3f}", f"{2 * right:.2f}"], ["none", "4.000", f"{2 * at_the_end:.2f}"]]
    assert 1 < steps / 50 < 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    succeed(TRAIN, *TINY, "--epochs", 1, "--output-dir", out)
    return out


def test_two_processes_say_what_one_says_and_tables_agree(trained, tmp_path):
    """Of each sample, in the same order, and of each class."""
    options = (*TINY, "--output-dir", trained, "--test-only", "--resume", only(trained) / "checkpoint_latest.pth")
    options = (*options, "--exit-confidence", "0,0.15")
    alone = succeed(TRAIN, *options, "--predictions", tmp_path / "one.csv")
    rows = [line.split() for line in re.findall(r"(?m)^\d .*\|.*$", alone)]
    assert [cells[0] for cells in rows] == list("0123456789")
    images = [int(cells[1]) for cells in rows]
    assert sum(images) == 360
    right = sum(n * float(cells[2]) / 100 for n, cells in zip(images, rows, strict=True))
    assert 100 * right / 360 == pytest.approx(float(row(alone, "fsnn")[0]), abs=0.01)
    for cells, n in zip(rows, images, strict=True):
        assert sum(int(cell) for cell in cells[6:] if cell != ".") == n

    exits = re.findall(r"(?m)^ +(0|0.15|none) +(\d\.\d+) +(\d+\.\d\d)$", alone)
    assert [label for label, _, _ in exits] == ["0", "0.15", "none"]
    assert [exits[0][1], exits[2][1]] == ["1.000", "2.000"]
    assert exits[2][2] == row(alone, "fsnn")[0]

    both = succeed(TRAIN, *options, "--predictions", tmp_path / "two.csv", how=run_together)
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    assert re.findall(r"(?m)^\d .*\|.*$", both) == re.findall(r"(?m)^\d .*\|.*$", alone)
    assert all(" ".join(cells) in " ".join(both.split()) for cells in exits)
