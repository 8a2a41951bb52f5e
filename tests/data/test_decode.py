from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.data.decode import MAX_PIXELS, ImageError, decode
from flax_attn.data.jpeg import MAX_SCANS
from flax_attn.errors import DataError, UsageError
from tests.helpers import folder_shapes

# JPEG at quality 95 and one rounding of a resize move a flat colour by no more than this.
FLAT_JPEG = 3


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def corners(size: int = 16) -> Image.Image:
    """Top left red, top right green, bottom left blue, bottom right black."""
    pixels = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    pixels[:half, :half, 0] = pixels[:half, half:, 1] = pixels[half:, :half, 2] = 255
    return Image.fromarray(pixels)


def photograph(width: int = 64, height: int = 48) -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def small(source: bytes | Path) -> np.ndarray:
    return decode(source, size=8, resize="crop")


def flat(data: bytes, size: int = 4) -> list[int]:
    """The colour of an image of one colour, checked to be of one colour."""
    pixels = decode(data, size=size, resize="stretch")
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0].tolist()


def test_shape_and_type() -> None:
    pixels = decode(encoded(photograph()), size=32, resize="crop")
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


def test_image_of_the_right_size_is_returned_as_it_is() -> None:
    image = photograph(32, 32)
    for resize in ("crop", "stretch"):
        np.testing.assert_array_equal(
            decode(encoded(image), size=32, resize=resize), np.asarray(image)
        )


@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (65, 64)])
def test_crop_is_resize_of_the_shorter_side_and_centre_crop(shape: tuple[int, int]) -> None:
    image = photograph(*shape)
    pixels = decode(encoded(image), size=64, resize="crop")
    left, top = ((side - 64) // 2 for side in shape)
    expected = np.asarray(image, np.float32)[top : top + 64, left : left + 64]
    if shape[0] == 65:
        # The centre lies half a pixel to the right of column 0.
        expected = (expected + np.asarray(image, np.float32)[:, 1:]) / 2
    assert np.abs(pixels - expected).max() <= 0.5


def test_crop_equals_resize_then_crop_when_scaled() -> None:
    image = photograph(160, 120)
    expected = image.resize((80, 60), Image.Resampling.BILINEAR).crop((10, 0, 70, 60))
    pixels = decode(encoded(image), size=60, resize="crop")
    # Two rounding steps to 8 bits, taken in another order.
    assert np.abs(pixels.astype(np.int32) - np.asarray(expected, np.int32)).max() <= 1


def test_stretch_keeps_the_margins() -> None:
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, :8] = 255
    data = encoded(Image.fromarray(pixels))
    assert decode(data, size=10, resize="stretch")[:, 0].min() == 255
    assert decode(data, size=10, resize="crop").max() == 0


def test_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(encoded(Image.fromarray(stripes)), size=8, resize="stretch")
    assert np.abs(pixels[:, 1:-1].astype(int) - 127).max() <= 2


def test_large_jpeg_is_reduced_without_a_shift() -> None:
    image = photograph(1024, 768)
    data = encoded(image, "JPEG", quality=95)
    expected = image.crop((128, 0, 896, 768)).resize((64, 64), Image.Resampling.BOX)
    error = decode(data, size=64, resize="crop").astype(int) - np.asarray(expected, int)
    assert np.abs(error).mean() < 3


def test_jpeg_below_four_times_the_size_is_decoded_in_full() -> None:
    data = encoded(photograph(255, 255), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = image.resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode(data, size=64, resize="crop"), np.asarray(expected))


