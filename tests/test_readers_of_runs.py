"""Checkpoints and configurations that may come from anyone: a result or one line, whatever was done to the file.

And no more memory than three times the file and 256 MiB.
"""

import argparse
import contextlib
import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings

from full_spike.cifar.train import parser
from full_spike.utils import checkpoint
from full_spike.utils.checkpoints.weights import read_weights, settings_of, weights_of
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.runtime.parser import to_yaml
from support.damages import EXTREMES, bounded, damages, outcome
from support.short_runs import FOLDER

fewer = settings(bounded, max_examples=25)  # each takes some 0.2 s, since what Python allocates is followed

# Checkpoints


@pytest.fixture(scope="module")
def kept(short_run):
    """A run's checkpoint: its content, and that as torch writes it in either format."""
    state = short_run(FOLDER, "--ema-decay 0.9 --amp --optimizer adam").state
    return state, saved(state), saved(state, _use_new_zipfile_serialization=False)


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def read_all(path):
    """In every way in which a checkpoint is read; what the strictest one returns."""

    def read(path):
        content = checkpoint.load(path)
        with contextlib.suppress(UserError):
            settings_of(path, content)
        for averaged in (False, True):
            with contextlib.suppress(UserError):
                weights_of(path, content, averaged=averaged)
        return checkpoint.resumable(path, content)

    return outcome(read, path)


@bounded
@given(damage=damages())
def test_checkpoints(tmp_path, kept, damage):
    """Their checksums see to it that what is returned is what was written."""
    path = tmp_path / "a.pth"
    state, content, _ = kept
    path.write_bytes(damage(content))
    found = read_all(path)
    assert found is None or all(torch.equal(found["model"][name], value) for name, value in state["model"].items())


@fewer
@given(
    damage=damages(
        (*EXTREMES, b"h\x00", b"q\x00", b"R", b"}", b"ctorch\nTensor\n", b"J\xff\xff\xff\x7f", b"e", b"u", b"b")
    )
)
def test_checkpoints_whose_pickle_was_damaged_before_the_checksums_were_made(tmp_path, kept, damage):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(io.BytesIO(kept[1])) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, damage(content) if name.endswith("data.pkl") else content)
    read_all(path)


@pytest.mark.skipif("ALONE" not in os.environ, reason="run by the next test, in a process of its own")
@fewer
@given(damage=damages())
def test_checkpoints_in_torchs_format_without_checksums(tmp_path, kept, damage):
    path = tmp_path / "a.pth"
    path.write_bytes(damage(kept[2]))
    read_all(path)


def test_checkpoints_in_torchs_format_without_checksums_in_a_process_of_its_own():
    """Where no other test's memory is in the figures."""
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", __file__)
    chosen = ("-k", "format_without_checksums and not own")
    done = subprocess.run(
        (*command, *chosen), env={**os.environ, "ALONE": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "1 passed" in done.stdout


def test_a_text_of_four_gigabytes_that_the_file_does_not_hold_takes_no_room(tmp_path, kept):
    """Its length alone is changed: the first text of the content after the three pickles that begin the file."""
    content = kept[2]
    at = content.index(b"X", content.index(b"little_endian"))
    path = tmp_path / "a.pth"
    path.write_bytes(content[: at + 1] + b"\xf0\xff\xff\xff" + content[at + 5 :])
    assert outcome(checkpoint.load, path) is None


class Made:
    """Pickled as the call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def laughs(depth):
    """A list of ten times a list of ten times a list ..."""
    found = ["ha"]
    for _ in range(depth):
        found = [found] * 10
    return found


def circle():
    found = []
    found.append(found)
    return found


def without_storages(path):
    """A tensor of 2 GiB in torch's format without an archive, whose list of storages to read is empty."""
    storage = object()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 1 << 29, None) if value is storage else None

    tensor = Made(torch._utils._rebuild_tensor_v2, storage, 0, (1 << 29,), (1,), False, OrderedDict())
    with path.open("wb") as file:
        for part in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}, {"a": tensor}, []):
            Pickler(file, 2).dump(part)


