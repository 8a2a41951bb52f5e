"""What a network says of photographs: probabilities, and its maps by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from scipy import ndimage  # type: ignore[import-untyped]

from flax_attn.config import Config
from flax_attn.data import Sampler, Split, batches
from flax_attn.errors import NonFiniteError
from flax_attn.explain.forward import NetworkForward
from flax_attn.explain.measures import Maps
from flax_attn.explain.measures.faithfulness import Faithfulness, measure_faithfulness
from flax_attn.explain.methods import METHODS
from flax_attn.explain.photographs import Photographs
from flax_attn.models.network import named_maps
from flax_attn.models.tasks import TASKS, names_of
from flax_attn.training.confidence import calibrated
from flax_attn.training.step import Examples, Prediction, make_eval_step


class Explained(NamedTuple):
    """A photograph with its maps, and what the network says of it.

    Args:
      name: its path, or that of its row in the data set.
      image: as the network sees it.
      maps: its maps by name.
      targets: the class that each map explains, by the map's name; of attention, the likeliest.
      probabilities: of each class.
      decided: whether each class is said.
      truth: whether it has each class; None where labels are unknown.
      loss: in nats; None where labels are unknown.
      mask: the pixels of its objects; None where they are not known, or there are none.
    """

    name: str
    image: UInt8[np.ndarray, "s s 3"]
    maps: Mapping[str, Float[np.ndarray, "_ _"]]
    targets: Mapping[str, int]
    probabilities: Float[np.ndarray, "k"]
    decided: Bool[np.ndarray, "k"]
    truth: Bool[np.ndarray, "k"] | None
    loss: float | None
    mask: Bool[np.ndarray, "s s"] | None = None

    @property
    def confidence(self) -> float:
        """The probability of the class that is said; of several labels, of the least certain."""
        # A class that is not said is never less certain than the only one that is.
        return float(np.where(self.decided, self.probabilities, 1 - self.probabilities).min())

    @property
    def correct(self) -> bool | None:
        """Whether exactly the right classes are said."""
        return None if self.truth is None else bool((self.truth == self.decided).all())


class Request(NamedTuple):
    """Maps beside the attention: of every method at every stage for every class.

    ``classes`` are numbers; without any, each image's likeliest class is explained.
    """

    methods: Sequence[str]
    stages: Sequence[str]
    classes: Sequence[int] = ()


class Explainer:
    """Explains photographs by a run's network, in evaluation mode.

    Args:
      network: as ``TrainedRun.network`` or ``forward_of`` give it.
      config: that of the run, which names its maps and its task.
      classes: their names, in the order of the logits.
      temperature: that of the run, for the probabilities that are shown; measures of maps are of
        the network without it.
    """

    def __init__(
        self,
        network: NetworkForward,
        config: Config,
        classes: Sequence[str],
        *,
        temperature: float | None = None,
    ):
        self._network, self._config, self._classes = network, config, classes
        self._temperature = temperature
        self._task = TASKS[config.train.task]
        self._step = make_eval_step(network.structure, self._task)
        # Compiled once for each shape, whatever is measured with it.
        self._predict = jax.jit(lambda network, x: self._task.probabilities(network(x)[0]))

    def losses(self, split: Split, *, batch_size: int, workers: int) -> Float[np.ndarray, "n"]:
        """Returns the loss of each image of a split, in nats; NaN for an image that was lost."""
        losses = np.full(len(split.labels), np.nan)
        for batch in batches(split, Sampler(batch_size), workers=workers):
            found = np.asarray(self._judge(batch.image, batch.label).loss)
            losses[batch.index[batch.mask]] = found[batch.mask]
        return losses

    def explain(
        self, photographs: Photographs, request: Request, *, batch_size: int
    ) -> Iterator[Explained]:
        """Yields the photographs in their order, explained ``batch_size`` at a time.

        Raises:
          NonFiniteError: a probability or a map is not finite.
        """
        for wanted, places in _full_batches(len(photographs.names), batch_size):
            yield from self._explain(photographs, wanted, places, request)

    def faithfulness(
        self,
        maps: Maps,
        images: UInt8[np.ndarray, "n s s 3"],
        class_index: Int[np.ndarray, "n"],
        *,
        batch_size: int,
    ) -> Faithfulness:
        """Measures what removing or showing pixels in the maps' order does to the network."""

        def predict(image: Float[Array, "b s s 3"]) -> Float[Array, "b k"]:
            return self._predict(self._network, image)

        parts = [
            measure_faithfulness(
                predict,
                self._network.normalize(images[places]),
                jnp.asarray(maps[places]),
                jnp.asarray(class_index[places]),
            ).at(np.arange(len(wanted)))
            for wanted, places in _full_batches(len(images), batch_size)
        ]
        return Faithfulness.join(parts)

    def _explain(
        self,
        photographs: Photographs,
        wanted: Int[np.ndarray, "m"],
        places: Int[np.ndarray, "b"],
        request: Request,
    ) -> Iterator[Explained]:
        images = photographs.images[places]
        labels, masks = photographs.labels, photographs.masks
        k = len(self._classes)
        of_batch = self._task.blank(len(places), k) if labels is None else labels[places]
        judged = self._judge(images, of_batch)
        probabilities = np.asarray(judged.probabilities)
        maps, targets = self._maps(images, judged, request)
        decided = self._task.decide(probabilities)
        logits = np.asarray(judged.logits)
        probabilities = calibrated(self._task, probabilities, logits, self._temperature)
        truth = None if labels is None else self._task.truth(of_batch, k)
        for i, place in enumerate(wanted):
            item = Explained(
                name=photographs.names[place],
                image=images[i],
                maps={name: value[i] for name, value in maps.items()},
                targets={name: int(index[i]) for name, index in targets.items()},
                probabilities=probabilities[i],
                decided=decided[i],
                truth=None if truth is None else truth[i],
                loss=None if truth is None else float(judged.loss[i]),
                mask=None if masks is None or not masks[place].any() else masks[place],
            )
            _check_finite(item)
            yield item

    def _judge(self, images: UInt8[np.ndarray, "b s s 3"], labels: np.ndarray) -> Prediction:
        everyone = Examples(images, labels.astype(np.int32), np.ones(len(images), bool))
        return self._step(self._network.params, self._network.stats, everyone)[1]

    def _maps(
        self, images: UInt8[np.ndarray, "b s s 3"], judged: Prediction, request: Request
    ) -> tuple[dict[str, Float[np.ndarray, "b _ _"]], dict[str, Int[np.ndarray, "b"]]]:
        """The maps, and the class of each image that they explain, both by the map's name."""
        attention = named_maps(judged.attention, self._config.model, self._classes)
        maps = {f"Attention on {name}": value for name, value in attention.items()}
        likeliest = np.asarray(judged.probabilities).argmax(-1)
        explained = dict.fromkeys(maps, likeliest)
        targets = [
            (f" for {self._classes[k]}", np.full(len(images), k)) for k in request.classes
        ] or [("", likeliest)]
        for method in (METHODS[name] for name in request.methods):
            for stage in ("",) if method.of_image else request.stages:
                for of_class, index in targets:
                    name = method.title + (f" on {stage}" if stage else "") + of_class
                    found = method(self._network, images, jnp.asarray(index), stage)
                    maps[name], explained[name] = np.asarray(found), index
        return maps, explained


