"""Where a step of AttnVGG spends its time on a CPU: convolutions by direction, and the rest.

    python -m benchmarks.breakdown --size 224 --batch 8 --step training

XLA reports when each operation of the compiled step begins and ends (``jax.profiler``). The table
has the median over the rounds of each part; ``--stages`` splits convolutions by the side of their
maps, and ``--longest N`` lists single operations.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Set
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jax.profiler import ProfileData, trace

from benchmarks.contenders import EVALUATION, TRAINING, contender

STEPS = {"training": TRAINING, "evaluation": EVALUATION}
BETWEEN = "between operations"
# Our compiled operations by the names that XLA calls them by, less the width of their vectors.
CALLS = {
    "convolve": "convolution, forward",
    "convolve_normalised": "convolution, forward",
    "convolve_affine_relu": "convolution, forward",
    "evaluate": "convolution, forward",
    "evaluate_pooled": "convolution, forward",
    "pair": "convolution, forward",
    "pair_pooled": "convolution, forward",
    "convolve_turned": "convolution, gradient of the input",
    "kernel_gradient": "convolution, gradient of the kernel",
    "normalised_kernel_gradient": "convolution, gradient of the kernel",
    "moments": "normalisation, moments",
    "relu_sums": "normalisation, sums of the gradient",
    "relu_gradient": "normalisation, gradient",
}
UPDATE = "the optimizer's update"
# What else there is, by a part of the name that JAX gave the operation; the first that fits.
OTHERS = (
    ("is_finite", "is every number finite"),
    ("reduce_and", "is every number finite"),
    ("transpose(jvp(", "the rest, backward"),
    ("jvp(", "the rest, forward"),
    ("", UPDATE),
)
# Operations whose time is that of others within.
CONTAINERS = ("while", "call", "conditional")
_OPERATION = re.compile(
    r"^ *(?:ROOT )?%(?P<name>[\w.-]+) = (?P<shape>\S+|\([^=]*?\)) (?P<kind>[\w-]+)\((?P<rest>.*)$",
    re.MULTILINE,
)


class Operation(NamedTuple):
    """An operation of a compiled step: its part of the step, the side of its map, if it has one."""

    part: str
    side: int | None
    text: str


class Measured(NamedTuple):
    """The operations of a step, the ns of each by name, and of a step recorded and by itself."""

    operations: dict[str, Operation]
    taken: dict[str, float]
    recorded: float
    alone: float


class Interval(NamedTuple):
    """When an operation ran, in ns."""

    name: str
    start: float
    end: float


def operations_of(program: str) -> dict[str, Operation]:
    """The operations of XLA's text of a compiled program, by their names."""
    found = {}
    for match in _OPERATION.finditer(program):
        rest = match["rest"]
        call = re.search(r'custom_call_target="flax_attn_(\w+?)_\d+"', rest)
        jax_name = re.search(r'op_name="([^"]*)"', rest)
        if match["kind"] in CONTAINERS:
            continue
        maps = re.findall(r"f32\[\d+,(\d+),\d+,\d+\]", rest + match["shape"])
        if call:
            part = CALLS[call[1]]
        elif match["name"].startswith(("wrapped_reduce-window", "wrapped_reduce.")):
            part = "is every number finite"
        else:
            name = jax_name[1] if jax_name else ""
            part = next(part for text, part in OTHERS if text in name)
        if part == UPDATE and "jvp(" not in program:
            part = "the rest"
        text = f"{match['kind']} {match['shape']} {jax_name[1] if jax_name else ''}"
        found[match["name"]] = Operation(part, max(map(int, maps), default=None), text)
    return found


def own_times(intervals: Iterable[Interval], calls: Set[str]) -> dict[str, float]:
    """Nanoseconds by operation, of which each moment belongs to one.

    That is the one of ``calls`` that runs, for ours take all threads, or else the one that began
    last: the steps of a network wait for each other, and XLA often reports the end of an operation
    late, since its last thread takes up what waited for it first.
    """
    taken: dict[str, float] = defaultdict(float)
    ordered = sorted(intervals, key=lambda each: each.start)
    moments = sorted({moment for each in ordered for moment in (each.start, each.end)})
    running: list[Interval] = []
    following = 0
    for moment, until in pairwise(moments):
        while following < len(ordered) and ordered[following].start <= moment:
            running.append(ordered[following])
            following += 1
        running = [each for each in running if each.end > moment]
        if running:
            last = max(running, key=lambda each: (each.name in calls, each.start))
            taken[last.name] += until - moment
    return taken


