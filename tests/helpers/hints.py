"""The commands that documents, docstrings, help texts and messages tell people to type."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    *sorted((ROOT / "flax_attn").rglob("*.py")),
    *(ROOT / name for name in ("train.py", "eval.py", "weights/port.py")),
]

# How a command of ours begins.
_COMMAND = re.compile(r"(flax-attn|([\w./-]*/)?python3? (-m )?[\w./]+|(train|eval)\.py)(?= |$)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_COMMENT = re.compile(r"\s#\s.*")
# Where a command in the middle of a sentence ends.
_END = re.compile(r"[;,:()\"'\n]|\. |$")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]\b(?!…)")

# What stands for values of the reader's own in texts, and the values it is typed with.
SAMPLES = {
    "RUN DIR": "runs/photos travelling",
    "RUN": "runs/photos",
    "inspect FILE": "inspect vgg16_bn.pth",
    "PATH": "holiday/ cat.jpg",
    "PATHS…": "holiday/ cat.jpg",
    "[flags]": "--help",
    "COMMAND": "train",
    "DIR": "exported",
    "FOLDER": "photos",
    "--data-dir …": "--data-dir photos",
    "…": "",
}
# The same of values in messages, by the expression that gives them.
VALUES = {
    "workdir": "runs/photos",
    "path": "vgg16_bn.pth",
    "path.stem": "vgg16_bn",
    # What is added for Keras's files.
    "folding": "",
}


class Hint(NamedTuple):
    """A command, and where it is told; ``whole`` unless only its program is mentioned."""

    command: str
    where: str
    whole: bool

    @property
    def argv(self) -> list[str]:
        """The command as a shell takes it apart."""
        return shlex.split(self.command)


class Text(NamedTuple):
    """What people read, and where it stands."""

    text: str
    where: str


def _sampled(command: str) -> str:
    """A command with sample values, and with all that it puts in brackets."""
    for name, value in SAMPLES.items():
        command = re.sub(rf"(?<![\w.-]){re.escape(name)}(?!\w)", value, command)
    return " ".join(re.sub(r"[][]", " ", command).split())


def _hint(command: str, where: str, *, shell: bool = False) -> Iterator[Hint]:
    """The command if it is of ours. Outside a shell's lines a program alone is a mention of it."""
    if _COMMAND.match(command):
        sampled = _sampled(command)
        bare = re.fullmatch(r"flax-attn \S+|(\S+ )?(-m )?\S+", sampled)
        yield Hint(sampled, where, shell or not bare)


def hints_of_document(path: Path) -> Iterator[Hint]:
    """The commands of a document: lines of a shell, and code in sentences."""
    text, where = path.read_text(encoding="utf-8"), path.name
    for language, block in _FENCE.findall(text):
        if language == "sh":
            for line in block.replace("\\\n", " ").splitlines():
                for command in _COMMENT.sub("", line).split("&&"):
                    yield from _hint(" ".join(command.split()), where, shell=True)
    for _, code in _SPAN.findall(_FENCE.sub("", text)):
        yield from _hint(" ".join(code.split()), where)


def texts_of_source(path: Path) -> Iterator[Text]:
    """The strings of a module, each with sample values in the place of its expressions."""
    name = path.relative_to(ROOT)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr | ast.Constant)]
    parts = {id(part) for n in nodes if isinstance(n, ast.JoinedStr) for part in n.values}
    for node in nodes:
        where = f"{name}:{node.lineno}"
        if isinstance(node, ast.JoinedStr):
            yield Text("".join(map(_shown, node.values)), where)
        elif isinstance(node.value, str) and id(node) not in parts:
            yield Text(node.value, where)


def _shown(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        source = ast.unparse(part.value)
        return VALUES.get(source, f"<{source}>")
    assert isinstance(part, ast.Constant)
    return str(part.value)


def hints_of_source(path: Path) -> Iterator[Hint]:
    """The commands in the strings of a module: marked as code, or in the middle of a sentence."""
    for text, where in texts_of_source(path):
        for _, code in _SPAN.findall(text):
            yield from _hint(" ".join(code.split()), where)
        yield from hints_of_sentence(_SPAN.sub("", text), where)


def hints_of_sentence(text: str, where: str = "") -> Iterator[Hint]:
    """The commands in a text that does not mark them.

    Words after a command that are no flags go on with the sentence: "flax-attn port in a folder".
    """
    for found in _COMMAND.finditer(text):
        end = _END.search(text, found.end())
        assert end is not None
        program, _, flags = text[found.start() : end.start()].partition(" --")
        words = program.split()
        length = 3 if "-m" in words else 1 if words[0].endswith(".py") else 2
        follow = flags and len(words) == length
        told = "help" if flags.startswith("help") else flags
        yield from _hint(" ".join(words[:length]) + (f" --{told}" if follow else ""), where)


def collect() -> list[Hint]:
    """Every command that is told, once, where it is told first; whole ones before mentions."""
    found = [hint for path in DOCUMENTS for hint in hints_of_document(path)]
    found += [hint for path in SOURCES for hint in hints_of_source(path)]
    first: dict[str, Hint] = {}
    for hint in sorted(found, key=lambda hint: not hint.whole):
        first.setdefault(hint.command, hint)
    return list(first.values())


def flags_told() -> dict[str, str]:
    """Every flag that is told, and where first."""
    texts = [Text(path.read_text(encoding="utf-8"), path.name) for path in DOCUMENTS]
    texts += [text for path in SOURCES for text in texts_of_source(path)]
    found: dict[str, str] = {}
    for text, where in texts:
        for flag in _FLAG.findall(text):
            found.setdefault(flag, where)
    return found
