"""Files that are cut, flipped or grown at any byte, and what a reader makes of them."""

import re
import tracemalloc
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from full_spike.utils.errors import UserError

EXTREMES = [b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8, b"\n", b"9" * 20, b"["]
bounded = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def damages(draw, extremes=tuple(EXTREMES)):
    """Up to three changes of a content, each at some part of its length: a function of it."""
    kinds = st.sampled_from(["cut", "flip", "grow", "overwrite", "repeat"])
    changes = draw(
        st.lists(st.tuples(kinds, st.floats(0, 1), st.integers(0, 7), st.sampled_from(extremes)), max_size=3)
    )

    def apply(content):
        for kind, part, bit, extreme in changes:
            at = min(int(part * len(content)), max(0, len(content) - 1))
            if kind == "cut":
                content = content[:at]
            elif kind == "flip" and content:
                content = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
            elif kind == "grow":
                content = content[:at] + extreme + content[at:]
            elif kind == "overwrite":
                content = content[:at] + extreme + content[at + len(extreme) :]
            elif kind == "repeat":
                content = content + content[at:]
        return content

    return apply


def outcome(read, path):
    """What a reader returns, or None if it says one line; memory is bounded either way.

    Both what Python allocates and what the process takes of the system's memory, torch's tensors included.
    """
    said = None
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far becomes the present one
    before = resident("VmRSS")
    tracemalloc.start()
    try:
        result = read(path)
    except (UserError, ValueError) as error:
        result, said = None, error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    size, grown = path.stat().st_size, resident("VmHWM") - before
    figures = f"{size} bytes: Python's peak {peak >> 20} MiB, the process grew by {grown >> 20} from {before >> 20} MiB"
    assert max(peak, grown) <= 3 * size + (256 << 20), figures
    if said is not None:
        assert len(str(said).splitlines()) == 1
        assert isinstance(said, UserError) == (str(path.parent) in str(said))
    return result


def resident(name):
    """A figure of this process's memory in bytes, as /proc/self/status calls it."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


def written(write, name="file"):
    """The content of a file that is written once."""
    kept = {}

    def content(folder):
        if not kept:
            write(folder / name)
            kept[0] = (folder / name).read_bytes()
        return kept[0]

    return content