def traced(step: Callable[[], object], folder: Path) -> tuple[list[Interval], float]:
    """The operations of one step, and what it took in all, in ns."""
    with trace(str(folder)):
        started = time.perf_counter_ns()
        step()
        whole = time.perf_counter_ns() - started
    (path,) = folder.rglob("*.xplane.pb")
    starts: dict[str, list[Interval]] = defaultdict(list)
    ends: dict[str, list[float]] = defaultdict(list)
    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                end = event.start_ns + event.duration_ns
                if "hlo_op" in stats:
                    name = str(stats["hlo_op"])
                    starts[name].append(Interval(name, event.start_ns, end))
                elif event.name.startswith("end: "):
                    ends[event.name.removeprefix("end: ")].append(event.start_ns)
    path.unlink()
    found = []
    for name, begun in starts.items():
        begun.sort(key=lambda each: each.start)
        # What other threads go on with ends when the last of them says so.
        reported = sorted(ends[name]) or [each.end for each in begun]
        pairs = zip(begun, reported, strict=True)
        found += [each._replace(end=max(each.end, end)) for each, end in pairs]
    return found, whole


def measure(size: int, batch: int, kind: int, rounds: int, folder: Path) -> Measured:
    """Runs steps with and without a record of their operations."""
    step = contender("ours", size, batch)[kind]
    step()
    program = max(
        (path.read_text() for path in folder.glob("*jit_step.cpu_after_optimizations.txt")),
        key=lambda text: text.count("flax_attn_"),
    )
    operations = operations_of(program)
    calls = {name for name, each in operations.items() if each.part in CALLS.values()}
    alone, recorded, parts = [], [], []
    for _ in range(rounds):
        started = time.perf_counter_ns()
        step()
        alone.append(time.perf_counter_ns() - started)
        intervals, whole = traced(step, folder)
        known = [each for each in intervals if each.name in operations]
        taken = own_times(known, calls)
        parts.append({**taken, BETWEEN: whole - sum(taken.values())})
        recorded.append(whole)
    names = {name for part in parts for name in part}
    medians = {name: statistics.median(part.get(name, 0.0) for part in parts) for name in names}
    return Measured(operations, medians, statistics.median(recorded), statistics.median(alone))


def print_parts(found: Measured, *, stages: bool, longest: int) -> None:
    """Prints milliseconds and the share of the step, the largest first."""
    sums: dict[str, float] = defaultdict(float)
    for name, taken in found.taken.items():
        if name == BETWEEN:
            sums[BETWEEN] += taken
        else:
            operation = found.operations[name]
            by_side = stages and operation.side is not None and "convolution" in operation.part
            sums[f"{operation.part}, {operation.side} px" if by_side else operation.part] += taken
    total = sum(sums.values())
    print("| part | ms | share |\n|---|---|---|")
    for part, taken in sorted(sums.items(), key=lambda item: -item[1]):
        print(f"| {part} | {taken / 1e6:.1f} | {taken / total:.1%} |")
    print(f"| all | {total / 1e6:.1f} | |")
    print(f"a step takes {found.alone / 1e6:.0f} ms, recorded {found.recorded / 1e6:.0f} ms")
    single = sorted(found.taken.items(), key=lambda item: -item[1])
    for name, taken in [item for item in single if item[0] != BETWEEN][:longest]:
        operation = found.operations[name]
        print(f"{taken / 1e6:8.2f} ms  {operation.part}: {name} {operation.text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--step", choices=STEPS, default="training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", action="store_true", help="convolutions by their maps' side")
    parser.add_argument("--longest", type=int, default=0, help="single operations to list")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Before JAX makes its client.
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=^jit_step"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
        kind = STEPS[args.step]
        found = measure(args.size, args.batch, kind, args.rounds, Path(folder))
    print(f"{args.step}, {args.size} px, batch {args.batch}")
    print_parts(found, stages=args.stages, longest=args.longest)


if __name__ == "__main__":
    main()
