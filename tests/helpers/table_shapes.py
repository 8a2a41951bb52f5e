"""Tables of labels as people have them, each with what must happen to it.

A shape is a table with the files beside it. It is either used, with the labels given here, or
refused in one line that holds the words given here. Nothing is decoded, nothing is trained.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

FILES = ("a.png", "b.png", "c.png", "d.png")
# What the tables below say of them, unless a shape says otherwise.
MANY = {"a.png": "cat|dog", "b.png": "dog", "c.png": "", "d.png": "cat"}
ONE = {"a.png": "cat", "b.png": "dog", "c.png": "cat", "d.png": "dog"}


@dataclass(frozen=True)
class Shape:
    """A table and what must happen.

    Args:
      table: the bytes of labels.csv, or a function that is given the folder.
      labels: those of each image, by its path, where the table is used.
      one_class: whether the labels are classes, one an image.
      classes: their names in order; None for those that occur, sorted.
      said: words of the line that says what was found.
      refused: words of the line that refuses the table; none where it is used.
      files: the images.
      settings: of the data set, as flags set them.
      task: the task that is asked for.
    """

    table: bytes | Callable[[Path], str]
    labels: Mapping[str, str] = field(default_factory=dict)
    one_class: bool = False
    classes: tuple[str, ...] | None = None
    said: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    files: Sequence[str] = FILES
    settings: Mapping[str, Any] = field(default_factory=dict)
    task: str = "auto"

    def put(self, root: Path) -> None:
        """Writes the table and the images, each of a colour of its own."""
        for number, name in enumerate(self.files):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 8), (number, 0, 255 - number)).save(root / name)
        content = self.table(root).encode() if callable(self.table) else self.table
        (root / "labels.csv").write_bytes(content)


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def many(text: str | bytes, labels: Mapping[str, str] = MANY, **other: Any) -> Shape:
    """A table that is used: any number of labels an image."""
    return Shape(as_bytes(text), labels, **other)


def one(text: str | bytes, labels: Mapping[str, str] = ONE, **other: Any) -> Shape:
    """A table that is used: a class an image."""
    return Shape(as_bytes(text), labels, one_class=True, **other)


def no(text: str | bytes, *words: str, **other: Any) -> Shape:
    """A table that is refused in these words."""
    return Shape(as_bytes(text), refused=words, **other)


def marks(yes: str = "1", nay: str = "0", sep: str = ",", name: str = "name") -> str:
    """``MANY`` with a column for each label."""
    rows = [[name, "cat", "dog"]]
    for file, said in MANY.items():
        rows.append([file, *(yes if label in said else nay for label in ("cat", "dog"))])
    return text_of(rows, sep)


def text_of(rows: Sequence[Sequence[str]], sep: str = ",") -> str:
    return "".join(sep.join(row) + "\n" for row in rows)


def lists(*cells: str, header: str = "name,labels") -> str:
    """A row an image with these cells, in order."""
    return f"{header}\n" + "".join(f"{f},{c}\n" for f, c in zip(FILES, cells, strict=False))


def classes(header: str = "name,class", names: Sequence[str] = FILES) -> str:
    """``ONE`` as a class a row."""
    rows = zip(names, ONE.values(), strict=True)
    return f"{header}\n" + "".join(f"{name},{label}\n" for name, label in rows)


def named(*names: str, **other: Any) -> Shape:
    """``ONE`` under other names for the images."""
    labels = dict(zip(other.get("files", FILES), ONE.values(), strict=True))
    return one(classes(names=names), labels, **other)


def of_labels(*cells: str) -> dict[str, str]:
    return dict(zip(FILES, cells, strict=False))


def one_label_or_several() -> Iterator[tuple[str, Shape]]:
    """Separators that are not the table's own."""
    pair = ("cat", "dog")
    quote = {",": '"', "\n": '"'}
    for name, sep in {
        "semicolons": ";",
        "commas": ",",
        "commas and spaces": ", ",
        "slashes": "/",
        "slashes and spaces": " / ",
        "line ends": "\n",
    }.items():
        q = next((quote[c] for c in sep if c in quote), "")
        both, turned = f"{q}{sep.join(pair)}{q}", f"{q}{sep.join(pair[::-1])}{q}"
        yield (
            f"{name}, in two orders",
            many(lists(both, turned, ""), of_labels("cat|dog", "cat|dog", "")),
        )
        yield f"{name}, parts alone", many(lists(both, "dog", "", "cat"))
        yield (
            f"{name}, nothing to tell",
            no(lists(both, both, "bird"), "may be several labels (cat, dog)", "--label-separator"),
        )
    yield (
        "spaces, in two orders",
        many(lists("cat dog", "dog cat"), of_labels("cat|dog", "cat|dog")),
    )
    yield (
        "spaces, parts alone",
        no(lists("cat dog", "dog", "", "cat"), "--label-separator space", "--label-separator none"),
    )
    yield (
        "spaces, every combination",
        no(lists("red cat", "red dog", "old cat", "old dog"), "--label-separator space"),
    )
    words = ("sea turtle", "golden retriever", "labrador retriever", "cat")
    yield "names of two words", one(lists(*words), of_labels(*words))
    dashes = ("T-shirt", "hot_dog", "T-shirt", "salt & pepper")
    yield "names with dashes", one(lists(*dashes), of_labels(*dashes))
    yield "ampersands, in two orders", no(lists("cat&dog", "dog&cat"), "--label-separator '&'")
    yield "plus, parts alone", no(lists("cat+dog", "dog", "cat"), "--label-separator '+'")
    yield "underlines, parts alone", no(lists("cat_dog", "dog", "cat"), "--label-separator '_'")
    yield "Python's lists", many(lists("\"['cat', 'dog']\"", "['dog']", "[]", "['cat']"))
    yield "JSON's lists", many(lists('"[""cat"", ""dog""]"', '"[""dog""]"', "[]", '"[""cat""]"'))
    yield "NumPy's lists", many(lists("['cat' 'dog']", "['dog']", "[]", "['cat']"))
    yield "lists without quotes", many(lists('"[cat, dog]"', "[dog]", "[]", "[cat]"))
    yield "some in brackets", no(lists("['cat']", "dog"), "line 3", "is no list")
    yield "brackets without commas", no(lists("[cat dog]", "[dog]"), "line 2", "is no list")
    yield "two separators", no(lists("cat|dog", "dog;cat", "cat"), "line 3", "use one separator")
    yield (
        "an open list of labels",
        no("name,labels\na.png,cat,dog\nb.png,cat\n", "3 cells, but 2 columns", "lists"),
    )
    for flag, sep in {";": ";", "space": " ", "comma": ",", "/": "/", ", ": ","}.items():
        cell = f'"cat{sep}dog"'
        said = many(lists(cell, "bird"), of_labels("cat|dog", "bird"))
        yield f"--label-separator {flag}", with_settings(said, label_separator=flag)
    cells = ("tench; Tinca tinca", "goldfish; Carassius auratus", "cat/dog")
    yield (
        "--label-separator none",
        with_settings(one(lists(*cells), of_labels(*cells)), label_separator="none"),
    )
    yield (
        "no separator, one class wanted",
        one(lists(*cells[:2]), of_labels(*cells[:2]), task="multiclass"),
    )
    yield (
        "two orders, one class wanted",
        no(lists("cat;dog", "dog;cat"), "line 2", "2 labels (cat, dog)", task="multiclass"),
    )
    yield "an empty label", no(lists("cat", "cat||dog"), "line 3", "empty label")
    yield "a missing value among lists", no(lists("cat", "nan", "dog"), "line 3", "missing value")


