"""The page in the browser: what is written, and what it says in a real one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from flax_attn.config import make_config
from flax_attn.data import open_split
from flax_attn.errors import UsageError
from flax_attn.explain.trained_run import TrainedRun
from flax_attn.figures import colour_table
from flax_attn.models import abstract_model
from flax_attn.models.tasks import TASKS
from flax_attn.porting.export import export_run as command
from flax_attn.porting.export.browser_page import SHARED, TEMPLATE, describe_network
from flax_attn.porting.export.export_run import export_run
from flax_attn.porting.export.web_runtime import DIGESTS, VERSION, Runtime
from flax_attn.runs.directory import Run
from flax_attn.runs.load import Restored
from flax_attn.system import cli
from flax_attn.system.output import MARK
from flax_attn.training import eval_command
from tests.helpers.browser import Browser, browsing, require_browser
from tests.helpers.networks import TINY
from tests.helpers.servers import Quiet, serve

CLASSES = ("cat", "dog <i>", "fox")
RUNTIME = Runtime(VERSION, {name: f"// {name}".encode() for name in DIGESTS})
# The largest difference of probabilities that a person may see (docs/export.md).
TOLERANCE = 1e-4


class Exported(NamedTuple):
    folder: Path
    run: TrainedRun


def drawn(name: str, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
    """Values as after training: maps and probabilities tell images apart, and saturate nowhere."""
    if name.endswith(("scale", "var")):
        return np.ones(wanted.shape, np.float32)
    seed = list(name.encode())
    values = np.random.default_rng(seed).normal(size=wanted.shape).astype(np.float32)
    return values * np.float32(np.sqrt(2 / max(1, np.prod(wanted.shape[:-1]))))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network that was never trained, with maps for each class and head, and its page."""
    framing = {"crop_margin": 3, "centre_crop": 0.9}
    config = make_config(TINY).updated(per_class=True, heads=2, conv="exact", **framing)
    structure, *shapes = abstract_model(config.model, num_classes=len(CLASSES))
    params, stats = ({name: drawn(name, of) for name, of in found.items()} for found in shapes)
    out = tmp_path_factory.mktemp("export") / "network"
    split = open_split(make_config(TINY).data, "val", classes=("cat", "dog"))
    with pytest.MonkeyPatch.context() as patch:
        best = Restored(structure, params, stats, 1, 1, None)
        patch.setattr(command, "restore_best", lambda *_: best)
        patch.setattr(command, "find_runtime", lambda _: RUNTIME)
        run = Run(config, CLASSES, "", {})
        export_run(run, split, workdir=out.parent, out=out, formats=["page"])
    return Exported(out, TrainedRun(config, CLASSES, structure, params, stats, 1, 1))


