"""What a network is given of cases beside pixels, from the table to a step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_attn.config import Config
from flax_attn.data import Dataset, Sampler
from flax_attn.data.case_split import metadata_of, presence_of
from flax_attn.data.dataset import photographs_of
from flax_attn.data.metadata import MetaScale
from flax_attn.data.views import Subset
from flax_attn.errors import CheckpointError, DataError, UsageError
from flax_attn.models import functional
from flax_attn.porting.export.export_run import export_run
from flax_attn.runs.directory import Run
from flax_attn.runs.run_cases import CaseInputs, case_inputs
from flax_attn.training.case_inputs import inputs_of, settle_cases
from flax_attn.training.evaluation import evaluate_run
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.sources import (
    ExampleSource,
    FeatureExamples,
    ImageExamples,
    example_sources,
)
from flax_attn.training.step import Examples, init_state, make_eval_step, make_train_step
from tests.helpers.asked_network import AskedNetwork
from tests.helpers.case_tables import HEADER, ROWS, open_cases, put_cases

BATCH = 3


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_cases(put_cases(tmp_path / "data"))


def settled(tiny: Config, dataset: Dataset) -> tuple[Config, MetaScale]:
    config, metadata = settle_cases(tiny, dataset.splits["train"])
    assert metadata is not None
    return config, metadata


def sources(
    tiny: Config, dataset: Dataset, tmp_path: Path, *, frozen: bool, **settings: object
) -> tuple[ExampleSource, ExampleSource]:
    config, metadata = settled(tiny, dataset)
    config = config.updated(
        freeze_backbone=frozen,
        batch_size=BATCH,
        feature_cache=str(tmp_path / "features"),
        model="vgg",  # whose head reads the one map that the network has
        **settings,
    )
    structure, params, stats = functional.split(AskedNetwork(metadata_size(metadata)))
    return example_sources(
        config, structure, params, stats, dataset, cases=inputs_of(dataset, config, metadata)
    )


def metadata_size(metadata: MetaScale) -> int:
    return len(metadata.features)


def test_settings_know_the_form_of_cases(tiny: Config, dataset: Dataset) -> None:
    config, metadata = settled(tiny, dataset)
    assert config.model.view_names == ("first", "clinic")
    assert config.model.meta_features == metadata_size(metadata) == 4
    plain, nothing = settle_cases(tiny, photographs_of(dataset.splits["train"])[0])
    assert plain == tiny and nothing is None


def test_cases_are_not_mixed(tiny: Config, dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="^--mixup 0.2 mixes single pictures .* have several pict"):
        settle_cases(tiny.updated(mixup=0.2), dataset.splits["train"])


def test_a_run_keeps_how_metadata_are_read(tiny: Config, dataset: Dataset, tmp_path: Path) -> None:
    config, metadata = settled(tiny, dataset)
    run = Run(config, dataset.classes, "", {}, metadata=metadata)
    (tmp_path / "run").mkdir()
    run.save(tmp_path / "run")
    loaded = Run.load(tmp_path / "run")
    assert loaded.metadata == metadata and loaded.config.model == config.model
    # Whatever the table says by now, a run that goes on reads it as it began.
    other = open_cases(put_cases(tmp_path / "other", [r.replace("30", "99") for r in ROWS]))
    assert settle_cases(tiny, other.splits["train"])[1] != metadata
    assert settle_cases(tiny, other.splits["train"], earlier=loaded) == (config, metadata)
    values = json.loads((tmp_path / "run" / "config.json").read_text())
    del values["metadata"][0]["mean"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="config.json is damaged"):
        Run.load(tmp_path / "run")


def test_a_run_of_pictures_alone_is_written_as_ever(tiny: Config, tmp_path: Path) -> None:
    Run(tiny, ("cat", "dog"), "", {}).save(tmp_path)
    assert "metadata" not in json.loads((tmp_path / "config.json").read_text())
    assert len(jax.tree.leaves(Examples(np.zeros(1), np.zeros(1), np.ones(1, bool)))) == 3


# Sources


@pytest.mark.parametrize("frozen", [False, True], ids=["images", "features"])
@pytest.mark.parametrize("oversample", ["none", "2"])
def test_batches_hold_what_is_known_of_their_cases(
    tiny: Config, tmp_path: Path, frozen: bool, oversample: str
) -> None:
    rows = (*ROWS, "g.jpg,G.jpg,44,m,dog,train")
    dataset = open_cases(put_cases(tmp_path / "data", rows))
    split = dataset.splits["train"]
    source, _ = sources(tiny, dataset, tmp_path, frozen=frozen, oversample=oversample)
    meta = settled(tiny, dataset)[1].encode(metadata_of(split))
    present = presence_of(split)
    assert present is not None
    sampler = Sampler(BATCH, 5, shuffle=True, oversampling=source.sampler.oversampling)
    expected = sampler.batches(5, 2, start=1)
    found = list(source.epoch(2, seed=5, shuffle=True, start=1))
    assert len(found) == len(expected) > 0
    for batch, (index, mask) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(batch.meta, meta[index])
        np.testing.assert_array_equal(batch.present, present[index])
        np.testing.assert_array_equal(batch.label, split.labels[index])
        np.testing.assert_array_equal(batch.mask, mask)
        images = np.stack([split.image(int(i)) for i in index])
        if frozen:
            mean = images.mean((2, 3), keepdims=True) / 255
            # Sums of 1024 bytes are exact in float32; a division and the sum's are rounded.
            np.testing.assert_allclose(batch.inputs.pool5, mean, rtol=1024 * 2.0**-23)
        else:
            np.testing.assert_array_equal(batch.inputs, images)


@pytest.mark.parametrize("frozen", [False, True], ids=["images", "features"])
def test_cases_of_a_picture_come_one_after_the_other(
    tiny: Config, tmp_path: Path, frozen: bool
) -> None:
    rows = ("a.jpg,B.jpg,44,m,dog,train", *ROWS, "a.jpg,C.jpg,41,m,cat,train")
    dataset = open_cases(put_cases(tmp_path / "data", rows))
    source, val = sources(tiny, dataset, tmp_path, frozen=frozen, shuffle="pictures")
    of_a = {i for i, name in enumerate(source.names) if name.startswith("a.jpg")}
    assert len(of_a) == 3
    freely = Sampler(BATCH, 5, shuffle=True)
    together = Sampler(BATCH, 5, shuffle=True, random_order=source.sampler.random_order)

    def places(sampler: Sampler, epoch: int) -> list[int]:
        return [place for place, i in enumerate(sampler.order(6, epoch)) if i in of_a]

    assert all(np.ptp(places(together, epoch)) == 2 for epoch in range(9))
    assert not all(np.ptp(places(freely, epoch)) == 2 for epoch in range(9))
    shown = np.concatenate([b.label[b.mask] for b in source.epoch(3, seed=5, shuffle=True)])
    np.testing.assert_array_equal(shown, np.asarray(source.labels)[together.order(6, 3)])
    assert len(list(val.epoch(0, seed=5, shuffle=False))) == 1


def test_part_of_the_cases_needs_part_of_the_pictures(tiny: Config, dataset: Dataset) -> None:
    """As where a study trains on some of the cases."""
    train = dataset.splits["train"]
    part = Subset(train, np.array([3, 1]))
    flat, places = photographs_of(part)
    assert list(flat.names) == ["D.jpg", "b.jpg", "d.jpg"]
    assert places.tolist() == [[2, 0], [1, -1]]
    config, metadata = settle_cases(tiny, part)
    assert metadata is not None and metadata != settle_cases(tiny, train)[1]
    meta, present = case_inputs(part, config, metadata, where="part")
    assert meta is not None and present is not None
    assert meta[:, 0].tolist() == [-1, 1] and present.tolist() == [[True, True], [True, False]]


def test_a_case_whose_picture_was_lost_does_not_count() -> None:
    """Its features hold nothing; a missing picture takes no case away."""
    maps = {"pool5": np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)}
    usable, rows = np.array([True, True, False, True]), np.array([[0, 1], [1, 2], [3, 3]])
    beside = CaseInputs(None, np.array([[True, True], [True, True], [True, False]]))
    names = ["a", "b", "c"]
    source = FeatureExamples(
        maps,
        np.array([0, 1, 0]),
        Sampler(3),
        usable,
        names,
        cases=beside,
        places=rows.astype(np.int32),
    )
    (batch,) = source.epoch(0, seed=0, shuffle=False)
    assert batch.mask.tolist() == [True, False, True]
    assert batch.inputs.pool5[..., 0, 0, 0].tolist() == [[0, 1], [1, 2], [3, 3]]


# Steps


def by_hand(examples: Examples, weight: np.ndarray) -> np.ndarray:
    """Probabilities of ``AskedNetwork``, in float64, case by case."""
    rows = []
    for image, there, meta in zip(examples.inputs, examples.present, examples.meta, strict=True):
        colours = [picture.mean((0, 1)) / 255 for picture, p in zip(image, there, strict=True) if p]
        logits = np.concatenate([np.mean(colours, 0), meta]).astype(np.float64) @ weight
        rows.append(np.exp(logits) / np.exp(logits).sum())
    return np.array(rows)


def test_steps_give_the_network_all_of_a_case(
    tiny: Config, dataset: Dataset, tmp_path: Path
) -> None:
    seen = [
        next(sources(tiny, dataset, tmp_path, frozen=f)[0].epoch(1, seed=0, shuffle=True))
        for f in (False, True)
    ]
    model = AskedNetwork(4)
    weight = np.asarray(model.weight[...], np.float64)
    structure, params, stats = functional.split(model)
    step = make_eval_step(structure)
    expected = by_hand(seen[0], weight)
    for examples in seen:
        probabilities = step(params, stats, examples)[1].probabilities
        # Logits of 7 products below 8; a probability moves by less than its logits do.
        np.testing.assert_allclose(probabilities, expected, atol=7 * 8 * 7 * 2.0**-23)
    # A picture that is missing and metadata do reach it.
    other = seen[0]._replace(present=np.roll(seen[0].present, 1, 0), meta=-seen[0].meta)
    assert np.abs(step(params, stats, other)[1].probabilities - expected).max() > 1e-3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_learns_from_metadata(
    tiny: Config, dataset: Dataset, tmp_path: Path, accumulate: int
) -> None:
    """One step changes the weights of the metadata; the parts of a batch keep theirs."""
    config = tiny.updated(batch_size=BATCH, accumulate=accumulate, flip=False, dropout=0.0)
    examples = next(
        sources(tiny, dataset, tmp_path, frozen=False)[0].epoch(1, seed=0, shuffle=True)
    )
    structure, params, stats = functional.split(AskedNetwork(4))
    tx = make_optimizer(config.train, steps_per_epoch=2)
    before = np.asarray(params["weight"]).copy()
    step = make_train_step(structure, tx, config.train)
    state = step(init_state(params, stats, tx, config.train), examples).state
    moved = np.abs(np.asarray(state.params["weight"]) - before).max(1)
    used = np.array([True] * 3 + list(np.abs(examples.meta).max(0) > 0))
    assert (moved > 0).tolist() == used.tolist()


# Other tables than the run's


def refusal(
    root: Path, config: Config, metadata: MetaScale, header: str, rows: Sequence[str]
) -> str:
    split = open_cases(put_cases(root, rows, header)).splits["val"]
    with pytest.raises(DataError) as caught:
        case_inputs(split, config, metadata, where="other, split val")
    return str(caught.value)


def without(place: int) -> list[str]:
    return [",".join(c for i, c in enumerate(row.split(",")) if i != place) for row in ROWS]


def test_a_table_without_the_columns_of_the_run_is_refused(
    tiny: Config, dataset: Dataset, tmp_path: Path
) -> None:
    config, metadata = settled(tiny, dataset)
    assert refusal(
        tmp_path / "1", config, metadata, HEADER.replace("number:age", "number:size"), ROWS
    ) == (
        "other, split val: the run reads metadata from 'number:age', 'category:sex', and "
        "'number:age' is missing: the table has 'number:size', 'category:sex': add the column; "
        "cells may be empty"
    )
    header = ",".join(h for i, h in enumerate(HEADER.split(",")) if i != 1)
    assert refusal(tmp_path / "2", config, metadata, header, without(1)) == (
        "other, split val: a case has one picture, in the run the pictures 'first', 'clinic': "
        "give the table the columns of the run's, in their order"
    )


def test_values_that_were_never_seen_are_told_of(
    tiny: Config, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    config, metadata = settled(tiny, dataset)
    caplog.clear()
    inputs = inputs_of(dataset, config, metadata)
    (line,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert line == (
        "split val: values that the training part had not count as none: category:sex 'x' (1 case)"
    )
    assert inputs[1].meta is not None and inputs[1].meta[1, 2:].tolist() == [0, 0]


def test_commands_say_what_they_cannot_take_before_anything_is_computed(
    tiny: Config, dataset: Dataset, tmp_path: Path
) -> None:
    config, metadata = settled(tiny, dataset)
    run = Run(config, dataset.classes, "", {}, metadata=metadata)
    flat = photographs_of(dataset.splits["val"])[0]
    with pytest.raises(DataError, match="a case has one picture"):
        evaluate_run(
            run, flat, config=config, split_name="val", workdir=tmp_path / "no", out=tmp_path / "o"
        )
    with pytest.raises(DataError, match="export: a case has one picture"):
        export_run(run, flat, workdir=tmp_path / "no", out=tmp_path / "o", formats=["onnx"])


def test_sources_without_cases_give_what_they_did(dataset: Dataset) -> None:
    flat = photographs_of(dataset.splits["train"])[0]
    source = ImageExamples(flat, Sampler(4), 1)
    for batch in source.epoch(0, seed=0, shuffle=False):
        assert batch.meta is None and batch.present is None and batch.beside == {}
    assert replace(source, cases=CaseInputs()) == source


def test_views_of_cases_of_several_pictures_are_refused(tiny: Config, dataset: Dataset) -> None:
    with pytest.raises(UsageError) as caught:
        settle_cases(tiny.updated(views="crops:2"), dataset.splits["train"])
    assert str(caught.value) == (
        "--views crops:2 makes views of single pictures, and these cases have several ('first', "
        "'clinic'): drop it"
    )