def with_settings(shape: Shape, **settings: Any) -> Shape:
    return Shape(**{**vars(shape), "settings": settings})


def ones_and_zeros() -> Iterator[tuple[str, Shape]]:
    """Other spellings of 1 and 0."""
    for yes, nay in (
        *(("1", "0"), ("1.0", "0.0"), ("True", "False"), ("TRUE", "FALSE"), ("yes", "no")),
        *(("Yes", "No"), ("y", "n"), ("Y", "N"), ("t", "f"), ("1", ""), ("1.0", ""), ("yes", "")),
    ):
        yield f"{yes} and {nay or 'nothing'}", many(marks(yes, nay))
    yield "decimal commas between semicolons", many(marks("1,0", "0,0", ";"))
    yield "decimal commas in quotes", many(marks('"1,0"', '"0,0"'))
    yield (
        "uncertain ones",
        no(
            "name,Edema,Mass\na.png,1,0\nb.png,-1,0\n",
            "line 3",
            "'Edema' is '-1'",
            "uncertain or no",
        ),
    )
    yield (
        "uncertain ones as floats",
        no("name,Edema,Mass\na.png,1.0,\nb.png,-1.0,\n", "'-1.0', which may mean uncertain"),
    )
    yield (
        "u for uncertain",
        no("name,a,b\na.png,1,0\nb.png,0,u\n", "'b' is 'u', which may mean uncertain"),
    )
    yield (
        "0, 1 and nothing",
        no("name,a,b\na.png,1,0\nb.png,,1\n", "line 3", "'a' is ''", "write 0"),
    )
    yield "nan", no("name,a,b\na.png,1,0\nb.png,nan,1\n", "'a' is 'nan', a missing value")
    yield "a share", no("name,a,b\na.png,1,0\nb.png,0.7,1\n", "'a' is '0.7': expected 0 or 1")
    yield "a count", no("name,a,b\na.png,1,0\nb.png,2,1\n", "'a' is '2': expected 0 or 1")
    yield "one label, marked", many("name,melanoma\na.png,1\nb.png,0\n", of_labels("melanoma", ""))
    yield (
        "one hot",
        one("name,cat,dog\na.png,1.0,0.0\nb.png,0.0,1.0\nc.png,1.0,0.0\nd.png,0.0,1.0\n"),
    )
    yield (
        "one hot, several labels wanted",
        many("name,cat,dog\na.png,1,0\nb.png,0,1\nc.png,1,0\nd.png,0,1\n", ONE, task="multilabel"),
    )