def _full_batches(n: int, size: int) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "b"]]]:
    """Places that are wanted, and those of a batch that begins with them.

    All batches have the same shape: the last one is filled with the first images.
    """
    size = min(size, n)
    for start in range(0, n, size):
        places = np.arange(start, start + size) % n
        yield places[: n - start], places


def _check_finite(item: Explained) -> None:
    for name, values in {"the probabilities": item.probabilities, **item.maps}.items():
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"{name} of {item.name!r} are not finite: the network's weights are unusable, "
                "train it again"
            )


def verdict(item: Explained, classes: Sequence[str]) -> str:
    """Returns the classes that are said, each with its probability."""
    said = np.flatnonzero(item.decided).tolist()
    return ", ".join(f"{classes[j]} {item.probabilities[j]:.1%}" for j in said) or "nothing"


def truth_text(item: Explained, classes: Sequence[str]) -> str | None:
    """Returns the classes the photograph has; None where that is not known."""
    return None if item.truth is None else ", ".join(names_of(classes, item.truth)) or "nothing"


def outline(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 4"]:
    """Returns the border of an object, white inside and black outside, as a layer else clear."""
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[ndimage.binary_dilation(mask) & ~mask, 3] = 255
    layer[mask & ~ndimage.binary_erosion(mask, border_value=1)] = 255
    return layer