def test_repeats_exactly(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    photograph(500, 300).save(file, quality=80)
    first = decode(file, size=48, resize="crop")
    np.testing.assert_array_equal(first, decode(file, size=48, resize="crop"))
    np.testing.assert_array_equal(first, decode(file.read_bytes(), size=48, resize="crop"))


def test_one_bit() -> None:
    assert flat(encoded(Image.new("1", (8, 8), 1))) == [255, 255, 255]
    assert flat(encoded(Image.new("1", (8, 8), 0))) == [0, 0, 0]


def test_grey() -> None:
    assert flat(encoded(Image.new("L", (8, 8), 77))) == [77, 77, 77]


def test_transparency_is_laid_over_white() -> None:
    assert flat(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))) == [255, 255, 255]
    assert flat(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 255)))) == [255, 0, 0]
    half = flat(encoded(Image.new("RGBA", (8, 8), (200, 0, 100, 128))))
    expected = [255 + (c - 255) * 128 / 255 for c in (200, 0, 100)]
    np.testing.assert_allclose(half, expected, atol=1)
    half_grey = flat(encoded(Image.new("LA", (8, 8), (100, 128))))
    np.testing.assert_allclose(half_grey, [255 - 155 * 128 / 255] * 3, atol=1)


def test_transparent_palette_entry_and_colour_are_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert flat(encoded(palette)) == [10, 20, 30]
    assert flat(encoded(palette, transparency=1)) == [255, 255, 255]
    assert flat(encoded(palette, transparency=b"\xff\x00")) == [255, 255, 255]
    rgb = encoded(Image.new("RGB", (8, 8), (9, 8, 7)), transparency=(9, 8, 7))
    assert flat(rgb) == [255, 255, 255]


def test_cmyk_jpeg() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)
    np.testing.assert_allclose(flat(data), [0, 255, 255], atol=FLAT_JPEG)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("grey", "expected"), [(0, 0), (257 * 100, 100), (65535, 255), (400, 2)])
def test_16_bit_grey_is_scaled(kind: str, grey: int, expected: int) -> None:
    image = Image.fromarray(np.full((8, 8), grey, np.uint16))
    assert flat(encoded(image, kind)) == [expected] * 3


def test_16_bit_rgb_png_keeps_the_high_byte() -> None:
    row = b"\0" + struct.pack(">3H", 0x1234, 0xFF00, 0x00FF) * 8
    data = png(8, 8, depth=16, colour=2, idat=zlib.compress(row * 8))
    assert flat(data) == [0x12, 0xFF, 0x00]


@pytest.mark.parametrize("pixel", [np.float32(0.5), np.int32(70000)])
def test_values_of_unknown_range_are_refused(pixel: np.generic) -> None:
    data = encoded(Image.fromarray(np.full((8, 8), pixel)), "TIFF")
    with pytest.raises(ImageError, match="convert to 8 bits"):
        flat(data)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True})])
def test_animation_gives_its_first_frame(kind: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert flat(data) == [255, 0, 0]


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF"])
def test_other_formats(kind: str) -> None:
    assert flat(encoded(Image.new("RGB", (8, 8), (255, 0, 255)), kind)) == [255, 0, 255]


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [("RGB", (255, 0, 255), [255, 0, 255]), ("L", 77, [77] * 3), ("1", 1, [255] * 3)],
)
def test_portable_maps(mode: str, pixel: object, expected: list[int]) -> None:
    assert flat(encoded(Image.new(mode, (8, 8), pixel), "PPM")) == expected