def columns() -> Iterator[tuple[str, Shape]]:
    """Separators, encodings, line ends, headers and columns that are no labels."""
    text = marks()
    yield "semicolons between cells", many(marks(sep=";"))
    yield "tabs between cells", many(marks(sep="\t"))
    yield "bars between cells", many(marks(sep="|"))
    yield "Excel's sep=", many("sep=;\n" + marks(sep=";"))
    yield "UTF-8 with BOM", many(text.encode("utf-8-sig"))
    yield "UTF-16 with BOM", many(text.encode("utf-16"))
    yield "UTF-16 big-endian with BOM", many(b"\xfe\xff" + text.encode("utf-16-be"))
    yield "UTF-16 without BOM", many(text.encode("utf-16-le"))
    yield "UTF-16 big-endian without BOM", many(text.encode("utf-16-be"))
    yield "UTF-16 and tabs, as Excel's Unicode text", many(marks(sep="\t").encode("utf-16"))
    yield (
        "UTF-16 cut short",
        no(text.encode("utf-16")[:-1], "not UTF-16", "save the table as UTF-8"),
    )
    yield "Latin-1", no(lists("café", "thé").encode("latin-1"), "line 2: not UTF-8", "a.png,café")
    yield "a workbook", no(b"PK\x03\x04" + bytes(50), "a workbook", "save the sheet as CSV")
    yield "CRLF", many(text.replace("\n", "\r\n"))
    yield "old-Mac line ends", many(text.replace("\n", "\r"))
    yield "no last line end", many(text.rstrip())
    yield "blank lines", many("\n\n" + text.replace("\n", "\n\n") + ",,\n")
    yield (
        "every cell quoted",
        many(
            "".join(
                ",".join(f'"{cell}"' for cell in line.split(",")) + "\n"
                for line in text.splitlines()
            )
        ),
    )
    yield "a NUL byte", no(text.replace("b.png", "b\0.png"), "line 3: a NUL byte")
    yield "trailing separators", many(text.replace("\n", ",\n"))
    yield "trailing separators below the header", many(text.replace("0\n", "0,\n"))
    yield "a cell too many", no(text.replace("0,0\n", "0,0,1\n"), "line 4: 4 cells, but 3 columns")
    yield "a cell too few", no(text.replace("0,0\n", "0\n"), "line 4: 2 cells, but 3 columns")
    yield "an open quote", no(text.replace("c.png", '"c.png'), "close every quote")
    yield "no header", no(text.partition("\n")[2], "no header", "'a.png'")
    yield "only a header", no("name,cat,dog\n", "no rows below the header")
    yield "no labels", no("name\na.png\n", "the header is ['name']")
    yield "no names", no("cat,dog\n1,0\n", "the header is ['cat', 'dog']")
    yield "a column twice", no("name,cat,cat\na.png,1,0\n", "columns ['cat'] are there twice")
    numbered = [f"{i},{line}" for i, line in enumerate(text.splitlines()[1:])]
    for header in ("", "Unnamed: 0", "index"):
        head = f"{header},name,cat,dog"
        yield f"an index called {header!r}", many("\n".join([head, *numbered]))
    yield (
        "two indices",
        many(
            "\n".join(
                [
                    "Unnamed: 0,,name,cat,dog".replace("0,,", "0.1,Unnamed: 0,"),
                    *(f"{r[0]},{r}" for r in numbered),
                ]
            )
        ),
    )
    for header in (
        *("Name", "filename", "FileName", "file_name", "file", "image", "Image", "image_id", "id"),
        *("image_name", "Image Index", "path", "Path", "img", "image_path", " name ", "id_code"),
    ):
        yield f"names below {header!r}", many(marks(name=header))
    yield (
        "a label called as names are",
        many(
            "name,photo,image\na.png,1,1\nb.png,0,1\nc.png,0,0\n",
            of_labels("photo|image", "image", ""),
            classes=("photo", "image"),
        ),
    )
    yield (
        "numbers beside paths",
        one(
            "id,path,class\n"
            + "".join(f"{i + 7},{f},{c}\n" for i, (f, c) in enumerate(ONE.items())),
            said=("passed over: columns 'id'",),
        ),
    )
    other = "image_id,dx,age,sex\n" + "".join(f"{f},{c},40,male\n" for f, c in ONE.items())
    yield "other columns", no(other, "['dx', 'age', 'sex'] hold no 0 or 1", "--label-column")
    yield (
        "--label-column",
        with_settings(one(other, said=("passed over: columns 'age', 'sex'",)), label_column="DX"),
    )
    yield (
        "--label-column of no column",
        with_settings(no(other, "no column 'breed'", "'dx'"), label_column="breed"),
    )
    for word in ("validation", "valid", "VAL", "dev"):
        rows = "".join(f"{f},{c},{'train' if c else word}\n" for f, c in ONE.items())
        yield (
            f"a split called {word}",
            one(f"name,class,split\n{rows}".replace("dog,train", f"dog,{word}")),
        )
    yield (
        "rows for a test",
        no("name,class,split\na.png,cat,train\nb.png,dog,test\n", "split is 'test'"),
    )


