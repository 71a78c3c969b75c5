"""A compiler that is missing or fails turns fused layers off, with one warning; nothing else does."""

import os
import subprocess
import sys

import pytest
import torch
from test_fused import compiled, make  # noqa: F401  (the fixture holds here too)

from full_spike.models import fused
from full_spike.models.connect import JoinLayer, get_join
from full_spike.models.fused import compilation


def alone(code, **environment):
    """What a new process prints that runs `code` with a fused neuron `node` and an input `x`, warnings as they come."""
    setting = (
        "import os, resource, torch; from full_spike.models import fused, use_fused; "
        "from full_spike.models.neuron import neuron_factory; torch.manual_seed(0); "
        "node = use_fused(neuron_factory('IF')()); x = torch.randn(4, 2, 9) * 1.5\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", setting + code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.parametrize("broken", ["compiler", "cache"])
def test_without_a_compiler_one_warning_and_the_stock_nodes(tmp_path, broken):
    """A C++ compiler that fails, or nowhere to write to: real ones."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    if broken == "compiler":
        environment["CXX"] = str(compiler)
    # set once spikingjelly is there, which looks for the cache by itself
    cache = "os.environ['TORCHINDUCTOR_CACHE_DIR'] = '/proc/no-such-folder'\n" if broken == "cache" else ""
    result = alone(
        "expected = use_fused(neuron_factory('IF')(), False)(x)\n" + cache + "results = [node(x) for _ in range(2)]\n"
        "print(all(torch.equal(spikes, expected) for spikes in results), fused.available())",
        **environment,
    )
    assert result.stdout == "True False\n"
    assert result.stderr.count("fused neurons are off, spikingjelly's run instead: ") == 1


def test_memory_that_runs_out_is_no_missing_compiler():
    """The output of a compiled layer finds no room; with room again, the layer is compiled as before."""
    result = alone(
        "node(torch.randn(4, 64))\n"  # compiled
        "x = torch.randn(4, 2**25)\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**27, resource.RLIM_INFINITY))\n"
        "try: node(x)\n"
        "except RuntimeError as error: print('allocate' in str(error))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "print(fused.available(), fused.layer(x[:, :64], node) is not None)"
    )
    assert result.stdout == "True\nTrue True\n"
    assert "fused neurons are off" not in result.stderr


@pytest.mark.parametrize("cause", [torch.OutOfMemoryError("2 GiB"), MemoryError(), KeyboardInterrupt()])
def test_memory_that_runs_out_while_compiling_is_no_missing_compiler(cause, monkeypatch):
    """As torch reports it: wrapped into the error of the compiler's backend."""
    from torch._dynamo.exc import BackendCompilerFailed

    def failing(*_kind):
        if isinstance(cause, Exception):
            raise BackendCompilerFailed(None, cause, None) from cause
        raise cause

    monkeypatch.setattr(compilation, "compiled", failing)
    with pytest.raises((BackendCompilerFailed, KeyboardInterrupt)):
        make("IF")(torch.randn(4, 2, 9))


def test_tensors_that_do_not_fit_together_are_reported_as_torch_does():
    """A shortcut of another size: the compiler trips over it too, but is not to blame."""
    norm, join = torch.nn.BatchNorm2d(3), JoinLayer(get_join("OR"))
    x, identity = torch.randn(2, 1, 3, 6, 5), torch.zeros(2, 1, 3, 6, 4)
    with pytest.raises(RuntimeError, match="must match the size"):
        fused.layer(x, make("IF"), norm, join, identity)
