"""Explains photographs: restores a run, computes the maps, writes pictures and the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from flax_attn import functional
from flax_attn.checkpoint import Checkpoints
from flax_attn.durable import is_no_space
from flax_attn.errors import DiskFullError, UsageError
from flax_attn.explain.collect import Explained, Explainer, Request
from flax_attn.explain.colour_scales import ScaleName
from flax_attn.explain.forward import NetworkForward, network_forward
from flax_attn.explain.page import write_page
from flax_attn.explain.photographs import Photographs
from flax_attn.figures_explain import colour_table, draw_explained
from flax_attn.loop import Say, bar
from flax_attn.model import build_model
from flax_attn.run import Run

PAGE = "index.html"


def restore(run: Run, workdir: Path) -> tuple[NetworkForward, int]:
    """The network of a run's best checkpoint, and the epoch of that.

    Raises CheckpointError when there is no checkpoint, or it does not fit.
    """
    config, num_classes = run.config.model, len(run.classes)
    _, params, stats = functional.abstract(lambda: build_model(config, num_classes=num_classes))
    best = Checkpoints(workdir, read_only=True).load_best()
    params, stats = best.model(params, stats)
    return network_forward(config, params, stats, num_classes=num_classes), best.info.epoch


def explain(
    explainer: Explainer,
    photographs: Photographs,
    request: Request,
    *,
    classes: Sequence[str],
    title: str,
    summary: str,
    scale: ScaleName,
    batch_size: int,
    out: Path,
    say: Say,
) -> list[Explained]:
    """Writes a PNG for each photograph and ``index.html`` with all of them into ``out``.

    Raises NonFiniteError for a network that gives no numbers, UsageError or DiskFullError where
    nothing can be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    n = len(photographs.names)
    found = explainer.explain(photographs, request, batch_size=batch_size)
    explained = list(bar(found, n, "explaining"))
    ranges = _ranges(explained)
    right = [item.correct for item in explained if item.correct is not None]
    if right:
        summary += f" · {sum(right)} of {n} right"
    with writing(out):
        for number, item in enumerate(bar(explained, n, "drawing"), start=1):
            path = out / f"{number:03d}-{_file_name(item.name)}.png"
            draw_explained(item, path, classes=classes, scale=scale, ranges=ranges)
        write_page(
            out / PAGE,
            explained,
            title=title,
            summary=summary,
            classes=classes,
            scale=scale,
            ranges=ranges,
            colours=colour_table(),
        )
    say(f"wrote {PAGE} and {n} pictures to {out}")
    return explained


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """What cannot be written becomes an error of one line."""
    try:
        yield
    except OSError as error:
        if is_no_space(error):
            raise DiskFullError(f"no space left for pictures in {out}") from error
        raise UsageError(f"cannot write in {out}: {error.strerror or error}") from error


def _ranges(explained: Sequence[Explained]) -> Mapping[str, tuple[float, float]]:
    """The smallest and the largest value of each map over all photographs."""
    return {
        name: (
            float(np.min([item.maps[name].min() for item in explained])),
            float(np.max([item.maps[name].max() for item in explained])),
        )
        for name in explained[0].maps
    }


def _file_name(name: str) -> str:
    """The end of a path without its ending, as letters, digits, dots and hyphens."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:60]
