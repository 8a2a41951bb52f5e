"""The reproduction end to end on networks that train in seconds, and its parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import ModelConfig
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.masks import objects
from flax_attn.errors import CheckpointError, UsageError
from flax_attn.studies.reproduce import measure
from flax_attn.studies.reproduce import reproduce_command as reproduce
from flax_attn.studies.reproduce.experiment_plan import ARTICLE_HIDDEN, QUICK_HIDDEN, make_plan
from flax_attn.studies.reproduce.stages import Stages
from flax_attn.system import cli

TINY = (
    "--quick --widths 4 4 8 8 8 --depths 1 1 1 1 1 --attn-features 8 --hidden 16 "
    "--image-size 32 --train-count 8 --val-count 8 --batch-size 4 --epochs 2 --weights none "
    "--no-freeze-backbone --seeds 3 --methods input_gradients --sanity-images 2 --sanity-draws 2 "
    "--timing-size 32 --timing-batch 2 --timing-rounds 3"
).split()


def run(folder: Path, *flags: str) -> int:
    argv = [*TINY, "--workdir", str(folder / "work"), "--out", str(folder / "report"), *flags]
    argv += ["--feature-cache", str(folder / "features"), "--image-cache", str(folder / "images")]
    return cli.run(reproduce.main, argv)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduced")
    assert run(folder) == 0
    return folder


def test_the_report_is_there(reproduced: Path) -> None:
    report = reproduced / "report"
    numbers = json.loads((report / "numbers.json").read_text())
    findings = [f for section in numbers["sections"] for f in section["findings"]]
    assert len(findings) == 31
    assert {f["verdict"] for f in findings} <= {"supported", "not supported", "undecided"}
    assert numbers["conditions"]["seeds"] == [3] and numbers["conditions"]["hidden"] == 16
    page = (report / "index.html").read_text()
    for finding in findings:
        assert finding["claim"][1:] in page
    for name in ("attention_sigmoid", "attention_softmax", "epochs_pool3", "epochs_pool4"):
        with Image.open(report / f"{name}.png") as picture:
            assert picture.width > 500
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    with Image.open(report / "epochs.webp") as animation:
        assert animation.n_frames == 2


def test_all_networks_differ_in_what_they_should(reproduced: Path) -> None:
    configs = {
        path.parent.name: json.loads(path.read_text())["config"]
        for path in (reproduced / "work").glob("*/config.json")
    }
    assert configs.keys() == {"sigmoid", "softmax", "vgg16_bn"}
    assert [configs[n]["model"]["norm"] for n in ("sigmoid", "softmax")] == ["sigmoid", "softmax"]
    assert configs["vgg16_bn"]["model"]["model"] == "vgg16_bn"
    for part in ("data", "train"):
        assert configs["sigmoid"][part] == configs["softmax"][part] == configs["vgg16_bn"][part]


def test_a_finished_reproduction_is_only_written_again(
    reproduced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (reproduced / "report" / "numbers.json").read_bytes()
    (reproduced / "work" / "stages" / "count.npz").unlink()
    shutil.rmtree(reproduced / "report")
    capsys.readouterr()
    assert run(reproduced) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(lines) == 12
    assert [line for line in lines if not line.endswith("done before")] == [
        "[11/12] counting parameters and operations"
    ]
    after = (reproduced / "report" / "numbers.json").read_bytes()
    times = b'"caption": "In all'
    assert (
        after.split(times)[0].split(b"How this was made")[0]
        == (before.split(times)[0].split(b"How this was made")[0])
    )


def test_other_conditions_are_refused(reproduced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(reproduced, "--learning-rate", "0.5") == 4
    error = capsys.readouterr().err
    assert "learning_rate was 0.001, now 0.5" in error and error.count("\n") == 1


def folder_of_images(root: Path, classes: Sequence[str]) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--epochs", "1"], 2, "--epochs must be at least 2"),
        (["--seeds", "1", "1"], 2, "--seeds takes different numbers"),
        (["--timing-size", "40"], 2, "--timing-size must be a multiple of 32"),
        (["--map-images", "0"], 2, "--map-images must be at least 1"),
        (["--map-images", "1"], 2, "--map-images 1 leaves a class out"),
        (["--full"], 2, "--full"),
        (["--freeze-backbone"], 2, "--no-freeze-backbone"),
        (["--dataset", "drawn_pets_scenes"], 2, "do not exclude each other"),
        (["--mask-dir", "masks"], 2, "--mask-dir goes with --dataset folder"),
        (["--dataset", "folder", "--data-dir", "{tmp}/three"], 3, "the data set has 3"),
    ],
)
def test_bad_input_is_one_line_and_its_code(
    tmp_path: Path,
    flags: Sequence[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder_of_images(tmp_path / "three", ["bird", "cat", "dog"])
    assert run(tmp_path, *(flag.format(tmp=tmp_path) for flag in flags)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error
    assert not (tmp_path / "work" / "sigmoid").exists()


def test_a_mask_that_cannot_be_used_is_named_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = folder_of_images(tmp_path / "photos", ["cat", "dog"])
    for name in ("cat", "dog"):
        (tmp_path / "masks" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("1", (40, 48)).save(tmp_path / "masks" / name / f"{i}.png")
    flags = [
        "--dataset",
        "folder",
        "--data-dir",
        str(photos),
        "--mask-dir",
        str(tmp_path / "masks"),
    ]
    assert run(tmp_path, *flags) == 3
    error = capsys.readouterr().err
    assert "masks/" in error and "40x48" in error and error.count("\n") == 1
    assert not (tmp_path / "work" / "sigmoid").exists()


def test_masks_may_change_between_calls() -> None:
    photos = {"dataset": "folder", "data_dir": "photos"}
    plans = [make_plan({**photos, "mask_dir": place}, {}, full=False) for place in ("a", "b")]
    assert plans[0].conditions() == plans[1].conditions()


def test_quick_and_full_plans() -> None:
    quick, full = (make_plan({}, {}, full=extent) for extent in (False, True))
    assert quick.config.data.dataset == "drawn_pets" and quick.config.train.freeze_backbone
    assert quick.runs().keys() == {
        "sigmoid",
        "softmax",
        "vgg16_bn",
        "sigmoid-seed1",
        "sigmoid-seed2",
    }
    assert quick.runs()["vgg16_bn"].model.hidden == QUICK_HIDDEN
    assert full.config.data.dataset == "cats_vs_dogs" and not full.config.train.freeze_backbone
    assert (full.config.data.image_size, full.config.model.hidden) == (224, ARTICLE_HIDDEN)
    for plan in (quick, full):
        assert plan.epochs == (1, 5, 20)
        assert {1, 5, 20} <= set(plan.runs()["softmax"].run.snapshot_epochs or ())
        assert [model.hidden for model in plan.article_models()] == [ARTICLE_HIDDEN] * 2
    assert make_plan({"epochs": 3}, {}, full=False).epochs == (1, 3)
    with pytest.raises(UsageError):
        make_plan({"epochs": 3}, {"seeds": ()}, full=False)


def test_finished_stages_are_read_and_broken_ones_done_again(tmp_path: Path) -> None:
    done: list[str] = []

    def work(name: str):
        def compute():
            done.append(name)
            return {"values": np.arange(3.0)}

        return compute

    def open_stages(**conditions: object) -> Stages:
        return Stages(tmp_path, conditions, total=2)

    for _ in range(2):
        stages = open_stages(seed=0)
        for name in ("one", "two"):
            np.testing.assert_array_equal(stages.get(name, name, work(name))["values"], [0, 1, 2])
        assert stages.seconds.keys() == {"one", "two"}
    assert done == ["one", "two"]
    path = tmp_path / "two.npz"
    path.write_bytes(path.read_bytes()[:-40])
    open_stages(seed=0).get("two", "two", work("two"))
    assert done == ["one", "two", "two"]
    with pytest.raises(CheckpointError, match="seed was 0, now 1"):
        open_stages(seed=1)


def test_heads_are_on_the_animals() -> None:
    split = DrawnPets(seed=0, size=64, count=40, first_index=500_000)
    places = list(range(40))
    bodies, found = objects(split, places), measure.heads(split, places)
    assert bodies is not None and found is not None
    inside = (bodies & found).sum((1, 2)) / found.sum((1, 2))
    assert np.median(inside) > 0.9
    # Occluders and the picture's edge hide little of a head; elsewhere it would be mostly outside.
    assert (inside > 0.5).mean() > 0.95


def test_parameters_and_operations_are_counted() -> None:
    model = ModelConfig(widths=(2, 2, 4, 4, 4), depths=(1,) * 5, attn_features=3, hidden=5)
    dense = ModelConfig(
        model="vgg16_bn", widths=model.widths, depths=model.depths, attn_features=3, hidden=5
    )
    found = measure.count((model, dense), size=32)
    channels = list(zip((3, 2, 2, 4, 4), model.widths, strict=True))
    backbone = sum(9 * a * b + 3 * b for a, b in channels)
    gates = 2 * (4 * 3 + 4 * 3 + 3 + 1)
    assert found["parameters_attn_vgg"] == backbone + gates + (4 + 4 + 4) * 2 + 2
    layers = 4 * 49 * 5 + 5 + 5 * 5 + 5 + 5 * 2 + 2
    assert found["parameters_vgg16_bn"] == backbone + layers

    def products(side: int, a: int, b: int) -> int:
        """Of a convolution; a border pixel has fewer neighbours."""
        return 2 * a * b * (3 * side - 2) ** 2

    convolutions = sum(
        products(side, a, b) for side, (a, b) in zip((32, 16, 8, 4, 2), channels, strict=True)
    )
    for name in measure.NAMES:
        # Normalisation, pooling and the small layers above come on top.
        assert convolutions < found[f"operations_{name}"] < 1.6 * convolutions


def test_article_sizes() -> None:
    """torchvision's vgg16_bn with two classes has 134,277,186 parameters."""
    found = measure.count(make_plan({}, {}, full=True).article_models(), size=224)
    assert found["parameters_vgg16_bn"] == 134_277_186
    assert found["parameters_attn_vgg"] == 15_184_964
    assert 29.5e9 < found["operations_attn_vgg"] < found["operations_vgg16_bn"] < 31e9
