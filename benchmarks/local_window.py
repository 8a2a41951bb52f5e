"""Local attention follows an object planted in an otherwise empty feature map.

    python -m benchmarks.local_window --out docs/local.png

Each column shows the scores of a 28×28 map with an object of 3×3 locations at another place,
the weights of local, and those of softmax on the same colour scale.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from flax_attn.attention import ALIGNMENTS

SIDE = 28
PLACES = ((4, 4), (8, 20), (14, 14), (21, 7), (24, 24))


def planted(row: int, column: int) -> Float[np.ndarray, "h w"]:
    """Weak noise, and an object whose middle scores highest."""
    scores = np.random.default_rng(row).normal(-2, 0.5, (SIDE, SIDE)).astype(np.float32)
    scores[row - 1 : row + 2, column - 1 : column + 2] += 6
    scores[row, column] += 2
    return scores


def weights(name: str, scores: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    align = jax.jit(lambda e: ALIGNMENTS[name]().apply(e, shape=scores.shape))
    return np.asarray(align(jnp.asarray(scores.ravel()))).reshape(scores.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    figure = Figure(figsize=(2 * len(PLACES), 6.4), layout="constrained")
    rows = figure.subplots(3, len(PLACES))
    for place, column in zip(PLACES, rows.T, strict=True):
        scores = planted(*place)
        local, softmax = weights("local", scores), weights("softmax", scores)
        top = max(local.max(), softmax.max())
        for axes, values, title in zip(
            column,
            (scores, np.where(local > 0, local, np.nan), softmax),
            (f"scores, object at {place}", "local (white: weight 0)", "softmax"),
            strict=True,
        ):
            axes.imshow(
                values,
                cmap="viridis",
                vmin=None if values is scores else 0,
                vmax=None if values is scores else top,
            )
            axes.set_title(title, fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
        middle = np.unravel_index(np.nanargmax(local), local.shape)
        print(
            f"object at {place}: local's highest weight at {tuple(map(int, middle))}, "
            f"{(local > 0).sum()} locations inside the window"
        )
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main()
