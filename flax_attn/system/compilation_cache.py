"""Compiled programs that later processes load again (``--compilation-cache DIR``).

What XLA compiles for a CPU is machine code for that CPU and that number of threads; loaded on
another it may be slow, round differently or stop at an unknown instruction. JAX's own key covers
the program, the versions and the flags, but not all of that, so each kind of machine has a
sub-folder of its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax
import jaxlib

from flax_attn.errors import UsageError
from flax_attn.system.cpu import threads
from flax_attn.system.files import write_bytes
from flax_attn.system.output import mark_output

# Lines of /proc/cpuinfo that name the instructions of the CPU, and what XLA tunes code for.
_CPU_LINES = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
_DIGITS = 12
_ZLIB = b"\x78"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def use_compilation_cache(folder: str | Path | None) -> Path | None:
    """Keeps every program compiled from now on in ``folder``; returns the sub-folder used.

    None leaves JAX's settings as they are. Call it before anything is compiled. Entries that a
    killed process left half-written are removed. The programs read from the folder are executed, so
    the sub-folder belongs to one user.

    Raises:
      UsageError: the sub-folder cannot be written, or others may write to it.
    """
    if folder is None:
        return None
    own = Path(folder).expanduser().absolute() / machine_key()
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = own.stat()
    except OSError as error:
        raise UsageError(
            f"--compilation-cache: cannot use {own}: {error.strerror or error}; name a folder "
            "that can be written"
        ) from error
    if mode.st_uid != os.geteuid() or mode.st_mode & _WRITABLE_BY_OTHERS:
        raise UsageError(
            f"--compilation-cache: others may write to {own}, and what is in it is run: "
            "name a folder of your own, or take their right to write"
        )
    if not os.access(own, os.W_OK):
        raise UsageError(f"--compilation-cache: cannot write in {own}; name another folder")
    with suppress(OSError):  # the folder above may be of another user
        mark_output(own.parent)
    _remove_incomplete(own)
    jax.config.update("jax_compilation_cache_dir", str(own))
    # A start compiles many small programs, too; reading all of them is faster than compiling.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return own


def kept_code(name: str, make: Callable[[], bytes]) -> bytes:
    """Returns machine code from the folder that programs are kept in; else makes and keeps it.

    ``name`` tells all that decides the code. Nothing is kept where JAX has no folder of this
    machine's; one that cannot be written, and code that is damaged, cost the making alone.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or not os.path.isdir(folder):
        return make()
    path = Path(folder) / f"{name}.z"
    with suppress(OSError, zlib.error):
        return zlib.decompress(path.read_bytes())
    code = make()
    with suppress(OSError):
        write_bytes(path, zlib.compress(code, 1))
    return code


def machine_key() -> str:
    """Returns a name shared by machines that may exchange programs: jaxlib, CPU, threads."""
    said = hashlib.sha256("\n".join(_describe_cpu()).encode()).hexdigest()[:_DIGITS]
    return f"jaxlib-{jaxlib.__version__}-{platform.machine()}-{threads()}-threads-{said}"


def _describe_cpu() -> list[str]:
    """Returns the lines about the first processor that decide what is compiled for it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [platform.platform(), platform.processor()]
    first = text.split("\n\n", 1)[0].splitlines()
    return [line for line in first if line.split(":")[0].strip() in _CPU_LINES]


def _remove_incomplete(folder: Path) -> None:
    """Removes entries that were not written to their end.

    JAX neither replaces them nor stops warning about them. Entries are zlib streams with a
    checksum; others (Zstandard, where that is installed) are left to JAX.
    """
    for path in folder.glob("*-cache"):
        with suppress(OSError):
            content = path.read_bytes()
            if content[:1] == _ZLIB and not _whole(content) or not content:
                path.unlink(missing_ok=True)


def _whole(content: bytes) -> bool:
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
