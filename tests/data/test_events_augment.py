"""What augmentation does to frames, and that a sample's changes are a function of seed, epoch and index."""

from pathlib import Path

import numpy as np
import pytest
import torch

from full_spike.utils.data.events import EventFrames, time_first
from full_spike.utils.data.events_augment import AUGMENTATIONS, make_augmentation
from full_spike.utils.data.loading import SeededSamples


@pytest.fixture
def frames():
    return torch.poisson(torch.rand(4, 2, 32, 32), generator=torch.Generator().manual_seed(0))


def many(name, frames, count=60):
    augment = make_augmentation(name)
    torch.manual_seed(0)
    return [augment(frames) for _ in range(count)]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_gives_counts_of_the_same_shape_and_leaves_its_input_alone(name, frames):
    before = frames.clone()
    for result in many(name, frames):
        assert result.shape == frames.shape
        assert torch.equal(result, result.round())
        assert set(result.unique().tolist()) <= set(frames.unique().tolist()) | {0.0}
    assert torch.equal(frames, before)
    assert len({result.sum(dim=(0, 1)).numpy().tobytes() for result in many(name, frames)}) > 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_all_frames_and_polarities_change_alike(name, frames):
    same = frames[:1, :1].expand(4, 2, -1, -1)
    for result in many(name, same, 20):
        assert torch.equal(result, result[:1, :1].expand_as(result))


def test_flip_mirrors_half_of_the_time(frames):
    flipped = [torch.equal(result, frames.flip(-1)) for result in many("flip", frames)]
    assert 15 < sum(flipped) < 45
    assert all(f or torch.equal(r, frames) for f, r in zip(flipped, many("flip", frames), strict=True))


def test_roll_moves_by_a_tenth_at_most_and_loses_nothing(frames):
    moves = {}
    shifts = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    for result in many("roll", frames, 300):
        (move,) = (shift for shift in shifts if torch.equal(result, frames.roll(shift, (-2, -1))))
        moves[move] = True
    assert len(moves) > 40


def test_cutout_empties_one_square(frames):
    for result in many("cutout", frames + 1):
        gone = (result == 0).all(dim=(0, 1))
        rows, columns = gone.any(1).nonzero(), gone.any(0).nonzero()
        assert gone.sum() == len(rows) * len(columns)
        assert 4 <= len(rows) <= 8
        assert 4 <= len(columns) <= 8


def test_several_come_one_after_the_other(frames):
    torch.manual_seed(5)
    both = make_augmentation(" flip, roll")(frames)
    torch.manual_seed(5)
    assert torch.equal(both, AUGMENTATIONS["roll"](AUGMENTATIONS["flip"](frames)))
    assert make_augmentation("") is None


@pytest.fixture
def dataset(tmp_path):
    """Three samples of 8 frames, each frame filled with its own number."""
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", frames=np.broadcast_to(np.arange(8).reshape(8, 1, 1, 1), (8, 2, 4, 4)))
    return lambda **options: EventFrames(tmp_path, [(Path(f"{i}.npz"), i) for i in range(3)], (8, 2, 4, 4), **options)


def test_training_draws_frames_anew_and_keeps_their_order(dataset):
    samples = SeededSamples(dataset(T_train=5), seed=1)
    drawn = [tuple(samples[epoch, 0][0][:, 0, 0, 0].tolist()) for epoch in range(200)]
    assert all(list(d) == sorted(set(d)) and len(d) == 5 for d in drawn)
    assert {frame for d in drawn for frame in d} == set(range(8))
    assert len(set(drawn)) > 40  # of the 56 there are
    assert drawn == [tuple(samples[epoch, 0][0][:, 0, 0, 0].tolist()) for epoch in range(200)]
    assert samples[0, 0][0].tolist() != samples[0, 1][0].tolist()


def test_without_it_all_frames_are_there_and_batches_have_time_first(dataset):
    samples = [dataset()[i] for i in (2, 0)]
    frames, targets = time_first(samples)
    assert frames.shape == (8, 2, 2, 4, 4)
    assert frames.dtype == torch.float32
    assert frames[:, 1, 1, 2, 3].tolist() == list(range(8))
    assert targets.tolist() == [2, 0]
