"""Evidence made up for the tests of the report: maps that do, or do not do, what is claimed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from flax_attn.config import make_config
from flax_attn.studies.reproduce.claims import Section
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import QUICK, ExperimentPlan
from flax_attn.studies.reproduce.measure import attention_name

IMAGES, SIDE, EPOCHS = 24, 32, 6
DOG, CAT = 1, 0
LABELS = np.arange(IMAGES) % 2
SIDES = {"pool3": 8, "pool4": 4}


def plan(**sizes: Any) -> ExperimentPlan:
    config = make_config({"epochs": EPOCHS, "norm": "sigmoid", "image_size": SIDE})
    return ExperimentPlan(config, replace(QUICK, seeds=(0, 1), **sizes), article_hidden=4096)


def animals() -> np.ndarray:
    """An animal of half the image's side in one of the four corners."""
    masks = np.zeros((IMAGES, SIDE, SIDE), bool)
    for i, mask in enumerate(masks):
        y, x = 16 * (i // 2 % 2), 16 * (i // 4 % 2)
        mask[y : y + 16, x : x + 16] = True
    return masks


def heads() -> np.ndarray:
    """The upper half of each animal, of which each cell of pool-4 has its own."""
    masks = animals()
    for mask in masks:
        top = int(np.flatnonzero(mask.any(1))[0])
        mask[top + 8 :] = False
    return masks


def pooled(masks: np.ndarray, side: int) -> np.ndarray:
    cell = SIDE // side
    return masks.reshape(len(masks), side, cell, side, cell).mean((2, 4))


def wide(side: int) -> np.ndarray:
    """Maps that hardly prefer anything, each a little different."""
    return 0.5 + 0.05 * np.random.default_rng(side).random((IMAGES, side, side))


def towards(masks: np.ndarray, side: int, sign: np.ndarray | float = 1.0) -> np.ndarray:
    """Maps higher on the masks, or lower where ``sign`` is negative."""
    shape = (-1, 1, 1)
    return wide(side) + 0.4 * np.reshape(sign, shape) * (pooled(masks, side) - 0.5)


def spot(side: int) -> np.ndarray:
    """Maps of one cell."""
    maps = np.full((IMAGES, side, side), 1e-6)
    maps[np.arange(IMAGES), np.arange(IMAGES) % side, 0] = 1.0
    return maps


def dogs(yes: float, no: float) -> np.ndarray:
    return np.where(LABELS == DOG, yes, no)


def as_claimed() -> dict[str, dict[str, np.ndarray]]:
    """Maps of all networks of which the article's claims hold."""
    networks: dict[str, dict[str, np.ndarray]] = {}
    masks = animals()
    for run in ("sigmoid", "sigmoid-seed1"):
        last = {
            "pool3": towards(masks, 8, dogs(1.0, -0.2)),
            "pool4": towards(masks, 4, dogs(-1.0, 0.2)) + dogs(0, 0.4)[:, None, None],
        }
        last["pool3"] = last["pool3"] + dogs(0.2, 0)[:, None, None]
        networks[run] = over_epochs(last, start=wide)
    networks["softmax"] = over_epochs({gate: spot(side) for gate, side in SIDES.items()}, spot)
    for run in ("sigmoid", "softmax"):
        networks[run]["grad_cam_conv4"] = pooled(heads(), 8)
        networks[run]["grad_cam_conv5"] = pooled(masks, 4)
    networks["vgg"] = {}
    for network in networks.values():
        network["probabilities"] = np.eye(2)[LABELS]
    return networks


def over_epochs(last: Mapping[str, np.ndarray], start: Any) -> dict[str, np.ndarray]:
    epochs = plan().frames
    return {
        attention_name(gate, epoch): last[gate] if epoch == EPOCHS else start(SIDES[gate])
        for gate in SIDES
        for epoch in epochs
    }


def rows(gain: float, noise: float = 1e-4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for epoch in range(1, EPOCHS + 1):
        value = 0.8 + gain * epoch + noise * rng.random()
        group = {name: value for name in ("accuracy", "precision", "recall")}
        group |= {"loss": 0.1, "average_precision": 0.9, "roc_auc": 0.9, "images_per_second": 50.0}
        found.append({"epoch": epoch, "seconds": 1.0, "train": group, "val": group})
    return found


def evidence(*, masks: bool = True, **changes: Any) -> Evidence:
    """All that the article claims holds, unless changed."""
    rng = np.random.default_rng(0)
    cost = {
        "parameters_attn_vgg": np.array(15e6),
        "parameters_vgg": np.array(134e6),
        "operations_attn_vgg": np.array(30e9),
        "operations_vgg": np.array(30.1e9),
    }
    for kind in ("train", "judge"):
        cost[f"{kind}_attn_vgg"] = 1.0 + 0.01 * rng.random(7)
        cost[f"{kind}_vgg"] = 1.2 + 0.01 * rng.random(7)
    names = [f"{level}/attention {gate}" for level in ("all", "head") for gate in SIDES]
    sanity = {name: rng.normal(0, 0.05, (4, 6)) for name in names}
    values: dict[str, Any] = {
        "plan": plan(),
        "classes": ("cat", "dog"),
        "labels": LABELS,
        "train_images": 100,
        "places": list(range(IMAGES)),
        "images": dict(enumerate(rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8))),
        "networks": as_claimed(),
        "rows": {"sigmoid": rows(0.02), "softmax": rows(0), "vgg": rows(0)},
        "trained_parameters": {"sigmoid": 1, "softmax": 1, "vgg": 10},
        "cost": cost,
        "sanity": {"sigmoid": sanity, "softmax": sanity},
        "animals": animals() if masks else None,
        "heads": heads() if masks else None,
    }
    return Evidence(**{**values, **changes})


def with_maps(evidence: Evidence, run: str, **maps: np.ndarray) -> Evidence:
    """Other maps of one network, after the last epoch."""
    named = {f"{gate}@{EPOCHS}": value for gate, value in maps.items()}
    networks = {**evidence.networks, run: {**evidence.networks[run], **named}}
    return replace(evidence, networks=networks)


def verdicts(section: Section) -> list[str]:
    return [finding.verdict for finding in section.findings]