def one_class() -> Iterator[tuple[str, Shape]]:
    """A class a row."""
    for header in ("class", "label", "Class", "category", "breed", "target", "labels", "diagnosis"):
        yield f"classes below {header!r}", one(classes(f"name,{header}"), said=("one class each",))
    numbers = "name,class\na.png,0\nb.png,1\nc.png,10\nd.png,2\n"
    yield "numbers of classes", one(numbers, of_labels("0", "1", "10", "2"))
    yield "numbers 0 and 1 of classes", one("name,label\na.png,0\nb.png,1\n", of_labels("0", "1"))
    yield (
        "grades",
        no(
            "id_code,grade\na.png,0\nb.png,1\nc.png,4\n", "'grade' is '4'", "--label-column 'grade'"
        ),
    )
    yield "several labels wanted", many(classes(), ONE, task="multilabel", said=("any number",))
    yield (
        "an image without a class",
        no("name,class\na.png,cat\nb.png,\nc.png,dog\n", "line 3", "no class", "--task multilabel"),
    )
    yield (
        "an image without a class, several labels wanted",
        many("name,class\na.png,cat\nb.png,\n", of_labels("cat", ""), task="multilabel"),
    )
    yield (
        "two classes, one wanted",
        no(lists("cat|dog", "cat"), "line 2", "2 labels (cat, dog)", task="multiclass"),
    )
    yield (
        "none, one wanted",
        no(
            marks(), "2 labels (cat, dog)", "--task multiclass takes exactly one", task="multiclass"
        ),
    )
    yield "all of one class", no("name,class\na.png,cat\nb.png,cat\n", "only one class, 'cat'")
    yield (
        "a class in two forms of Unicode",
        one(
            lists("café", unicodedata.normalize("NFD", "café"), "thé"),
            of_labels("café", "café", "thé"),
        ),
    )
    yield (
        "classes that differ in case",
        one(lists("Cat", "cat", "dog"), of_labels("Cat", "cat", "dog"), said=("in case only",)),
    )


