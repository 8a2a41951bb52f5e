"""``eval.py --export`` end to end, on a run of a small network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from jax import export
from PIL import Image

from flax_attn.config import Config
from flax_attn.data import open_split, read_image
from flax_attn.data.framing import decode_photograph
from flax_attn.explain.predictions import Asking
from flax_attn.explain.predictor import open_predictor
from flax_attn.explain.trained_run import load
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.ops.temperature import calibrate
from flax_attn.porting.export import export_run as command
from flax_attn.porting.export import formats
from flax_attn.porting.export.export_run import export_run
from flax_attn.porting.export.onnx_elementwise import ELEMENTWISE
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.runs.load import Restored
from flax_attn.system import cli
from flax_attn.system.output import MARK
from flax_attn.training import eval_command
from flax_attn.training.case_inputs import settle_cases
from flax_attn.training.step import Examples, make_eval_step
from tests.helpers.bounds import chain
from tests.helpers.case_tables import open_cases, put_cases
from tests.helpers.faulty_runs import Reference


def run_export(workdir: Path, out: Path, *flags: str) -> int:
    return cli.run(eval_command.main, ["--workdir", str(workdir), "--export", str(out), *flags])


@pytest.fixture(scope="module")
def run_directory(small: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "small"
    shutil.copytree(small.workdir, workdir)
    return workdir


@pytest.fixture(scope="module")
def exported(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "deep" / "network"
    assert run_export(run_directory, out) == 0
    return out


def test_the_folder_says_how_the_files_are_used(exported: Path, run_directory: Path) -> None:
    info = json.loads((exported / "export.json").read_text())
    assert {path.name for path in exported.iterdir()} == {"export.json", MARK, *info["files"]}
    assert info["files"].keys() == {"model.stablehlo", "model.onnx"}
    for name, file in info["files"].items():
        assert file["bytes"] == (exported / name).stat().st_size
        assert file["relative_difference"].keys() == info["outputs"].keys()
        assert all(0 <= d <= command.TOLERANCE for d in file["relative_difference"].values())
    run = Run.load(run_directory)
    assert info["inputs"] == {
        "images": {
            "dtype": "uint8",
            "shape": ["batch", 32, 32, 3],
            "channels": "RGB",
            "resize": "crop",
            "normalised": "inside the model",
        }
    }
    assert info["classes"] == list(run.classes)
    assert info["outputs"]["attention_pool3"]["shape"] == ["batch", 4, 4]
    assert info["network"] == {"model": "attn_vgg", "norm": "sigmoid", "score": "gate"}


def test_the_files_agree_on_any_batch(exported: Path) -> None:
    info = json.loads((exported / "export.json").read_text())
    function = export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
    assert function.platforms == ("cpu", "cuda", "tpu")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    assert [i.shape for i in session.get_inputs()] == [["batch", 32, 32, 3]]
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert shapes == {name: output["shape"] for name, output in info["outputs"].items()}
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == info["classes"]
    assert json.loads(metadata["inputs"]) == info["inputs"]
    for count in (2, 5):
        images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        ours = function.call(images)
        theirs = dict(zip(shapes, session.run(list(shapes), {"images": images}), strict=True))
        for name, value in ours.items():
            assert value.shape == (count, *info["outputs"][name]["shape"][1:])
            np.testing.assert_allclose(theirs[name], value, atol=chain(5, 72))
        np.testing.assert_allclose(ours["probabilities"].sum(-1), 1, atol=chain(5, 72))


def test_the_files_say_what_evaluation_says(exported: Path, run_directory: Path) -> None:
    """Evaluation does not know the exported function, so normalisation and all else must agree."""
    run, info = Run.load(run_directory), json.loads((exported / "export.json").read_text())
    structure, params, stats = abstract_model(run.config.model, num_classes=len(run.classes))
    params, stats = Checkpoints(run_directory, read_only=True).load_best().model(params, stats)
    split = open_split(run.config.data, "val", classes=run.classes)
    images = np.stack([read_image(split, i)[0] for i in range(4)])
    batch = Examples(images, np.zeros(4, np.int32), np.ones(4, bool))
    _, said = make_eval_step(structure)(params, stats, batch)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    names = ["probabilities", "attention_pool3", "attention_pool4"]
    got = session.run(names, {"images": images})
    probabilities = np.asarray(said.probabilities)
    if (temperature := info["temperature"]) is not None:
        probabilities = calibrate(np.asarray(said.logits), temperature, exclusive=True)
    expected = [probabilities, said.attention["pool3"], said.attention["pool4"]]
    for name, ours, theirs in zip(names, got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=chain(5, 72), err_msg=name)


def test_one_format_alone(run_directory: Path, tmp_path: Path) -> None:
    assert run_export(run_directory, tmp_path / "x", "--export-formats", "onnx", "onnx") == 0
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"export.json", MARK, "model.onnx"}


def fails(
    workdir: Path, folder: Path, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The export ends with a code and one line, and leaves nothing behind."""
    before = sorted(folder.iterdir())
    assert run_export(workdir, folder / "network", "--export-formats", "onnx") == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_file_that_differs_is_not_kept(
    run_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = dict(ELEMENTWISE, logistic=ELEMENTWISE["tanh"])
    monkeypatch.setattr("flax_attn.porting.export.onnx.ELEMENTWISE", wrong)
    fails(run_directory, tmp_path, 5, "model.onnx differs from the network by", capsys)


def test_a_dynamic_batch_is_checked(
    run_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program that answers for the first batch size alone is found out."""
    load = formats.load_onnx

    def first_only(path: Path) -> formats.Loaded:
        run = load(path)
        return lambda given: run(
            {n: np.resize(x, (command.CHECKED_IMAGES, *x.shape[1:])) for n, x in given.items()}
        )

    fixed = formats.FORMATS["onnx"]._replace(load=first_only)
    monkeypatch.setitem(formats.FORMATS, "onnx", fixed)
    fails(run_directory, tmp_path, 5, "(8, 4, 4), expected (1, 4, 4)", capsys)


def test_an_operator_without_counterpart_is_refused(
    run_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = {name: emit for name, emit in ELEMENTWISE.items() if name != "logistic"}
    monkeypatch.setattr("flax_attn.porting.export.onnx.ELEMENTWISE", table)
    fails(run_directory, tmp_path, 2, "no ONNX for logistic", capsys)


def test_a_missing_package_is_named(
    run_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    absent = formats.FORMATS["onnx"]._replace(needs=("onnx", "no_such_package"))
    monkeypatch.setitem(formats.FORMATS, "onnx", absent)
    fails(run_directory, tmp_path, 2, "export needs no_such_package: pip install", capsys)


def test_a_folder_that_holds_something_is_left_alone(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "letter.txt").write_text("mine")
    fails(run_directory, tmp_path, 2, "holds something already", capsys)
    assert (tmp_path / "network" / "letter.txt").read_text() == "mine"


def test_several_processes_are_refused(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = ["--coordinator", "localhost:1234", "--num-processes", "2", "--process-id", "0"]
    assert run_export(run_directory, tmp_path / "x", *several) == 2
    assert "one process" in capsys.readouterr().err


def test_no_space_leaves_nothing(
    run_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, values: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(command, "write_json", full)
    fails(run_directory, tmp_path, 7, "no space left", capsys)


def test_a_run_of_cases_names_its_inputs_and_says_how_to_fill_them(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From ``export.json`` alone a user fills ``meta``, and gets what evaluation says."""
    data = open_cases(put_cases(tmp_path / "data"))
    config, metadata = settle_cases(tiny, data.splits["train"])
    config = config.updated(view_merge="attend")
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    run = Run(config, data.classes, "", {}, metadata=metadata)
    best = Restored(structure, params, stats, 1, 1, {"temperature": 2.5})
    monkeypatch.setattr(command, "restore_best", lambda *_: best)
    out = tmp_path / "out"
    export_run(run, data.splits["val"], workdir=tmp_path, out=out, formats=list(formats.FORMATS))
    info = json.loads((out / "export.json").read_text())
    assert {name: given["shape"] for name, given in info["inputs"].items()} == {
        "images": ["batch", 2, 32, 32, 3],
        "meta": ["batch", 4],
        "present": ["batch", 2],
    }
    assert info["outputs"].keys() == {
        *("logits", "probabilities", "views"),
        *(
            f"attention_{view} {gate}"
            for gate in ("pool3", "pool4")
            for view in ("first", "clinic")
        ),
    }
    assert info["temperature"] == 2.5
    assert info["inputs"]["present"]["views"] == ["first", "clinic"]
    age, sex = info["inputs"]["meta"]["columns"]
    assert sex == {"column": "category:sex", "values": ["f", "m"]}
    meta = np.array([[(35 - age["mean"]) / age["deviation"], 0, 0, 1]], np.float32)
    images, alone = read_image(data.splits["val"], 0)[0][None], np.array([[True, False]])
    batch = Examples(images, np.zeros(1, np.int32), np.ones(1, bool), None, meta, alone)
    said = make_eval_step(structure)(params, stats, batch)[1]
    given = {"images": images, "meta": meta, "present": alone}
    for name, file in info["files"].items():
        got = formats.FORMATS[file["format"]].load(out / name)(given)
        np.testing.assert_allclose(got["logits"], said.logits, atol=chain(5, 72))
        expected = calibrate(np.asarray(said.logits), 2.5, exclusive=True)
        assert np.abs(expected - said.probabilities).max() > 100 * chain(5, 72)
        np.testing.assert_allclose(got["probabilities"], expected, atol=chain(5, 72))
        np.testing.assert_array_equal(got["views"], alone)


@pytest.mark.parametrize("name", ["", "model.stablehlo", "model.onnx"])
def test_an_export_predicts_as_the_run_does(
    name: str, exported: Path, run_directory: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, pixels in zip(files, images, strict=True):
        Image.fromarray(pixels).save(file)
    run, network = load(run_directory), open_predictor(exported / name)
    assert (network.classes, network.task, network.metadata) == (run.classes, run.task, None)
    np.testing.assert_equal(network.thresholds, run.thresholds)
    squares = np.stack([decode_photograph(file, network.data) for file in files])
    expected, got = run.predict(files), network.predict_squares(squares, Asking(2))
    np.testing.assert_array_equal(got.images, expected.images)
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=chain(5, 72))
    assert got.attention.keys() == expected.attention.keys()
    for gate, maps in expected.attention.items():
        np.testing.assert_allclose(got.attention[gate], maps, atol=chain(5, 72))


def edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


CHANGED = {
    "a file of the network": (lambda f: edit(f / "model.onnx", b"pool", b"loop"), "its SHA-256 is"),
    "the description": (lambda f: edit(f / "export.json", b'"crop"', b'"stretch"'), "differs"),
    "half of it": (lambda f: (f / "export.json").write_text('{"inputs": '), "is damaged"),
    "no description": (lambda f: (f / "export.json").unlink(), "keep the files of an export"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_export_is_not_run(
    change: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    damage, said = CHANGED[change]
    damage(folder)
    assert cli.main(["predict", str(folder / "model.onnx"), "a.png", "--json"]) == 5
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
