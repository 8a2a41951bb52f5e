"""Folders that appear complete: made under another name, renamed at the end."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
import weakref
from contextlib import suppress
from pathlib import Path

_PARTIAL = ".partial-"
_LOCK = ".lock"
_DAY = 86_400
# What earlier versions made, and what was cut off before it had a lock: by a digest of ours.
_OLD = re.compile(r"\.?[0-9a-f]{32}\.partial-.*")

# A file system without locks: what a dead process left there stays.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class Build:
    """A folder in the making, ``folder``, which `publish` renames to ``final``.

    Any number of processes may build the same one: the first to publish wins. What is not
    published is removed by `close`, at the latest when the process ends; what a killed process
    left, by the next build beside it. A lock tells the two apart, not a process number, which
    another machine or container may use as well.

    Raises:
      OSError: the folder cannot be made.
    """

    def __init__(self, final: Path):
        self._final = final
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(final.parent)
        token = secrets.token_hex(4)
        self.folder = final.with_name(f"{final.name}{_PARTIAL}{os.getpid()}-{token}")
        self._lock = _locked_folder(self.folder)
        self.close = weakref.finalize(self, _discard, self.folder, self._lock)

    def publish(self) -> None:
        """Gives the folder its final name, unless another process was first; then it is gone.

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
    """Makes a folder that is locked when it first bears its name; the lock's descriptor."""
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
    """Removes the folders of builds in ``parent`` that nobody goes on with."""
    for folder in parent.glob(f"*{_PARTIAL}*"):
        lock = _opened_lock(folder)
        if lock is None:
            with suppress(OSError):
                if _OLD.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > _DAY:
                    shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            _discard(folder, lock)


def _opened_lock(folder: Path) -> int | None:
    if folder.name.startswith("."):  # about to be locked
        return None
    try:
        return os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return None
