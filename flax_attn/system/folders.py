"""Folders: built whole or not at all, and looked at before work whose results go there."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flax_attn.errors import UsageError
from flax_attn.system.files import STALE_SECONDS, sync, writing
from flax_attn.system.output import mark_output

# How a file begins that is there for a moment, to see whether there can be one.
PROBE = ".writable-"


def require_writable(folder: Path, *, remedy: str) -> None:
    """Checks that files can be made in a folder, or the folder itself; leaves nothing behind.

    Call it before work whose results go there. ``remedy`` is what the user may do instead.

    Raises:
      DiskFullError: no space is left.
      UsageError: nothing can be written there.
    """
    with writing(f"in {folder}", remedy=remedy):
        place = folder.absolute()
        while not _is_there(place):
            place = place.parent
        # Asking for rights is not enough: a file system may be read-only, or full.
        handle, name = tempfile.mkstemp(prefix=PROBE, dir=place)
        os.close(handle)
        os.unlink(name)


def require_free(out: Path, *, flag: str) -> None:
    """Checks that a new folder can be made, before anything is read for it.

    Raises:
      DiskFullError: no space is left.
      UsageError: it holds something, or cannot be made; ``flag`` is how another is named.
    """
    remedy = f"name a new folder with {flag}"
    with writing(out, remedy=remedy):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} holds something already: {remedy}")
    require_writable(out.parent, remedy=remedy)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder that takes the name ``out`` when the block ends well, else is removed.

    Raises:
      UsageError: something in it, or itself, cannot be written.
      DiskFullError: no space is left for it.
    """
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            folder.chmod(0o755)
            mark_output(folder)
            yield folder
            folder.rename(out)
            sync(out.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


_PARTIAL_FOLDER = ".partial-"
_LOCK = ".lock"

# The errors of a file system without locks: what a dead process left on it stays.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class Build:
    """A folder being built, ``folder``, which ``publish`` renames to ``final``.

    Several processes may build the same one: the first to publish wins. What is not published is
    removed by ``close``, at the latest when the process ends. What a killed process left is removed
    by the next build in the same parent folder, which recognises it by its released lock, not by a
    process number: another machine or container may use the same number.

    Raises:
      OSError: the folder cannot be made.
    """

    def __init__(self, final: Path):
        self._final = final
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(final.parent)
        token = secrets.token_hex(4)
        self.folder = final.with_name(f"{final.name}{_PARTIAL_FOLDER}{os.getpid()}-{token}")
        self._lock = _locked_folder(self.folder)
        self.close = weakref.finalize(self, _discard, self.folder, self._lock)

    def publish(self) -> None:
        """Gives the folder its final name; removes it if another process was first.

        Raises:
          OSError: it cannot be renamed.
        """
        try:
            self.folder.rename(self._final)
        except OSError:
            if not self._final.is_dir():
                raise
        else:
            with suppress(OSError):
                (self._final / _LOCK).unlink()
        finally:
            self.close()


def _locked_folder(folder: Path) -> int:
    """Makes a folder that is locked before it gets its name; returns the lock's descriptor."""
    unnamed = folder.with_name(f".{folder.name}")
    unnamed.mkdir()
    lock = -1
    try:
        lock = os.open(unnamed / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        unnamed.rename(folder)
    except OSError:
        _discard(unnamed, lock)
        raise
    return lock


def _discard(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock >= 0:
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Removes the folders in ``parent`` that killed processes were building, where it can."""
    try:
        names = os.listdir(parent)
    except OSError:
        return
    left = [parent / name for name in names if _PARTIAL_FOLDER in name[1:]]
    for folder in (path for path in left if path.name.startswith(".")):
        # It gets its lock, and another name, within the blink of an eye.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    for folder in (path for path in left if not path.name.startswith(".")):
        lock = _opened_lock(folder)
        if lock is None:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            _discard(folder, lock)


def _opened_lock(folder: Path) -> int | None:
    try:
        return os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return None
