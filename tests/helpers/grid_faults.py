"""Interrupts a grid at each of its writes: ``python -m tests.helpers.grid_faults FOLDER``.

Every trial is a process of its own, forked from this one before it has any threads. It goes
through a grid of four rows that take no training; at its n-th operation on a file it is killed
("kill"), or there is no space from there on ("full"). Prints for each trial the operation, the
number of rows that were finished by then, the rows found afterwards, how the process ended, and
the rows that the same command gives when it is repeated.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# A second's import that the tables need: once here, not in every child.
import scipy.stats  # noqa: F401

from flax_attn.config import Config
from flax_attn.errors import FlaxAttnError
from flax_attn.studies.ablate import ablate_command, table
from flax_attn.studies.ablate.axes import Combination
from flax_attn.studies.rows import ROWS_FILE
from flax_attn.system.files import write_bytes
from tests.helpers.commit_faults import _FREEING, Interruption, kill, no_space, watch

GRID = [Combination("gate", "sigmoid"), Combination("dot", "softmax")]
SEEDS = [0, 1]


def row(combination: Combination, seed: int) -> dict[str, Any]:
    values = dict.fromkeys(("accuracy", "average_precision", "roc_auc", "area90_pool3"), 0.5)
    return {**combination._asdict(), "seed": seed, **values, "parameters": 7, "seconds": 1.0}


def run(out: Path, finished: Callable[[], object]) -> int:
    """Goes through the grid; ``finished`` is called after each row that was taken."""

    def rows(_: Any, combination: Combination, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
        for seed in seeds:
            yield row(combination, seed)
            finished()

    def draw(_: Any, path: Path, **__: Any) -> None:
        """A picture that takes no time to draw, written as the real one is."""
        write_bytes(path, b"a picture")

    ablate_command.draw_grid = draw  # type: ignore[assignment]
    ablate_command._bench = lambda *_: None  # type: ignore[assignment]
    ablate_command.run_combination = rows  # type: ignore[assignment]
    dataset, initial = SimpleNamespace(splits={}), SimpleNamespace(provenance={})
    try:
        ablate_command.run_grid(Config(), dataset, None, initial, GRID, SEEDS, out=out)  # type: ignore[arg-type]
    except FlaxAttnError as error:
        return error.exit_code
    return 0


def trial(out: Path, place: int, fault: Callable[[], None], harmless: Collection[str]) -> Any:
    """None when the fault never came."""
    (told, telling), (rows, taking) = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        interruption = Interruption(place, fault, harmless=harmless)
        interruption.reporting = telling
        watch(out, interruption)
        os._exit(run(out, lambda: os.write(taking, b".")))
    os.close(telling)
    os.close(taking)
    said, finished = os.read(told, 100).decode(), b"".join(iter(lambda: os.read(rows, 100), b""))
    _, status = os.waitpid(child, 0)
    os.close(told)
    os.close(rows)
    if not said:
        return None
    found = len(table.read_rows(out / ROWS_FILE))
    if (again := os.fork()) == 0:
        os._exit(run(out, lambda: None))
    code = os.waitstatus_to_exitcode(status)
    repeated = os.waitstatus_to_exitcode(os.waitpid(again, 0)[1])
    after = len(table.read_rows(out / ROWS_FILE)) if repeated == 0 else -1
    return [json.loads(said)[0], len(finished), found, code, after]


def main(root: Path) -> None:
    ends: dict[str, list[Any]] = {"kill": [], "full": []}
    for kind, fault, harmless in (("kill", kill, ()), ("full", no_space, _FREEING)):
        for place in count(1):
            out = root / f"{kind}{place}"
            out.mkdir(parents=True)
            end = trial(out, place, fault, harmless)
            if end is None:
                break
            ends[kind].append(end)
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
