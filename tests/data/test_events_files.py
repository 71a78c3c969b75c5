"""Single files of event data, as they are published and as they are kept."""

import numpy as np
import pytest
from full_spike.utils.data.events_files import read_file, read_trial
from full_spike.utils.errors import UserError
from support.events import noise, write_aedat2, write_aedat3, write_gestures


@pytest.mark.parametrize("write", [write_aedat3, write_aedat2, lambda path, events: np.savez(path, **events)])
def test_events_of_every_format(tmp_path, write):
    events = noise(1000)
    path = tmp_path / ("a.npz" if write not in (write_aedat2, write_aedat3) else "a.aedat")
    write(path, events)
    found = read_file(path)
    assert all(np.array_equal(found[key], events[key]) for key in "txyp")


def test_frames(tmp_path):
    np.savez(tmp_path / "a.npz", frames=np.arange(2 * 2 * 3 * 3).reshape(2, 2, 3, 3))
    assert read_file(tmp_path / "a.npz")[1, 1, 2].tolist() == [33, 34, 35]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.aedat", b"#!AER-DAT3.1\r\n#!END-HEADER\r\n\1\0", "is damaged or cut off"),
        ("a.aedat", b"#!AER-DAT2.0\r\n\0\0\0\1\0\0\0\1\0", "is damaged or cut off"),
        ("a.aedat", b"<html>", r"is neither a recording \(AEDAT 3.1 or 2.0\) nor an .npz file"),
        ("a.npz", b"PK", "is damaged or no .npz file of numbers"),
    ],
)
def test_another_kind_of_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_file(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"t": np.zeros(3)}, "holds t: t, x, y and p, or frames, are needed"),
        ({"frames": np.zeros((4, 3, 8, 8))}, r"has frames of shape \(4, 3, 8, 8\): \[T, 2, H, W\] is needed"),
        ({"frames": np.array([{}])}, "Object arrays cannot be loaded"),
    ],
)
def test_other_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_file(tmp_path / "a.npz")


def test_rows_of_a_table(tmp_path):
    write_gestures(tmp_path / "g")
    recording = tmp_path / "g" / "user01_led.aedat"
    assert read_trial(recording, 3) == (2, 2000, 3000)
    with pytest.raises(UserError, match=r"--trial 12: .*user01_led_labels.csv lists 11 trials: use 1 to 11"):
        read_trial(recording, 12)
    with pytest.raises(UserError, match=r"--trial 1: there is no .*other_labels.csv"):
        read_trial(recording.with_name("other.aedat"), 1)
    (tmp_path / "g" / "user01_led_labels.csv").write_text("class\n1,x\n")
    with pytest.raises(UserError, match=r"user01_led_labels.csv is damaged"):
        read_trial(recording, 1)
