"""What keeping freed memory does to a process, seen from outside."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flax_attn.system.memory import memory_bytes

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc can be told what to keep"
)

# 200 blocks of 1 MiB are freed; then a program of many parts is compiled.
SCRIPT = """
import ctypes, resource, sys
from pathlib import Path
import jax, jax.numpy as jnp
from flax_attn.system.memory import keep_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
x = jnp.ones(8)
assert keep_freed_memory() and keep_freed_memory()
blocks = [libc.malloc(1 << 20) for _ in range(200)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
taken = held()
for block in blocks:
    libc.free(block)
print(taken - held())

@jax.jit
def many(x):
    for i in range(100):
        x = jnp.sort(jnp.tanh(x) * i)
    return x

if sys.argv[1] == "compile":
    many(x).block_until_ready()
print(taken - held())
"""


def given_back(then: str) -> tuple[int, int]:
    """MiB that the system got of 200: when they were freed, and at the end."""
    command = [sys.executable, "-c", SCRIPT, then]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    freed, end = done.stdout.split()
    return int(freed), int(end)


def test_what_is_freed_is_kept():
    freed, end = given_back("nothing")
    assert freed < 20 and end < 20


def test_what_is_free_goes_back_once_a_program_is_compiled():
    freed, end = given_back("compile")
    assert freed < 20 and end > 100


MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "1000", "a/b/memory.max": "max"}, 1000),
        ("0::/a/b\n", {"a/memory.max": "1000", "a/b/memory.max": "900"}, 900),
        ("0::/elsewhere\n", {"memory.max": "800"}, 800),  # in a container
        ("0::/a\n", {"a/memory.max": "max"}, MACHINE),
        (
            "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n",
            {"memory/x/memory.limit_in_bytes": "700", "memory/memory.limit_in_bytes": str(2**63)},
            700,
        ),
        ("", {}, MACHINE),
    ],
)
def test_the_memory_is_that_of_the_control_group(
    own: str, limits: dict[str, str], expected: int, tmp_path: Path
) -> None:
    groups = tmp_path / "cgroup"
    for name, limit in limits.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(f"{limit}\n")
    (tmp_path / "own").write_text(own)
    assert memory_bytes(groups, tmp_path / "own") == expected


def test_without_control_groups_it_is_the_machine_s(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path, tmp_path / "none") == MACHINE
