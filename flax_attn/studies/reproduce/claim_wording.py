"""Names as the report prints them."""

from __future__ import annotations

GATE_NAMES = {"pool3": "pool-3", "pool4": "pool-4"}
NETWORK_NAMES = {"sigmoid": "AttnVGG (sigmoid)", "softmax": "AttnVGG (softmax)"}
METHOD_NAMES = {
    "attention pool3": "Attention on pool-3",
    "attention pool4": "Attention on pool-4",
    "grad_cam": "Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "hires_cam": "HiRes-CAM",
    "score_cam": "Score-CAM",
    "input_gradients": "Input gradients",
    "integrated_gradients": "Integrated gradients",
}


def gate_name(gate: str) -> str:
    """``pool-3`` of ``pool3``."""
    return GATE_NAMES[gate]


def map_name(name: str) -> str:
    """``Grad-CAM, block 4`` of ``grad_cam conv4``."""
    if name in METHOD_NAMES:
        return METHOD_NAMES[name]
    method, stage = name.split()
    return f"{METHOD_NAMES[method]}, block {stage.removeprefix('conv')}"
