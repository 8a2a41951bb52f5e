"""The mean and deviation of training images, and who normalises by them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn
from flax_attn.config import Config
from flax_attn.data import Quarantine
from flax_attn.data.views import GuardedSplit, Subset
from flax_attn.errors import DataError
from flax_attn.explain.cam import grad_cam
from flax_attn.explain.explainer import Explainer
from flax_attn.explain.forward import network_forward
from flax_attn.models import abstract_model, functional
from flax_attn.models.calibrate import calibrate
from flax_attn.models.network import pixel_scale
from flax_attn.ops.images import IMAGENET, PixelScale
from flax_attn.porting.export.formats import network_outputs
from flax_attn.runs.directory import Run
from flax_attn.system.processes import Processes
from flax_attn.training.features import cache_key
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.pixel_scale import measure_pixels, with_pixel_scale
from flax_attn.training.step import (
    Examples,
    init_state,
    make_eval_step,
    make_feature_step,
    make_train_step,
)
from tests.helpers.image_folders import EncodedNoise

SCALE = PixelScale((0.7, 0.55, 0.48), (0.09, 0.13, 0.15))


def stacked(split: EncodedNoise) -> np.ndarray:
    return np.stack([split.expected(i) for i in range(len(split.labels))]) / 255


def test_mean_and_deviation_are_those_of_all_pixels() -> None:
    split = EncodedNoise(70)
    got = measure_pixels(split, workers=2)
    pixels = stacked(split)
    # NumPy's sums of 70 · 64 values are exact to as many roundings in the worst case.
    bound = {"rtol": pixels.size * 2.0**-52, "atol": 0}
    np.testing.assert_allclose(got.mean, pixels.mean((0, 1, 2)), **bound)
    np.testing.assert_allclose(got.std, pixels.std((0, 1, 2)), **bound)


def test_the_order_of_images_decides_no_bit() -> None:
    split = EncodedNoise(70)
    turned = Subset(split, np.random.default_rng(0).permutation(70))
    assert measure_pixels(turned, workers=1) == measure_pixels(split, workers=2)


def test_a_lost_image_does_not_count() -> None:
    whole = EncodedNoise(6, bad=[4])
    guarded = GuardedSplit(
        whole,
        name="train",
        rows=whole.rows,
        absent=[],
        lost=[],
        quarantine=Quarantine("quarantine"),
    )
    others = Subset(EncodedNoise(6), np.array([0, 1, 2, 3, 5]))
    assert measure_pixels(guarded, workers=1) == measure_pixels(others, workers=1)


class Flat(EncodedNoise):
    """Images whose green is the same everywhere."""

    def image(self, index: int) -> np.ndarray:
        pixels = super().image(index)
        pixels[..., 1] = 7
        return pixels


def test_one_colour_everywhere_is_refused() -> None:
    with pytest.raises(DataError, match="one value of green everywhere.*--normalise imagenet"):
        measure_pixels(Flat(4), workers=1)


def test_a_run_measures_once_and_keeps_what_it_measured(
    tiny: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flax_attn")
    config, split = tiny.updated(normalise="data"), EncodedNoise(70, first=100)
    settled = with_pixel_scale(config, split)
    assert pixel_scale(settled.model) == measure_pixels(split, workers=1)
    (line,) = caplog.messages
    assert line.startswith("colours normalised by the 70 training images: mean 0.")
    # Kept with the run, to the last bit.
    Run(settled, ("cat", "dog"), "", {}).save(tmp_path)
    assert Run.load(tmp_path).config.model == settled.model
    decoded = len(split.decoded)
    assert with_pixel_scale(config, split) == settled
    assert with_pixel_scale(config, EncodedNoise(3), earlier=settled) == settled
    assert len(split.decoded) == decoded
    # And left behind where it is not wanted.
    assert pixel_scale(with_pixel_scale(tiny, split, earlier=settled).model) == IMAGENET
    assert pixel_scale(with_pixel_scale(settled.updated(normalise="imagenet"), split).model) == (
        IMAGENET
    )


@dataclass(frozen=True)
class Second(Processes):
    """The second of two processes, whose first says this."""

    said: str = ""

    def first_says(self, name: str, text: str) -> str:
        return self.said


def test_all_processes_take_what_the_first_one_has(tiny: Config) -> None:
    said = "[[0.5, 0.25, 0.125], [0.1, 0.2, 0.3]]"
    config = with_pixel_scale(
        tiny.updated(normalise="data"), EncodedNoise(4), processes=Second(2, 1, said)
    )
    assert pixel_scale(config.model) == PixelScale((0.5, 0.25, 0.125), (0.1, 0.2, 0.3))


class Seen(Exception):
    """Carries the scale out of whoever normalises, before anything is compiled."""


Use = Callable[[Config, functional.Structure, dict, dict, np.ndarray], object]


def evaluate(config, structure, params, stats, image):
    examples = Examples(image, np.zeros(2, np.int32), np.ones(2, bool))
    return make_eval_step(structure)(params, stats, examples)


def train(config, structure, params, stats, image):
    examples = Examples(image, np.zeros(2, np.int32), np.ones(2, bool))
    tx = make_optimizer(config.train, steps_per_epoch=1)
    step = make_train_step(structure, tx, config.train)
    return jax.eval_shape(step, init_state(params, stats, tx, config.train), examples)


def features(config, structure, params, stats, image):
    return make_feature_step(structure, ("pool3",))(params, stats, image)


def export(config, structure, params, stats, image):
    run = Run(config, ("cat", "dog"), "", {})
    return network_outputs(run, conv="exact")(params, stats, image)


def explain(config, structure, params, stats, image):
    network = network_forward(config.model, params, stats, num_classes=2)
    return grad_cam(network, image, np.zeros(2, int), "conv5")


def measure(config, structure, params, stats, image):
    network = network_forward(config.model, params, stats, num_classes=2)
    explainer = Explainer(network, config, ("cat", "dog"))
    maps = {"map": np.zeros((2, 32, 32), np.float32)}
    return explainer.faithfulness(maps["map"], image, np.zeros(2, int), batch_size=2)


def calibrated(config, structure, params, stats, image):
    return calibrate(structure, params, stats, [image])


@pytest.mark.parametrize("use", [evaluate, train, features, export, explain, measure, calibrated])
def test_a_network_normalises_by_its_own_scale(
    use: Use, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.updated(pixel_mean=SCALE.mean, pixel_std=SCALE.std)
    abstract = abstract_model(config.model, num_classes=2)
    structure, *arrays = abstract
    zeros = [{path: jnp.zeros(a.shape, a.dtype) for path, a in part.items()} for part in arrays]

    def see(image: object, *, scale: PixelScale, **_: object) -> NoReturn:
        raise Seen(scale)

    monkeypatch.setattr("flax_attn.models.backbone.normalize", see)
    with pytest.raises(Seen) as seen:
        use(config, structure, *zeros, np.zeros((2, 32, 32, 3), np.uint8))
    assert seen.value.args == (SCALE,)


def test_features_of_another_scale_are_others() -> None:
    split = EncodedNoise(2)
    of_imagenet = cache_key(split, {}, {}, ("pool5",), "f32", IMAGENET)
    assert of_imagenet == cache_key(split, {}, {}, ("pool5",))
    assert of_imagenet != cache_key(split, {}, {}, ("pool5",), "f32", SCALE)
    of_views = {cache_key(split, {}, {}, ("pool5",), views=v) for v in ("crops:2", "crops:3")}
    assert len({of_imagenet, *of_views}) == 3


def test_nothing_normalises_but_through_a_network() -> None:
    """Whoever calls ``normalize`` itself would use ImageNet's scale for every run."""
    package = Path(flax_attn.__file__).parent
    users = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            from_images = isinstance(node, ast.ImportFrom) and node.module == "flax_attn.ops.images"
            if from_images and "normalize" in {name.name for name in node.names}:
                users.add(file.relative_to(package).as_posix())
    # The backbone's own method, methods of explanation given a network that is not ours, and the
    # public name.
    assert users == {"models/backbone.py", "explain/forward.py", "__init__.py"}
