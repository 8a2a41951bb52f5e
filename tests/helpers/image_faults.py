"""Damaged images for the fault injections, and the process that decodes them.

Run as a program it decodes the cases FIRST to LAST in FOLDER and prints a JSON line for each.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from flax_attn.data.decode import ImageError, decode
from tests.helpers.fault_process import peak_memory

SIZE = 64
MEMORY = 4 << 30

Rng = np.random.Generator


def _photograph(mode: str = "RGB", width: int = 96, height: int = 72) -> Image.Image:
    small = np.random.default_rng(7).integers(0, 256, (9, 12, 4), dtype=np.uint8)
    image = Image.fromarray(small, "RGBA" if mode in ("RGBA", "LA") else None)
    if mode not in ("RGBA", "LA"):
        image = Image.fromarray(np.ascontiguousarray(small[:, :, :3]))
    return image.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _animation(kind: str, mode: str, **options: object) -> bytes:
    frames = [_photograph(mode).rotate(90 * i) for i in range(3)]
    return _encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0110] = 6, "a description" * 20, "camera"
    return _encode(_photograph(), "JPEG", exif=exif, dpi=(72, 72))


def _deep(dtype: type) -> Image.Image:
    values = np.asarray(_photograph("L")).astype(np.float64) / 255
    return Image.fromarray((values * (65535 if dtype is np.uint16 else 1)).astype(dtype))


@cache
def samples() -> dict[str, bytes]:
    """A whole file of each format and mode."""
    palette = _photograph().quantize(32)
    return {
        "jpeg": _encode(_photograph(), "JPEG", quality=85),
        "jpeg-progressive": _encode(_photograph(), "JPEG", progressive=True),
        "jpeg-grey": _encode(_photograph("L"), "JPEG"),
        "jpeg-cmyk": _encode(_photograph("CMYK"), "JPEG"),
        "jpeg-exif": _with_exif(),
        "png": _encode(_photograph(), "PNG"),
        "png-1-bit": _encode(_photograph("1"), "PNG"),
        "png-palette": _encode(palette, "PNG", transparency=3),
        "png-16-bit": _encode(_deep(np.uint16), "PNG"),
        "png-rgba": _encode(_photograph("RGBA"), "PNG"),
        "png-la": _encode(_photograph("LA"), "PNG"),
        "gif": _encode(palette, "GIF"),
        "gif-animated": _animation("GIF", "RGB"),
        "webp": _encode(_photograph(), "WEBP"),
        "webp-lossless": _encode(_photograph("RGBA"), "WEBP", lossless=True),
        "webp-animated": _animation("WEBP", "RGBA"),
        "tiff": _encode(_photograph(), "TIFF"),
        "tiff-lzw": _encode(_photograph(), "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": _encode(_photograph(), "TIFF", compression="jpeg"),
        "tiff-float": _encode(_deep(np.float32), "TIFF"),
        "bmp": _encode(_photograph(), "BMP"),
        "bmp-palette": _encode(palette, "BMP"),
    }


def _flip_bits(data: bytearray, rng: Rng) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        data[place] ^= 1 << int(rng.integers(8))


def _cut(data: bytearray, rng: Rng) -> None:
    del data[int(rng.integers(len(data))) :]


def _insert(data: bytearray, rng: Rng) -> None:
    place = int(rng.integers(len(data)))
    data[place:place] = rng.bytes(int(rng.integers(1, 64)))


def _remove(data: bytearray, rng: Rng) -> None:
    place = int(rng.integers(len(data)))
    del data[place : place + int(rng.integers(1, 64))]


def _edit_header(data: bytearray, rng: Rng) -> None:
    for place in rng.integers(0, min(len(data), 128), rng.integers(1, 5)):
        data[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))


def _inflate_number(data: bytearray, rng: Rng) -> None:
    """Makes a size, offset or count in the header enormous."""
    place = int(rng.integers(0, min(len(data) - 4, 200)))
    data[place : place + 4] = rng.choice(
        [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\x7f"]
    )


def _repeat(data: bytearray, rng: Rng) -> None:
    start, end = sorted(rng.integers(0, len(data), 2).tolist())
    data[start:start] = data[start:end] * int(rng.integers(1, 20))


def _splice(data: bytearray, rng: Rng) -> None:
    """Goes on as a file of another format."""
    other = list(samples().values())[int(rng.integers(len(samples())))]
    data[int(rng.integers(len(data))) :] = other[int(rng.integers(len(other))) :]


def _swap(data: bytearray, rng: Rng) -> None:
    a, b = rng.integers(0, max(1, len(data) - 32), 2).tolist()
    data[a : a + 32], data[b : b + 32] = data[b : b + 32], data[a : a + 32]


MUTATIONS: tuple[Callable[[bytearray, Rng], None], ...] = (
    _flip_bits,
    _cut,
    _insert,
    _remove,
    _edit_header,
    _inflate_number,
    _repeat,
    _splice,
    _swap,
)


def _patch(name: str, before: bytes, skip: int, content: bytes) -> bytes:
    data = bytearray(samples()[name])
    place = data.index(before) + len(before) + skip
    data[place : place + len(content)] = content
    return bytes(data)


@cache
def bombs() -> dict[str, bytes]:
    """Small files whose headers claim 96 to 4,294 megapixels."""
    png = b"IHDR" + struct.pack(">II5B", 20000, 20000, 8, 2, 0, 0, 0)
    png += struct.pack(">I", zlib.crc32(png))
    tiff = b"".join(struct.pack("<HHII", tag, 4, 1, 20000) for tag in (256, 257))
    return {
        "bomb-png": _patch("png", b"IHDR", -4, png),
        "bomb-jpeg": _patch("jpeg", b"\xff\xc0", 3, struct.pack(">HH", 9600, 10000)),
        "bomb-gif": _patch("gif", b"GIF87a", 0, b"\xff\xff\xff\xff"),
        "bomb-webp": _patch("webp", b"\x9d\x01\x2a", 0, struct.pack("<HH", 16383, 16383)),
        "bomb-bmp": _patch("bmp", b"BM", 16, struct.pack("<ii", 30000, 30000)),
        "bomb-tiff": _patch("tiff", b"II*\0", 6, tiff),
    }


def damaged(case: int) -> tuple[str, bytes]:
    """The name and content of a case: the bombs, then formats and mutations in turn, the rest by
    chance."""
    if case < len(bombs()):
        return list(bombs().items())[case]
    rng = np.random.default_rng([20, case])
    name = list(samples())[case % len(samples())]
    data = bytearray(samples()[name])
    for mutation in [case // len(samples()), *rng.integers(0, 99, rng.integers(0, 2))]:
        if len(data) > 8:
            MUTATIONS[mutation % len(MUTATIONS)](data, rng)
    return name, bytes(data)


def _judge(file: Path) -> dict[str, object]:
    started = time.process_time()
    try:
        pixels = decode(file, size=SIZE, resize="crop")
        assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8
        outcome = {"outcome": "decoded"}
    except ImageError as error:
        outcome = {"outcome": "refused", "line": str(error), "reason": error.reason}
    except Exception as error:
        outcome = {"outcome": "escaped", "line": repr(error)}
    return {**outcome, "seconds": time.process_time() - started}


def main(first: int, last: int, folder: Path) -> None:
    # As flax_attn.cli does.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for case in range(first, last):
        name, content = damaged(case)
        file = folder / f"{case}-{name}.jpg"
        file.write_bytes(content)
        found = {"case": case, "name": name, "file": str(file), **_judge(file)}
        found["peak"] = peak_memory()
        print(json.dumps(found), flush=True)
        file.unlink()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
