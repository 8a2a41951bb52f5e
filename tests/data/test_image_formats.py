"""Which files are images: by their endings, by their first bytes, and by what Pillow registers."""

from __future__ import annotations

import pytest
from PIL import Image

from flax_attn.data import image_formats
from flax_attn.data.image_formats import (
    ending_of,
    format_by_content,
    formats_of,
    image_endings,
    plugin_for,
    readable_formats,
)
from tests.helpers.folder_shapes import encoded


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.jpg", ".jpg"),
        ("a.b.JPG", ".jpg"),
        ("a.CR2", ".cr2"),
        ("a.mp4", ".mp4"),
        ("a", ""),
        ("a.", ""),
        ("a.0001", ""),
        ("1.2.840.10008", ""),
        ("a.jpg?w=200", ""),
        ("no. 5 of the set", ""),
        ("a.jpg_large", ".jpg_large"),
    ],
)
def test_an_ending_is_what_tells_a_kind(name: str, ending: str) -> None:
    assert ending_of(name) == ending


def test_endings_are_those_that_pillow_registers_of_the_formats_that_are_read() -> None:
    expected = ".jpg .jpeg .jfif .jpe .png .bmp .gif .webp .tif .tiff .ppm .pgm .pnm .pbm .tga"
    assert set(expected.split()) < set(image_endings())
    # Readers of these start programs, or draw.
    assert not {".eps", ".ps", ".wmf", ".emf", ".pdf", ".fits"} & set(image_endings())


@pytest.mark.parametrize(
    "ending", [".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".ppm", ".pgm", ".pbm"]
)
def test_content_tells_the_format(ending: str) -> None:
    assert ending in image_endings()
    assert format_by_content(encoded(f"a{ending}", 1)[:16]) == Image.EXTENSION[ending]


@pytest.mark.parametrize("content", [b"", b"text", b"%PDF-1.7", b"PK\x03\x04", bytes(16)])
def test_other_content_is_no_image(content: bytes) -> None:
    assert format_by_content(content) is None


def test_a_targa_is_told_by_its_ending_alone() -> None:
    assert "TGA" in formats_of("a.TGA") and "TGA" not in formats_of("a.jpg")


def test_a_format_counts_once_a_plug_in_registers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    readable_formats()
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    for ending in [e for e, name in Image.EXTENSION.items() if name in ("HEIF", "JXL", "AVIF")]:
        del Image.EXTENSION[ending]
    monkeypatch.setattr(image_formats, "_load_plugin", lambda name: None)
    assert plugin_for(".heic") == "pillow-heif" and plugin_for(".jxl") == "pillow-jxl-plugin"
    assert plugin_for(".avif") == "pillow-avif-plugin" and plugin_for(".cr2") is None
    assert not {"HEIF", "JXL", "AVIF"} & set(readable_formats())
    Image.EXTENSION[".heic"] = "HEIF"
    assert "HEIF" in readable_formats() and ".heic" in image_endings()
    assert plugin_for(".heic") is None


def test_an_installed_plug_in_is_asked_to_register(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        @staticmethod
        def register_heif_opener() -> None:
            Image.EXTENSION[".heic"] = "HEIF"

    readable_formats()
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    monkeypatch.setattr(image_formats, "import_module", lambda name: Module)
    image_formats._load_plugin.cache_clear()
    try:
        assert "HEIF" in readable_formats()
    finally:
        image_formats._load_plugin.cache_clear()
