"""What the pages of several rooms have in common."""

from __future__ import annotations

from importlib.resources import files


def read_shared(name: str) -> str:
    """Returns a style or script that the pages of several rooms have in common."""
    return (files("flax_attn") / "template" / name).read_text(encoding="utf-8")
