"""Ports hostile files one after the other and reports what happened.

Run as ``weight_judge.py FIRST LAST STATE FOLDER [LIST]``: ports the files that LIST names, or else
the mutations of the state dict in STATE (an .npz), and prints a JSON line for each.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from flax_attn.porting import port_command as port
from flax_attn.porting import read_ported
from flax_attn.system import cli
from tests.helpers.fault_process import peak_memory
from tests.helpers.weight_faults import State, modern, mutated, state_table

SIZES = "--widths 3 4 6 5 7 --depths 1 1 1 1 1".split()

# Above what the process holds when it has ported its first file.
MEMORY = 1 << 30

# What running code from a file cannot do without.
_TELLTALE = {
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "ctypes.dlopen",
    "shutil.rmtree",
    "socket.connect",
}
_events: list[str] = []


def _listen(event: str, _: tuple) -> None:
    if event in _TELLTALE:
        _events.append(event)


def _port(source: Path, out: Path) -> dict[str, Any]:
    _events.clear()
    out.unlink(missing_ok=True)
    said, errors = io.StringIO(), io.StringIO()
    started = time.process_time()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            flags = ["--source", str(source), "--out", str(out), *SIZES]
            outcome = cli.run(port.main, flags)
    except BaseException as error:
        outcome = repr(error)
    return {
        "outcome": outcome,
        "error": errors.getvalue(),
        "seconds": time.process_time() - started,
        "events": list(_events),
        "torch": "torch" in sys.modules,
        "left": sorted(path.name for path in out.parent.iterdir()),
        "peak": peak_memory(),
    }


def _virtual_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _same(out: Path, expected: dict[str, np.ndarray]) -> bool:
    found = read_ported(out).arrays
    return found.keys() == expected.keys() and all(
        found[key].tobytes() == expected[key].tobytes() for key in found
    )


def main(first: int, last: int, state: State, folder: Path, listed: list[str]) -> None:
    outs = folder / "out"
    outs.mkdir(exist_ok=True)
    source, out = folder / "case.pth", outs / "ported.safetensors"
    source.write_bytes(modern(state_table(state), state))
    honest = _port(source, out)
    assert honest["outcome"] == 0, honest
    expected = read_ported(out).arrays
    start = honest["peak"]
    limit = _virtual_memory() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(_listen)
    for case in range(first, last):
        kind = Path(listed[case]).stem if listed else ""
        if not listed:
            kind, content = mutated(state, case)
            source.write_bytes(content)
        row = _port(Path(listed[case]) if listed else source, out)
        same = row["outcome"] == 0 and _same(out, expected)
        print(json.dumps({"case": case, "kind": kind, **row, "same": same, "start": start}))
        sys.stdout.flush()


if __name__ == "__main__":
    with np.load(sys.argv[3]) as file:
        STATE = {key: file[key] for key in file.files}
    LISTED = Path(sys.argv[5]).read_text().splitlines() if len(sys.argv) > 5 else []
    main(int(sys.argv[1]), int(sys.argv[2]), STATE, Path(sys.argv[4]), LISTED)
