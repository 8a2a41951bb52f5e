"""What several test files share: a network small enough to train in seconds."""

from __future__ import annotations

import pytest

from flax_attn.config import Config, make_config
from flax_attn.system.console import attempt
from tests.helpers.faulty_runs import SMALL, Reference, make_reference
from tests.helpers.networks import TINY


@pytest.fixture(autouse=True)
def first_failure_is_warned_of() -> None:
    """As in a process of its own (see ``console.attempt``)."""
    attempt.reset()


@pytest.fixture
def tiny() -> Config:
    return make_config(TINY)


@pytest.fixture
def no_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that there are no compiled convolutions for."""
    monkeypatch.setattr("flax_attn.ops.llvm.host_kernels", lambda: None)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run of a small network that several files damage copies of."""
    flags = [*SMALL, *"--train-count 48 --epochs 2 --save-every 3".split()]
    return make_reference(tmp_path_factory.mktemp("small"), flags)
