"""The mean and deviation of training images, and who normalises by them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_attn
from flax_attn.config import Config
from flax_attn.data import Quarantine
from flax_attn.data.views import GuardedSplit, Subset
from flax_attn.errors import DataError
from flax_attn.explain.forward import forward_of, normalized
from flax_attn.models import Network, build_model, functional
from flax_attn.models.calibrate import calibrate
from flax_attn.models.network import pixel_scale
from flax_attn.ops.images import IMAGENET, PixelScale
from flax_attn.porting.export.formats import network_outputs
from flax_attn.runs.directory import Run
from flax_attn.system.processes import Processes
from flax_attn.training.features import cache_key
from flax_attn.training.pixel_scale import measure_pixels, with_pixel_scale
from flax_attn.training.step import Examples, make_eval_step, make_feature_step
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


def scaled(image: np.ndarray) -> jax.Array:
    mean, std = (jnp.asarray(v, jnp.float32) for v in (SCALE.mean, SCALE.std))
    return (jnp.asarray(image, jnp.float32) / 255 - mean) / std


def of_evaluation(model: Network, config: Config, image: np.ndarray) -> tuple:
    structure, params, stats = functional.split(model)
    examples = Examples(image, np.zeros(len(image), np.int32), np.ones(len(image), bool))
    found = make_eval_step(structure)(params, stats, examples)[1].probabilities
    return found, jax.nn.softmax(model(scaled(image), train=False).logits)


def of_features(model: Network, config: Config, image: np.ndarray) -> tuple:
    found = make_feature_step(functional.split(model)[0], ("pool3",))
    structure, params, stats = functional.split(model)
    return found(params, stats, image).pool3, model.features(scaled(image), train=False).pool3


def of_export(model: Network, config: Config, image: np.ndarray) -> tuple:
    _, params, stats = functional.split(model)
    run = Run(config, ("cat", "dog"), "", {})
    found = network_outputs(run, conv=config.model.conv)(params, stats, image)
    return found["logits"], model(scaled(image), train=False).logits


def of_methods(model: Network, config: Config, image: np.ndarray) -> tuple:
    return normalized(image, forward_of(model)), scaled(image)


def of_calibration(model: Network, config: Config, image: np.ndarray) -> tuple:
    """The first running mean is that of the first convolution's output."""
    structure, params, stats = functional.split(model)
    kernel = params["backbone/stages/0/layers/0/kernel"]
    z = jax.lax.conv_general_dilated(
        scaled(image), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = calibrate(structure, params, stats, [image])[1]
    return found["backbone/stages/0/layers/0/norm/mean"], z.mean((0, 1, 2))


@pytest.mark.parametrize("use", [of_evaluation, of_features, of_export, of_methods, of_calibration])
def test_a_network_normalises_by_its_own_scale(
    use: Callable[[Network, Config, np.ndarray], tuple], tiny: Config
) -> None:
    config = tiny.updated(pixel_mean=SCALE.mean, pixel_std=SCALE.std, conv="exact")
    model = build_model(config.model, num_classes=2)
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    found, expected = use(model, config, image)
    # Another scale is off by a multiple of it; the two programs round in other orders.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(np.asarray(normalized(image) - scaled(image))).max() > 1


def test_features_of_another_scale_are_others() -> None:
    split = EncodedNoise(2)
    of_imagenet = cache_key(split, {}, {}, ("pool5",), "f32", IMAGENET)
    assert of_imagenet == cache_key(split, {}, {}, ("pool5",))
    assert of_imagenet != cache_key(split, {}, {}, ("pool5",), "f32", SCALE)


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
    assert users == {"models/vgg.py", "explain/forward.py", "__init__.py"}
