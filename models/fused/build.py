"""C compiled at its first use, for the CPU that it runs on, and kept."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from full_spike.cache import cache_home

# nothing is contracted unasked; comparisons that trap, and errno, would keep loops from becoming vectors
FLAGS = "-O3 -march=native -fopenmp -ffp-contract=off -fno-math-errno -fno-trapping-math -shared -fPIC".split()


def library(source: Path, *options: str) -> ctypes.CDLL:
    """A C file as a library, by the compiler that CC names, or cc.

    It stays in `cache_home()`, under a hash of the source, the command, and what the compiler predefines: its version
    and this CPU's instructions. Processes may build it side by side.

    Raises:
        OSError: there is no compiler, or it fails, or the folder cannot be written to.
    """
    command = [*shlex.split(os.environ.get("CC") or "cc"), *FLAGS, *options]
    predefined = _output([*command, "-E", "-dM", "-x", "c", os.devnull])
    key = hashlib.sha256(source.read_bytes() + repr(command).encode() + predefined).hexdigest()
    path = cache_home() / f"{source.stem}-{key[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            _output([*command, str(source), "-o", str(made)])
            os.replace(made, path)
    return ctypes.CDLL(str(path))


def _output(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise OSError(f"{command[0]}: {next((line for line in lines if 'error' in line), f'status {done.returncode}')}")
    return done.stdout
