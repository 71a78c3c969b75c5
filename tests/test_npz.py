"""Arrays in .npz files: read as numpy reads them, and by many threads at once."""

import gc
import io
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from full_spike.utils.data.npz import read_arrays, write_npz

ARRAYS = {
    "empty": np.zeros((0, 3), np.int16),
    "scalar": np.array(2.5),
    "vector": np.arange(7, dtype=">i4"),
    "rows": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(4, 6)),
    "flags": np.array([True, False]),
    "text": np.array(["a", "wörter"]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, write_npz])
def test_arrays_are_what_numpy_reads(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    found = read_arrays(path)
    with np.load(path) as expected:
        assert set(found) == set(expected.files)
        for name in expected.files:
            assert found[name].flags.writeable
            np.testing.assert_array_equal(found[name], expected[name], strict=True)


def test_a_file_with_the_longer_header(tmp_path):
    stream, path = io.BytesIO(), tmp_path / "a.npz"
    np.lib.format.write_array(stream, ARRAYS["rows"], version=(2, 0))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.npy", stream.getvalue())
    np.testing.assert_array_equal(read_arrays(path)["rows"], ARRAYS["rows"], strict=True)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<i4', 'fortran_order': 0, 'shape': (1,), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': '1', }",
        "{'descr': '<i4', 'fortran_order': False}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1,), 'more': True}",
        "print('<i4')",
    ],
)
def test_a_header_that_declares_something_else_is_refused(tmp_path, header):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        text = header.encode()
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(4))
    with pytest.raises(ValueError, match="a declares no plain array: numbers or text are needed"):
        read_arrays(path)


def test_many_threads_read_at_once(tmp_path):
    """Python's own parser, which numpy's reader of headers uses, fails here: a callback of the garbage collector, such
    as hypothesis has, lets other threads in while it works."""
    path = tmp_path / "a.npz"
    write_npz(path, **ARRAYS)
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()

    def callback(*_):
        sum(range(50))

    gc.callbacks.append(callback)
    try:
        sys.setswitchinterval(1e-6)
        gc.set_threshold(1)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: [read_arrays(path) for _ in range(100)][-1], range(8)):
                np.testing.assert_array_equal(found["rows"], ARRAYS["rows"])
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
