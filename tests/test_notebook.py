"""The notebook runs from top to bottom, made small, and is kept with its outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.networks import TINY

NOTEBOOK = Path(__file__).parents[1] / "notebooks/attention.ipynb"
NAMES = ("widths", "depths", "attn_features", "image_size")
SMALL = {name: TINY[name] for name in NAMES} | {
    "train_count": 12,
    "val_count": 6,
    "batch_size": 4,
    "weights": "none",
    "freeze_backbone": False,
}


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


# jupyter_client and zmq say that the kernel is reached over this machine's own network.
@pytest.mark.filterwarnings("default")
def test_every_cell_runs(notebook: nbformat.NotebookNode, tmp_path: Path) -> None:
    small = nbformat.from_dict(notebook)
    (parameters,) = [c for c in small.cells if "parameters" in c.metadata.get("tags", ())]
    parameters.source += f"\nEPOCHS, SETTINGS = 1, {SMALL!r}"
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(small, timeout=300, kernel_name="python3", resources=where).execute()
    assert (tmp_path / "runs/notebook/softmax/metrics.jsonl").is_file()


def test_outputs_are_kept_small_and_without_errors(notebook: nbformat.NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # In order, with nothing executed between: what is shown is what the cells make.
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert not [output.name for output in outputs if output.get("name") == "stderr"]
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert "/" + "home" not in NOTEBOOK.read_text(encoding="utf-8")
