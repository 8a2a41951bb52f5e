"""What a command imports before it knows what is asked: nothing that computes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from flax_attn.system.cli import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = ("jax", "flax", "optax", "orbax", "matplotlib", "scipy", "sklearn", "llvmlite")
# Of those, what a training needs when it has trained.
LATER = {"orbax", "matplotlib", "scipy", "sklearn", "llvmlite", "tensorboardX"}
# Runs a file or a command and prints what of HEAVY was imported, whatever it exits with.
SCRIPT = f"""
import runpy, sys
sys.argv = sys.argv[1:]
try:
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from flax_attn.system.cli import main
        sys.exit(main(sys.argv[1:]))
except SystemExit as ended:
    code = ended.code or 0
print("exit", code, *(name for name in {HEAVY} if name in sys.modules))
"""
HELP = [
    ["flax-attn", "--help"],
    ["train.py", "--help"],
    ["eval.py", "--help"],
    ["flax-attn", "port", "inspect", "--help"],
    *(["flax-attn", name, "--help"] for name in COMMANDS),
]


def last_line(*argv: str) -> str:
    command = [sys.executable, "-c", SCRIPT, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("argv", HELP, ids=" ".join)
def test_help_imports_nothing_that_computes(argv: list[str]) -> None:
    assert last_line(*argv) == "exit 0"


def test_a_wrong_flag_is_refused_before_anything_that_computes_is_imported() -> None:
    assert last_line("flax-attn", "train", "--no-such-flag") == "exit 2"


def test_the_package_imports_nothing_beside_the_standard_library() -> None:
    script = "import sys; before = set(sys.modules); import flax_attn; import flax_attn.porting\n"
    script += "print({name.split('.')[0] for name in set(sys.modules) - before} - "
    script += "set(sys.stdlib_module_names))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'flax_attn'}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_flags_of_its_own(name: str) -> None:
    """A command and its flags are modules beside each other."""
    assert callable(import_module(COMMANDS[name].flags).parse)
    assert callable(import_module(COMMANDS[name].module).main)


def test_training_imports_at_first_what_it_needs_at_first() -> None:
    """Intervals, checkpoints and pictures bring their libraries when the first of them is made."""
    script = "import sys; import flax_attn.training.train_command, flax_attn.training.trainer\n"
    script += f"print({{name.split('.')[0] for name in sys.modules}} & {LATER})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
