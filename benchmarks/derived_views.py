"""Derived views of a picture (``--views``): what they give, what they weigh, what they cost.

    python -m benchmarks.derived_views photographs --out runs/views --dataset folder --data-dir pets
    python -m benchmarks.derived_views animal --out runs/animal --image-size 384
    python -m benchmarks.derived_views cues --out runs/cues

``photographs`` trains one view, ``crops:2``, ``crops:3``, ``scales:2`` and ``rgb,lab,edges``,
joined by concatenation and by a gate, on any data set, three seeds each, under otherwise equal
settings (all flags of ``flax-attn train`` are taken). ``animal`` draws an animal of 64 of 384
pixels and asks whether the heaviest crop has most of it. ``cues`` draws pictures of two kinds: of
one the hue is random and the species is the class, of the other the shapes are blurred and the tint
is the class; it asks whether the weight of a view tells the kinds apart.

Accuracy and ROC AUC are of the validation part at the best epoch, the mean over the seeds of the
estimates and of the bounds of their bootstrap intervals (95 %). ``results.json`` in the folder has
every number of every seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

import flax_attn as fa
from benchmarks.validation import evaluate, validation
from flax_attn.config import Config, DerivedViews, parse_views
from flax_attn.data import Dataset
from flax_attn.data.drawn.pets import DrawnPets, Scene, open_drawn, render
from flax_attn.data.drawn.plan import labels_of, plan_scene
from flax_attn.models import build_model, functional
from flax_attn.models.cases import view_weights
from flax_attn.models.tasks import TASKS
from flax_attn.ops.metrics import per_label_ranking
from flax_attn.runs.log import read_rows
from flax_attn.statistics import mean
from flax_attn.system import cli
from flax_attn.training.case_inputs import inputs_of, settle_cases
from flax_attn.training.choices import CHOICES
from flax_attn.training.feature_storage import with_feature_storage
from flax_attn.training.judging import judge
from flax_attn.training.sources import example_sources
from flax_attn.training.start import resolve_initial

Form = dict[str, Any]
ATTEND = {"view_merge": "attend"}
COLOURS = "rgb,lab,edges"
FORMS: dict[str, dict[str, Form]] = {
    "photographs": {
        "one view": {},
        **{
            f"{views}, {merge}": {"views": views, "view_merge": merge}
            for views in ("crops:2", "crops:3", "scales:2", COLOURS)
            for merge in ("concat", "attend")
        },
    },
    "animal": {"one view": {}, "crops:3, attend": {"views": "crops:3", **ATTEND}},
    "cues": {
        "one view": {},
        "rgb,edges, attend": {"views": "rgb,edges", **ATTEND},
        f"{COLOURS}, attend": {"views": COLOURS, **ATTEND},
    },
}
DEFAULTS: dict[str, Form] = {
    "photographs": {},
    "animal": {"image_size": 384},
    "cues": {"image_size": 128},
}

ANIMAL_SHARE = 64 / 384


@dataclass(frozen=True, kw_only=True)
class SmallPets(DrawnPets):
    """Single animals of a sixth of the picture's side, anywhere in it."""

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"small {super().fingerprint}".encode()).hexdigest()

    def scene(self, index: int) -> Scene:
        place = self.first_index + index
        plan = plan_scene(seed=self.seed, index=place)
        (stance,) = plan.stances
        left, right = stance.sides
        # The frame is as tall as its scale; its larger side becomes the share.
        factor = ANIMAL_SHARE / max(stance.scale, right - left)
        rng = np.random.default_rng([self.seed, place, 2])
        x, y = rng.uniform([0.1, 0.2], [0.9, 0.98])
        small = replace(stance, scale=stance.scale * factor, x=float(x), y=float(y))
        return render(replace(plan, stances=(small,), occluded=False), size=self.size)


