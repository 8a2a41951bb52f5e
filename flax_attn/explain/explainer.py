"""What a network says of photographs and cases: probabilities, and its maps by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from flax_attn.config import Config
from flax_attn.data import Sampler, Split, batches
from flax_attn.errors import NonFiniteError
from flax_attn.explain.explained import ALONE, Explained, PictureMaps
from flax_attn.explain.forward import NetworkForward
from flax_attn.explain.measures import Maps
from flax_attn.explain.measures.faithfulness import Faithfulness, measure_faithfulness
from flax_attn.explain.methods import METHODS
from flax_attn.explain.photographs import Photographs
from flax_attn.models.cases import maps_by_view, maps_there_by_view, view_weights
from flax_attn.models.derived import shown_masks, shown_views
from flax_attn.models.tasks import TASKS
from flax_attn.runs.run_cases import NO_INPUTS, CaseInputs
from flax_attn.training.confidence import calibrated
from flax_attn.training.step import Examples, Prediction, make_eval_step

_ATTENTION = "Attention on "


class Request(NamedTuple):
    """Maps beside the attention: of every method at every stage for every class.

    ``classes`` are numbers; without any, each image's likeliest class is explained.
    """

    methods: Sequence[str]
    stages: Sequence[str]
    classes: Sequence[int] = ()


class ShownPictures(NamedTuple):
    """The pictures of a batch that maps lie over; of cases, and of views, with an axis for them."""

    images: UInt8[np.ndarray, "m *v s s 3"]
    masks: Bool[np.ndarray, "m *v s s"] | None


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
        self._views = config.model.all_views or ALONE
        # Compiled once for each shape, whatever is measured with it.
        self._predict = jax.jit(self._probabilities)

    def losses(
        self, split: Split, *, batch_size: int, workers: int, cases: CaseInputs = NO_INPUTS
    ) -> Float[np.ndarray, "n"]:
        """Returns the loss of each image of a split, in nats; NaN for an image that was lost.

        Of cases of several pictures, or with metadata, ``cases`` is what ``case_inputs`` gives.
        """
        losses = np.full(len(split.labels), np.nan)
        for batch in batches(split, Sampler(batch_size), workers=workers):
            beside = cases.take(batch.index)
            found = np.asarray(self._judge(batch.image, batch.label, beside).loss)
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
        images: UInt8[np.ndarray, "n *v s s 3"],
        class_index: Int[np.ndarray, "n"],
        *,
        batch_size: int,
        view: int = 0,
        cases: CaseInputs = NO_INPUTS,
    ) -> Faithfulness:
        """Measures what removing or showing pixels in the maps' order does to the network.

        Of cases of several pictures the maps, and the pixels that change, are those of one
        ``view``, beside the other pictures as they are.
        """

        def measure(places: Int[np.ndarray, "b"]) -> Faithfulness:
            network = self._network.of_cases(*cases.take(places))
            shown = self._network.normalize(images[places])
            case = None if shown.ndim == 4 else shown

            def predict(image: Float[Array, "b s s 3"]) -> Float[Array, "b k"]:
                return self._predict(network, image, case, view)

            return measure_faithfulness(
                predict,
                shown if case is None else case[:, view],
                jnp.asarray(maps[places]),
                jnp.asarray(class_index[places]),
            )

        parts = [
            measure(places).at(np.arange(len(wanted)))
            for wanted, places in _full_batches(len(images), batch_size)
        ]
        return Faithfulness.join(parts)

    def _probabilities(
        self,
        network: NetworkForward,
        image: Float[Array, "b s s 3"],
        case: Float[Array, "b v s s 3"] | None,
        view: int,
    ) -> Float[Array, "b k"]:
        """Of images, or of cases with an image in the place of the picture of a view."""
        shown = image if case is None else case.at[:, view].set(image)
        return self._task.probabilities(network(shown)[0])

    def _explain(
        self,
        photographs: Photographs,
        wanted: Int[np.ndarray, "m"],
        places: Int[np.ndarray, "b"],
        request: Request,
    ) -> Iterator[Explained]:
        labels, cases = photographs.labels, photographs.cases.take(places)
        k = len(self._classes)
        of_batch = self._task.blank(len(places), k) if labels is None else labels[places]
        judged = self._judge(photographs.images[places], of_batch, cases)
        probabilities = np.asarray(judged.probabilities)
        maps, targets = self._maps(photographs.images[places], judged, request, cases)
        present, model = cases.present, self._config.model
        there = (
            [{}] * len(maps)
            if present is None
            else maps_there_by_view(model, self._classes, present)
        )
        weights = view_weights(judged.attention, probabilities)
        shown = self._shown(photographs, wanted)
        decided = self._task.decide(probabilities)
        logits = np.asarray(judged.logits)
        probabilities = calibrated(self._task, probabilities, logits, self._temperature)
        confidence = self._task.confidence(probabilities, decided)
        truth = None if labels is None else self._task.truth(of_batch, k)
        for i, place in enumerate(wanted.tolist()):
            item = Explained(
                name=photographs.names[place],
                views=self._views,
                pictures=tuple(
                    _picture(shown, view, _kept(of_view, there[view], i), weights, i)
                    if present is None or present[i, view]
                    else None
                    for view, of_view in enumerate(maps)
                ),
                targets={name: int(index[i]) for name, index in targets.items()},
                probabilities=probabilities[i],
                decided=decided[i],
                confidence=float(confidence[i]),
                truth=None if truth is None else truth[i],
                loss=None if truth is None else float(judged.loss[i]),
                cells=photographs.cells_of(place),
                meta=None if cases.meta is None else cases.meta[i],
            )
            _check_finite(item)
            yield item

    def _shown(self, photographs: Photographs, places: Int[np.ndarray, "m"]) -> ShownPictures:
        """The pictures that maps lie over, and their masks."""
        views = self._config.model.views
        masks = None if photographs.masks is None else photographs.masks[places]
        return ShownPictures(
            shown_views(views, photographs.images[places]),
            None if masks is None else shown_masks(views, masks),
        )

    def _judge(
        self, images: UInt8[np.ndarray, "b *v s s 3"], labels: np.ndarray, cases: CaseInputs
    ) -> Prediction:
        everyone = np.ones(len(images), bool)
        examples = Examples(images, labels.astype(np.int32), everyone, None, *cases)
        return self._step(self._network.params, self._network.stats, examples)[1]

    def _maps(
        self,
        images: UInt8[np.ndarray, "b *v s s 3"],
        judged: Prediction,
        request: Request,
        cases: CaseInputs,
    ) -> tuple[list[dict[str, Float[np.ndarray, "b _ _"]]], dict[str, Int[np.ndarray, "b"]]]:
        """The maps of each view, and the class of each case that they explain, by the map's name.

        Here alone the methods' arrays, of whole cases, come apart into pictures.
        """
        attention = maps_by_view(judged.attention, self._config.model, self._classes)
        maps = [{_ATTENTION + name: value for name, value in each.items()} for each in attention]
        likeliest = np.asarray(judged.probabilities).argmax(-1)
        explained = {name: likeliest for each in maps for name in each}
        targets = [
            (f" for {self._classes[k]}", np.full(len(images), k)) for k in request.classes
        ] or [("", likeliest)]
        network = self._network.of_cases(*cases)
        for method in (METHODS[name] for name in request.methods):
            for stage in ("",) if method.of_image else request.stages:
                for of_class, index in targets:
                    name = method.title + (f" on {stage}" if stage else "") + of_class
                    found = np.asarray(method(network, images, jnp.asarray(index), stage))
                    by_view = found.reshape(len(images), len(maps), *found.shape[-2:])
                    for view, each in enumerate(maps):
                        each[name] = by_view[:, view]
                    explained[name] = index
        return maps, explained


def _kept(
    maps: Mapping[str, Float[np.ndarray, "b _ _"]],
    there: Mapping[str, Bool[np.ndarray, "b"]],
    i: int,
) -> dict[str, Float[np.ndarray, "_ _"]]:
    """The maps of the ``i``-th case of a batch, without those that a missing picture asks for."""
    left = {_ATTENTION + name for name, each in there.items() if not each[i]}
    return {name: value[i] for name, value in maps.items() if name not in left}


def _picture(
    shown: ShownPictures,
    view: int,
    maps: Mapping[str, Float[np.ndarray, "_ _"]],
    weights: Float[np.ndarray, "b v"] | None,
    i: int,
) -> PictureMaps:
    """The picture of a view of the ``i``-th case of a batch."""
    image = shown.images[i]
    mask = None if shown.masks is None else shown.masks[i]
    if image.ndim == 4:
        image, mask = image[view], None if mask is None else mask[view]
    return PictureMaps(
        image=image,
        maps=maps,
        mask=None if mask is None or not mask.any() else mask,
        weight=None if weights is None else float(weights[i, view]),
    )


def _full_batches(n: int, size: int) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "b"]]]:
    """Places that are wanted, and those of a batch that begins with them.

    All batches have the same shape: the last one is filled with the first images.
    """
    size = min(size, n)
    for start in range(0, n, size):
        places = np.arange(start, start + size) % n
        yield places[: n - start], places


def _check_finite(item: Explained) -> None:
    of_pictures = [(name, values) for _, one in item.seen for name, values in one.maps.items()]
    for name, values in (("the probabilities", item.probabilities), *of_pictures):
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"{name} of {item.name!r} are not finite: the network's weights are unusable, "
                "train it again"
            )
