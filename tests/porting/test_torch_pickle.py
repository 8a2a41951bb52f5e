"""Pickles read without running them: what is refused says why."""

from __future__ import annotations

import numpy as np
import pytest

from flax_attn.porting.torch_pickle import Malformed, read_pickle
from tests.helpers.weight_faults import of_array, storage, text


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"", "no whole pickle"),
        (b"\x80\x02}", "no whole pickle"),
        (b"\x80\x02\xff.", "no whole pickle"),
        (b"\x80\x02NN.", "2 values are left"),
        (b"\x80\x02.", "0 values are left"),
        (b"\x80\x02(1.", "opcode POP_MARK"),
        (b"\x80\x02N)\x81.", "an instance of what is no class"),
        (b"\x80\x02]N\x93.", "a name that is no text"),
        (b"\x80\x02]}b.", "a state is set"),
        (b"\x80\x02N\x86.", "a tuple without its items"),
        (b"\x80\x02" + storage("torch.FloatStorage", "0", 1, text("view")) + b".", "a view of"),
        (b"\x80\x02" + of_array(np.ones(2, "f4"), "0")[:-1] + b".", "values are left"),
    ],
)
def test_malformed_pickles_say_why(pickled: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read_pickle(pickled)