@dataclass(frozen=True, kw_only=True)
class CuePets(DrawnPets):
    """Pictures of two kinds: the class is the species under a random hue, or the tint of a blur."""

    @cached_property
    def _drawn(self) -> np.ndarray:
        """Of each picture: whether its shapes are the cue, its tint, its turn of hue."""
        of_each = [
            np.random.default_rng([self.seed, self.first_index + i, 3]).integers(0, (2, 2, 256))
            for i in range(self.count)
        ]
        return np.array(of_each).reshape(self.count, 3)

    @cached_property
    def by_shape(self) -> np.ndarray:
        return self._drawn[:, 0] == 1

    @cached_property
    def labels(self) -> np.ndarray:
        species = labels_of(self.seed, self.first_index + np.arange(self.count))
        return np.where(self.by_shape, species, self._drawn[:, 1]).astype(np.int32)

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"cues {super().fingerprint}".encode()).hexdigest()

    def image(self, index: int) -> np.ndarray:
        drawn = Image.fromarray(self.scene(index).image)
        _, tint, turn = self._drawn[index]
        if self.by_shape[index]:
            hue, saturation, value = drawn.convert("HSV").split()
            turned = hue.point([(i + int(turn)) % 256 for i in range(256)])
            return np.asarray(Image.merge("HSV", (turned, saturation, value)).convert("RGB"))
        blurred = drawn.filter(ImageFilter.GaussianBlur(self.size / 10))
        warm = np.array([1.15, 1.0, 0.85]) if tint else np.array([0.85, 1.0, 1.15])
        return np.clip(np.asarray(blurred, np.float64) * warm + 0.5, 0, 255).astype(np.uint8)


KINDS: dict[str, tuple[type[DrawnPets], tuple[str, ...]]] = {
    "animal": (SmallPets, ("cat", "dog")),
    "cues": (CuePets, ("cat or cool", "dog or warm")),
}


def heaviest_crop(split: SmallPets, derived: DerivedViews, weights: np.ndarray) -> dict[str, float]:
    """Whether the heaviest window has at least half of the animal, and what chance would have.

    Pictures without a visible animal are left out.
    """
    hits, chance, share = [], [], []
    for index, of_views in enumerate(weights):
        mask = split.masks(index).any(0)
        if not mask.any():
            continue
        rows, columns = np.nonzero(mask)
        y, x = (rows + 0.5) / split.size, (columns + 0.5) / split.size
        has = np.array(
            [
                np.mean((v.top <= y) & (y < v.top + v.side) & (v.left <= x) & (x < v.left + v.side))
                >= 0.5
                for v in derived.views
            ]
        )
        hits.append(float(has[of_views.argmax()]))
        chance.append(has.mean())
        share.append(of_views[has].sum())
    found = mean(np.array(hits))
    return {
        "heaviest has the animal": found.estimate,
        "low": found.low,
        "high": found.high,
        "chance": float(np.mean(chance)),
        "weight of crops with it": float(np.mean(share)),
    }


def told_apart(split: CuePets, derived: DerivedViews, weights: np.ndarray) -> dict[str, float]:
    """The ROC AUC of each view's weight for the pictures whose cue is their shapes."""
    of_each = np.repeat(split.by_shape[:, None], weights.shape[1], axis=1)
    found = per_label_ranking(weights, of_each)["roc_auc"].tolist()
    return {f"AUC of {name} for shape": a for name, a in zip(derived.names, found, strict=True)}


def features_of(config: Config, dataset: Dataset) -> float:
    """Computes the frozen features, where they are not there yet; returns the seconds."""
    config, metadata = settle_cases(config, dataset.splits["train"])
    config = with_feature_storage(config, dataset)
    structure, params, stats = functional.split(
        build_model(config.model, num_classes=len(dataset.classes), seed=config.train.seed)
    )
    params, stats = resolve_initial(config, dataset.classes).fill(params, stats)
    cases = inputs_of(dataset, config, metadata)
    started = time.perf_counter()
    example_sources(config, structure, params, stats, dataset, cases=cases)
    return time.perf_counter() - started


