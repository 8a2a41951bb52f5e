"""Weight files as people have them: ported bit for bit, or refused in one line that names why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flax_attn.errors import WeightsError
from flax_attn.porting import read_ported
from tests.helpers.small_torch import FLAGS, error_line, ported_arrays, run_port, same_bits
from tests.helpers.weight_shapes import BESIDE, SHAPES, Shape, sing


def expected_arrays(shape: Shape) -> dict[str, np.ndarray]:
    """The arrays of a layout; those of the backbone are of the network that ``of`` names."""
    assert shape.layout is not None
    arrays = ported_arrays(shape.of if shape.layout == "backbone" else shape.layout)
    return {
        path: array
        for path, array in arrays.items()
        if shape.layout != "backbone" or path.startswith("backbone/")
    }


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_taken_rightly_or_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = SHAPES[name]
    folder, out = tmp_path / "in", tmp_path / "out.safetensors"
    folder.mkdir()
    source = shape.write(folder)
    before = sorted(folder.iterdir())
    code = run_port("--source", source, "--out", out, *FLAGS, *shape.flags)
    if shape.layout is None:
        assert code == WeightsError.exit_code
        line = error_line(capsys)
        assert all(part in line for part in shape.said), line
        assert str(source) in line and not out.exists()
    else:
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert all(part in captured.out for part in shape.said), captured.out
        assert len(captured.out.splitlines()) <= 5
        arrays, metadata = read_ported(out)
        assert metadata["layout"] == shape.layout
        assert same_bits(arrays, expected_arrays(shape))
    assert sorted(folder.iterdir()) == before, "something in the file ran"


def test_there_are_enough_shapes() -> None:
    assert len(SHAPES) >= 40 and len(BESIDE) >= 10
    assert {shape.layout for shape in SHAPES.values()} > {None, "torchvision", "backbone"}


def test_the_canary_would_sing(tmp_path: Path) -> None:
    """Else that nothing ran would say nothing."""
    source = SHAPES["beside-a-function-that-would-be-called"].write(tmp_path)
    torch.load(source, weights_only=False)
    assert (tmp_path / "canary").exists()
    (tmp_path / "other").unlink(missing_ok=True)
    sing(str(tmp_path / "other"))
    assert (tmp_path / "other").exists()
