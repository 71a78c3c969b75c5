"""Checkpoints as files: what a failing write leaves, and that what is looked at is what torch loads."""

import io
import pickle
import resource
import zipfile

import pytest
import torch

from full_spike.utils import checkpoint
from full_spike.utils.errors import UserError


def test_a_failing_write_leaves_the_newest_two(tmp_path):
    """The kernel refuses files as large as the third."""
    for number in (1, 2):
        checkpoint.write_latest(tmp_path, {"number": number})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*untouched"):
            checkpoint.write_latest(tmp_path, {"number": 3, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([checkpoint.LATEST, checkpoint.PREVIOUS])
    kept = [checkpoint.load(tmp_path / name)["number"] for name in (checkpoint.PREVIOUS, checkpoint.LATEST)]
    assert kept == [1, 2]
    checkpoint.write_latest(tmp_path, {"number": 3})
    assert checkpoint.load(tmp_path / checkpoint.PREVIOUS)["number"] == 2


class Large:
    """A pickle of a few bytes that becomes as many as it says."""

    def __reduce__(self):
        return bytearray, (1 << 20,)


def archive(names):
    """A file of torch.save with its pickle replaced, under such a name."""
    plain, made = io.BytesIO(), io.BytesIO()
    torch.save({"a": 1}, plain)
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(made, "w") as write:
        for member in read.infolist():
            content = read.read(member)
            if member.filename.endswith("data.pkl"):
                content, member.filename = pickle.dumps(Large()), member.filename.replace("data.pkl", names)
            write.writestr(member.filename, content)
    return made.getvalue()


def legacy_with_an_archive_behind():
    plain, behind = io.BytesIO(), io.BytesIO()
    torch.save({"a": 1}, plain, _use_new_zipfile_serialization=False)
    torch.save({"a": 2}, behind)
    return plain.getvalue() + behind.getvalue()


@pytest.mark.parametrize("content", [archive("data.pkl"), archive("DATA.PKL"), legacy_with_an_archive_behind()])
def test_what_torch_would_load_is_what_is_looked_at(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth (holds|is damaged)"):
        checkpoint.load(tmp_path / "a.pth")
