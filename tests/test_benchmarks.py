"""What the comparison with other programs refuses, and what it lets pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, contenders, inference_engines
from benchmarks.breakdown import CALLS, UPDATE, Interval, operations_of, own_times
from benchmarks.contenders import CONTENDERS, EVALUATION, TRAINING, random_batch
from benchmarks.engine_sources import write_onnx_source
from benchmarks.inference_engines import ARRAYS, ENGINES, ERROR_BOUND, load, why_not
from flax_attn.config import ModelConfig
from flax_attn.errors import FlaxAttnError
from flax_attn.ops.llvm.operations import HANDLERS

IN_PYTORCH = ("torch", "torch.compile")
NARROW = ModelConfig(widths=(4, 4, 8, 8, 8), depths=(1, 1, 1, 1, 1), attn_features=8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_onnx_source(folder, NARROW, random_batch(32, 2)[0])
    return folder


def test_an_engine_computes_the_network_that_it_got(source: Path) -> None:
    expected = np.load(source / ARRAYS[1])
    run = load("onnxruntime", source)
    np.testing.assert_allclose(run(), expected, rtol=ERROR_BOUND, atol=ERROR_BOUND)


WRONG = {
    "off by half precision": lambda logits, blank: logits + (logits - blank) * 2.0**-11,
    "of other pictures": lambda logits, blank: blank,
    "not a number": lambda logits, blank: logits * np.nan,
    "of fewer pictures": lambda logits, blank: logits[:1],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_engine_that_computes_something_else_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    logits, blank = (np.load(source / name) for name in ARRAYS[1:])
    found = WRONG[wrong](logits, blank)
    monkeypatch.setitem(
        ENGINES, "ncnn", ENGINES["ncnn"]._replace(load=lambda folder, images: lambda: found)
    )
    with pytest.raises(FlaxAttnError, match="ncnn does not compute its network"):
        load("ncnn", source)


def test_an_engine_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inference_engines, "find_spec", lambda package: None)
    said = "ncnn needs torch, torchvision, pnnx, ncnn: pip install -e '.[engines]'"
    with pytest.raises(SystemExit, match="ncnn needs") as raised:
        compare.chosen(["ours", "ncnn"], "f32", "vgg16_bn")
    assert raised.value.code == said
    assert not set(ENGINES) & set(compare.chosen(None, "f32", "vgg16_bn"))
    assert f"left out: {said}" in capsys.readouterr().err.splitlines()


def test_engines_are_compared_in_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_engines, "find_spec", lambda package: sys)
    assert [why_not(name, "f32") for name in ENGINES] == [None] * len(ENGINES)
    assert all("--precision bf16" in (why_not(name, "bf16") or "") for name in ENGINES)
    assert why_not("ours", "bf16") is None


def test_a_table_has_those_that_take_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    def worker(name: str) -> compare.Worker:
        one = object.__new__(compare.Worker)
        one.batch, one.kinds = 4, contenders.CONTENDERS[name]
        one.times = {kind: [2.0] for kind in one.kinds}
        one.mebibytes = dict.fromkeys(one.kinds, 7.0)
        return one

    workers = {name: worker(name) for name in ("torch", "ncnn")}
    for kind in (TRAINING, EVALUATION):
        compare.print_table(kind, workers, dict.fromkeys(workers, 1.0), 1.0)
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == ["training", "torch", "evaluation", "torch", "ncnn"]
    compare.print_table(TRAINING, {"ncnn": worker("ncnn")}, {}, 1.0)
    assert not capsys.readouterr().out


# Engines are checked above; PyTorch has no narrow network here.
@pytest.mark.parametrize("name", [n for n in CONTENDERS if n not in {*ENGINES, *IN_PYTORCH}])
def test_every_contender_takes_its_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "model_config", lambda size, **settings: NARROW)
    steps = contenders.contender(name, 32, 2)
    assert tuple(steps) == CONTENDERS[name]
    for step in steps.values():
        step()


def test_benchmarks_need_no_package_of_the_tests() -> None:
    """Of the extra ``test`` ``engines`` has PyTorch and what exports; nothing else is imported."""
    tests_own = ("beartype", "entmax", "filelock", "pytest", "tensorflow_datasets")
    modules = ("contenders", "engine_sources", "trained", "compare")
    program = "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split()))\n"
    program += "".join(f"import benchmarks.{name}\n" for name in modules)
    program += "benchmarks.contenders.torch_network('vgg16_bn')\n"
    program += "import tests.helpers.parity, tests.helpers.torch_attn_resnet\n"
    done = subprocess.run(
        [sys.executable, "-c", program, " ".join(tests_own)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_each_moment_of_a_step_belongs_to_one_operation() -> None:
    late, following, alone = Interval("late", 0, 30), Interval("next", 6, 8), Interval("x", 20, 23)
    # What began last, but nothing while a call of ours takes all threads.
    assert own_times([alone, following, late], set()) == {"late": 25, "next": 2, "x": 3}
    assert own_times([alone, following, late], {"late"}) == {"late": 30}
    assert own_times([following, alone], {"x"}) == {"next": 2, "x": 3}


def test_operations_are_told_by_what_they_call() -> None:
    program = """
ENTRY %main (a: f32[2,8,8,64]) -> f32[2,8,8,64] {
  %a = f32[2,8,8,64]{3,2,1,0} parameter(0)
  %turned.1 = f32[2,8,8,64]{3,2,1,0} custom-call(%a), custom_call_target="flax_attn_convolve_turned_16", metadata={op_name="jit(step)/transpose(jvp())/ffi_call"}
  %twice = f32[2,8,8,64]{3,2,1,0} fusion(%turned.1), kind=kLoop, metadata={op_name="jit(step)/jvp()/mul"}
  ROOT %loop = (f32[2,8,8,64]{3,2,1,0}, s32[]) while(%twice), body=%body
}
"""  # noqa: E501
    found = operations_of(program)
    assert found["turned.1"].part == "convolution, gradient of the input"
    assert found["turned.1"].side == 8
    assert found["twice"].part == "the rest, forward"
    # What runs in a loop is counted by itself.
    assert "loop" not in found


def test_what_no_pass_is_told_of_is_the_update_of_a_training_step_alone() -> None:
    plain = '%scaled = f32[2,8,8,64] fusion(%a), kind=kLoop, metadata={op_name="jit(f)/mul"}'
    forward = '%one = f32[2]{0} fusion(%a), kind=kLoop, metadata={op_name="jit(f)/jvp()/add"}'
    assert operations_of(f"  {plain}\n  {forward}\n")["scaled"].part == UPDATE
    assert operations_of(f"  {plain}\n")["scaled"].part == "the rest"


def test_every_compiled_operation_has_a_part() -> None:
    assert set(CALLS) == set(HANDLERS)
