"""Figures of the parent paper, on the test parts of ISIC 2016 and 2017, melanoma against the rest.

Source: the tables of Yan, Kawahara and Hamarneh (2019), Melanoma recognition via visual attention.
"""

from __future__ import annotations

from typing import NamedTuple

from flax_attn.studies.reproduce.experiment_plan import DENSE
from flax_attn.studies.reproduce.parent_plan import BACKGROUND, GAP, OBJECT, POOLED, UNTAUGHT


class Ranked(NamedTuple):
    """Average precision and the area under the ROC curve."""

    average_precision: float
    roc_auc: float


# By network and year of the challenge; with masks the paper has 2017 only.
RANKED: dict[str, dict[int, Ranked]] = {
    DENSE: {2016: Ranked(0.602, 0.806), 2017: Ranked(0.600, 0.824)},
    GAP: {2016: Ranked(0.635, 0.815), 2017: Ranked(0.627, 0.834)},
    POOLED: {2016: Ranked(0.664, 0.844), 2017: Ranked(0.653, 0.854)},
    UNTAUGHT: {2016: Ranked(0.693, 0.852), 2017: Ranked(0.655, 0.872)},
    OBJECT: {2017: Ranked(0.672, 0.883)},
    BACKGROUND: {2017: Ranked(0.647, 0.849)},
}
YEARS = (2016, 2017)

# Jaccard index of map and lesion, ISIC 2017: by network and map; the map of VGG-GAP is CAM.
CAM = "CAM"
JACCARD: dict[tuple[str, str], float] = {
    (GAP, CAM): 0.2825,
    (UNTAUGHT, "pool3"): 0.3105,
    (UNTAUGHT, "pool4"): 0.3186,
    (OBJECT, "pool3"): 0.5533,
    (OBJECT, "pool4"): 0.6560,
}