def test_a_page_brings_the_onnx_file_and_its_runtime_along(exported: Exported) -> None:
    folder = exported.folder
    assert {path.name for path in folder.iterdir()} == {"export.json", MARK, "model.onnx", "page"}
    page = folder / "page"
    found = {str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()}
    own = {path.name for path in TEMPLATE.iterdir() if path.name != "LICENSE.txt"}
    runtime = {f"runtime/{name}" for name in (*DIGESTS, "LICENSE.txt")}
    assert found == {*own, *SHARED, *runtime, "network.json", "model.onnx"}
    assert (page / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    info = json.loads((folder / "export.json").read_text())
    assert info["page"] == {
        "folder": "page",
        "bytes": sum((page / name).stat().st_size for name in found),
        "runtime": f"onnxruntime-web {VERSION}",
    }


def test_the_page_is_told_what_export_json_says(exported: Exported) -> None:
    info = json.loads((exported.folder / "export.json").read_text())
    network = json.loads((exported.folder / "page" / "network.json").read_text())
    assert network.pop("colours")
    assert network == {
        "classes": list(CLASSES),
        "task": "multiclass",
        "outputs": info["outputs"],
        "thresholds": {},
        "images": info["inputs"]["images"],
    }
    assert info["outputs"]["attention_pool3"] == {
        "dtype": "float32",
        "shape": ["batch", 3, 2, 4, 4],
        "axes": ["batch", "class", "head", "row", "column"],
    }
    assert describe_network({**info, "thresholds": {"fox": 0.3}})["thresholds"] == {"fox": 0.3}


ADDRESSES = re.compile(r"""\b(?:https?|wss?|ftp):|["'(]//|@import|\burl\(""")
NAMED = re.compile(r"""(?:href|src)="(?!data:)([^"]+)"|(?:from|Worker\(|fetch\() ?"([^"]+)\"""")


def test_no_file_of_the_page_names_another_place(exported: Exported) -> None:
    """What a file asks for lies beside it: nothing else is ever fetched, or sent to."""
    page = exported.folder / "page"
    for path in page.iterdir():
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text(encoding="utf-8")
            assert ADDRESSES.findall(text) == [], path.name
            for names in NAMED.findall(text):
                assert (page / "".join(names)).is_file(), (path.name, names)


def test_cases_have_no_page(exported: Exported, tmp_path: Path) -> None:
    config = exported.run.config.updated(view_names=("first", "clinic"))
    run = Run(config, CLASSES, "", {})
    split = open_split(make_config(TINY).data, "val", classes=("cat", "dog"))
    with pytest.raises(UsageError, match="the page takes networks of single pictures, .* several"):
        export_run(run, split, workdir=tmp_path, out=tmp_path / "x", formats=["page"])
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_without_a_page_or_an_export_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--workdir", "run", "--runtime", "dist"]
    assert cli.run(eval_command.main, [*given, "--export", "x"]) == 2
    assert "--runtime goes with --export-formats page, not with stablehlo onnx" in (
        capsys.readouterr().err
    )
    assert cli.run(eval_command.main, [*given, "--export-formats", "page"]) == 2
    assert "--runtime goes with --export: add it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photographs of every way through the page's preprocessing, each unlike the others."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)

    def picture(width: int, height: int) -> Image.Image:
        coarse = rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)

    made = {name: folder / name for name in ("wide.png", "tall.png", "small.png", "turned.jpg")}
    picture(151, 97).save(made["wide.png"])
    layered = picture(60, 310)  # so tall that Pillow scales its height first
    layered.putalpha(Image.linear_gradient("L").resize(layered.size))
    layered.save(made["tall.png"])
    picture(20, 23).save(made["small.png"])
    exif = Image.Exif()
    exif[0x0112] = 6
    # So large that Python asks the JPEG's decoder for less.
    picture(640, 480).save(made["turned.jpg"], exif=exif, quality=95)
    (folder / "notes.txt").write_text("no photograph")
    return made


