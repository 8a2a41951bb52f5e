"""How XLA compiles in tests: as users have it, or in a hurry.

With fewer optimisations it takes a third less. Without its fusion emitters, as it compiled loops
before, it takes another third less for small programs, but of gradients in float64 some are wrong:
for tests of what commands do, not of what is computed. There is no public setting of the emitters
that one process can change back: options are put before those of each program where JAX gathers
them.
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


def compile_with(*, optimised: bool, emitters: bool) -> None:
    """Sets how XLA compiles, here and in processes that are started."""
    jax.config.update("jax_disable_most_optimizations", not optimised)
    _options.clear()
    if not emitters and _is_known():
        _options[_OPTION] = False
    os.environ.update(environment(optimised=optimised, emitters=emitters))


def environment(*, optimised: bool, emitters: bool) -> dict[str, str]:
    """Returns the variables with which a process compiles so."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag != _FLAG]
    if not emitters and _is_known():
        flags.append(_FLAG)
    return {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(not optimised)),
        "XLA_FLAGS": " ".join(flags),
    }


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
