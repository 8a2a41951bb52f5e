"""What a network says of photographs: probabilities, and its maps by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from flax_attn.data import Sampler, Split, batches
from flax_attn.data.decode import ImageError, Resize, decode
from flax_attn.data.masks import objects
from flax_attn.data.sets.folder import EXTENSIONS, image_files
from flax_attn.errors import DataError, NonFiniteError
from flax_attn.explain.forward import NetworkForward
from flax_attn.explain.methods import METHODS, OF_IMAGE
from flax_attn.models.network import named_maps
from flax_attn.models.tasks import TASKS
from flax_attn.runs.directory import Run
from flax_attn.training.step import Examples, Prediction, make_eval_step

_SHOWN = 5


class Photographs(NamedTuple):
    """Images as the network sees them; ``labels`` have the form of a split's, None if unknown.

    ``masks`` are the pixels of the objects, empty for an image whose mask is not known.
    """

    names: Sequence[str]
    images: UInt8[np.ndarray, "n s s 3"]
    labels: Int[np.ndarray, "n *k"] | None
    masks: Bool[np.ndarray, "n s s"] | None = None


def from_paths(paths: Sequence[Path], *, size: int, resize: Resize, workers: int) -> Photographs:
    """Image files, and those at any depth of folders, each once.

    Names leave out what all paths have in common. A file that is named is read whatever its
    ending; in folders, hidden files and those of other kinds are passed over.

    Raises DataError naming what is missing, a folder without images, or up to five images that
    cannot be used.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(path)))

    def read(file: Path) -> UInt8[np.ndarray, "s s 3"] | ImageError:
        try:
            return decode(file, size=size, resize=resize)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(read, files))
    errors = [item for item in found if isinstance(item, ImageError)]
    if errors:
        rest = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise DataError(
            f"{len(errors)} unusable image(s), repair them or leave them out: "
            f"{'; '.join(map(str, errors[:_SHOWN]))}{rest}"
        )
    common = os.path.commonpath([file.parent for file in files])
    names = [os.path.relpath(file, common) for file in files]
    return Photographs(names, np.stack([i for i in found if isinstance(i, np.ndarray)]), None)


def from_split(split: Split, places: Sequence[int], *, workers: int) -> Photographs:
    """The images of a split at these places, with their masks if it has any.

    Raises ImageError for an image or a mask that cannot be used.
    """
    with ThreadPoolExecutor(workers) as pool:
        images = np.stack(list(pool.map(split.image, places)))
    names = [split.names[i] for i in places]
    labels = np.asarray(split.labels)[list(places)]
    return Photographs(names, images, labels, objects(split, places, workers=workers))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path  # reading it says what is wrong with it
        return
    found = sorted(image_files(path), key=os.fsencode)
    if not found:
        raise DataError(f"no images in folder {str(path)!r}: expected {' '.join(EXTENSIONS)}")
    yield from found


TITLES = {
    "grad_cam": "Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "hires_cam": "HiRes-CAM",
    "score_cam": "Score-CAM",
    "input_gradients": "Input gradients",
    "integrated_gradients": "Integrated gradients",
}


class Explained(NamedTuple):
    """A photograph with its maps, and for each class its probability and whether it is said.

    ``truth`` says which classes it has and ``loss`` is in nats; None where labels are unknown.
    ``mask`` is the pixels of its objects; None where they are not known, or there are none.
    """

    name: str
    image: UInt8[np.ndarray, "s s 3"]
    maps: Mapping[str, Float[np.ndarray, "h w"]]
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
    """A run's network in evaluation mode, its classes, and what is asked of it."""

    def __init__(self, network: NetworkForward, run: Run):
        self._network, self._classes, self._config = network, run.classes, run.config
        self._task = TASKS[run.config.train.task]
        self._step = make_eval_step(network.structure, self._task)

    def losses(self, split: Split, *, batch_size: int, workers: int) -> Float[np.ndarray, "n"]:
        """The loss of each image of a split, in nats; NaN for an image that was lost."""
        losses = np.full(len(split.labels), np.nan)
        for batch in batches(split, Sampler(batch_size), workers=workers):
            found = np.asarray(self._judge(batch.image, batch.label).loss)
            losses[batch.index[batch.mask]] = found[batch.mask]
        return losses

    def explain(
        self, photographs: Photographs, request: Request, *, batch_size: int
    ) -> Iterator[Explained]:
        """The photographs in their order, ``batch_size`` computed at a time.

        Raises NonFiniteError where a probability or a map is not finite.
        """
        n = len(photographs.names)
        size = min(batch_size, n)
        for start in range(0, n, size):
            # The last batch has the shape of the others: it is filled with the first images.
            places = np.arange(start, start + size) % n
            yield from self._explain(photographs, places[: n - start], places, request)

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
        of_batch = self._no_labels(len(places)) if labels is None else labels[places]
        judged = self._judge(images, of_batch)
        probabilities = np.asarray(judged.probabilities)
        maps = self._maps(images, judged, request)
        decided = self._task.decide(probabilities)
        truth = None if labels is None else self._task.truth(of_batch, k)
        for i, place in enumerate(wanted):
            item = Explained(
                name=photographs.names[place],
                image=images[i],
                maps={name: value[i] for name, value in maps.items()},
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

    def _no_labels(self, b: int) -> Int[np.ndarray, "b *k"]:
        """Labels in the task's form, to judge images whose labels are unknown."""
        several = self._config.train.task == "multilabel"
        return np.zeros((b, len(self._classes)) if several else b, np.int32)

    def _maps(
        self, images: UInt8[np.ndarray, "b s s 3"], judged: Prediction, request: Request
    ) -> dict[str, Float[np.ndarray, "b h w"]]:
        attention = named_maps(judged.attention, self._config.model, self._classes)
        maps = {f"Attention on {name}": value for name, value in attention.items()}
        likeliest = jnp.asarray(judged.probabilities).argmax(-1)
        targets = [
            (f" for {self._classes[k]}", jnp.full(len(images), k)) for k in request.classes
        ] or [("", likeliest)]
        for name in request.methods:
            for stage in ("",) if name in OF_IMAGE else request.stages:
                for of_class, index in targets:
                    on_stage = f" on {stage}" if stage else ""
                    found = METHODS[name](self._network, images, index, stage)
                    maps[TITLES[name] + on_stage + of_class] = np.asarray(found)
        return maps


def _check_finite(item: Explained) -> None:
    for name, values in {"the probabilities": item.probabilities, **item.maps}.items():
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"{name} of {item.name!r} are not finite: the network's weights are unusable, "
                "train it again"
            )


def verdict(item: Explained, classes: Sequence[str]) -> str:
    """The classes that are said, each with its probability."""
    said = np.flatnonzero(item.decided).tolist()
    return ", ".join(f"{classes[j]} {item.probabilities[j]:.1%}" for j in said) or "nothing"


def truth_text(item: Explained, classes: Sequence[str]) -> str | None:
    """The classes the photograph has; None where that is not known."""
    return None if item.truth is None else _names(item.truth, classes) or "nothing"


def _names(has: Bool[np.ndarray, "k"], classes: Sequence[str]) -> str:
    return ", ".join(name for name, there in zip(classes, has, strict=True) if there)
