from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from flax_attn.errors import UsageError
from flax_attn.explain import explain_command as explain
from flax_attn.studies.ablate import ablate_command as ablate
from flax_attn.studies.cross_validate import cross_validate_command as cross_validate
from flax_attn.studies.reproduce import reproduce_command as reproduce
from flax_attn.system import cli, compilation_cache
from flax_attn.system.compilation_cache import machine_key, use_compilation_cache
from flax_attn.training import eval_command as evaluate
from flax_attn.training import train_command as train

# Says how many programs a process compiled, and how many it took from the cache.
PROCESS = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from flax_attn.system.compilation_cache import use_compilation_cache

counts = {"hits": 0, "misses": 0}

def count(event, **_):
    for name in counts:
        if event == f"/jax/compilation_cache/cache_{name}":
            counts[name] += 1

jax.monitoring.register_event_listener(count)
use_compilation_cache(Path(sys.argv[1]))
x = jnp.linspace(0, 1, 300).reshape(10, 30)
print(jax.jit(lambda x: jnp.tanh(x @ x.T).sum())(x).item().hex(), *counts.values())
"""


def start(folder: Path, **environment: str) -> tuple[str, int, int]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROCESS, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    assert done.stderr == ""
    value, hits, misses = done.stdout.split()
    return value, int(hits), int(misses)


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, hits, misses = start(tmp_path)
    assert hits == 0
    assert misses > 1
    second, hits, again = start(tmp_path)
    assert (hits, again) == (misses, 0)
    assert second == first


def test_another_number_of_threads_has_programs_of_its_own(tmp_path: Path) -> None:
    start(tmp_path)
    _, hits, misses = start(tmp_path, NPROC="3")
    assert hits == 0
    assert misses > 1
    assert len(list(tmp_path.glob("[!.]*"))) == 2


def test_a_torn_entry_is_compiled_again_without_a_warning(tmp_path: Path) -> None:
    first, _, misses = start(tmp_path)
    (folder,) = tmp_path.glob("[!.]*")
    torn, empty = sorted(folder.glob("*-cache"))[:2]
    torn.write_bytes(torn.read_bytes()[:-5])
    empty.write_bytes(b"")
    assert start(tmp_path) == (first, misses - 2, 2)
    assert start(tmp_path) == (first, misses, 0)


@pytest.mark.parametrize("part", ["_describe_cpu", "threads", "jaxlib"])
def test_the_key_knows_version_cpu_and_threads(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine_key()
    assert machine_key() == before
    other = {"_describe_cpu": lambda: ["flags: none"], "threads": lambda: 999}
    old = SimpleNamespace(__version__="0.0.1")
    monkeypatch.setattr(compilation_cache, part, other.get(part, old))
    assert machine_key() != before


def test_the_cpu_is_described_by_more_than_its_architecture() -> None:
    said = compilation_cache._describe_cpu()
    assert said
    if sys.platform == "linux":
        assert any(line.startswith(("flags", "Features")) for line in said)
        assert not any("MHz" in line for line in said)  # changes from moment to moment


def test_a_folder_others_may_write_to_is_refused(tmp_path: Path) -> None:
    own = tmp_path / machine_key()
    own.mkdir()
    own.chmod(0o777)
    with pytest.raises(UsageError, match="others may write"):
        use_compilation_cache(tmp_path)


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (train.main, []),
        (evaluate.main, ["--workdir", "run"]),
        (explain.main, ["--workdir", "run", "--split", "val"]),
        (ablate.main, []),
        (cross_validate.main, []),
        (reproduce.main, ["--quick"]),
    ],
)
def test_every_command_takes_the_flag_and_refuses_what_is_no_folder(
    main: Callable[[Sequence[str]], None],
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.run(main, [*flags, "--compilation-cache", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --compilation-cache: cannot use")
    assert error.count("\n") == 1


def test_without_the_flag_nothing_changes() -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    assert use_compilation_cache(None) is None
    assert jax.config.values["jax_compilation_cache_dir"] == before
