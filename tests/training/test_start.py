from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import Config
from flax_attn.errors import CheckpointError, DataError, WeightsError
from flax_attn.models import build_model, functional
from flax_attn.porting import write_ported
from flax_attn.training import start as initial
from flax_attn.training.start import from_file, from_run, resolve_initial
from tests.helpers.bounds import assert_within, fan_in, rounding
from tests.helpers.ported_weights import arrays_of, ported
from tests.helpers.saved_runs import CLASSES, saved_run


def test_a_file_replaces_the_backbone_and_keeps_the_head(tmp_path: Path, tiny: Config) -> None:
    source = from_file(ported(tmp_path / "w.safetensors", tiny))
    params, stats = arrays_of(tiny, seed=1)
    filled, filled_stats = source.fill(params, stats)
    wanted, _ = arrays_of(tiny, seed=7)
    for path, array in filled.items():
        expected = wanted if path.startswith("backbone/") else params
        np.testing.assert_array_equal(array, expected[path])
    assert filled_stats.keys() == stats.keys()
    assert source.calibrate
    assert len(source.provenance["file_sha256"]) == 64


def test_trained_normalisations_are_not_calibrated(tmp_path: Path, tiny: Config) -> None:
    path = ported(tmp_path / "w.safetensors", tiny, batch_norm="trained")
    assert not from_file(path).calibrate


def test_another_runs_checkpoint_replaces_everything(tmp_path: Path, tiny: Config) -> None:
    source = from_run(saved_run(tmp_path / "run", tiny, {"source": "none"}), CLASSES)
    params, stats = arrays_of(tiny, seed=1)
    filled, _ = source.fill(params, stats)
    wanted, _ = arrays_of(tiny, seed=3)
    assert all(bool((filled[path] == wanted[path]).all()) for path in wanted)
    assert source.provenance["source"] == "run run, epoch 1"


@pytest.mark.parametrize(("frozen", "expected"), [(True, True), (False, False)])
def test_inserted_normalisations_stay_uncalibrated_while_frozen(
    tmp_path: Path, tiny: Config, frozen: bool, expected: bool
) -> None:
    config = tiny.updated(freeze_backbone=frozen)
    first = saved_run(tmp_path / "a", config, {"source": "x", "batch_norm": "inserted"})
    source = from_run(first, CLASSES)
    assert source.calibrate == expected
    # And so through a chain of runs.
    second = saved_run(tmp_path / "b", config, source.provenance)
    assert from_run(second, CLASSES).calibrate == expected


def test_a_run_on_other_classes_is_refused(tmp_path: Path, tiny: Config) -> None:
    folder = saved_run(tmp_path / "run", tiny, {"source": "none"})
    with pytest.raises(DataError, match="cat, dog"):
        from_run(folder, ("bird", "dog"))


LAST = ("classifier/bias", "classifier/kernel")


