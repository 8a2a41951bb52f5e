"""ONNX models, run by onnxruntime, beside the JAX functions they were made from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import export, lax

from flax_attn.attention import ALIGNMENTS, SCORES
from flax_attn.config import Config
from flax_attn.errors import UsageError
from flax_attn.models import MODELS, build_model, functional
from flax_attn.porting.export.formats import input_shapes, network_outputs
from flax_attn.porting.export.onnx import to_onnx
from flax_attn.runs.directory import Run
from tests.helpers.bounds import chain

SIZE = 32
CLASSES = ("cat", "dog", "fox")
ANY_IMAGES = {
    "images": jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), SIZE, SIZE, 3), "uint8")
}
# Float32 through five convolutions of at most 72 summands, relative to the largest value.
TOLERANCE = chain(5, 72)


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString())


def run_onnx(model: onnx.ModelProto, batch: np.ndarray) -> dict[str, np.ndarray]:
    session = session_of(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": batch}), strict=True))


def assert_same(got: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        value = np.asarray(value)
        assert (got[name].shape, got[name].dtype) == (value.shape, value.dtype), name
        assert np.isfinite(value).all(), name
        error = np.abs(np.subtract(got[name], value, dtype=np.float32)).max()
        error /= max(np.abs(value).max(), 1e-6)
        assert error < TOLERANCE, (name, float(error))


Function = Callable[[jax.Array], Any]


def assert_converted(program: Function) -> onnx.ModelProto:
    """The ONNX of a function of images, after a comparison on three and on one of them."""
    model = to_onnx(program, ANY_IMAGES, about={})
    expected = program(jnp.asarray(images()))
    assert_same(run_onnx(model, images()), expected)
    assert_same(run_onnx(model, images()[:1]), {n: v[:1] for n, v in expected.items()})
    return model


def drawn_network(config: Config) -> tuple[Run, dict[str, Any], dict[str, Any]]:
    """A network none of whose arrays is what it was initialised with: no bias 0, no variance 1."""
    run = Run(config=config, classes=CLASSES, data_fingerprint="", weights={})
    _, params, stats = functional.split(build_model(config.model, num_classes=len(CLASSES)))
    rng = np.random.default_rng(0)

    def drawn(path: str, array: jax.Array) -> jax.Array:
        noise = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        return array * noise + (0.1 * noise if array.ndim < 2 else 0)

    arrays = [{p: drawn(p, a) for p, a in part.items()} for part in (params, stats)]
    return run, arrays[0], arrays[1]


def assert_exported(config: Config) -> onnx.ModelProto:
    run, params, stats = drawn_network(config)
    return assert_converted(partial(network_outputs(run, conv="exact"), params, stats))


@pytest.mark.parametrize(("score", "norm"), list(zip(SCORES, cycle(ALIGNMENTS), strict=False)))
def test_every_score_and_every_alignment(tiny: Config, score: str, norm: str) -> None:
    assert_exported(tiny.updated(score=score, norm=norm))


@pytest.mark.parametrize("model", [name for name in MODELS if name != "attn_vgg"])
def test_every_network(tiny: Config, model: str) -> None:
    assert_exported(tiny.updated(model=model))


RESNET = {"widths": (4, 4, 8, 8), "depths": (1, 1, 1, 1), "gates": None}


def test_another_backbone(tiny: Config) -> None:
    model = assert_exported(tiny.updated(backbone="resnet18", **RESNET))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 1 + 4 * 2 + 3 and kinds.count("MaxPool") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 2, "hops": 2, "norm": "entmax", "levels": "via"},
        {"per_class": True, "heads": 2, "head_merge": "mean", "query": ("learned", "guide")},
        {
            "attn_dims": "multi",
            "self_attention": True,
            "gates": ("pool2", "pool4"),
            "query": ("none",),
        },
        {"task": "multilabel", "precision": "bf16"},
        {"views": "crops:2", "view_merge": "attend"},
        {"views": "rgb,lab,edges", "relation": ("interactive",)},
    ],
)
def test_options_of_the_gates(tiny: Config, options: dict[str, Any]) -> None:
    assert_exported(tiny.updated(**options))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"relation": ("own", "interactive"), "view_merge": "attend", "per_class": True},
            id="views weighed for each class",
        ),
        pytest.param(
            {"relation": ("parallel", "alternating"), "meta_into": "both", "heads": 2},
            id="affinity and contexts, heads, metadata classified",
        ),
    ],
)
def test_cases_of_several_pictures_with_metadata(tiny: Config, options: dict[str, Any]) -> None:
    config = tiny.updated(view_names=("first", "clinic"), meta_features=3, **options)
    run, params, stats = drawn_network(config)
    program = partial(network_outputs(run, conv="exact"), params, stats)
    session = session_of(to_onnx(program, input_shapes(run), about={}))
    shapes = {given.name: (given.shape, given.type) for given in session.get_inputs()}
    assert shapes == {
        "images": (["batch", 2, SIZE, SIZE, 3], "tensor(uint8)"),
        "meta": (["batch", 3], "tensor(float)"),
        "present": (["batch", 2], "tensor(bool)"),
    }
    given = {
        "images": np.stack([images(), images()[::-1]], axis=1),
        "meta": np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32),
        "present": np.array([[True, True], [True, False], [True, True]]),
    }
    expected = jax.jit(program)(**given)
    assert ("views" in expected) == ("view_merge" in options)
    names = [output.name for output in session.get_outputs()]
    for part in (slice(None), slice(1, 2)):
        got = session.run(names, {name: value[part] for name, value in given.items()})
        assert_same(dict(zip(names, got, strict=True)), {n: v[part] for n, v in expected.items()})


def test_the_graph_has_no_more_transposes_than_the_maps_that_are_read(tiny: Config) -> None:
    model = assert_exported(tiny)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 5
    assert kinds.count("Relu") == 7  # of the convolutions and both gates
    # The images, and the three maps that the head reads.
    before_the_head = kinds[: len(kinds) - kinds[::-1].index("MaxPool")]
    assert before_the_head.count("Transpose") <= 3
    assert {"Sqrt", "Reciprocal", "Expand"}.isdisjoint(kinds)  # normalisation is constants


def _rows(x: jax.Array) -> jax.Array:
    """[b, 6, 12] of both signs, in which no two numbers of an image are equal."""
    flat = x.reshape(x.shape[0], -1)[:, :72].astype(jnp.float32)
    return (flat / 64 - 2 + 0.00137 * jnp.arange(72)).reshape(-1, 6, 12)


def _channels(x: jax.Array) -> jax.Array:
    """[b, 4, 4, 6] whose stored axes are in another order."""
    kernel = jnp.sin(jnp.arange(3 * 3 * 3 * 6.0)).reshape(3, 3, 3, 6)
    x = x[:, :4, :4].astype(jnp.float32) / 255
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _first_row(x: jax.Array) -> jax.Array:
    """[b, 1, 2, 6] whose stored axes are in another order."""
    window = (1, 4, 2, 1)
    return lax.reduce_window(_channels(x), -jnp.inf, lax.max, window, window, "VALID")


M = jnp.sin(jnp.arange(60.0)).reshape(12, 5)

FUNCTIONS: dict[str, Function] = {
    "reductions": lambda x: _rows(x).sum(1) + _rows(x).max(1) - _rows(x).min(1),
    "reductions of reordered axes": lambda x: _channels(x).sum((1, 3)) + _channels(x).max((2, 3)),
    "all and any": lambda x: (
        (_rows(x) > 0).any(-1).astype(jnp.int32) + 2 * (_rows(x) > -1.7).all(-1)
    ),
    "two orders meet": lambda x: _channels(x) + _channels(x).transpose(0, 2, 1, 3),
    "transposed twice": lambda x: _channels(x).transpose(3, 0, 2, 1).transpose(1, 3, 2, 0),
    "slices and joins": lambda x: jnp.concatenate(
        [_channels(x)[:, 1:3], lax.slice_in_dim(_channels(x), 0, 4, 2, axis=1)], axis=3
    ),
    "stacked": lambda x: sum(jnp.unstack(jnp.stack([_rows(x), 2 * _rows(x)], axis=1), axis=2)),
    "reversed padding": lambda x: jnp.pad(_rows(x), ((0, 0), (1, 2), (3, 0)), constant_values=7),
    "split": lambda x: jnp.split(_rows(x), [2, 5], axis=1)[1],
    "matrix on the left": lambda x: jnp.einsum("ij,bjk->bik", M[:6].T, _rows(x)),
    "matrix on the right": lambda x: _rows(x) @ M,
    "vector on the right": lambda x: _rows(x) @ M[:, 0],
    "two contracted axes": lambda x: jnp.einsum(
        "bhwc,hwd->bcd", _channels(x), jnp.cos(jnp.arange(48.0)).reshape(4, 4, 3)
    ),
    "batched": lambda x: jnp.einsum("bnc,bmc->bnm", _rows(x), _rows(x) + 1),
    "batched twice": lambda x: jnp.einsum("bhwc,bhvc->bwhv", _channels(x), _channels(x) * 2),
    "one matrix for the batch": lambda x: jnp.einsum(
        "bij,bjk->bik", jnp.broadcast_to(M[:6].T, (x.shape[0], 5, 6)), _rows(x)
    ),
    "one product for the batch": lambda x: jnp.concatenate(
        [
            jnp.broadcast_to(M, (x.shape[0], 12, 5)).mT @ jnp.broadcast_to(M, (x.shape[0], 12, 5)),
            _rows(x)[:, :5, :5],
        ],
        axis=1,
    ),
    "outer": lambda x: jnp.einsum("bn,bm->bnm", _rows(x)[:, 0], _rows(x)[:, 1]),
    "sorted": lambda x: jnp.sort(_rows(x), axis=1),
    "running sums": lambda x: jnp.cumsum(_rows(x), axis=1) - lax.cumsum(_rows(x), 2, reverse=True),
    "along an axis": lambda x: jnp.take_along_axis(
        _rows(x), jnp.argmax(_rows(x), axis=2, keepdims=True), axis=2
    ),
    "along an axis, one place for all rows": lambda x: jnp.take_along_axis(
        _rows(x), _rows(x).sum(1).argmax(-1)[:, None, None], axis=2
    ),
    "known places": lambda x: _rows(x)[:, np.array([4, 0, 2])],
    "broadcast of reordered axes": lambda x: jnp.concatenate(
        [_channels(x), jnp.broadcast_to(_first_row(x), (x.shape[0], 4, 2, 6))], axis=2
    ),
    "a diagonal": lambda x: jnp.diagonal(_rows(x)[:, :, :6], axis1=1, axis2=2),
    "one-hot": lambda x: jax.nn.one_hot(_rows(x).argmax(-1), 12),
    "broadcast over the batch": lambda x: jnp.concatenate(
        [_rows(x), jnp.broadcast_to(M[:, :1].T, (x.shape[0], 2, 12))], axis=1
    ),
    "broadcast over twice the batch": lambda x: jnp.concatenate(
        [
            _rows(x).reshape(2 * x.shape[0], 3, 12),
            jnp.broadcast_to(M[:, :1].T, (2 * x.shape[0], 2, 12)),
        ],
        axis=1,
    ).reshape(x.shape[0], 10, 12),
    "rounding": lambda x: jnp.floor(_rows(x)) + jnp.ceil(_rows(x)) + jnp.sign(_rows(x)),
    "powers": lambda x: _rows(x) ** 3 + jnp.abs(_rows(x)) ** 0.3 + lax.rsqrt(1 + _rows(x) ** 2),
    "exponentials": lambda x: jnp.expm1(_rows(x)) + jnp.log1p(jnp.abs(_rows(x))),
    "logic": lambda x: ((_rows(x) > 1) & (_rows(x) < 1.5)) | ~(_rows(x) >= -1),
    "chosen": lambda x: jnp.where(_rows(x) > 1, _rows(x), 2 * _rows(x)[:, :1]),
    "clipped": lambda x: lax.clamp(-1.0, _rows(x), 0.5) + jnp.maximum(_rows(x), 0),
    "pooling with padding": lambda x: lax.reduce_window(
        _channels(x), -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 1, 1), "SAME"
    ),
    "strides, groups, dilation": lambda x: lax.conv_general_dilated(
        _channels(x),
        jnp.sin(jnp.arange(3 * 3 * 3 * 4.0)).reshape(3, 3, 3, 4),
        (2, 1),
        ((1, 2), (0, 1)),
        rhs_dilation=(1, 2),
        feature_group_count=2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ),
    "known": lambda x: jnp.linalg.inv(M[:5] + 5 * jnp.eye(5)) + 0 * _rows(x)[:, :5, :5],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_primitives(name: str) -> None:
    assert_converted(lambda x: {"out": FUNCTIONS[name](x)})


def test_a_fixed_batch(tiny: Config) -> None:
    run, params, stats = drawn_network(tiny)
    program = partial(network_outputs(run, conv="exact"), params, stats)
    fixed = {"images": jax.ShapeDtypeStruct(images().shape, images().dtype)}
    model = to_onnx(program, fixed, about={})
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == len(images())
    assert_same(run_onnx(model, images()), program(jnp.asarray(images())))


def test_what_no_output_needs_is_left_out() -> None:
    def function(x: jax.Array) -> dict[str, jax.Array]:
        lax.sort(_rows(x))
        return {"out": jnp.maximum(_rows(x), 0)}

    model = to_onnx(function, ANY_IMAGES, about={})
    read = {name for node in model.graph.node for name in node.input}
    assert "TopK" not in {node.op_type for node in model.graph.node}
    assert {constant.name for constant in model.graph.initializer} <= read


def test_equal_constants_are_kept_once() -> None:
    model = to_onnx(
        lambda x: {"a": _rows(x) @ M, "b": _rows(x) @ (M + 0)},
        ANY_IMAGES,
        about={"classes": '["cat"]'},
    )
    matrices = [c for c in model.graph.initializer if list(c.dims) == [12, 5]]
    assert len(matrices) == 1
    assert {p.key: p.value for p in model.metadata_props} == {"classes": '["cat"]'}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: jnp.arcsinh(_rows(x)), "no ONNX for asinh"),
        (lambda x: _rows(x).astype(jnp.int32) & 3, "no ONNX for and with operands of type int32"),
        (lambda x: lax.pad(_rows(x), 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0))), "between elements"),
        (
            lambda x: lax.conv_transpose(_channels(x), jnp.ones((3, 3, 6, 2)), (2, 2), "SAME"),
            "input",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(function: Function, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        to_onnx(lambda x: {"out": function(x)}, ANY_IMAGES, about={})
    assert "\n" not in str(caught.value)
    assert "--export-formats stablehlo" in str(caught.value)