def names_of_files() -> Iterator[tuple[str, Shape]]:
    """Names as tables have them, and files as folders have them."""
    stems = ("a", "b", "c", "d")
    below = tuple(f"part/{name}" for name in FILES)
    yield "without endings", named(*stems, said=("4 names spelled otherwise",))
    yield (
        "without endings, with dots",
        named(
            "1.2.a", "1.2.b", "1.3", "1.4", files=("1.2.a.jpg", "1.2.b.jpg", "1.3.png", "1.4.png")
        ),
    )
    yield "without endings, in folders", named(*stems, files=below)
    yield "without folders", named(*FILES, files=below)
    yield (
        "an ending that two have",
        no(
            classes(names=stems),
            "'a' may be any of 2 images, 'a.jpg', 'a.png'",
            files=(*FILES, "a.jpg"),
        ),
    )
    yield (
        "a name in two folders",
        no(classes(), "'a.png' may be any of 2 images", files=(*below, "x/a.png")),
    )
    yield "in two folders, with folders", named(*below, files=below, said=("one class each",))
    yield (
        "absolute paths",
        Shape(
            lambda root: classes(names=[str(root / name) for name in FILES]), ONE, one_class=True
        ),
    )
    yield (
        "absolute paths of elsewhere",
        no(
            classes(names=("/data/a.png", *FILES[1:])),
            "line 2: '/data/a.png' leads out of the folder",
        ),
    )
    yield "paths of Windows", named(*(f"part\\{name}" for name in FILES), files=below)
    yield (
        "absolute paths of Windows",
        no(classes(names=("C:\\data\\a.png", *FILES[1:])), "leads out of the folder"),
    )
    yield "./ before", named(*(f"./{name}" for name in FILES))
    yield (
        "from the folder above",
        Shape(
            lambda root: classes(names=[f"{root.name}/{name}" for name in FILES]),
            ONE,
            one_class=True,
        ),
    )
    yield (
        "out of the folder",
        no(classes(names=("../a.png", *FILES[1:])), "leads out of the folder"),
    )
    yield "another case of the ending", named(*(f"{s}.PNG" for s in stems))
    yield "a lower case of the ending", named(*FILES, files=tuple(f"{s}.PNG" for s in stems))
    yield (
        "a case that two have",
        no(classes(names=("A.Png", *FILES[1:])), "may be any of 2 images", files=(*FILES, "A.PNG")),
    )
    yield "spaces around", named(*(f" {name} " for name in FILES))
    for form, file in (("NFD", "NFC"), ("NFC", "NFD")):
        there = tuple(unicodedata.normalize(file, f"é{name}") for name in FILES)
        told = [unicodedata.normalize(form, name) for name in there]
        yield f"{form} in the table, {file} on the disk", named(*told, files=there)
    yield (
        "another ending",
        no(classes(names=("a.jpg", *FILES[1:])), "line 2: no file 'a.jpg'", "there is 'a.png'"),
    )
    yield (
        "not there",
        no(
            classes() + "x.png,cat\ny.png,cat\nz.png,cat\n",
            *(
                "line 6: no file 'x.png'",
                "nor for 2 more of 7 rows",
                "line 7 'y.png', line 8 'z.png'",
            ),
        ),
    )
    yield "no name", no(classes() + ",cat\n", "line 6: no file ''")
    yield (
        "files that no row names",
        one(classes(), files=(*FILES, "e.png", "part/f.png"), said=("2 images that no row names",)),
    )
    yield (
        "rows twice",
        one(classes() + "a.png,cat\n./b.png,dog\n", said=("2 rows that repeat another",)),
    )
    yield (
        "rows twice, other classes",
        no(classes() + "a.png,dog\n", "line 6: 'a.png' is in line 2 too, with other labels"),
    )
    yield (
        "a row for each label",
        no(
            "name,label\na.png,cat\na.png,dog\nb.png,cat\n",
            "line 3: 'a.png' is in line 2 too",
            "in one row",
        ),
    )


KINDS = (one_label_or_several, ones_and_zeros, columns, one_class, names_of_files)
SHAPES: dict[str, Shape] = {}
for kind in KINDS:
    for title, shape in kind():
        assert title not in SHAPES, title
        SHAPES[title] = shape