def test_the_last_layer_of_a_run_on_another_number_of_classes_starts_anew(
    tmp_path: Path, tiny: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = saved_run(tmp_path / "run", tiny, {"source": "none"})
    source = from_run(folder, ("cat", "dog", "fox"))
    params, stats = arrays_of(tiny, seed=1, classes=3)
    filled, filled_stats = source.fill(params, stats)
    wanted, wanted_stats = arrays_of(tiny, seed=3)
    assert filled.keys() == params.keys()
    for path, array in filled.items():
        expected = params if path in LAST else wanted
        np.testing.assert_array_equal(array, expected[path])
    for path, array in filled_stats.items():
        np.testing.assert_array_equal(array, wanted_stats[path])
    line = f"{folder}: 2 classes there, 3 here: the last layer starts anew"
    assert [record.message for record in caplog.records].count(line) == 1


def test_only_the_last_layer_may_differ_for_other_classes(tmp_path: Path, tiny: Config) -> None:
    source = from_run(saved_run(tmp_path / "run", tiny, {"source": "none"}), ("a", "b", "c"))
    with pytest.raises(CheckpointError, match="gates/pool3"):
        source.fill(*arrays_of(tiny.updated(attn_features=16), seed=0, classes=3))
    with pytest.raises(CheckpointError, match="classifier/bias"):
        source.fill(*arrays_of(tiny.updated(model="vgg"), seed=0, classes=3))


def test_a_file_of_five_classes_is_the_start_of_three(
    tmp_path: Path, tiny: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    theirs = {path: np.asarray(a) for part in arrays_of(tiny, 7, 5) for path, a in part.items()}
    sizes = {"widths": tiny.model.widths, "depths": tiny.model.depths}
    told = {"source": "x", "source_sha256": "", "layout": "attn_vgg", "batch_norm": "trained"}
    # Under any name: ported weights are known by their content.
    write_ported(tmp_path / "w.bin", theirs, {**told, **sizes})
    config = tiny.updated(weights=str(tmp_path / "w.bin"))
    source = resolve_initial(config, ("a", "b", "c"), imagenet=never)
    params, stats = arrays_of(tiny, seed=1, classes=3)
    filled, _ = source.fill(params, stats)
    for path, array in filled.items():
        np.testing.assert_array_equal(array, params[path] if path in LAST else theirs[path])
    assert "w.bin: 5 classes there, 3 here: the last layer starts anew" in caplog.text


def test_a_network_of_another_shape_is_refused(tmp_path: Path, tiny: Config) -> None:
    source = from_run(saved_run(tmp_path / "run", tiny, {"source": "none"}), CLASSES)
    wider = arrays_of(tiny.updated(attn_features=16), seed=0)
    with pytest.raises(CheckpointError, match="gates/pool3"):
        source.fill(*wider)


def never() -> Path:
    raise AssertionError("imagenet weights were asked for")


def test_what_the_flags_ask_for(tmp_path: Path, tiny: Config) -> None:
    path = ported(tmp_path / "w.safetensors", tiny)
    none = resolve_initial(tiny, CLASSES, imagenet=never)
    assert none.provenance == {"source": "none"}
    named = resolve_initial(tiny.updated(weights=str(path)), CLASSES, imagenet=never)
    found = resolve_initial(
        tiny.updated(weights="imagenet"), CLASSES, imagenet=lambda backbone: path
    )
    assert named.provenance == found.provenance
    run = saved_run(tmp_path / "run", tiny, {"source": "none"})
    chosen = tiny.updated(init_from=str(run), weights="imagenet")
    assert "run" in resolve_initial(chosen, CLASSES, imagenet=never).provenance["source"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("none.safetensors", "no weight file"),
        ("w.pth", "flax-attn port --source"),
        ("page.safetensors", "is a web page"),
        ("page.pth", "is a web page"),
    ],
)
def test_weights_that_cannot_be_used(tmp_path: Path, tiny: Config, name: str, remedy: str) -> None:
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04 as archives begin")
    (tmp_path / "page.safetensors").write_bytes(b"<html>")
    (tmp_path / "page.pth").write_bytes(b"<html>")
    config = tiny.updated(weights=str(tmp_path / name))
    with pytest.raises(WeightsError, match=remedy):
        resolve_initial(config, CLASSES, imagenet=never)


def test_calibration_keeps_the_function_and_changes_the_statistics(tiny: Config) -> None:
    """What end-to-end training does first with inserted normalisations."""
    from flax_attn.models.calibrate import calibrate

    structure, params, stats = functional.split(build_model(tiny.model, num_classes=2))
    images = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
    new_params, new_stats = calibrate(structure, params, stats, [images])
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))

    @jax.jit
    def logits(params: Any, stats: Any) -> jax.Array:
        return functional.merge(structure, params, stats)(x, train=False).logits

    before = logits(params, stats)
    after = functional.merge(structure, new_params, new_stats)(x, train=False).logits
    with jax.enable_x64(True):
        _, bound = rounding(logits, params, stats, terms=fan_in, whole=True)
    assert_within(after, before, 2 * bound, whole=True)
    changed = [path for path in stats if not bool(jnp.allclose(stats[path], new_stats[path]))]
    assert changed == list(stats)
    assert initial.INSERTED == "inserted"
