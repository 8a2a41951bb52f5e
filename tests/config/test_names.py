"""Names that flags offer, against the tables that give each its function."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from flax_attn.attention import ALIGNMENTS, RELATIONS, SCORES
from flax_attn.config import names
from flax_attn.explain.methods import METHODS
from flax_attn.explain.prediction_maps import MAPS, PLACES
from flax_attn.models import MODELS
from flax_attn.porting import TABLES
from flax_attn.porting.export.formats import FORMATS
from flax_attn.porting.pixels import SCALES
from flax_attn.porting.port_command import ENDINGS
from flax_attn.studies.reproduce.paper_sizes import OFFERS
from flax_attn.studies.reproduce.papers import PAPERS
from flax_attn.training.optimizer import OPTIMIZERS, SCHEDULES

PAIRS: dict[str, tuple[Iterable[str], Iterable[str]]] = {
    "models": (names.MODEL_NAMES, MODELS),
    "scores": (names.SCORE_NAMES, SCORES),
    "alignments": (names.ALIGNMENT_NAMES, ALIGNMENTS),
    "relations": (names.RELATION_NAMES, RELATIONS),
    "optimizers": (names.OPTIMIZER_NAMES, OPTIMIZERS),
    "schedules": (names.SCHEDULE_NAMES, SCHEDULES),
    "methods": (names.METHOD_NAMES, METHODS),
    "maps": (names.MAP_FORMS, MAPS),
    "places of maps": (names.MAP_FORMS, PLACES),
    "formats": (names.FORMAT_NAMES, FORMATS),
    "layouts": (names.LAYOUT_NAMES, TABLES),
    "pixels": (names.PIXELS, SCALES),
    "files written": (names.TARGET_NAMES, ENDINGS),
    "papers": (OFFERS, PAPERS),
}


@pytest.mark.parametrize("what", PAIRS)
def test_flags_offer_what_there_is(what: str) -> None:
    offered, there = PAIRS[what]
    assert list(offered) == list(there)
