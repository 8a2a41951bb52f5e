"""Operations on a batch that several devices share: what each computes of its part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flax_attn.ops import llvm
from flax_attn.ops.llvm.operations import HANDLERS

ROOT = Path(__file__).parents[2]
FORMS = ("convolution", "affine", "normalisation", "both", "evaluation", "direct", "winograd")
# The compiled forms' own bound to XLA's is 1e-4 of the largest value: two of them, in another
# order of the sums, differ by less.
TOLERANCE = llvm.TOLERANCE / 4


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.shared_batch"],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["compiled"] == (llvm.host_kernels() is not None)
    assert said["forms"].keys() == {*FORMS}
    return said["forms"]


@pytest.mark.parametrize("form", FORMS)
def test_two_devices_compute_what_one_does(found: dict[str, Any], form: str) -> None:
    assert found[form]["difference"] < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_sums_alone_pass_between_devices(found: dict[str, Any], form: str) -> None:
    """Images and maps stay where they are: a gathered batch would be computed by every device."""
    assert found[form]["communication"] == ["all-reduce"]


@pytest.mark.skipif(llvm.host_kernels() is None, reason="no compiled kernels here")
def test_every_handler_says_what_is_of_images() -> None:
    from flax_attn.ops.llvm.evaluation_handlers import build as build_evaluation
    from flax_attn.ops.llvm.handlers import build

    code = llvm.host_kernels()
    assert code is not None
    modules = build(code.machine), build_evaluation(code.machine)
    functions = [f for module in modules for f in module.functions]
    # XLA gives a handler one pointer, and takes one: an error.
    built = {f.name for f in functions if str(f.function_type) == "ptr (ptr)" and f.blocks}
    assert HANDLERS.keys() == built
    assert all(operands.of_images[0] for operands in HANDLERS.values())
