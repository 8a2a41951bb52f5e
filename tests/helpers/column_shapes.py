"""Shapes of tables: encodings, headers, columns and names of files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from tests.helpers.table_shape import (
    FILES,
    MANY,
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


def encodings() -> Iterator[tuple[str, Shape]]:
    """Separators, encodings and line ends."""
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


def damaged_tables() -> Iterator[tuple[str, Shape]]:
    """Cells too many or too few, and headers that are none."""
    text = marks()
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


def headers() -> Iterator[tuple[str, Shape]]:
    """Columns of names and numbers of rows."""
    text = marks()
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
        "a label called as names are, files called as cells are",
        many(
            "photo,name\n0,0\n1,1.png\n0,2.png\n",
            {"0.png": "", "1.png": "photo", "2.png": ""},
            files=("0.png", "1.png", "2.png"),
        ),
    )
    yield (
        "a label called as numbers are",
        many(
            "name,yes,no\na.png,1,0\nb.png,1,1\n",
            of_labels("yes", "yes|no"),
            classes=("yes", "no"),
        ),
    )
    yield (
        "numbers beside paths",
        one(
            "id,path,class\n"
            + "".join(f"{i * i + 7},{f},{c}\n" for i, (f, c) in enumerate(ONE.items())),
            said=("passed over: columns 'id'",),
        ),
    )


def other_columns() -> Iterator[tuple[str, Shape]]:
    """Columns that hold neither names nor labels."""
    yield (
        "a header called name for the classes",
        one("file,name\n" + "".join(f"{f},{c}\n" for f, c in ONE.items())),
    )
    yield (
        "numbered rows, called id",
        one("id,name,class\n" + "".join(f"{i},{f},{c}\n" for i, (f, c) in enumerate(ONE.items()))),
    )
    yield (
        "findings beside sex and age",
        no(
            "Path,Sex,Age,No Finding,Edema\na.png,Male,40,1.0,\nb.png,Female,50,,-1.0\n",
            "columns ['Sex', 'Age'] hold no 0 or 1",
            "else remove those",
        ),
    )
    boxes = "filename,class,xmin\na.png,cat,5\na.png,cat,7\nb.png,dog,3\n"
    yield "boxes", no(boxes, "--label-column 'class'")
    yield (
        "boxes, --label-column",
        with_settings(
            one(boxes, of_labels("cat", "dog"), said=("1 repeated row", "'xmin'")),
            label_column="class",
        ),
    )
    yield (
        "grades, --label-column",
        with_settings(
            one("id_code,grade\na.png,0\nb.png,1\nc.png,4\n", of_labels("0", "1", "4")),
            label_column="grade",
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
    for word in ("validation", "valid", "VAL", "dev", "test", "Holdout"):
        rows = "".join(f"{f},{c},{'train' if c else word}\n" for f, c in ONE.items())
        yield (
            f"a split called {word}",
            one(f"name,class,split\n{rows}".replace("dog,train", f"dog,{word}")),
        )
    yield (
        "a split of no known name",
        no("name,class,split\na.png,cat,train\nb.png,dog,seen\n", "split is 'seen'"),
    )


def groups() -> Iterator[tuple[str, Shape]]:
    """Columns of what must stay on one side of a split."""
    patients = ("p1", "p1", "p2", "")

    def table(header: str, cells: Sequence[str] = patients) -> str:
        rows = zip(ONE.items(), cells, strict=True)
        return f"name,{header},class\n" + "".join(f"{f},{g},{c}\n" for (f, c), g in rows)

    for header in ("group", "group:eye", "Patient", "patient_id", "lesion_id", "Subject ID"):
        yield f"groups below {header!r}", one(table(header), said=(f"2 groups by {header!r}",))
    yield (
        "two kinds of groups",
        one(
            table("patient_id,lesion_id", ("p1,l1", "p1,l2", "p2,l1", ",")),
            said=("4 groups by 'patient_id', 'lesion_id'",),
        ),
    )
    yield (
        "groups that are all 1 and 0",
        one(table("patient_id", tuple("1100")), said=("2 groups by 'patient_id'",)),
    )
    yield (
        "groups 1 and 0 beside classes",
        one(table("group", tuple("1100")), said=("2 groups by 'group'",)),
    )
    numbered = [f"{i},{line}" for i, line in enumerate(marks().splitlines()[1:])]
    yield (
        "a label called group, beside numbers of rows",
        many(
            "\n".join([",name,cat,group", *numbered]).replace("cat", "x"),
            {f: s.replace("cat", "x").replace("dog", "group") for f, s in MANY.items()},
            classes=("x", "group"),
        ),
    )
    yield (
        "a label called group",
        many(
            marks().replace("cat", "group"),
            {f: said.replace("cat", "group") for f, said in MANY.items()},
            classes=("group", "dog"),
        ),
    )
    yield (
        "--group-column of ones and zeros",
        with_settings(
            many(
                "name,cat,group\na.png,1,0\nb.png,0,1\n",
                of_labels("cat", ""),
                said=("2 groups by 'group'",),
            ),
            group_column="group",
        ),
    )
    yield "classes called group", one(classes(header="name,group"))
    yield "no cell of a group", one(table("group", ("",) * 4), said=("no groups by 'group'",))
    yield (
        "--group-column beside others",
        with_settings(
            one(
                table("patient,room", [f"{p},r" for p in patients]),
                said=("1 group by 'room'", "'patient'"),
            ),
            group_column="room",
        ),
    )
    yield (
        "--group-column beside --label-column",
        with_settings(
            one(
                table("visit,room", [f"{p},r" for p in patients]),
                said=("1 group by 'room'", "'visit'"),
            ),
            group_column="Room",
            label_column="class",
        ),
    )
    yield (
        "--label-column that is called as groups are",
        with_settings(
            one("name,patient,age\n" + "".join(f"{f},{c},4\n" for f, c in ONE.items())),
            label_column="patient",
        ),
    )
    yield (
        "--group-column of no column",
        with_settings(
            no(table("group"), "no column 'eye'", "--group-column takes one of"), group_column="eye"
        ),
    )
    for column, role in (("name", "names"), ("split", "split"), ("class", "labels")):
        yield (
            f"--group-column of the {role}",
            with_settings(
                no(
                    classes(header="name,class")
                    .replace("\n", ",train\n")
                    .replace("class,train", "class,split"),
                    f"{column!r} holds {role}",
                ),
                group_column=column,
                label_column="class",
            ),
        )
    yield (
        "a row twice, another group",
        no(
            table("group") + "a.png,p9,cat\n",
            "'a.png' is in line 2 too, in another group: remove one",
        ),
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


def spelled_names() -> Iterator[tuple[str, Shape]]:
    """Names in another spelling than the files."""
    stems = ("a", "b", "c", "d")
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


def rows_and_files() -> Iterator[tuple[str, Shape]]:
    """Rows without images, images without rows, rows twice."""
    yield (
        "one name in another folder than the others",
        no(classes(), "line 2: no file 'a.png'", "'x/a.png'", files=("x/a.png", *FILES[1:])),
    )
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
        one(classes() + "a.png,cat\n./b.png,dog\n", said=("2 repeated rows",)),
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
