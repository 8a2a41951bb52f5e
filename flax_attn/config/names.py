"""The names that flags offer of what the rooms below define.

A command line is parsed, and its help printed, before anything that computes is imported; so the
names stand here, and the table of each room gives every name its function
(``tests/config/test_names.py`` compares the two).
"""

from __future__ import annotations

from typing import Literal, get_args

# Of ``flax_attn.models``.
MODEL_NAMES = ("attn_vgg", "vgg", "vgg_gap", "vgg_pooled")

# Of ``flax_attn.attention``.
SCORE_NAMES = (
    *("gate", "additive", "concat", "dot", "scaled_dot", "general", "biased_general"),
    *("activated_general", "cosine", "neg_euclidean"),
)
ALIGNMENT_NAMES = (
    *("sigmoid", "softmax", "sparsemax", "entmax", "hard", "reinforced", "local"),
    "sigmoid_softmax",
)
RELATION_NAMES = ("own", "interactive", "parallel", "alternating", "rotatory")
# What may ask a gate.
QUERIES = ("guide", "none", "learned", "meta")

# Of ``flax_attn.training``.
OPTIMIZER_NAMES = ("adam", "adamw", "sgd")
SCHEDULE_NAMES = ("constant", "step", "cosine")
# Symmetries of test-time augmentation that may be named, and all that may be typed.
TTA_KINDS = ("flips", "turns")
TTA = (*TTA_KINDS, ",".join(TTA_KINDS))

# Of ``flax_attn.explain``.
METHOD_NAMES = (
    *("grad_cam", "grad_cam_pp", "hires_cam", "score_cam", "input_gradients"),
    "integrated_gradients",
)
MAP_FORMS = ("png", "npz")

# Of ``flax_attn.figures``.
ScaleName = Literal["linear", "shared", "log", "rank"]
SCALE_NAMES: tuple[ScaleName, ...] = get_args(ScaleName)

# Of ``flax_attn.porting``.
LAYOUT_NAMES = ("torchvision", "timm", "keras", "attn_vgg", "backbone")
# Whose files are written.
TARGET_NAMES = ("flax", "torch", "timm", "keras")
Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
Pixels = Literal["imagenet", "caffe"]
PIXELS: tuple[Pixels, ...] = get_args(Pixels)
FORMAT_NAMES = ("stablehlo", "onnx")
PAGE = "page"