@pytest.fixture(scope="module")
def page(
    exported: Exported, photographs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """The page after photographs, and a file that is none, went in one after the other."""
    executable, runtime = require_browser()
    folder = exported.folder / "page"
    for name, content in runtime.files.items():
        (folder / "runtime" / name).write_bytes(content)
    with (
        serve(partial(Quiet, directory=str(folder))) as address,
        browsing(executable, tmp_path_factory.mktemp("profile")) as browser,
    ):
        browser.open(address)
        browser.wait("document.body?.dataset.ready")
        notes = photographs["wide.png"].with_name("notes.txt")
        browser.choose("#files", *photographs.values(), notes)
        browser.wait("cards.length === 5 && !document.querySelector('.waiting')")
        yield browser
        assert browser.problems == []
        assert {request for request in browser.requests if not request.startswith(address)} <= {
            "data:,"
        }


def card(name: str) -> str:
    return f"cards.find((one) => one.name === {name!r})"


@pytest.mark.browser
@pytest.mark.parametrize("name", ["wide.png", "tall.png", "small.png", "turned.jpg"])
def test_the_page_sees_and_says_what_python_does(
    name: str, page: Browser, exported: Exported, photographs: dict[str, Path]
) -> None:
    said = exported.run.predict([photographs[name]])
    pixels = np.array(page.evaluate(f"[...{card(name)}.result.pixels]")).reshape(32, 32, 3)
    # Decoders of JPEG may differ, and a browser's always decodes all there is.
    is_jpeg = name.endswith("jpg")
    assert np.abs(pixels - said.images[0].astype(int)).max() <= (3 if is_jpeg else 0)
    found = page.evaluate(f"[...{card(name)}.result.outputs.probabilities.data]")
    np.testing.assert_allclose(found, said.probabilities[0], atol=1e-3 if is_jpeg else TOLERANCE)
    text = page.evaluate(f"{card(name)}.verdict.innerText").split("\n")
    assert text == [said.labels[0], f"{100 * said.probabilities.max():.1f} %"]
    assert said.probabilities.max() < 0.99  # else the probabilities would tell nothing


@pytest.mark.browser
def test_maps_are_drawn_as_python_draws_them(
    page: Browser, exported: Exported, photographs: dict[str, Path]
) -> None:
    """A cell a pixel: each must have the colour of its value, or the next one's."""
    said = exported.run.predict([photographs["wide.png"]])
    pick = "find({0!r}).value = {1}; find({0!r}).dispatchEvent(new Event('input'));"
    page.evaluate("".join(pick.format(name, value) for name, value in (("class", 1), ("head", 1))))
    page.evaluate("find('smooth').click(); document.querySelectorAll('#maps input')[1].click()")
    canvas = f"{card('wide.png')}.figures.querySelector('canvas.map')"
    assert page.evaluate(f"{canvas}.ariaLabel") == ("Map pool4 of dog <i> by head 2 over wide.png")
    read = "getContext('2d').getImageData(0, 0, 2, 2).data"
    drawn = np.array(page.evaluate(f"[...{canvas}.{read}]")).reshape(2, 2, 4)[..., :3]
    values = said.attention["pool4 dog <i> head 2"][0]
    assert values.shape == (2, 2) and values.max() > values.min()
    positions = 255.99 * (values - values.min()) / (values.max() - values.min())
    table = colour_table().astype(int)
    places = np.abs(drawn[..., None, :] - table).sum(-1).argmin(-1)
    np.testing.assert_array_equal(table[places], drawn)
    np.testing.assert_allclose(places, positions, atol=1.5)


@pytest.mark.browser
@pytest.mark.parametrize(
    "task, probabilities, thresholds",
    [
        ("multiclass", [0.2, 0.5, 0.3], []),
        ("multiclass", [0.6, 0.4], [math.nan]),
        ("multiclass", [0.6, 0.4], [0.3]),
        ("multiclass", [0.3, 0.7], [0.8]),
        ("multilabel", [0.6, 0.4, 0.9], [math.nan, math.nan, math.nan]),
        ("multilabel", [0.6, 0.4, 0.9], [0.7, 0.1, math.nan]),
    ],
)
def test_the_page_decides_as_python_does(
    page: Browser, task: str, probabilities: list[float], thresholds: list[float]
) -> None:
    names = [f"class {k}" for k in range(len(probabilities))]
    cuts = zip(TASKS[task].cuts(len(names)), thresholds, strict=True)
    given = {names[k]: value for k, value in cuts if not math.isnan(value)}
    network = json.dumps({"task": task, "classes": names, "thresholds": given})
    decided = page.evaluate(f"decide({network}, {probabilities})")
    assert decided == TASKS[task].decide_at(np.array([probabilities]), thresholds)[0].tolist()


@pytest.mark.browser
def test_a_file_that_is_no_image_is_named(page: Browser) -> None:
    expected = "no image that this browser can read; give a JPEG, PNG or WebP"
    assert page.evaluate(f"{card('notes.txt')}.verdict.innerText") == expected
    assert page.evaluate("find('status').role") == "status"


# Each gives the page a photograph of its own name.
GIVE = """(async (way) => {
  const canvas = new OffscreenCanvas(40, 50);
  canvas.getContext("2d").fillRect(5, 5, 20, 20);
  const held = new DataTransfer();
  held.items.add(new File([await canvas.convertToBlob()], `${way}.png`, { type: "image/png" }));
  const drop = new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true });
  const paste = new ClipboardEvent("paste", { clipboardData: held, bubbles: true });
  document.body.dispatchEvent({ drop, paste }[way]);
})"""


@pytest.mark.browser
@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photographs_are_dropped_and_pasted(page: Browser, way: str) -> None:
    page.evaluate(f"{GIVE}({way!r})")
    page.wait(f"{card(f'{way}.png')}?.result")
    page.evaluate(f"{card(f'{way}.png')}.article.querySelector('.remove').click()")
    assert page.evaluate("cards.length") == 5
    assert page.evaluate("find('status').innerText") == f"{way}.png removed"


@pytest.mark.browser
def test_the_camera_takes_a_photograph_and_is_let_go(page: Browser) -> None:
    """By the camera that the browser draws for tests."""
    page.evaluate("find('camera').click()")
    page.wait("find('viewfinder').open && find('video').videoWidth")
    page.evaluate("window.track = find('video').srcObject.getTracks()[0]; find('take').click()")
    page.wait("cards[0].name.startsWith('camera') && cards[0].result")
    assert page.evaluate("[track.readyState, find('viewfinder').open]") == ["ended", False]
    page.evaluate("cards[0].article.querySelector('.remove').click()")


@pytest.mark.browser
def test_every_control_has_a_name(page: Browser) -> None:
    """What a screen reader is told, of all that a keyboard reaches."""
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if any(one["name"] == "focusable" for one in node.get("properties", []))
        and node["role"]["value"] != "RootWebArea"
    ]
    assert len(controls) > 12
    assert [role for role, name in controls if not name] == []
    assert ("button", "Remove wide.png") in controls
