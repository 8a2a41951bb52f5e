"""The model card of a published folder: ``README.md``, with what hubs read at its top."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_attn.config import ModelConfig
from flax_attn.models.tasks import TASKS
from flax_attn.runs.directory import ATTENTION_FILE, CURVES_FILE, Run, names_of_network
from flax_attn.runs.load import temperature_of
from flax_attn.runs.log import Row
from flax_attn.runs.published_folder import WEIGHTS_FILE
from flax_attn.runs.thresholds import THRESHOLDS, stored_thresholds
from flax_attn.system.files import write_text
from flax_attn.system.json_text import encode_json

CARD_FILE = "README.md"

# What hubs call the measures that they know.
_METRICS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall"}
_METRICS |= {"roc_auc": "roc_auc", "average_precision": "average_precision"}
# Fields of an epoch's row that say how training went, not what the network is.
_OF_TRAINING = ("epoch", "step", "seconds", "train", "val")
_PICTURES = {
    CURVES_FILE: "Loss, accuracy, precision and recall by epoch",
    ATTENTION_FILE: "Images of the validation part, and the attention on them",
}


def write_card(run: Run, folder: Path, *, name: str, pictures: Sequence[str]) -> None:
    """Writes the model card of a published run into its folder.

    Args:
      run: the run, as the folder has it.
      folder: the folder.
      name: what the model is called.
      pictures: names of the pictures that lie in the folder.

    Raises:
      OSError: it cannot be written.
    """
    text = "\n".join([*_front_matter(run, name), "", *_body(run, name, pictures)])
    write_text(folder / CARD_FILE, text + "\n")


def _front_matter(run: Run, name: str) -> Iterator[str]:
    """Yields the lines of YAML at the top; every text in it is JSON, which YAML includes."""
    model = run.config.model
    yield "---"
    yield "library_name: flax_attn"
    yield "pipeline_tag: image-classification"
    yield "license: unknown  # fill in, such as apache-2.0: it is yours to give"
    yield "datasets: []  # fill in, such as [owner/name]"
    yield f"tags: {encode_json(['jax', 'flax', 'attention', model.model, model.backbone])}"
    measured = list(_measured(_row(run)))
    yield f"metrics: {encode_json([kind for kind, _ in measured])}"
    if measured:
        yield "model-index:"
        yield f"- name: {encode_json(name)}"
        yield "  results:"
        yield "  - task: {type: image-classification}"
        yield "    dataset: {type: unknown, name: unknown, split: validation}  # fill in"
        yield "    metrics:"
        for kind, value in measured:
            yield f"    - {{type: {kind}, value: {value:.6f}}}"
    yield "---"


def _use(model: ModelConfig, folder: str) -> Iterator[str]:
    views = _one_line(", ".join(model.view_names))
    yield "```python"
    yield "import flax_attn as fa"
    yield ""
    yield f'run = fa.load("{folder}")  # this folder'
    if not views:
        yield 'print(run.predict(["photo.jpg"]).probabilities)'
    yield "```"
    if views or model.meta_features:
        yield ""
        yield f"A case has the pictures {views}." if views else "`predict` knows no metadata."
        yield "`flax-attn eval` and `explain` read a table of cases (`labelled_csv`)."


def _body(run: Run, name: str, pictures: Sequence[str]) -> Iterator[str]:
    model, data = run.config.model, run.config.data
    classes = ", ".join(run.classes)
    what = ", ".join(names_of_network(model))
    yield f"# {_one_line(name)}"
    yield ""
    yield f"An image classifier ({what}) trained with flax_attn. {len(run.classes)} classes,"
    yield f"in the order of the probabilities: {_one_line(classes)}."
    yield ""
    yield "Fill in: what it is for and what not, the images it was trained on and their licence."
    yield ""
    yield "## Use"
    yield ""
    yield from _use(model, _one_line(name))
    yield ""
    yield f"`{WEIGHTS_FILE}` holds parameters and running statistics by path; `config.json` has its"
    yield f"SHA-256 and every setting. Images have {data.image_size} pixels a side ({data.resize})."
    yield ""
    row = _row(run)
    if row:
        yield f"## Validation, epoch {run.published.epoch if run.published else row['epoch']}"
        yield ""
        yield "| measure | value |"
        yield "|---|---|"
        for measure, value in _numbers(run, row):
            yield f"| {measure} | {value} |"
        yield ""
        yield "The checkpoint was chosen by these images, and so were thresholds: new images may"
        yield "look worse."
        yield ""
    for picture in pictures:
        yield f"![{_PICTURES[picture]}]({picture})"
        yield ""
    yield f"Weights at the start of training: {_one_line(run.weights.get('source', 'none'))}."


def _row(run: Run) -> Row:
    return (run.published.row if run.published else None) or {}


def _measured(row: Row) -> Iterator[tuple[str, float]]:
    for name, kind in _METRICS.items():
        value = row.get("val", {}).get(name, math.nan)
        if math.isfinite(value):
            yield kind, float(value)


def _numbers(run: Run, row: Row) -> Iterator[tuple[str, str]]:
    """Yields every measure of the validation images, and what was chosen by them."""
    for name, value in {**row.get("val", {}), **_chosen(run, row)}.items():
        if name != "images_per_second":
            yield name.replace("_", " "), _shown(value)


def _chosen(run: Run, row: Row) -> Mapping[str, Any]:
    """What was chosen; thresholds as they are laid to the probabilities that readers get."""
    found = {name: value for name, value in row.items() if name not in _OF_TRAINING}
    if THRESHOLDS in found and run.published is not None:
        task = TASKS[run.config.train.task]
        chosen = stored_thresholds(task, run.classes, run.published)
        laid = None if chosen is None else chosen.calibrated(temperature_of(row)).known
        found[THRESHOLDS] = laid or "none better than chance"
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{_one_line(str(name))} {_shown(each)}" for name, each in value.items())
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else "undefined"
    return _one_line(str(value))


def _one_line(text: str) -> str:
    """Returns a text as one line of a document, whatever characters it has."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown.replace("|", "\\|")
