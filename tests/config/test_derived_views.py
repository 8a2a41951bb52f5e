"""``--views`` as text and as data: which views there are, and where they lie on the picture."""

from __future__ import annotations

from typing import Any

import pytest

from flax_attn.config import make_config, parse_views, validate
from flax_attn.config.derived_views import COUNTED
from flax_attn.errors import UsageError


@pytest.mark.parametrize(
    ("text", "names", "alike", "moved"),
    [
        ("crops:2", ("crop1-1", "crop1-2", "crop2-1", "crop2-2"), True, True),
        ("scales:3", ("whole", "half", "quarter"), True, False),
        ("lab,rgb", ("lab", "rgb"), False, False),
        ("edges", ("edges",), False, False),
    ],
)
def test_the_text_names_views(text: str, names: tuple[str, ...], alike: bool, moved: bool) -> None:
    found = parse_views(text)
    assert (found.names, found.alike, found.moved) == (names, alike, moved)
    config = make_config({"views": text}).model
    assert config.all_views == names and config.share_gates == alike


def test_without_views_the_pictures_of_a_case_are_attended_to() -> None:
    assert parse_views(None).views == ()
    config = make_config({"view_names": ("first", "clinic")}).model
    assert config.all_views == ("first", "clinic") and not config.share_gates


@pytest.mark.parametrize(
    "text",
    ["", "crops", "crops:1", "crops:6", "crops:-2", "crops:٢", "scales:1", "scales:5", "rgb,rgb"]
    + ["rgb,", "rgb lab", "crops:2,rgb", "sepia", "crops:2 "],
)
def test_other_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(make_config({"views": text}), of_photographs=True)
    message = str(caught.value)
    assert "--views takes crops:2 to crops:5, scales:2 to scales:4" in message
    assert "\n" not in message and message.endswith(f"got {text!r}")


@pytest.mark.parametrize("n", range(COUNTED["crops"].least, COUNTED["crops"].most + 1))
def test_crops_cover_the_picture_and_hold_small_things_whole(n: int) -> None:
    views = parse_views(f"crops:{n}").views
    assert len(views) == n * n and len({view.name for view in views}) == n * n
    ends = [(view.top, view.top + view.side) for view in views]
    assert min(start for start, _ in ends) == 0
    assert max(end for _, end in ends) == pytest.approx(1)
    small = 1 / (n + 1)
    # Along an axis, wherever a thing of that size begins, one window holds all of it.
    starts = [i / 997 * (1 - small) for i in range(998)]
    for start in starts:
        assert any(a <= start + 1e-9 and start + small <= b + 1e-9 for a, b in ends)


def test_scales_are_centred_and_halve() -> None:
    views = parse_views("scales:4").views
    assert [view.side for view in views] == [1, 0.5, 0.25, 0.125]
    assert all(view.top == view.left == (1 - view.side) / 2 for view in views)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"views": "crops:2", "roi_weights": ("pool4=0.1",)},
            "--views crops:2 has maps of views, not of the picture whose mask --roi-weights needs: "
            "drop one of the two",
            id="masks to learn from",
        ),
        pytest.param(
            {"views": "scales:2", "model": "vgg_gap"},
            "--views scales:2 goes with --model attn_vgg, not with vgg_gap: add it, or drop "
            "--views",
            id="a network without gates",
        ),
    ],
)
def test_what_views_cannot_be_combined_with(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(make_config(settings), of_photographs=True)
    assert str(caught.value) == message
