"""What keeping freed memory does to a process, seen from outside."""

import ctypes
import subprocess
import sys

import pytest

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
