"""Evidence made up for the parent paper's sections: taught maps that are used, or painted on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flax_attn.studies.reproduce.deletion_curves import GAUSSIAN, RANDOM
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.parent import CAM
from flax_attn.studies.reproduce.parent_plan import (
    BACKGROUND,
    DENSE,
    GAP,
    OBJECT,
    POOLED,
    UNTAUGHT,
    ParentPlan,
    make_parent_plan,
)
from tests.helpers import reproduction_evidence as made_up

# More than the judged images: what is ranked are all validation images.
IMAGES = 120
LABELS = np.arange(IMAGES) % 2
# How far the classes lie apart for each network, so that the paper's claims hold.
APART = {DENSE: 0.0, GAP: 0.0, POOLED: 0.2, UNTAUGHT: 1.0, OBJECT: 3.0, BACKGROUND: 0.2}


def plan(*, masks: str | None = "masks") -> ParentPlan:
    given = {"epochs": made_up.EPOCHS, "image_size": made_up.SIDE}
    return replace(make_parent_plan(given, {}, full=False), masks=masks)


def probabilities(apart: float) -> np.ndarray:
    """Two classes around their places, the spread of either drawn once for all networks."""
    drawn = np.random.default_rng(0).normal(size=IMAGES)
    logits = drawn + apart * (2 * LABELS - 1)
    positive = 1 / (1 + np.exp(-logits))
    return np.stack([1 - positive, positive], -1)


def maps_of(name: str) -> dict[str, np.ndarray]:
    """Maps on the object where masks taught so, beside it where the control did, else neither."""
    masks = made_up.animals()
    sides = made_up.SIDES.items()
    if name == OBJECT:
        return {gate: made_up.pooled(masks, side) for gate, side in sides}
    if name == BACKGROUND:
        return {gate: made_up.pooled(~masks, side) for gate, side in sides}
    return {gate: made_up.wide(side) for gate, side in sides}


def curves(better: float) -> dict[str, np.ndarray]:
    """Areas of which each map's are better than its controls' by so much, on average."""
    apart = {gate: better + 0.01 * (-1.0) ** np.arange(16) for gate in made_up.SIDES}
    apart |= dict.fromkeys((GAUSSIAN, RANDOM), np.zeros(16))
    deletion = {f"deletion/{name}": 0.5 - lead for name, lead in apart.items()}
    return deletion | {f"insertion/{name}": 0.5 + lead for name, lead in apart.items()}


def correlations(mean: float) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(0).normal(mean, 0.02, (4, 6))
    return {
        f"{level}/attention {gate}": drawn
        for level in ("all", "head")
        for gate in ("pool3", "pool4")
    }


def evidence(*, masks: bool = True, **changes: Any) -> Evidence[ParentPlan]:
    """All that the paper claims holds, and taught maps are used, unless changed."""
    of = plan(masks="masks" if masks else None)
    networks = {}
    for name in of.networks():
        shown = made_up.over_epochs(maps_of(name), made_up.wide) if name in of.attending() else {}
        networks[name] = {**shown, "probabilities": probabilities(APART[name])}
    networks[GAP][CAM] = made_up.pooled(made_up.heads(), 4)
    values: dict[str, Any] = {
        "plan": of,
        "labels": LABELS,
        "networks": networks,
        "sanity": {name: correlations(0.0) for name in of.attending()},
        "curves": {name: curves(0.1) for name in of.attending()},
    }
    return made_up.evidence(masks=masks, **{**values, **changes})
