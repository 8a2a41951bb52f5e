"""What may be wrong with a path that a command is given: made on disk, or by refusing calls."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, NamedTuple

import pytest

import flax_attn
from flax_attn.porting.export.formats import FORMATS

NOBODY = 65534
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class PathFault(NamedTuple):
    """A fault: ``make(path, patch)`` brings it about, and returns the path to type instead.

    ``of`` says what it can happen to: "file" or "folder" that is read, "out" that is written.
    ``elsewhere``: the fault is in another name, which has to be typed.
    """

    name: str
    make: Callable[[Path, pytest.MonkeyPatch], Path]
    of: tuple[str, ...] = ("file", "folder", "out")
    ordinary: bool = False
    elsewhere: bool = False

    def user(self) -> AbstractContextManager[None]:
        """The user that it stops: root is stopped by no permission."""
        return ordinary_user() if self.ordinary else nullcontext()


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Runs the block without root's rights, where it has them."""
    if os.geteuid() != 0:
        yield
        return
    load_everything()
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@cache
def load_everything() -> None:
    """Imports what a command may import: an ordinary user may not read root's environment."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before it is imported
    for module in walk_packages(flax_attn.__path__, "flax_attn."):
        import_module(module.name)
    for form in FORMATS.values():
        for package in form.needs:
            import_module(package)


def give_away(folder: Path) -> None:
    """Gives a tree to the user of ``ordinary_user``."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, -1, follow_symlinks=False)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def missing(path: Path, patch: pytest.MonkeyPatch) -> Path:
    remove(path)
    return path


def a_file_in_its_place(path: Path, patch: pytest.MonkeyPatch) -> Path:
    remove(path)
    path.write_text("no folder")
    return path


def a_folder_in_its_place(path: Path, patch: pytest.MonkeyPatch) -> Path:
    remove(path)
    path.mkdir()
    return path


def a_loop_of_links(path: Path, patch: pytest.MonkeyPatch) -> Path:
    remove(path)
    path.symlink_to(path.name)
    return path


def a_link_to_nowhere(path: Path, patch: pytest.MonkeyPatch) -> Path:
    remove(path)
    path.symlink_to("nowhere at all")
    return path


def below_a_file(path: Path, patch: pytest.MonkeyPatch) -> Path:
    (path.parent / "a file").write_text("")
    return path.parent / "a file" / path.name


def too_long_a_name(path: Path, patch: pytest.MonkeyPatch) -> Path:
    return path.with_name("n" * 300 + path.suffix)


def not_allowed(path: Path, patch: pytest.MonkeyPatch) -> Path:
    if not path.exists():
        path.mkdir()
        give_away(path)
    path.chmod(0)
    return path


def parent_not_allowed(path: Path, patch: pytest.MonkeyPatch) -> Path:
    closed = path.parent / "closed"
    closed.mkdir()
    if path.exists():
        shutil.move(path, closed / path.name)
    give_away(closed)
    closed.chmod(0)
    return closed / path.name


def only_readable(path: Path, patch: pytest.MonkeyPatch) -> Path:
    closed = path.parent / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    return closed / path.name


def refusing(code: int, *, writes_only: bool) -> Callable[[Path, pytest.MonkeyPatch], Path]:
    """A disk that fails on everything at a path and below it, or on writes there."""

    def make(path: Path, patch: pytest.MonkeyPatch) -> Path:
        if not path.exists():
            path.mkdir()
        top = os.fspath(path)

        def refuse(where: object) -> None:
            text = os.path.abspath(os.fsdecode(where)) if isinstance(where, str | Path) else ""
            if text == top or text.startswith(top + os.sep):
                raise OSError(code, os.strerror(code), text)

        def guard(module: Any, name: str, is_refused: Callable[..., bool]) -> None:
            real = getattr(module, name)

            def guarded(where: Any, *args: Any, **options: Any) -> Any:
                if is_refused(*args, **options):
                    refuse(where)
                return real(where, *args, **options)

            patch.setattr(module, name, guarded)

        def opens(mode: Any = "r", *_: Any, **__: Any) -> bool:
            return not writes_only or any(letter in str(mode) for letter in "wax+")

        def opens_low(flags: int = 0, *_: Any, **__: Any) -> bool:
            return not writes_only or bool(flags & _WRITES)

        def always(*_: Any, **__: Any) -> bool:
            return True

        for module in (builtins, io):
            guard(module, "open", opens)
        guard(os, "open", opens_low)
        for name in ("mkdir", "rename", "replace", "unlink"):
            guard(os, name, always)
        if not writes_only:
            for name in ("listdir", "scandir"):
                guard(os, name, always)
        return path

    return make


PATH_FAULTS = (
    PathFault("missing", missing, ("file", "folder")),
    PathFault("a file in its place", a_file_in_its_place, ("folder", "out")),
    PathFault("a folder in its place", a_folder_in_its_place, ("file",)),
    PathFault("a loop of links", a_loop_of_links),
    PathFault("a link to nowhere", a_link_to_nowhere, ("file", "folder")),
    PathFault("below a file", below_a_file, elsewhere=True),
    PathFault("too long a name", too_long_a_name, elsewhere=True),
    PathFault("not allowed", not_allowed, ordinary=True),
    PathFault("its folder not allowed", parent_not_allowed, ordinary=True, elsewhere=True),
    PathFault("a folder of another user", only_readable, ("out",), ordinary=True, elsewhere=True),
    PathFault("a read-only disk", refusing(errno.EROFS, writes_only=True), ("out",)),
    PathFault("a broken disk", refusing(errno.EIO, writes_only=False)),
    PathFault("a share that is gone", refusing(errno.ESTALE, writes_only=False)),
    PathFault("rights withheld", refusing(errno.EACCES, writes_only=False)),
)
