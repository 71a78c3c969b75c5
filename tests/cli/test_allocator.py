"""What keeping freed memory changes: the kernel zeroes the pages of a large block once, not at every use."""

import platform
import resource
import subprocess
import sys

import pytest

# Without transparent huge pages, which some systems always use: one fault then stands for 512 pages.
CODE = """
import ctypes, resource, sys, torch
assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # PR_SET_THP_DISABLE
from full_spike.utils.allocator import keep_freed_memory
if sys.argv[1] != "default":
    assert keep_freed_memory()
if sys.argv[1] == "off again":
    assert keep_freed_memory(False)
for _ in range(30):  # until the blocks that are kept fit, whatever was put between them
    torch.ones(2**24)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_a_block_that_was_freed_is_used_again_without_page_faults():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True).stdout)
        for how in ("default", "kept", "off again")
    }
    pages = 4 * 2**26 // resource.getpagesize()
    assert faults["kept"] < 0.01 * pages
    assert faults["default"] > 0.9 * pages
    assert faults["off again"] > 0.9 * pages
