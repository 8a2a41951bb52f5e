"""What every backbone is: stages one after the other, each with a feature map that has a name.

A gate needs named maps at falling resolution, one of which guides; a head reads them from
``Features`` by the names of the backbone's ``Family``, and knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from flax_attn.config import Family, ModelConfig
from flax_attn.ops.images import PixelScale, normalize

AnyArray = Array | np.ndarray

# The sides of the last map are those of the image divided by this.
STRIDE = 32


@jax.tree_util.register_pytree_node_class
class Features(Mapping[str, Array]):
    """Feature maps [b, h, w, c] by name, in the order of their names; [b, v, h, w, c] of cases.

    A map is an attribute, too: ``features.pool5``.
    """

    def __init__(self, **maps: Any):
        self._maps = dict(sorted(maps.items()))

    def __getitem__(self, name: str) -> Array:
        return self._maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def __getattr__(self, name: str) -> Array:
        # Copies and pickles look for names before there are maps.
        maps = {} if name.startswith("_") else self._maps
        if name not in maps:
            raise AttributeError(f"{name} is not among these features")
        return maps[name]

    def __repr__(self) -> str:
        return f"Features({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def take(self, name: str) -> Array:
        """Returns the named map.

        Raises:
          ValueError: it is not among these.
        """
        if name not in self._maps:
            raise ValueError(f"{name} is not among these features: {', '.join(self) or 'none'}")
        return self._maps[name]

    def keep(self, *names: str) -> Features:
        """Returns the named maps alone.

        Raises:
          ValueError: one of them is not among these.
        """
        return Features(**{name: self.take(name) for name in names})

    def of_cases(self, cases: int, views: int) -> Features:
        """Returns maps with an axis for the pictures of a case, which stand one after the other."""
        return jax.tree.map(lambda x: x.reshape(cases, views, *x.shape[1:]), self)

    def tree_flatten(self) -> tuple[tuple[Array, ...], tuple[str, ...]]:
        """Returns the maps, and their names (for JAX)."""
        return tuple(self._maps.values()), tuple(self._maps)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], maps: tuple[Array, ...]) -> Features:
        """Returns the features of what ``tree_flatten`` gave (for JAX)."""
        return cls(**dict(zip(names, maps, strict=True)))


def without_views(x: Float[Array, "b *v h w c"]) -> Float[Array, "_ h w c"]:
    """Returns the maps or images of all views of all cases one after the other."""
    return x.reshape(-1, *x.shape[-3:])


class Stage(Protocol):
    """A part of a backbone that ends in a feature map."""

    def convolve(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _ _ d"]:
        """Returns the last activation, before any pooling."""

    def pool(self, x: Float[Array, "b h w d"]) -> Float[Array, "b _ _ d"]:
        """Returns the feature map of that activation."""


class StagedBackbone(nnx.Module):
    """A backbone: an optional ``stem``, then a stage for each map of its ``family``.

    A subclass makes ``stages`` (and ``stem``, whose map has no name) and sets ``pixels``, the
    scale by which its images are normalised.
    """

    family: ClassVar[Family]
    pixels: PixelScale
    stages: nnx.List
    stem: Any = None

    @classmethod
    def of(cls, config: ModelConfig, *, pixels: PixelScale, rngs: nnx.Rngs) -> StagedBackbone:
        """Builds the backbone of a configuration."""
        raise NotImplementedError

    def normalize(self, image: UInt8[AnyArray, "b *v h w 3"]) -> Float[Array, "b *v h w 3"]:
        """Returns bytes as the normalised images that this network takes."""
        return normalize(image, scale=self.pixels)

    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Features:
        """Returns the map of every stage for normalised images.

        Raises:
          TypeError: the images are not of floats.
          ValueError: a side of the images is no multiple of 32.
        """
        return self.with_activations(image, train=train)[0]

    def with_activations(
        self,
        image: Float[Array, "b h w 3"],
        *,
        train: bool,
        perturb: Mapping[str, Float[Array, "b _ _ _"]] | None = None,
    ) -> tuple[Features, dict[str, Float[Array, "b _ _ _"]]]:
        """Returns the map of every stage, and the last activation of each before any pooling.

        ``perturb`` is added to the activations it names (``Family.activations``), so that a
        derivative in it at zero takes every path from the activation to the output.

        Raises:
          TypeError: the images are not of floats.
          ValueError: a name that is of no activation, or a side of the images that is no multiple
            of 32.
        """
        perturb = perturb or {}
        unknown = perturb.keys() - set(self.family.activations)
        if unknown:
            known = ", ".join(self.family.activations)
            raise ValueError(f"no activation {', '.join(unknown)} to perturb, expected {known}")
        require_images(image)
        maps, activations = {}, {}
        x = image
        if self.stem is not None:
            x = self.stem.pool(self.stem.convolve(x, train=train))
        names = zip(self.family.maps, self.family.activations, strict=True)
        for (name, activation), stage in zip(names, self.stages, strict=True):
            x = stage.convolve(x, train=train)
            if activation in perturb:
                x = x + perturb[activation]
            activations[activation] = x
            x = stage.pool(x)
            maps[name] = x
        return Features(**maps), activations


def require_images(image: Float[Array, "b h w 3"]) -> None:
    """Checks that images are normalised, and of sides that every stage halves.

    Raises:
      TypeError: they are not of floats.
      ValueError: a side is no multiple of 32.
    """
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"image: got {image.dtype}, expected normalised floats; call normalize first"
        )
    height, width = image.shape[-3:-1]
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"image sides must be multiples of {STRIDE}, got {height}×{width}")
