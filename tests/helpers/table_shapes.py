"""Tables of labels as people have them, each with what must happen to it.

A shape is a table with the files beside it. It is either used, with the labels given here, or
refused in one line that holds the words given here. Nothing is decoded, nothing is trained.
"""

from __future__ import annotations

from tests.helpers import column_shapes, label_shapes
from tests.helpers.table_shape import Shape

KINDS = (
    label_shapes.strong_separators,
    label_shapes.loose_separators,
    label_shapes.lists_in_brackets,
    label_shapes.chosen_separators,
    label_shapes.other_separators,
    label_shapes.ones_and_zeros,
    label_shapes.one_class,
    column_shapes.encodings,
    column_shapes.damaged_tables,
    column_shapes.headers,
    column_shapes.other_columns,
    column_shapes.groups,
    column_shapes.names_of_files,
    column_shapes.spelled_names,
    column_shapes.rows_and_files,
)
SHAPES: dict[str, Shape] = {}
for kind in KINDS:
    for title, shape in kind():
        assert title not in SHAPES, title
        SHAPES[title] = shape
