"""Our maps against the PyTorch packages grad-cam and captum: same weights, same photographs.

    pip install -e '.[bench]'
    python -m benchmarks.grad_cam --workdir RUN --images DIR [--count 20] [--batch 10]
        [--rounds 5] [--only accuracy speed]

RUN is a trained AttnVGG with the article's gates; DIR holds photographs at any depth, of which
``count`` are taken at even distances. Of each, the class predicted is explained.

Accuracy: maps of both are compared at the image's size and scaled to [0, 1], as grad-cam returns
them: enlarged bilinearly (OpenCV's and ours agree), less the smallest value, over the largest.
grad-cam adds 1e-7 below each fraction, we do not. A constant map becomes zero in both; two
constant maps count as correlated, one does not. Ranks share ties (Spearman). ``epsilon`` is the
1e-6 that grad-cam adds below α in Grad-CAM++; 0 is the formula as published, our default.
Ours runs in float32, theirs in float32 and in float64. The gradient of max pooling jumps where
the maximum changes place, and float32 rounds a few close pairs the wrong way round in either
library: what differs from their float32 and not from their float64 is their rounding, not ours.

Speed: a round times one batch of every contender, from images in memory to maps in [0, 1] at the
image's size; medians over the rounds. grad-cam gets its images normalised beforehand and channels
last; once as documented, where every parameter of the network asks for its gradient, and once
with all frozen but one vector beneath the activation, so that it differentiates no more than it
needs. Ours stands in its default form, and with the convolutions of ``--conv auto``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import jax
import numpy as np
import torch
from captum.attr import IntegratedGradients
from jaxtyping import Float
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import rankdata  # type: ignore[import-untyped]
from torch import Tensor

from benchmarks.trained import (
    Images,
    Labels,
    Trained,
    predict,
    read_photographs,
    read_trained,
    torch_images,
)
from flax_attn.explain.cam import enlarge, grad_cam, grad_cam_pp, hires_cam, scale_to_unit
from flax_attn.explain.forward import NetworkForward
from flax_attn.explain.gradients import attributions
from flax_attn.models import abstract_model

STAGES = ("conv4", "conv5")
Method = Callable[..., jax.Array]
PAIRS: dict[str, tuple[Method, type[BaseCAM]]] = {
    "Grad-CAM": (grad_cam, GradCAM),
    "Grad-CAM++, epsilon 1e-6": (partial(grad_cam_pp, epsilon=1e-6), GradCAMPlusPlus),
    "Grad-CAM++, epsilon 0": (grad_cam_pp, GradCAMPlusPlus),
    "HiRes-CAM": (hires_cam, HiResCAM),
}
# Integrated gradients of this many photographs, at this many nodes.
ATTRIBUTED, NODES = 2, 16
DTYPES = (torch.float32, torch.float64)

Maps = Float[np.ndarray, "b h w"]


@partial(jax.jit, static_argnames=("method", "stage"))
def scaled(method: Method, forward: NetworkForward, image: Images, label: Labels, stage: str):
    """Our maps as grad-cam returns its own."""
    return scale_to_unit(enlarge(method(forward, image, label, stage), image.shape[1:3]))


def their_maps(cam: BaseCAM, images: Tensor, labels: Labels) -> Maps:
    return cam(images, [ClassifierOutputTarget(label) for label in labels])


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    constant = [x.min() == x.max() for x in (a, b)]
    if any(constant):
        return float(all(constant))
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def accuracy(trained: Trained, images: Images, labels: Labels, batch: int) -> None:
    """Prints how far the maps agree, worst and median over the photographs."""
    forward = trained.forward()
    models = {dtype: trained.in_torch().to(dtype) for dtype in DTYPES}
    parts = [slice(i, i + batch) for i in range(0, len(images), batch)]
    print(f"{len(images)} photographs, {images.shape[1]} px, classes predicted {labels.tolist()}")
    print(f"{'':<43}{'rank correlation':>24}{'largest difference':>24}")
    print(f"{'method':<28}{'stage':<7}{'theirs':<8}" + f"{'worst':>12}{'median':>12}" * 2)
    for name, stage in product(PAIRS, STAGES):
        method, package = PAIRS[name]
        ours = np.concatenate(
            [scaled(method, forward, images[part], labels[part], stage) for part in parts]
        )
        for dtype, model in models.items():
            model.freeze_all_but(stage)
            with package(model, [model.block(stage)[-1]]) as cam:
                theirs = np.concatenate(
                    [
                        their_maps(cam, torch_images(images[part], dtype), labels[part])
                        for part in parts
                    ]
                )
            ranks = [rank_correlation(a, b) for a, b in zip(ours, theirs, strict=True)]
            gaps = np.abs(ours - theirs).max((1, 2))
            print(
                f"{name:<28}{stage:<7}{str(dtype)[6:]:<8}"
                f"{min(ranks):>12.6f}{statistics.median(ranks):>12.6f}"
                f"{gaps.max():>12.1e}{np.median(gaps):>12.1e}"
            )


def attribution_accuracy(trained: Trained, images: Images, labels: Labels) -> None:
    """Prints how far integrated gradients agree with captum's, by the same quadrature."""
    images, labels = images[:: len(images) // ATTRIBUTED], labels[:: len(images) // ATTRIBUTED]
    at_once = 4 * len(images)
    ours = attributions(trained.forward(), images, labels, steps=NODES, batch_size=at_once)
    print(f"integrated gradients against captum: {NODES} nodes, signed, for each colour")
    for dtype in DTYPES:
        theirs = IntegratedGradients(trained.in_torch().to(dtype).requires_grad_(False)).attribute(
            torch_images(images, dtype),
            target=torch.from_numpy(labels).long(),
            n_steps=NODES,
            method="gausslegendre",
            internal_batch_size=at_once,
        )
        for a, b in zip(np.asarray(ours), theirs.permute(0, 2, 3, 1).numpy(), strict=True):
            print(
                f"  {str(dtype)[6:]} rank correlation {rank_correlation(a, b):.6f}, difference "
                f"{np.linalg.norm(a - b) / np.linalg.norm(b):.1e} of the norm, at most "
                f"{np.abs(a - b).max() / np.abs(b).max():.1e} of the largest value"
            )


def contenders(
    trained: Trained, images: Images, labels: Labels, stage: str
) -> dict[str, Callable[[], Maps]]:
    """A batch of Grad-CAM maps by each, ready to be timed."""
    structure, _, _ = abstract_model(trained.config, num_classes=trained.num_classes)
    forms = {
        "ours": trained.forward(),
        "ours, --conv auto": NetworkForward(structure, trained.params, trained.stats),
    }
    documented, frozen = (
        trained.in_torch().to(memory_format=torch.channels_last) for _ in range(2)
    )
    frozen.freeze_all_but(stage)
    packages = {"grad-cam, as documented": documented, "grad-cam, frozen": frozen}
    tensors = torch_images(images)

    def our_call(forward: NetworkForward) -> Maps:
        return np.asarray(scaled(grad_cam, forward, images, labels, stage))

    ours = {name: partial(our_call, forward) for name, forward in forms.items()}
    theirs = {
        name: partial(their_maps, GradCAM(model, [model.block(stage)[-1]]), tensors, labels)
        for name, model in packages.items()
    }
    return {**ours, **theirs}


def speed(trained: Trained, images: Images, labels: Labels, rounds: int) -> None:
    """Prints the photographs a second of batched Grad-CAM, in turns."""
    print(f"Grad-CAM, {images.shape[1]} px, batch {len(images)}, {rounds} rounds")
    print(f"{'stage':<7}{'':<26}{'photographs/s':>15}{'time over ours':>16}{'first call':>12}")
    for stage in STAGES:
        calls = contenders(trained, images, labels, stage)
        first = {name: seconds(call) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(seconds(call))
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, median in medians.items():
            print(
                f"{stage:<7}{name:<26}{len(images) / median:>15.2f}"
                f"{median / medians['ours']:>16.2f}{first[name]:>10.1f} s"
            )


def seconds(call: Callable[[], Maps]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="run directory of an AttnVGG")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=20, help="photographs to compare")
    parser.add_argument("--batch", type=int, default=10, help="photographs at a time")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timing")
    parts = ("accuracy", "speed")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    trained = read_trained(args.workdir)
    images = read_photographs(args.images, args.count, trained.image_size)
    labels = predict(trained.forward(), images, args.batch)
    if "accuracy" in args.only:
        with jax.default_matmul_precision("highest"):
            accuracy(trained, images, labels, args.batch)
            attribution_accuracy(trained, images, labels)
    if "speed" in args.only:
        speed(trained, images[: args.batch], labels[: args.batch], args.rounds)


if __name__ == "__main__":
    main()
