"""Shapes of tables: what cells say of labels, certainly or not."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from tests.helpers.table_shape import (
    ONE,
    Shape,
    classes,
    lists,
    many,
    marks,
    named,
    no,
    of_labels,
    one,
    with_settings,
)


def strong_separators() -> Iterator[tuple[str, Shape]]:
    """Separators that are not the table's own and hardly within a name."""
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


def loose_separators() -> Iterator[tuple[str, Shape]]:
    """Separators that names of labels have, too."""
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


def lists_in_brackets() -> Iterator[tuple[str, Shape]]:
    """Lists as programs print them, and those that are none."""
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


def chosen_separators() -> Iterator[tuple[str, Shape]]:
    """Readings that flags choose."""
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


def other_separators() -> Iterator[tuple[str, Shape]]:
    """Signs and words between labels, and tables of competitions."""
    yield (
        "and between labels",
        many(lists("cat and dog", "dog and cat"), of_labels("cat|dog", "cat|dog")),
    )
    yield "colons, in two orders", no(lists("cat:dog", "dog:cat"), "--label-separator ':'")
    yield "dots, in two orders", no(lists("cat.dog", "dog.cat"), "--label-separator '.'")
    yield (
        "ideographic commas, parts alone",
        many(lists("猫、犬", "犬", "猫"), of_labels("犬|猫", "犬", "猫"), classes=("犬", "猫")),
    )
    yield "separators at the end", no(lists("cat;", "dog;"), "'cat;' may be several labels")
    yield (
        "separators within separators",
        no(lists('"cat/old, dog"', '"dog, cat/old"'), "line 2", "'cat/old' may be one label or"),
    )
    # As competitions have them.
    yield (
        "numbers of classes, several",
        no("Id,Target\na,16 0\nb,0\nc,16\nd,25\n", "'16 0' may be several labels (16, 0)"),
    )
    yield (
        "weather and land",
        no(
            lists("haze primary", "clear primary", "clear primary road", "haze water"),
            "'haze primary' may be several labels (haze, primary) or one, as in 4 of 4 cells",
        ),
    )
    yield (
        "diseases of leaves",
        no(
            lists("scab frog_eye", "scab", "frog_eye complex", "complex"),
            "'scab frog_eye' may be several labels",
        ),
    )
    yield "an empty label", no(lists("cat", "cat||dog"), "line 3", "empty label")
    yield "a missing value among lists", no(lists("cat", "nan", "dog"), "line 3", "missing value")


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


def one_class() -> Iterator[tuple[str, Shape]]:
    """A class a row."""
    yield (
        "ids and breeds, without endings",
        named(*"abcd", files=[f"train/{s}.jpg" for s in "abcd"]),
    )
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
