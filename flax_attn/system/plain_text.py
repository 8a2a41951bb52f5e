"""Text for what cannot show every character: pictures, and terminals."""

from __future__ import annotations


def plain(text: str) -> str:
    """The text in one line of Latin letters: names of classes may hold bytes without a glyph."""
    latin = text.encode("latin-1", "backslashreplace").decode("latin-1")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in latin)
