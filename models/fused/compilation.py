"""Loops compiled by torch.compile, for integer networks; fused layers are in C and Triton.

Nothing of the compiler is imported before the first call. A compiler that is missing or fails is found out there, and
from then on the loops run as they stand; any other error in that call (memory that runs out, tensors that do not fit
together, an interruption) is raised as it is.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .rule import Operands, Rule

# Each kind of layer, dtype and T is compiled apart and must not use up the others' recompilations, where torch can tell
_ISOLATE = "isolate_recompiles" in inspect.signature(torch.compile).parameters
_APART: dict[str, Any] = {"isolate_recompiles": True} if _ISOLATE else {}
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch.fx", "triton")  # where a compiler's exceptions are defined
_failure: list[str] = []  # why the compiler cannot be used, once that is known


class _CannotCompileError(RuntimeError):
    """torch.compile itself refuses: there is none for this Python or platform."""


@functools.cache
def compiled(function: Callable[..., Any], rule: Rule, contract: bool, *_kind: Any) -> Callable[..., Any]:
    def bound(operands: Operands, *tensors: Tensor | None) -> Any:
        return function(operands, *tensors, rule)

    options: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"} if contract else {}
    if rule.T:  # reading one x, nothing else makes the compiler keep a membrane, and time steps would double its work
        options["realize_opcount_threshold"] = 20
    try:
        # dynamic: a new batch or image size is the same loop of another length
        return torch.compile(bound, dynamic=True, fullgraph=True, options=options or None, **_APART)
    except Exception as error:
        raise _CannotCompileError(str(error)) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__


def _is_compilers(error: Exception) -> bool:
    """Whether compiling failed, and not for memory, rather than running what was compiled."""
    causes = list(_causes(error))
    if any(isinstance(cause, torch.OutOfMemoryError | MemoryError) for cause in causes):
        return False
    if isinstance(error, OSError | ImportError):  # the compiler's cache or its parts: kernels open and import nothing
        return True
    kinds = [kind for cause in causes for kind in type(cause).__mro__]
    return any(kind is _CannotCompileError or kind.__module__.startswith(_COMPILERS) for kind in kinds)


def call(function: Callable[..., Any], rule: Rule, operands: Operands, *others: Tensor | None) -> Any:
    """`function`, compiled; as it stands inside another compilation, and where compiling fails.

    A failing compiler is one warning for the whole process.
    """
    if torch.compiler.is_compiling() or _failure:
        return function(operands, *others, rule)
    # torch's batch norm rounds once, after the multiplication and the addition, spikingjelly's PLIF node twice;
    # half types, integrated in float32, have nothing to equal bit for bit
    x = operands.x
    contract = operands.q is None or x.element_size() < 4
    kind = (*(None if t is None else (t.dtype, t.ndim) for t in (*operands, *others)), x.shape[0], x.device.type)
    try:
        return compiled(function, rule, contract, *kind)(operands, *others)
    except Exception as error:
        if not _is_compilers(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    # compilers also trip over tensors that do not fit together: then this raises torch's own error, and they are not
    # to blame
    result = function(operands, *others, rule)
    _failure.append(reason)
    warnings.warn(f"compiled loops are off, plain PyTorch runs instead: {reason}", stacklevel=2)
    return result
