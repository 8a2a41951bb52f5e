"""How far a linear classifier on pixels gets on drawn_pets: it must stay under 70 %.

Prints one row for each view of the pixels and regularisation strength.
Needs scikit-learn: python -m benchmarks.pixel_baseline [--train 2000] [--val 500] [--seed 0]
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from flax_attn.data.dataset import Split
from flax_attn.data.drawn.pets import VAL_FIRST_INDEX, DrawnPets

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
VIEWS = {"32x32 RGB": ("RGB", 32), "64x64 gray": ("L", 64)}


def images_of(split: Split) -> list[Image.Image]:
    return [Image.fromarray(split.image(i)) for i in range(len(split.labels))]


def pixels_of(images: list[Image.Image], mode: str, side: int) -> Float[np.ndarray, "n d"]:
    """Every image averaged down to ``side`` pixels and flattened."""
    rows: list[UInt8[np.ndarray, "d"]] = []
    for image in images:
        small = image.convert(mode).resize((side, side), Image.Resampling.BOX)
        rows.append(np.asarray(small).ravel())
    return np.stack(rows).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=2000, help="training pictures")
    parser.add_argument("--val", type=int, default=500, help="validation pictures")
    parser.add_argument("--size", type=int, default=64, help="side of the drawn pictures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    drawn = {"seed": args.seed, "size": args.size}
    train = DrawnPets(**drawn, count=args.train)
    val = DrawnPets(**drawn, count=args.val, first_index=VAL_FIRST_INDEX)
    start = time.perf_counter()
    train_images, val_images = images_of(train), images_of(val)
    print(f"drew {args.train + args.val} pictures in {time.perf_counter() - start:.1f} s")
    # A fit cut off at max_iter is still a linear classifier; its accuracy counts as it is.
    warnings.simplefilter("ignore", ConvergenceWarning)
    best = 0.0
    print(f"{'pixels':<12}{'C':>8}{'train %':>10}{'val %':>8}")
    for name, (mode, side) in VIEWS.items():
        x, x_val = pixels_of(train_images, mode, side), pixels_of(val_images, mode, side)
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        x, x_val = (x - mean) / deviation, (x_val - mean) / deviation
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=200).fit(x, train.labels)
            accuracy = 100 * model.score(x_val, val.labels)
            best = max(best, accuracy)
            fitted = 100 * model.score(x, train.labels)
            print(f"{name:<12}{strength:>8.0e}{fitted:>10.1f}{accuracy:>8.1f}")
    print(f"best {best:.1f} % (limit 70 %)")


if __name__ == "__main__":
    main()