def judged(mode: str, workdir: Path, dataset: Dataset) -> dict[str, Any]:
    run = fa.load(workdir)
    task = TASKS[run.config.train.task]
    found = evaluate(run, validation(run, dataset))
    val = dataset.splits["val"]
    labels = np.asarray(val.labels)[found.judged]
    measures = judge(task, run.classes, found.probabilities, labels).default.measures
    row: dict[str, Any] = {
        name: list(map(float, measures[name])) for name in ("accuracy", "roc_auc")
    }
    row["seconds an epoch"] = statistics.median(r["seconds"] for r in read_rows(workdir))
    weights = view_weights(found.attention, found.probabilities)
    if weights is not None:
        derived = parse_views(run.config.model.views)
        row["weights"] = dict(zip(derived.names, weights.mean(0).tolist(), strict=True))
        if isinstance(val, SmallPets):
            row.update(heaviest_crop(val, derived, weights))
        if isinstance(val, CuePets):
            row.update(told_apart(val, derived, weights))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=FORMS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="forms to train (default: all of the mode)")
    cli.add_settings(parser, CHOICES, "train")
    args = parser.parse_args()
    given = {**DEFAULTS[args.mode], **cli.take_settings(vars(args), "train")}
    forms = FORMS[args.mode]
    if unknown := set(args.only or ()) - set(forms):
        parser.error(f"--only: no {', '.join(unknown)}; there are: {'; '.join(forms)}")
    results: dict[str, list[dict[str, Any]]] = {}
    for name, form in forms.items():
        if args.only and name not in args.only:
            continue
        for seed in args.seeds:
            slug = name.replace(" ", "").replace(",", "-").replace(":", "")
            cache = {"feature_cache": str(args.out / "features" / (form.get("views") or "one"))}
            config = fa.make_config({**cache, **given, **form, "seed": seed})
            dataset = open_data(args.mode, config)
            seconds = features_of(config, dataset) if config.train.freeze_backbone else 0.0
            workdir = args.out / f"{slug}-{seed}"
            fa.train(config, dataset, workdir=workdir, draw=False)
            row = {**judged(args.mode, workdir, dataset), "seconds for features": seconds}
            results.setdefault(name, []).append(row)
            (args.out / "results.json").write_text(json.dumps(results, indent=1))
        print_form(name, results[name])


def open_data(mode: str, config: Config) -> Dataset:
    if mode in KINDS:
        kind, classes = KINDS[mode]
        return open_drawn(kind, classes, config.data)
    return fa.data.open_dataset(config.data)


def print_form(name: str, rows: list[dict[str, Any]]) -> None:
    """Prints means over the seeds; features are computed by the first seed alone."""

    def interval(key: str) -> str:
        estimate, low, high = (statistics.fmean(row[key][i] for row in rows) for i in range(3))
        return f"{estimate:.4f} ({low:.4f} to {high:.4f})"

    parts = [
        f"accuracy {interval('accuracy')}",
        f"ROC AUC {interval('roc_auc')}",
        f"{statistics.fmean(row['seconds an epoch'] for row in rows):.2f} s an epoch",
        f"features {rows[0]['seconds for features']:.1f} s",
    ]
    if "weights" in rows[0]:
        weights = {k: statistics.fmean(r["weights"][k] for r in rows) for k in rows[0]["weights"]}
        parts.append("weights " + " ".join(f"{k} {v:.3f}" for k, v in weights.items()))
    known = {"accuracy", "roc_auc", "seconds an epoch", "seconds for features", "weights"}
    for key in (key for key in rows[0] if key not in known):
        parts.append(f"{key} {statistics.fmean(row[key] for row in rows):.3f}")
    print(f"{name}: " + "; ".join(parts), flush=True)


if __name__ == "__main__":
    main()