def weights(value):
    return lambda path: torch.save({"format": checkpoint.FORMAT, "config": {"model": "a"}, "model": value}, path)


def setting(value):
    return lambda path: torch.save(
        {"format": checkpoint.FORMAT, "config": {"model": "a", "T": value}, "model": {"a": torch.zeros(1)}}, path
    )


STRANGE = {
    "2 GiB of zero bytes": (setting(Made(bytearray, 1 << 31)), r"holds \w+\.bytearray, which is not plain data"),
    "2 GiB of weights in no file": (weights({"a": Made(torch.FloatTensor, 1 << 29)}), "holds torch.FloatTensor, which"),
    "2 GiB of storage in no file": (
        setting(Made(torch.UntypedStorage, 1 << 31)),
        "holds torch.storage.UntypedStorage, which is not plain data",
    ),
    "4 GiB by another type": (
        weights({"a": Made(torch._utils._rebuild_device_tensor_from_cpu_tensor,
                           torch.zeros(1).expand(1 << 29), torch.float64, "cpu", False)}),
        "holds torch._utils._rebuild_device_tensor_from_cpu_tensor, which",
    ),
    "a tensor without its storage": (without_storages, "claims to hold more than its size"),
    "one number 2^29 times": (weights({"a": torch.zeros(1).expand(1 << 29)}), "claims 536,870,912 numbers and holds f"),
    "lists of lists": (setting(laughs(12)), "claims to hold more than its size"),
    "a list of itself": (setting(circle()), "claims to hold more than its size"),
    "an object's lists of lists": (setting(argparse.Namespace(a=laughs(12))), "claims to hold more than its size"),
    "a long text 10,000 times": (setting(["ha" * 5000] * 10_000), "claims to hold more than its size"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_small_checkpoints_that_would_take_much(tmp_path, name):
    make, message = STRANGE[name]
    path = tmp_path / "a.pth"
    make(path)
    assert path.stat().st_size < 1 << 16
    said = []

    def read(path):
        try:
            return read_weights(path)
        except UserError as error:
            said.append(str(error))
            raise

    assert outcome(read, path) is None
    assert re.search(message, said[0])


# Configurations

# fmt: off
YAML = [b": ", b"\n", b"\n\n  ", b"- ", b"? ", b"[", b"{", b"&a ", b"*a", b"!!", b"!!int ", b"!!float ", b"!!binary ",
        b"!!timestamp ", b"!!set ", b"<<: ", b"|", b"'", b"2001-99-99", b"0x" + b"f" * 99, b"9" * 5000, b"1:60",
        b".inf", b".nan", b"~", b"\t", b"%", b"#", b"---", b"...", b"\xe2\x80\xa8", b"\xff", b"\x00", b"\x85"]
# fmt: on


@bounded
@given(damage=damages((*EXTREMES, *YAML)))
def test_configurations(tmp_path, damage):
    path = tmp_path / "a.yaml"
    path.write_bytes(damage(to_yaml(parser.defaults, {"python": "3"}).encode()))

    def read(path):
        try:
            return parser.parse(["--config", str(path)])
        except UsageError as error:
            if str(path) in str(error):
                raise
            raise UserError(f"{path}: {error}") from None  # of options that do not go together: of no file

    found = outcome(read, path)
    assert found is None or type(found) is type(parser.defaults)


def test_a_small_configuration_of_billions_of_values(tmp_path):
    path = tmp_path / "a.yaml"
    lines = ["lr: &a0 [1]", *(f"o{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)), "betas: *a11"]
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"repeats a value by \*a0 in line 2"):
        parser.parse(["--config", str(path)])


@pytest.mark.parametrize("text", ["[" * 3000, "a,".join("[" * 1000), "? " * 3000, "- " * 3000, "{a: " * 3000])
def test_deep_configurations(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no YAML"):
        parser.parse(["--config", str(path)])
