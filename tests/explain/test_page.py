"""Templates are filled once, by exactly what they ask for; the page itself: the command's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from flax_attn.explain.page import fill


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text("<h1>{{title}}</h1>{ {x} }{{body}}{{title}}", encoding="utf-8")
    return path


def test_values_are_not_filled_again(template: Path) -> None:
    text = fill(template, title="{{body}} \\1 é", body="{{nothing}}")
    assert text == "<h1>{{body}} \\1 é</h1>{ {x} }{{nothing}}{{body}} \\1 é"


@pytest.mark.parametrize("values", [{"title": ""}, {"title": "", "body": "", "more": ""}])
def test_names_must_be_those_of_the_template(template: Path, values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"page\.html and its values .* (body|more) is in one"):
        fill(template, **values)
