"""Convolution kernels for CPUs, compiled for the processor at hand when first used."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from flax_attn.errors import UsageError

if TYPE_CHECKING:
    from flax_attn.ops.llvm.compile import Compiled
    from flax_attn.ops.llvm.ir import Machine


# Share of the largest value by which the kernels may differ from XLA's convolution.
TOLERANCE = 1e-4


# Whoever builds the kernels first; the others wait for them.
_BUILDING = threading.RLock()


def host_kernels() -> Compiled | None:
    """Returns the kernels for this processor; None where they cannot be had.

    The first call builds and checks them (``_build``).
    """
    with _BUILDING:
        return _build()


@cache
def _build() -> Compiled | None:
    """Returns the kernels for this processor; None where they cannot be had.

    That is without ``llvmlite``, elsewhere than on Linux and macOS, and on processors whose
    vectors are too short to pay. Before their first use they are compared with XLA's
    convolution; if they differ they are not used, with a warning.
    """
    if not _may_compile():
        return None
    from flax_attn.ops.llvm.compile import compiled
    from flax_attn.ops.llvm.self_test import differences

    return _tested(compiled, differences)


def host_evaluation_kernels() -> Compiled | None:
    """Returns the kernels of evaluation for this processor; None as in ``host_kernels``."""
    with _BUILDING:
        return _build_evaluation()


@cache
def _build_evaluation() -> Compiled | None:
    if not _may_compile():
        return None
    from flax_attn.ops.llvm.compile import compiled_evaluation
    from flax_attn.ops.llvm.self_test import evaluation_differences

    return _tested(compiled_evaluation, evaluation_differences)


def build_ahead(*builds: Callable[[], Compiled | None]) -> None:
    """Begins to build kernels in a thread of its own, one after the other, for JAX on a CPU.

    ``builds`` are ``host_kernels`` and ``host_evaluation_kernels``, or one of them. Call it where
    JAX may be used, and there is other work until the first network is traced: LLVM and XLA then
    compile beside it.
    """
    import jax

    def run() -> None:
        for build in builds:
            build()

    if jax.default_backend() == "cpu":
        threading.Thread(target=run, name="kernels").start()


def _may_compile() -> bool:
    if sys.platform not in ("linux", "darwin"):
        return False
    try:
        import llvmlite  # noqa: F401
    except ImportError:
        return False
    return True


def _tested(
    build: Callable[[Machine], Compiled], differences: Callable[[Compiled], dict[str, float]]
) -> Compiled | None:
    """Returns the kernels for this processor if they compute what XLA does."""
    from flax_attn.ops.llvm.compile import host_machine

    machine = host_machine()
    if machine is None:
        return None
    try:
        code = build(machine)
        worst = max(differences(code).values())
    except Exception as error:  # LLVM, XLA and the processor may disagree in many ways
        warnings.warn(f"compiled convolutions are not used: {error}", RuntimeWarning, stacklevel=3)
        return None
    if not worst < TOLERANCE:
        text = f"compiled convolutions are not used: off by {worst:.1e} of the largest value"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
        return None
    return code


def require_kernels() -> Compiled:
    """Returns the kernels for this processor.

    Raises:
      UsageError: there are none.
    """
    return _required(host_kernels())


def require_evaluation_kernels() -> Compiled:
    """Returns the kernels of evaluation for this processor.

    Raises:
      UsageError: there are none.
    """
    return _required(host_evaluation_kernels())


def _required(code: Compiled | None) -> Compiled:
    if code is None:
        raise UsageError("there are no compiled convolutions for this processor")
    return code
