"""Maps that masks teach: every kind of map learns, and the term is right however a batch is cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from flax_attn.attention import ALIGNMENTS, alignment_of, region_map
from flax_attn.config import Config
from flax_attn.data import Sampler
from flax_attn.data.region_masks import read_region_masks
from flax_attn.models import abstract_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.functional import Arrays, Structure
from flax_attn.runs.state import TrainState
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.region_term import Regions, RegionSums, region_dice
from flax_attn.training.sources import FeatureExamples, ImageExamples
from flax_attn.training.step import Examples, StepOutput, init_state, make_train_step
from tests.helpers.bounds import chain
from tests.helpers.image_folders import EncodedNoise
from tests.helpers.parity import as_double, as_ours, from_torch, largest_error
from tests.helpers.torch_attn_vgg import TorchAttnVGG
from tests.helpers.torch_losses import focal

SIDE = 32
KNOWN = (True, True, False, True)
# The issue asks for 1e-6 of the term and 1e-4 of a trained network.
PARITY = 1e-9
# Maps beside one of each image from the alignment itself.
KINDS: dict[str, dict[str, Any]] = {
    "drawn, second hop": {"norm": "hard", "hops": 2},
    "classes and heads": {"per_class": True, "heads": 2},
    "channels": {"attn_dims": "multi", "norm": "softmax"},
}
DRAWN_ALIGNMENTS = [*ALIGNMENTS, "straight_through"]


def features(seed: int, count: int = 4) -> Features:
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(count, s, s, 8)).astype(np.float32) for s in (4, 2, 1)]
    return Features(**dict(zip(("pool3", "pool4", "pool5"), maps, strict=True)))


def regions(count: int = 4, known: tuple[bool, ...] = ()) -> Regions:
    """Rectangles in other corners; only the first ``known`` of them may be told."""
    mask = np.zeros((count, SIDE, SIDE), np.uint8)
    for i, one in enumerate(mask):
        one[: 10 + 3 * i, (0 if i % 2 else 14) :][:, :15] = 1
    return Regions(mask, np.array(known or (True,) * count))


def frozen(tiny: Config, **settings: Any) -> Config:
    return tiny.updated(freeze_backbone=True, optimizer="sgd", learning_rate=0.1, **settings)


def drawn_network(config: Config) -> tuple[Structure, Arrays, Arrays]:
    """A network of random parameters; nothing is compiled to draw them."""
    structure, params, stats = abstract_model(config.model, num_classes=2)
    rng = np.random.default_rng(0)
    drawn = {path: rng.normal(0, 0.4, a.shape).astype(np.float32) for path, a in params.items()}
    return structure, drawn, {path: np.zeros(a.shape, a.dtype) for path, a in stats.items()}


def assert_learns(term: Callable[[Any], tuple[jax.Array, Any]], start: Any) -> None:
    """Fails unless one small step down the gradient lowers the term, as far as the slope says."""
    before, gradient = term(start)
    size = float(np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))))
    assert 0 < before < 1 and np.isfinite(size) and size > 1e-4
    length = 1e-2
    moved = jax.tree.map(lambda a, g: a - length / size * g, start, gradient)
    assert float(before - term(moved)[0]) == pytest.approx(length * size, rel=0.2)


@pytest.mark.parametrize("name", DRAWN_ALIGNMENTS)
def test_a_small_step_brings_every_alignment_nearer_to_masks(tiny: Config, name: str) -> None:
    """Drawn maps by what they are drawn from, whose gradient does not depend on the draw."""
    estimator = {"norm": "hard", "estimator": name} if name not in ALIGNMENTS else {"norm": name}
    align = alignment_of(tiny.updated(**estimator).model)
    config = frozen(tiny, roi_weights=("pool3=1",)).train
    label, counted = np.zeros(4, np.int32), np.ones(4, bool)

    @jax.jit
    @jax.value_and_grad
    def term(scores: jax.Array) -> jax.Array:
        weights = align.apply(scores, shape=(4, 4))
        if align.sample is not None:
            weights = align.sample(scores, key=jax.random.key(0), shape=(4, 4)).soft
        maps = region_map(weights.reshape(4, 1, 1, 4, 4), sums_to_one=align.sums_to_one)
        return region_dice({"pool3": maps}, regions(), label, counted, config)["pool3"]

    assert_learns(term, np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_step_brings_every_kind_of_map_nearer_to_masks(tiny: Config, kind: str) -> None:
    config = frozen(tiny, gates=("pool3",), roi_weights=("pool3=1",), **KINDS[kind])
    structure, drawn, zeros = drawn_network(config)
    gates = {path: array for path, array in drawn.items() if path.startswith("gates/")}

    @jax.jit
    @jax.value_and_grad
    def term(gates: Arrays) -> jax.Array:
        model = functional.merge(structure, {**drawn, **gates}, zeros)
        output = model.classify(features(0), train=True, key=jax.random.key(0))
        label, counted = np.array([0, 1, 0, 1]), np.ones(4, bool)
        maps = model.region_maps(output)
        return region_dice(maps, regions(), label, counted, config.train)["pool3"]

    assert_learns(term, gates)


def test_classes_with_maps_of_their_own_learn_for_their_own_images(tiny: Config) -> None:
    """Of several labels, the maps of all that the image has."""
    config, counted = frozen(tiny, roi_weights=("pool3=1",)).train, np.ones(2, bool)

    @jax.jit
    @jax.grad
    def gradient(maps: jax.Array, label: jax.Array) -> jax.Array:
        return region_dice({"pool3": maps}, regions(2), label, counted, config)["pool3"]

    maps = np.full((2, 3, 1, 4, 4), 0.5, np.float32)
    for label, own in (
        (np.array([2, 0]), [[0, 0, 1], [1, 0, 0]]),
        (np.array([[1, 0, 1], [0, 0, 0]]), [[1, 0, 1], [0, 0, 0]]),
    ):
        taught = np.asarray(gradient(maps, label)).any((2, 3, 4))
        np.testing.assert_array_equal(taught, np.array(own, bool))


def test_the_background_is_what_is_not_the_object(tiny: Config) -> None:
    """Of the images whose mask is known; the control leaves out the same images."""
    maps = {"pool3": np.random.default_rng(0).random((4, 1, 1, 4, 4), np.float32)}
    known = np.array([True, True, False, True])
    mask, _ = regions()
    config = frozen(tiny, roi_weights=("pool3=1",))

    @jax.jit
    def both() -> list[jax.Array]:
        return [
            region_dice(
                maps,
                Regions(m, known),
                np.zeros(4, np.int32),
                known,
                config.updated(roi_masks=side).train,
            )["pool3"]
            for m, side in ((mask, "background"), (1 - mask, "object"), (mask, "object"))
        ]

    background, inverted, plain = map(float, both())
    assert background == pytest.approx(inverted, rel=1e-6) and abs(plain - background) > 0.01


class Stepped:
    """One step of a tiny network on features, under some settings."""

    def __init__(self, tiny: Config, **settings: Any):
        weights = ("pool3=0.5", "pool4=2")
        self.config = frozen(tiny, **{"roi_weights": weights, **settings})
        structure, self.params, stats = drawn_network(tiny)
        tx = make_optimizer(self.config.train, steps_per_epoch=1)
        self.state = init_state(self.params, stats, tx, self.config.train)
        self.step = make_train_step(structure, tx, self.config.train)

    def __call__(self, examples: Examples) -> StepOutput:
        return self.step(jax.tree.map(jnp.copy, self.state), examples)

    def change(self, state: TrainState) -> Mapping[str, np.ndarray]:
        return {path: array - self.params[path] for path, array in state.params.items()}


def batch(roi: Regions | None, kept: int = 4) -> Examples:
    return Examples(features(0), np.array([0, 1, 0, 1], np.int32), np.arange(4) < kept, roi)


def assert_alike(got: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for path, array in wanted.items():
        limit = chain(5, 72) * (np.abs(array).max() + 1e-3)
        np.testing.assert_allclose(got[path], array, rtol=0, atol=limit, err_msg=path)


def test_unknown_masks_and_padding_teach_nothing(tiny: Config) -> None:
    """As without the term where no mask is known, and without what lies under unknown masks."""
    stepped, without = Stepped(tiny), Stepped(tiny, roi_weights=None)
    none = stepped(batch(regions(known=(False,) * 4)))
    assert none.finite.all() and int(none.sums.images) == 0
    assert_alike(stepped.change(none.state), stepped.change(without(batch(None)).state))

    mask, known = regions(known=(True, False, True, True))
    other = mask.copy()
    other[[1, 3]] = 1 - other[[1, 3]]  # one is not known, one is padding
    first, second = (stepped(batch(Regions(m, known), kept=3)) for m in (mask, other))
    assert int(first.sums.images) == 2
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, two)


def test_parts_of_a_batch_weigh_as_their_known_masks(tiny: Config) -> None:
    """One ratio is of each part; the mean of the images' own is that of the whole batch.

    The parts hold images 0 and 2, and 1 and 3; of the first only one mask is known.
    """
    roi = regions(known=(True, True, False, True))
    whole, parts = (Stepped(tiny, roi_over="image", accumulate=n)(batch(roi)) for n in (1, 2))
    assert isinstance(parts.sums, RegionSums) and int(parts.sums.images) == 3
    assert_alike(parts.sums.dice, whole.sums.dice)
    stepped = Stepped(tiny, roi_over="image")
    assert_alike(stepped.change(parts.state), stepped.change(whole.state))

    ratio = Stepped(tiny, accumulate=2)(batch(roi)).sums
    alone = Stepped(tiny)
    one, two = (
        alone(batch(Regions(roi.mask, roi.known & np.array(part)))).sums
        for part in ([True, False, True, False], [False, True, False, True])
    )
    # Each part's term times its images adds up.
    assert (int(one.images), int(two.images)) == (1, 2)
    assert_alike(ratio.dice, {gate: one.dice[gate] + two.dice[gate] for gate in one.dice})
    means = ratio.compute()
    assert means["region_pool4"] == pytest.approx(float(ratio.dice["pool4"]) / 3)
    assert means.keys() > {"loss", "accuracy", "region_pool3"}


def test_a_term_without_masks_is_a_mistake(tiny: Config) -> None:
    with pytest.raises(ValueError, match="Examples.roi is None"):
        Stepped(tiny)(batch(None))


def test_masks_come_with_their_images_and_with_their_features() -> None:
    """Shuffled, over padding; every image of ``EncodedNoise`` has a mask of its own parity."""
    split = EncodedNoise(7)
    masks, sampler = read_region_masks(split), Sampler(4)
    rows = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1)
    stored = FeatureExamples(
        {"pool5": rows}, split.labels, sampler, np.ones(7, bool), split.names, regions=masks
    )
    shown = ImageExamples(split, sampler, 1, regions=masks)
    epochs = [list(source.epoch(2, seed=1, shuffle=True)) for source in (stored, shown)]
    for features_of, images_of in zip(*epochs, strict=True):
        index = features_of.inputs.pool5[:, 0, 0, 0].astype(int)
        expected = np.stack([split.masks(i)[0] for i in index])
        for examples in (features_of, images_of):
            assert examples.roi is not None and examples.roi.known.all()
            np.testing.assert_array_equal(examples.roi.mask, expected)
        np.testing.assert_array_equal(images_of.inputs, [split.expected(i) for i in index])
    without = ImageExamples(split, sampler, 1)
    assert next(without.epoch(1, seed=0, shuffle=False)).roi is None


@pytest.mark.parametrize(
    ("norm", "focal_gamma"),
    [pytest.param("sigmoid", 2.0, id="sigmoid-focal"), pytest.param("softmax", 0.0, id="softmax")],
)
def test_ten_steps_equal_pytorchs(
    tiny: Config, norm: str, focal_gamma: float, double_steps: None
) -> None:
    """Gates and classifier on features, with the term of both gates, in float64."""
    loss_settings = {"loss": "focal", "focal_gamma": focal_gamma} if focal_gamma else {}
    config = frozen(tiny, norm=norm, roi_weights=("pool3=0.5", "pool4=2"), **loss_settings)
    model = config.model
    torch.manual_seed(0)
    twin = TorchAttnVGG(
        normalize_attn=norm == "softmax", widths=model.widths, depths=model.depths, attn_features=8
    )
    structure, *arrays = from_torch(twin, model)
    tx = make_optimizer(config.train, steps_per_epoch=10)
    state = init_state(*(jax.tree.map(jnp.asarray, as_double(a)) for a in arrays), tx, config.train)
    step, examples = make_train_step(structure, tx, config.train), batch(regions(known=KNOWN))
    twin.double()
    heads = [p for name, p in twin.named_parameters() if not name.startswith("conv_block")]
    optimizer = torch.optim.SGD(heads, lr=0.1, momentum=0.9, nesterov=True)
    terms = []
    for seed in range(10):
        maps = {name: m.astype(np.float64) for name, m in features(seed).items()}
        state, sums, _ = step(state, examples._replace(inputs=Features(**maps)))
        pools = [torch.tensor(m).permute(0, 3, 1, 2) for m in maps.values()]
        loss, dice = loss_of_torch(twin, pools, focal_gamma)
        optimizer.zero_grad()
        (loss + 0.5 * dice["pool3"] + 2 * dice["pool4"]).backward()
        optimizer.step()
        terms.append([[float(sums.dice[gate]) / 3, dice[gate].item()] for gate in dice])
    found = np.array(terms)
    assert found[-1].mean() < found[0].mean()  # they learn
    np.testing.assert_allclose(found[..., 0], found[..., 1], rtol=PARITY)
    wanted = as_ours(twin.state_dict(), config=model)
    taught = {path: array for path, array in state.params.items() if "backbone" not in path}
    error, path = largest_error(taught, {path: wanted[path] for path in taught})
    assert error < PARITY, path


def loss_of_torch(
    twin: TorchAttnVGG, pools: Sequence[torch.Tensor], focal_gamma: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss (focal_gamma 0: cross entropy), and the ratio of each gate over known masks."""
    pool3, pool4, pool5 = pools
    attended = {"pool3": twin.attn1(pool3, pool5), "pool4": twin.attn2(pool4, pool5)}
    pooled = [pool5.mean((2, 3)), *(vector for _, vector in attended.values())]
    logits = twin.cls(torch.cat(pooled, 1))
    loss = focal(logits, torch.tensor([0, 1, 0, 1]), focal_gamma, logits.new_ones(2)).mean()
    roi, dice = regions(known=KNOWN), {}
    masks = torch.tensor(roi.mask[roi.known, None], dtype=torch.float64)
    for gate, (attention, _) in attended.items():
        a, m = attention[roi.known], adaptive_avg_pool2d(masks, attention.shape[1:])[:, 0]
        if twin.attn1.normalize_attn:
            a = a / a.amax((1, 2), keepdim=True)
        dice[gate] = 1 - 2 * (a * m).sum() / (a.sum() + m.sum())
    return loss, dice