@pytest.mark.parametrize("highest", [65535, 4095, 1000])
def test_a_deep_portable_map_is_scaled(highest: int) -> None:
    """By its highest value, to 16 bits and then to 8; each step rounds once."""
    values = np.full((8, 8), highest // 3, ">u2").tobytes()
    found = flat(b"P5 8 8 %d\n" % highest + values)
    assert abs(found[0] - 255 * (highest // 3) / highest) <= 0.5 + 1 / 257


@pytest.mark.parametrize("options", [{}, {"compression": "tga_rle"}])
def test_targa_by_its_name(options: dict[str, str]) -> None:
    data = encoded(Image.new("RGB", (8, 8), (255, 0, 255)), "TGA", **options)
    pixels = decode(data, size=4, resize="stretch", name="a.TGA")
    assert (pixels == [255, 0, 255]).all()
    # It has no magic number: damaged bytes of another kind might pass for one.
    with pytest.raises(ImageError, match="not an image"):
        decode(data, size=4, resize="stretch", name="a.jpg")


@pytest.mark.parametrize("ending", [".ppm", ".pgm", ".pbm", ".tga", ".avif"])
@pytest.mark.parametrize("keep", [0.8, 0.5])
def test_cut_short_of_further_kinds(ending: str, keep: float) -> None:
    data = folder_shapes.encoded(f"a{ending}", 1)
    name = f"a{ending}"
    assert decode(data, size=8, resize="crop", name=name).shape == (8, 8, 3)
    with pytest.raises(ImageError):
        decode(data[: int(keep * len(data))], size=8, resize="crop", name=name)


# What was done to the upright picture before it was stored, from the EXIF standard's table.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 100}), ("PNG", {}), ("TIFF", {})]
)
def test_exif_orientation(orientation: int, kind: str, options: dict[str, object]) -> None:
    upright = np.asarray(corners().resize((16, 24)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    pixels = decode(encoded(stored, kind, exif=exif, **options), size=16, resize="stretch")
    centres = [pixels[y, x].argmax() for y, x in ((2, 2), (2, 13), (13, 2))]
    assert centres == [0, 1, 2] and pixels[13, 13].max() < 60
    assert pixels[2, 2, 0] > 190


def test_broken_exif_does_not_matter() -> None:
    data = encoded(photograph(), "JPEG", exif=b"Exif\0\0" + b"\x07garbage")
    assert decode(data, size=16, resize="crop").shape == (16, 16, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (1, 60000)])
@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_tiny_and_thin(shape: tuple[int, int], resize: str) -> None:
    data = encoded(Image.new("RGB", shape, (1, 2, 3)))
    assert decode(data, size=32, resize=resize)[5, 7].tolist() == [1, 2, 3]


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, idat: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", idat), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [7072, 10000, 20000])
def test_too_many_pixels_are_refused_on_the_header(side: int) -> None:
    assert side**2 > MAX_PIXELS
    with pytest.raises(ImageError, match="megapixels"):
        small(png(side, side))


def test_the_limit_can_be_raised_as_the_refusal_says(tmp_path: Path) -> None:
    """To a photograph of 61 megapixels, as a camera makes them."""
    row = b"\0" + bytes(9504 // 8)
    data = png(9504, 6336, depth=1, idat=zlib.compress(row * 6336))
    with pytest.raises(ImageError, match="9504x6336: more than 50 megapixels: .*--max-megapixels"):
        small(data)
    assert decode(data, size=8, resize="crop", max_pixels=61_000_000).max() == 0
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match="more than 60 megapixels"):
        decode(tmp_path / "a.png", size=8, resize="crop", max_pixels=60_000_000)


def test_limit_itself_is_allowed() -> None:
    # The header passes, and then the missing pixels are noticed.
    with pytest.raises(DataError, match="truncated|damaged|empty|broken"):
        decode(png(10000, 5000), size=8, resize="crop")


def jpeg_file(tmp_path: Path) -> Path:
    file = tmp_path / "photo.jpg"
    photograph(200, 150).save(file, quality=90)
    return file


def test_good_images_pass(tmp_path: Path) -> None:
    small(jpeg_file(tmp_path))
    for kind in ("PNG", "BMP", "GIF", "WEBP", "TIFF", "JPEG"):
        small(encoded(photograph(), kind))
    small(encoded(photograph(), "JPEG", progressive=True))


def test_jpeg_with_a_thumbnail_and_cut_in_half_is_found() -> None:
    thumbnail = encoded(photograph(), "JPEG")
    segment = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = encoded(photograph(200, 150), "JPEG")
    data = data[:2] + segment + data[2:]
    small(data)
    with pytest.raises(ImageError, match="cut short"):
        small(data[: (len(data) + len(segment)) // 2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
def test_cut_short(kind: str, keep: float, tmp_path: Path) -> None:
    file = tmp_path / "cut.jpg"
    data = encoded(photograph(200, 150), kind)
    file.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        small(file)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_byte_is_refused(progressive: bool) -> None:
    data = encoded(photograph(200, 150), "JPEG", progressive=progressive)
    small(data)
    with pytest.raises(ImageError, match="no end-of-image marker"):
        small(data[:-1])


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    data = encoded(photograph(200, 150), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    end = data.rindex(b"\xff\xd9")
    last = data[data.rindex(b"\xff\xda") : end]

    def with_scans(count: int) -> bytes:
        return data[:end] + last * (count - scans) + data[end:]

    with pytest.raises(ImageError, match=f"{MAX_SCANS + 1} scans, expected at most {MAX_SCANS}"):
        small(with_scans(MAX_SCANS + 1))
    np.testing.assert_array_equal(small(with_scans(scans)), small(data))


def test_every_flipped_bit_in_the_pixels_of_a_png_is_found() -> None:
    whole = encoded(photograph(40, 30))
    start, end = whole.index(b"IDAT"), whole.index(b"IEND")
    for place in np.linspace(start, end - 5, 40).astype(int):
        data = bytearray(whole)
        data[place] ^= 1
        with pytest.raises(ImageError):
            small(bytes(data))


def test_damage_that_decodes_is_found_by_the_digest() -> None:
    whole = encoded(photograph(200, 150), "JPEG", quality=95)
    digest = hashlib.sha256(whole).hexdigest()
    decode(whole, size=8, resize="crop", sha256=digest)
    data = bytearray(whole)
    data[len(data) // 2] ^= 8
    # Without the digest this passes: a JPEG's data has no checksum.
    assert small(bytes(data)).shape == (8, 8, 3)
    with pytest.raises(ImageError, match="'a.jpg': not the content it had when"):
        decode(bytes(data), size=8, resize="crop", name="a.jpg", sha256=digest)


def unusable_files(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.jpg" for name in ("empty", "text", "missing", "fifo")}
    files["empty"].touch()
    files["text"].write_text("not a photograph\n" * 100)
    os.mkfifo(files["fifo"])
    files["directory"] = tmp_path / "directory.jpg"
    files["directory"].mkdir()
    files["loop"] = tmp_path / "loop.jpg"
    files["loop"].symlink_to(files["loop"])
    return files


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "0 bytes"),
        ("text", "not an image"),
        ("missing", "No such file"),
        ("fifo", "a FIFO"),
        ("directory", "a directory"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_unusable_files_are_named_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    file = unusable_files(tmp_path)[name]
    with pytest.raises(ImageError, match=reason) as caught:
        small(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.name == str(file) and str(file) not in caught.value.reason


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    file = jpeg_file(tmp_path)
    file.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(ImageError, match=r"photo\.jpg.*Permission denied"):
            small(file)
    finally:
        os.seteuid(user)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    file = jpeg_file(tmp_path)
    limit = {"size": 8, "resize": "crop", "max_pixels": 250_000}
    os.truncate(file, 2_000_000)
    decode(file, **limit)
    os.truncate(file, 2_000_001)
    with pytest.raises(ImageError, match="more than 2 MB: scale it down, or raise --max-megapix"):
        decode(file, **limit)


def test_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A relative name, because the names of sockets are limited to about 100 bytes.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.jpg")
        with pytest.raises(DataError, match="socket"):
            decode(Path("s.jpg"), size=8, resize="crop")


def test_name_of_bytes_and_odd_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'PetImages/Cat/1.jpg'"):
        decode(b"text", size=8, resize="crop", name="PetImages/Cat/1.jpg")
    odd = tmp_path / os.fsdecode(b"-a\nb\xff.jpg")
    odd.write_bytes(b"text")
    with pytest.raises(DataError) as caught:
        decode(odd, size=8, resize="crop")
    assert str(caught.value).isascii() and "\n" not in str(caught.value)


def test_other_formats_are_not_tried() -> None:
    """EPS, for one, is drawn by a program of its own."""
    with pytest.raises(DataError, match="not an image"):
        decode(encoded(photograph(), "EPS"), size=8, resize="crop")


@pytest.mark.parametrize("options", [{"size": 0, "resize": "crop"}, {"size": 8, "resize": "pad"}])
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        decode(encoded(photograph()), **options)
