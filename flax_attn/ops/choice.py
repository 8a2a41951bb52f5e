"""The choice of form for an operation: XLA's own, or the one that is fastest on a CPU."""

from __future__ import annotations

from typing import Literal, cast, get_args

import jax

from flax_attn.errors import UsageError

Impl = Literal["exact", "fast"]


def select_impl(conv: str = "auto", *, backend: str | None = None) -> Impl:
    """Returns the form that the ``--conv`` setting selects, once, when a model is built.

    "exact" is XLA's own form everywhere. "auto" is the fast form on a CPU, and XLA's own on every
    other ``backend`` (default: the one JAX would run on now).

    Raises:
      UsageError: any other setting.
    """
    if conv == "exact":
        return "exact"
    if conv == "auto":
        return "fast" if (backend or jax.default_backend()) == "cpu" else "exact"
    raise UsageError(f"conv: got {conv!r}, expected 'auto' or 'exact'; choose one of the two")


def resolve_impl(impl: str) -> Impl:
    """Returns the form that an operation's ``impl`` names; "auto" is as in ``select_impl``.

    Raises:
      UsageError: ``impl`` is not "auto", "exact" or "fast".
    """
    if impl == "auto":
        return select_impl("auto")
    if impl not in get_args(Impl):
        raise UsageError(f"impl: got {impl!r}, expected 'auto', 'exact' or 'fast'; choose one")
    return cast(Impl, impl)
