"""Which forms of attention between inputs answer the questions of ``drawn_pets_asked``.

    python -m benchmarks.asked --workdir runs/asked [--seeds 0 1 2] [--only metadata picture]

Every form is trained on the features of the frozen ImageNet backbone, which all share. The table
has, as means over the seeds, on the validation scenes: accuracy and cross entropy (in nats), both
again with every question exchanged for another one to the same scene, and of the attention that
animals receive the share of those that are asked for, by gate. Chance is a cross entropy of ln 2
(0.693), and a share of a quarter, or a half where two animals are asked for. A form that reads the
question must fall with it exchanged. ``results.json`` in the folder has every number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import flax_attn as fa
from benchmarks.validation import evaluate, validation
from flax_attn.config import Config
from flax_attn.data import Dataset, Split
from flax_attn.data.drawn.asked import animal_masks, asked_animals
from flax_attn.explain.measures.concentration import received
from flax_attn.explain.trained_run import TrainedRun
from flax_attn.models.cases import maps_by_view
from flax_attn.training.sources import FeatureExamples

FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "metadata": {
        "into the classifier (a sum)": {"meta_into": "classifier"},
        "into the query, no guide": {"query": ("meta",)},
        "guide and metadata ask": {"query": ("guide", "meta")},
        "guide and metadata, two hops": {"query": ("guide", "meta"), "hops": 2},
    },
    "picture": {
        "own (a sum)": {"relation": ("own",)},
        "interactive": {"relation": ("interactive",)},
        "interactive, guide": {"relation": ("interactive",), "query": ("guide",)},
        "parallel": {"relation": ("parallel",)},
        "alternating": {"relation": ("alternating",)},
        "rotatory": {"relation": ("rotatory",)},
        "interactive and parallel": {"relation": ("interactive", "parallel")},
    },
    "pair": {
        "own (a sum)": {"relation": ("own",)},
        "interactive": {"relation": ("interactive",)},
        "parallel": {"relation": ("parallel",)},
    },
    "pictures": {
        "own (a sum)": {"relation": ("own",)},
        "interactive": {"relation": ("interactive",)},
        "parallel": {"relation": ("parallel",)},
        "alternating": {"relation": ("alternating",)},
        "rotatory": {"relation": ("rotatory",)},
    },
}
# Questions to a scene, of which a run sees the same number whatever the form of the question.
CASES = {"metadata": 4, "picture": 4, "pair": 2, "pictures": 12}


def settings(args: argparse.Namespace, question: str, form: dict[str, Any], seed: int) -> Config:
    scenes = args.cases // CASES[question] // 2 * 2
    chosen = {
        "dataset": "drawn_pets_asked",
        "question": question,
        "image_size": args.size,
        "train_count": scenes,
        "val_count": scenes // 8 * 2,
        "norm": args.norm,
        "shuffle": "pictures",
        "score": args.score,
        "attn_features": args.attn_features,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "clip_norm": args.clip_norm,
        "seed": seed,
        "feature_cache": str(args.workdir / "features"),
    }
    if question == "pictures":
        chosen["task"] = "multilabel"
    return fa.make_config({**chosen, **form})


def folder_of(workdir: Path, question: str, form: str, seed: int) -> Path:
    return workdir / f"{question}-{form.replace(' ', '_')}-{seed}"


def exchanged(source: FeatureExamples, split: Split) -> FeatureExamples:
    """Each case with the question of another case of its scene; labels stay."""
    scenes: dict[str, list[int]] = {}
    for place, name in enumerate(split.names):
        scenes.setdefault(name.split("|")[0], []).append(place)
    other = np.arange(len(split.names))
    for cases in scenes.values():
        other[cases] = np.roll(cases, 1)
    places = source.places
    if places is not None and places.ndim == 2:
        places = np.concatenate([places[:, :1], places[other, 1:]], axis=1)
    return replace(source, places=places, cases=source.cases.take(other))


def shares(run: TrainedRun, attention: dict[str, np.ndarray], split: Split) -> dict[str, float]:
    """Of what animals of a scene receive from each gate, the part of those asked for."""
    asked = asked_animals(split)
    found = {}
    masks = np.stack([animal_masks(split, i) for i in range(len(split.names))])
    for name, maps in maps_by_view(attention, run.config.model, run.classes)[0].items():
        of_animals = received(maps.astype(float), masks)
        own = np.take_along_axis(of_animals, asked, axis=1).sum(1)
        found[name] = float(np.mean(own / np.maximum(of_animals.sum(1), 1e-12)))
    return found


def judge(run: TrainedRun, dataset: Dataset) -> dict[str, Any]:
    val = dataset.splits["val"]
    source = validation(run, dataset)
    assert isinstance(source, FeatureExamples)
    own, other = evaluate(run, source), evaluate(run, exchanged(source, val))
    return {
        "accuracy": own.metrics["accuracy"],
        "loss": own.metrics["loss"],
        "accuracy exchanged": other.metrics["accuracy"],
        "loss exchanged": other.metrics["loss"],
        "share": shares(run, own.attention, val),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--cases", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--norm", default="softmax")
    parser.add_argument("--score", default="scaled_dot")
    parser.add_argument("--attn-features", type=int, default=256)
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    for question in args.only:
        for seed in args.seeds:
            for name, form in FORMS[question].items():
                config = settings(args, question, form, seed)
                dataset = fa.data.open_dataset(config.data)
                started = time.perf_counter()
                workdir = folder_of(args.workdir, question, name, seed)
                fa.train(config, dataset, workdir=workdir, draw=False)
                row = judge(fa.load(workdir), dataset)
                row["seconds"] = time.perf_counter() - started
                results.setdefault(f"{question}: {name}", []).append(row)
                (args.workdir / "results.json").write_text(json.dumps(results, indent=1))
        for name in FORMS[question]:
            print_row(f"{question}: {name}", results[f"{question}: {name}"])


def print_row(title: str, rows: list[dict[str, Any]]) -> None:
    def mean(*path: str) -> str:
        values = [row[path[0]] if len(path) == 1 else row[path[0]][path[1]] for row in rows]
        spread = f" ±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.3f}{spread}"

    shown = ", ".join(f"{gate} {mean('share', gate)}" for gate in rows[0]["share"])
    print(
        f"{title}: accuracy {mean('accuracy')}, loss {mean('loss')}; exchanged "
        f"{mean('accuracy exchanged')}, {mean('loss exchanged')}; asked for {shown}; "
        f"{mean('seconds')} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
