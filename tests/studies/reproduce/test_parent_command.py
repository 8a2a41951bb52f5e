"""The parent paper end to end, on networks whose gates train in seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from flax_attn.config import make_config
from flax_attn.data import Dataset
from flax_attn.studies.reproduce import reproduce_command as reproduce
from flax_attn.studies.reproduce.parent import prepare
from flax_attn.studies.reproduce.parent_plan import ParentPlan
from flax_attn.system import cli
from tests.helpers.networks import TINY, flags_of
from tests.helpers.ported_weights import ported
from tests.studies.reproduce.test_reproduce_command import folder_of_images

SMALL = {**TINY, "train_count": 8, "val_count": 8, "batch_size": 4, "epochs": 1}
del SMALL["weights"], SMALL["freeze_backbone"]
SIZES = "--sanity-images 2 --sanity-draws 1 --curve-images 4 --curve-steps 2 --map-images 6".split()

NETWORKS = {
    *("attention", "attention-object", "attention-background"),
    *("vgg_pooled", "vgg_gap", "vgg"),
}


def run(folder: Path, *flags: str) -> int:
    places = ["--workdir", "work", "--out", "report", "--weights", "weights.safetensors"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Pictures are drawn, but not rendered, and made of one byte: the page reads them.
        patch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).write_bytes(b"0"))
        argv = ["--paper", "parent", "--quick", *flags_of(SMALL), *SIZES, *places, *flags]
        return cli.run(reproduce.main, argv)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    ported(folder / "weights.safetensors", make_config({**TINY}))
    assert run(folder) == 0
    return folder


def test_every_network_is_trained_and_judged(reproduced: Path) -> None:
    configs = {
        path.parent.name: json.loads(path.read_text())["config"]
        for path in (reproduced / "work").glob("*/config.json")
    }
    assert configs.keys() == NETWORKS
    numbers = json.loads((reproduced / "report" / "numbers.json").read_text())
    titles = [section["title"] for section in numbers["sections"]]
    assert titles == [
        "Do attention and masks help?",
        "Do taught maps lie on the object?",
        "Does the network use what its maps show?",
        "How this was made",
    ]
    assert [len(section["findings"]) for section in numbers["sections"]] == [3, 8, 6, 0]
    page = (reproduced / "report" / "index.html").read_text()
    assert "The paper&#x27;s claims" in page or "The paper's claims" in page
    assert "the parent paper reproduced" in page and "The article" not in page
    assert "ISIC 2017 test" in page


def photographs_with_masks(folder: Path, *, side: int) -> Sequence[str]:
    """Photographs of two classes, all but one of them with a mask of so many pixels."""
    photos = folder_of_images(folder / "photos", ["melanoma", "other"])
    for image in sorted(photos.rglob("*.png"))[1:]:
        mask = folder / "photos_masks" / image.relative_to(photos)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("1", (48, side)).save(mask)
    return ["--dataset", "folder", "--data-dir", "photos"]


def test_a_folder_has_masks_or_does_without(tmp_path: Path) -> None:
    """Up to the first training: what is trained, and on what."""
    plans = {}

    def keep(plan: ParentPlan, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        plans[len(plans)] = prepare(plan, dataset)
        assert plan.positive_of(dataset.classes) == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "reproduce", keep)
        flags = photographs_with_masks(tmp_path, side=40)
        (tmp_path / "weights.safetensors").touch()
        assert run(tmp_path, *flags) == 0
        shutil.rmtree(tmp_path / "photos_masks")
        assert run(tmp_path, *flags) == 0
        assert run(tmp_path, *flags, "--roi-over", "image") == 3
    assert plans[0].runs().keys() == NETWORKS
    assert plans[1].runs().keys() == NETWORKS - {"attention-object", "attention-background"}
    assert plans[0].conditions()["masks"] and not plans[1].conditions()["masks"]


def test_a_mask_of_another_size_ends_the_command_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = photographs_with_masks(tmp_path, side=48)
    (tmp_path / "weights.safetensors").touch()
    assert run(tmp_path, *flags) == 3
    error = capsys.readouterr().err
    assert "48x48" in error and "photos_masks" in error and error.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_only_what_is_missing_is_done_again(
    reproduced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (reproduced / "work" / "stages" / "curves-attention-object.npz").unlink()
    capsys.readouterr()
    assert run(reproduced) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(lines) == 2 * len(NETWORKS) + 2 * 3 + 1
    assert [line for line in lines if not line.endswith("done before")] == [
        "[18/19] deletion and insertion, attention-object"
    ]


def test_other_classes_or_weights_are_other_conditions(
    reproduced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(reproduced, "--positive", "cat") == 4
    assert "positive was None, now 'cat'" in capsys.readouterr().err
    assert run(reproduced, "--roi-weights", "pool4=1") == 4
    assert "roi_weights was ['pool3=0.1', 'pool4=0.1'], now ['pool4=1']" in capsys.readouterr().err
