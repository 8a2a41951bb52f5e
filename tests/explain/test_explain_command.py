"""``flax-attn explain`` end to end: its page, its pictures, its failures."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flax_attn.data import open_split
from flax_attn.explain import measures
from flax_attn.explain.cam import grad_cam
from flax_attn.explain.explain_command import main
from flax_attn.explain.explained import outline
from flax_attn.explain.measures.faithfulness import STEPS, measure_faithfulness
from flax_attn.explain.measures.localisation import best_iou, energy_inside, pointing_game
from flax_attn.explain.measures.summary import CONTROL
from flax_attn.explain.trained_run import load
from flax_attn.models import AttnOutput, functional
from flax_attn.ops.images import normalize
from flax_attn.system import cli
from flax_attn.training import train_command
from tests.helpers.bounds import chain
from tests.helpers.networks import TINY

# Five convolutions of at most 72 summands, twice, and a gradient as long.
EXACT = {"rtol": chain(10, 72), "atol": 1e-9}
HOSTILE = "script><script>alert(1)<!--&\"'$x^{$\n\udce9猫.png"


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text of its scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._is_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._is_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False

    def handle_data(self, data: str) -> None:
        if self._is_script:
            self.scripts.append(data)


def explain(workdir: Path, *flags: str) -> int:
    return cli.run(main, ["--workdir", str(workdir), *flags])


def read_page(out: Path) -> dict[str, Any]:
    return json.loads(Tags((out / "index.html").read_text(encoding="utf-8")).scripts[0])


def only_picture(shown: dict[str, Any]) -> dict[str, Any]:
    (picture,) = shown["pictures"]
    return picture


def decoded(page: dict[str, Any], photograph: int, name: str) -> np.ndarray:
    place = [kind["name"] for kind in page["maps"]].index(name)
    content = base64.b64decode(only_picture(page["photographs"][photograph])["maps"][place])
    return np.frombuffer(content, "<f4").reshape(page["maps"][place]["shape"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "tiny <&"
    flags = ["--no-freeze-backbone", "--workdir", str(workdir), "--epochs", "1"]
    for name in ("widths", "depths", "attn_features", "image_size", "train_count", "val_count"):
        values = TINY[name] if isinstance(TINY[name], tuple) else [TINY[name]]
        flags += ["--" + name.replace("_", "-"), *map(str, values)]
    flags += ["--image-cache", str(workdir.parent / "images")]
    argv = [*flags, "--batch-size", "4", "--weights", "none", "--norm", "softmax"]
    assert cli.run(train_command.main, argv) == 0
    return workdir


@pytest.fixture(scope="module")
def out(trained: Path) -> Path:
    """The four worst of six validation images, whose labels are known."""
    flags = ["--worst", "--count", "4", "--batch-size", "3"]
    assert explain(trained, "--split", "val", *flags) == 0
    return trained / "explain-val"


def test_the_page_needs_nothing_but_itself(out: Path) -> None:
    text = (out / "index.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert len(tags.scripts) == 2 and tags.scripts[1].startswith('\n"use strict";')
    names = {name for _, attributes in tags.found for name in attributes}
    assert not names & {"src", "href", "srcset", "action", "data", "style", "onclick"}
    assert not {tag for tag, _ in tags.found} & {"link", "iframe", "object", "base", "img"}
    for word in ("http:", "https:", "//www", "url(", "@import", "fetch(", "XMLHttp", "{{"):
        assert word not in text
    policy = [a["content"] for t, a in tags.found if t == "meta" and "content" in a]
    assert any(str(p).startswith("default-src 'none'; img-src data:;") for p in policy)


def test_the_page_shows_what_the_network_gives(trained: Path, out: Path) -> None:
    run, page = load(trained), read_page(out)
    network = run.network
    split = open_split(run.config.data, "val", classes=run.classes)

    @jax.jit
    def whole(images: jax.Array) -> AttnOutput:
        model = functional.merge(network.structure, network.params, network.stats)
        return model(normalize(images), train=False)

    images = jnp.asarray(np.stack([split.image(i) for i in range(6)]))
    output = whole(images)
    log_p = np.asarray(jax.nn.log_softmax(output.logits))
    losses = -log_p[np.arange(6), split.labels]
    # Losses are the network's own, probabilities those at the run's temperature.
    said = np.asarray(jax.nn.softmax(output.logits / (run.temperature or 1)))
    worst = np.argsort(-losses)[:4]
    expected = {f"Attention on {name}": maps[worst] for name, maps in output.attention.items()}
    likeliest = output.logits.argmax(-1)
    for stage in ("conv4", "conv5"):
        # Batches as the command's, for which everything is compiled already.
        halves = [grad_cam(network, images[i : i + 3], likeliest[i : i + 3], stage) for i in (0, 3)]
        expected[f"Grad-CAM on {stage}"] = jnp.concatenate(halves)[worst]
    assert [kind["name"] for kind in page["maps"]] == list(expected)
    for kind in page["maps"]:
        found = np.stack([decoded(page, i, kind["name"]) for i in range(4)])
        np.testing.assert_allclose(found, expected[kind["name"]], **EXACT)
        assert kind["range"] == [found.min(), found.max()]
    for place, shown in zip(worst, page["photographs"], strict=True):
        assert shown["name"] == split.names[place]
        assert shown["truth"] == run.classes[split.labels[place]]
        assert shown["loss"] == pytest.approx(losses[place], abs=EXACT["rtol"])
        assert shown["probabilities"] == pytest.approx(said[place], abs=EXACT["rtol"])
        with Image.open(io.BytesIO(base64.b64decode(only_picture(shown)["jpeg"]))) as picture:
            assert np.abs(np.asarray(picture, float) - images[place]).mean() < 20


def test_what_the_page_says_of_a_photograph(out: Path) -> None:
    page, text = read_page(out), (out / "index.html").read_text(encoding="utf-8")
    assert page["scale"] == "rank" and page["classes"] == ["cat", "dog"]
    for shown in page["photographs"]:
        likely = int(np.argmax(shown["probabilities"]))
        assert shown["confidence"] == shown["probabilities"][likely]
        assert shown["verdict"] == f"{page['classes'][likely]} {shown['confidence']:.1%}"
        assert shown["correct"] == (page["classes"][likely] == shown["truth"])
    assert {shown["correct"] for shown in page["photographs"]} == {True, False}
    right = sum(shown["correct"] for shown in page["photographs"])
    assert f"4 of the 6 images of val, of highest loss · {right} of 4 right" in text


def test_orders_are_sorted(out: Path) -> None:
    page = read_page(out)
    orders = page["orders"]
    assert list(orders) == ["loss", "confidence", "name"]
    for key, sign in (("loss", -1), ("confidence", 1)):
        values = [sign * page["photographs"][i][key] for i in orders[key]]
        assert values == sorted(values) and sorted(orders[key]) == [0, 1, 2, 3]
    names = [page["photographs"][i]["name"] for i in orders["name"]]
    assert names == sorted(names)


def test_a_picture_for_each_photograph(out: Path) -> None:
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 4
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size[0] == 1150 and 300 < picture.size[1] < 400
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_files_of_any_name(trained: Path, tmp_path: Path) -> None:
    """Names that would end the script, start a formula, or are no text."""
    rng = np.random.default_rng(0)
    photographs = tmp_path / "photographs"
    (photographs / "<").mkdir(parents=True)
    for name in ("a.PNG", "b.png", "c.png", "</" + HOSTILE, ".hidden.png", "notes.txt"):
        path = photographs / name
        Image.fromarray(rng.integers(255, size=(40, 60, 3), dtype=np.uint8)).save(path, "PNG")
    named = str(photographs / "b.png")
    flags = ["--classes", "dog", "cat", "--stages", "conv5", "--batch-size", "3"]
    assert explain(trained, "--images", str(photographs), named, *flags) == 0
    found = trained / "explain"
    page = read_page(found)
    names = [shown["name"] for shown in page["photographs"]]
    assert names == ["</" + HOSTILE, "a.PNG", "b.png", "c.png"]
    text = (found / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text and "<!--" not in text and "tiny &lt;&amp;" in text
    assert len(list(found.glob("*.png"))) == 4
    assert [kind["name"] for kind in page["maps"]][2:] == [
        "Grad-CAM on conv5 for dog",
        "Grad-CAM on conv5 for cat",
    ]
    for shown in page["photographs"]:
        assert (shown["truth"], shown["correct"], shown["loss"]) == (None, None, None)
    assert list(page["orders"]) == ["confidence", "name"]


def put_photos(root: Path) -> Path:
    """Two classes of three photographs to validate on, and the masks of the first two of each."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for i in range(3):
                file = Path(split, name, f"{i}.png")
                for folder in ("photos", "photos_masks"):
                    (root / folder / file.parent).mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(255, size=(32, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "photos" / file)
                mask = np.zeros((32, 48), bool)
                mask[8:20, 12 : 24 + 8 * i + 4 * (name == "dog")] = True
                if i < 2:
                    Image.fromarray(mask).save(root / "photos_masks" / file)
    return root / "photos"


def test_maps_on_the_objects(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", "folder", "--data-dir", str(put_photos(tmp_path)), "--split", "val"]
    flags += ["--out", str(tmp_path / "out"), "--image-cache", "none", "--batch-size", "3"]
    assert explain(trained, *flags) == 0
    found, *said = capsys.readouterr().out.splitlines()
    assert found.startswith(f"{tmp_path / 'photos'}: 2 classes; train 6 (cat 3, dog 3), val 6 (")
    assert said[0] == "measures of the maps, means in % [95 %]; 2 without a mask left out"
    assert "pointing game (n = 4)" in said[1] and said[1].count("(n = 4)") == 3
    page = read_page(tmp_path / "out")
    with open(tmp_path / "out" / "measures.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "map", "pointing game", "energy inside", "best IoU"]
    names = [kind["name"] for kind in page["maps"]]
    assert [row[:2] for row in rows[1:]] == [
        [f"val/{name}.png", kind]
        for name in ("cat/0", "cat/1", "dog/0", "dog/1")
        for kind in (*names, CONTROL)
    ]
    places = [0, 1, 3, 4]
    for i, shown in enumerate(page["photographs"]):
        assert (
            (only_picture(shown)["measured"] is None)
            == (only_picture(shown)["outline"] is None)
            == (i not in places)
        )
    # The crop leaves out eight columns on either side, nothing is scaled.
    masks = np.zeros((4, 32, 32), bool)
    for mask, right in zip(masks, (24, 32, 28, 36), strict=True):
        mask[8:20, 4 : right - 8] = True
    for i, mask in zip(places, masks, strict=True):
        with Image.open(
            io.BytesIO(base64.b64decode(only_picture(page["photographs"][i])["outline"]))
        ) as layer:
            np.testing.assert_array_equal(np.asarray(layer), outline(mask))
    on = jnp.asarray(masks)
    for kind, name in enumerate(names):
        maps = jnp.asarray(np.stack([decoded(page, i, name) for i in places]))
        measured = [pointing_game(maps, on), energy_inside(maps, on), best_iou(maps, on).iou]
        for i, expected in enumerate(np.stack(measured, -1).tolist()):
            assert only_picture(page["photographs"][places[i]])["measured"][kind] == pytest.approx(
                expected, rel=1e-5
            )
            written = rows[1 + i * (len(names) + 1) + kind][2:]
            assert [float(value) for value in written] == pytest.approx(expected, abs=1e-6)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "over n photographs; 2 without a mask left out" in text
    assert "<th>energy inside (n = 4)</th>" in text and f"<td>{CONTROL}</td>" in text
    assert not (tmp_path / "out" / "faithfulness.csv").exists()


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_faithfulness_of_every_map(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--split", "val", "--classes", "cat", "--stages", "conv5", "--methods", "grad_cam"]
    flags += ["--faithfulness", "--batch-size", "4", "--out", str(out)]
    assert explain(trained, *flags) == 0
    header = capsys.readouterr().out.splitlines()[2]
    assert all(f"{name} (n = 6)" in header for name in ("deletion", "insertion", "ROAD"))
    page, measured = read_page(out), read_rows(out / "measures.csv")
    names = [kind["name"] for kind in page["maps"]]
    assert "Grad-CAM on conv5 for cat" in names
    assert page["views"][0]["measures"][-3:] == ["deletion", "insertion", "ROAD"]
    assert [row["map"] for row in measured] == [*names, CONTROL] * 6
    curves = read_rows(out / "faithfulness.csv")
    # Deletion and insertion with both ends, and four shares in both orders.
    assert len(curves) == 6 * (len(names) + 1) * (2 * (STEPS + 1) + 2 * 4)

    run = load(trained)
    network = run.network
    split = open_split(run.config.data, "val", classes=run.classes)
    images = np.stack([split.image(i) for i in range(6)])
    predict = jax.jit(lambda x: jax.nn.softmax(network(x)[0]))
    for name in (names[0], "Grad-CAM on conv5 for cat"):
        maps = np.stack([decoded(page, i, name) for i in range(6)])
        likeliest = np.array([np.argmax(shown["probabilities"]) for shown in page["photographs"]])
        index = likeliest if name.startswith("Attention") else np.zeros(6, int)
        expected = measure_faithfulness(predict, images, maps, index)
        found = [row for row in measured if row["map"] == name]
        for title, score in (
            ("deletion", "deletion"),
            ("insertion", "insertion"),
            ("ROAD", "road"),
        ):
            values = [float(row[title]) for row in found]
            # The noise of a batch is not that of another: ROAD of the first four only.
            count = 4 if title == "ROAD" else 6
            np.testing.assert_allclose(values[:count], expected.scores[score][:count], atol=2e-5)
        for curve in ("deletion", "insertion"):
            rows = [row for row in curves if (row["map"], row["curve"]) == (name, curve)]
            got = np.array([float(row["probability"]) for row in rows]).reshape(6, -1)
            np.testing.assert_allclose(got, expected.probability[curve], atol=2e-5)
    # Without the flag, what it left is removed.
    assert explain(trained, "--split", "val", "--out", str(out)) == 0
    assert not (out / "faithfulness.csv").exists()


def test_a_measure_is_one_function_and_one_row(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without masks: it then stands in the table, the page and the file, of every photograph."""
    monkeypatch.setitem(measures.MEASURES, "area 90 %", measures.Measure(measures.area90))
    photos = put_photos(tmp_path) / "val" / "cat"
    out = tmp_path / "out"
    assert explain(trained, "--images", str(photos), "--out", str(out)) == 0
    page, rows = read_page(out), read_rows(out / "measures.csv")
    assert page["views"][0]["measures"] == ["area 90 %"]
    maps = np.stack([decoded(page, i, "Attention on pool3") for i in range(3)])
    expected = measures.area90(maps)
    got = [float(row["area 90 %"]) for row in rows if row["map"] == "Attention on pool3"]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert [
        only_picture(shown)["measured"][0][0] for shown in page["photographs"]
    ] == pytest.approx(expected)
    assert "<th>area 90 % (n = 3)</th>" in (out / "index.html").read_text(encoding="utf-8")


def test_a_mask_that_does_not_fit_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is looked for beside the photographs that are given, not where the run's own masks are."""
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    values = json.loads((workdir / "config.json").read_text())
    values["config"]["data"]["mask_dir"] = str(tmp_path / "nowhere")
    (workdir / "config.json").write_text(json.dumps(values))
    flags = ["--dataset", "folder", "--data-dir", str(put_photos(tmp_path)), "--split", "val"]
    Image.new("1", (32, 48)).save(tmp_path / "photos_masks" / "val" / "cat" / "1.png")
    assert explain(workdir, *flags, "--image-cache", "none") == 3
    error = capsys.readouterr().err
    assert "val/cat/1.png" in error and "32x48" in error and error.count("\n") == 1


def test_what_an_earlier_call_left_is_removed(trained: Path, out: Path, tmp_path: Path) -> None:
    """But nothing that was not its own, whatever it is called."""
    again = Path(shutil.copytree(out, tmp_path / "out"))
    assert len(list(again.glob("*.png"))) == 4 and (again / "measures.csv").exists()
    Image.new("RGB", (4, 4)).save(again / "002-mine.png")
    (again / "003-text.png").write_text("not a picture")
    (tmp_path / "some").mkdir()
    for name in "abc":
        Image.new("RGB", (40, 40)).save(tmp_path / "some" / f"{name}.png")
    flags = ["--batch-size", "3", "--out", str(again)]
    assert explain(trained, "--images", str(tmp_path / "some"), *flags) == 0
    assert sorted(path.name for path in again.glob("[!.]*")) == [
        *("001-a.png", "002-b.png", "002-mine.png", "003-c.png", "003-text.png"),
        "index.html",
    ]
    assert only_picture(read_page(again)["photographs"][0])["measured"] is None


FAILURES = {
    "neither images nor split": ([], 2, "--images"),
    "both": (["--images", "x", "--split", "val"], 2, "not allowed"),
    "count of files": (["--images", "x", "--count", "3"], 2, "--split"),
    "no images asked for": (["--split", "val", "--count", "0"], 2, "--count"),
    "unknown method": (["--split", "val", "--methods", "magic"], 2, "magic"),
    "unknown class": (["--split", "val", "--classes", "cat", "bird"], 2, "no class bird"),
    "not writable": (["--split", "val", "--out", "{tmp}/text.jpg/out"], 2, "text.jpg"),
    "missing file": (["--images", "{tmp}/none.jpg"], 3, "none.jpg"),
    "damaged files": (["--images", "{tmp}/text.jpg", "{tmp}/cut.png"], 3, "cut.png"),
    "masks of files": (["--images", "x", "--mask-dir", "m"], 2, "--split"),
    "masks of drawn pictures": (["--split", "val", "--mask-dir", "m"], 2, "--dataset folder"),
    "folder without images": (["--images", "{tmp}/empty"], 3, "empty"),
    "no run": (["--images", "x", "--workdir", "{tmp}/empty"], 4, "config.json"),
    "run without a checkpoint": (["--images", "x", "--workdir", "{tmp}/bare"], 4, "bare"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_line_and_its_code(
    trained: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, code, message = FAILURES[case]
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.new("RGB", (40, 40)).save(tmp_path / "cut.png")
    os.truncate(tmp_path / "cut.png", 60)
    for name in ("empty", "bare"):
        (tmp_path / name).mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((trained / "config.json").read_bytes())
    assert explain(trained, *(flag.format(tmp=tmp_path) for flag in flags)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
