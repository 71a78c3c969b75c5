"""The two AEDAT formats against spikingjelly's readers, and files that are not what they should be."""

import numpy as np
import pytest
from full_spike.utils.data.events.aedat import read_aedat2, read_aedat3, write_aedat2, write_aedat3
from full_spike.utils.errors import UserError
from spikingjelly.datasets.cifar10_dvs import _load_origin_data
from spikingjelly.datasets.utils import load_aedat_v3
from support.events import noise

FORMATS = [(write_aedat2, read_aedat2, _load_origin_data), (write_aedat3, read_aedat3, load_aedat_v3)]


@pytest.mark.parametrize(("write", "read", "theirs"), FORMATS)
@pytest.mark.parametrize("count", [1, 4096, 10_001])
def test_what_is_written_is_read_back_by_us_and_by_spikingjelly(tmp_path, write, read, theirs, count):
    events = noise(count)
    write(tmp_path / "a.aedat", events)
    for found in (read(tmp_path / "a.aedat"), theirs(tmp_path / "a.aedat")):
        for key in "txyp":
            np.testing.assert_array_equal(found[key], events[key])


def test_times_beyond_31_bits(tmp_path):
    events = noise(5000, longest=5 * 2**31)
    write_aedat3(tmp_path / "a.aedat", events)
    for read in (read_aedat3, load_aedat_v3):
        np.testing.assert_array_equal(read(tmp_path / "a.aedat")["t"], events["t"])


def test_packets_of_other_types_are_passed_over(tmp_path):
    events = noise(100)
    write_aedat3(tmp_path / "a.aedat", events)
    header, end, packets = (tmp_path / "a.aedat").read_bytes().partition(b"#!END-HEADER\r\n")
    special = np.array([0, 1], "<i2").tobytes() + np.array([12, 4, 0, 2, 2, 2], "<i4").tobytes() + bytes(24)
    (tmp_path / "b.aedat").write_bytes(header + end + special + packets + special)
    for read in (read_aedat3, load_aedat_v3):
        np.testing.assert_array_equal(read(tmp_path / "b.aedat")["x"], events["x"])


@pytest.mark.parametrize(("write", "read", "theirs"), FORMATS)
def test_an_empty_recording(tmp_path, write, read, theirs):
    write(tmp_path / "a.aedat", noise(0))
    assert all(len(read(tmp_path / "a.aedat")[key]) == 0 for key in "txyp")


@pytest.mark.parametrize(("write", "read", "theirs"), FORMATS)
@pytest.mark.parametrize("cut", [1, 5, 13])
def test_a_file_that_is_cut_off(tmp_path, write, read, theirs, cut):
    path = tmp_path / "a.aedat"
    write(path, noise(1000))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"a.aedat is cut off.*fetch it again"):
        read(path)


def test_a_packets_header_that_is_cut_off(tmp_path):
    path = tmp_path / "a.aedat"
    write_aedat3(path, noise(10))
    path.write_bytes(path.read_bytes()[: -(10 * 8 + 3)])
    with pytest.raises(UserError, match="cut off inside the header of the packet"):
        read_aedat3(path)


@pytest.mark.parametrize(("read", "name"), [(read_aedat2, "2.0"), (read_aedat3, "3.1")])
@pytest.mark.parametrize("content", [b"", b"<html>", b"#!AER-DAT4.0\r\n"])
def test_another_kind_of_file(tmp_path, read, name, content):
    (tmp_path / "a.aedat").write_bytes(content)
    with pytest.raises(UserError, match=f"no AEDAT {name} file"):
        read(tmp_path / "a.aedat")


def test_another_sensor(tmp_path):
    events = noise(10)
    events["x"][4] = 128
    write_aedat3(tmp_path / "a.aedat", events)
    with pytest.raises(UserError, match=r"an event at x=128, .*outside the 128x128 sensor"):
        read_aedat3(tmp_path / "a.aedat")
    davis = np.array([[1 << 22 | 239 << 12, 5]], ">u4").tobytes()
    (tmp_path / "b.aedat").write_bytes(b"#!AER-DAT2.0\r\n" + davis)
    with pytest.raises(UserError, match="the address 0x4ef000, wider than the 16 bits"):
        read_aedat2(tmp_path / "b.aedat")
