"""Compiles in a hurry, for tests of what commands do, not of how exactly they compute.

XLA then optimises less, and emits loops as it did before its fusion emitters, which take a third of
the time to compile small programs. The second has no public setting that one process can change
back: options are put before those of each program where JAX gathers them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import jax
from jax._src import compiler

_OPTION = "xla_cpu_use_fusion_emitters"
_FLAG = f"--{_OPTION}=false"
_options: dict[str, bool] = {}


def compile_in_a_hurry(hurried: bool) -> None:
    """Sets how XLA compiles, here and in processes started: a hurry takes half the time."""
    jax.config.update("jax_disable_most_optimizations", hurried)
    _options.clear()
    if hurried and _is_known():
        _options[_OPTION] = False
    os.environ.update(environment(hurried))


def environment(hurried: bool) -> dict[str, str]:
    """Returns the variables with which a process compiles in a hurry, or does not."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag != _FLAG]
    if hurried and _is_known():
        flags.append(_FLAG)
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(hurried)), "XLA_FLAGS": " ".join(flags)}


@lru_cache
def _is_known() -> bool:
    """Whether this version of XLA has the option; one that has not refuses it."""
    program = jax.jit(lambda: 0, compiler_options={_OPTION: False})
    try:
        program.lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _with_options(gather: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(gather)
    def gather_all(*args: Any, env_options_overrides: Any = None, **others: Any) -> Any:
        chosen = {**_options, **(env_options_overrides or {})}
        return gather(*args, env_options_overrides=chosen or None, **others)

    return gather_all


compiler.get_compile_options = _with_options(compiler.get_compile_options)
