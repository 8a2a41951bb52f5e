"""From an encoded image to a square uint8 RGB array: the only decoder of every data set.

The conversion to RGB, the same in training and in evaluation:

- 1 bit, 8-bit grey, palette, YCbCr and CMYK: Pillow's own conversion. Colour profiles are ignored.
- 16-bit grey: divided by 257 and rounded, so that 65535 becomes 255. (Pillow's own conversion
  would cut off everything above 255.) 16-bit RGB keeps its high byte.
- Transparency of any kind (alpha channel, transparent palette entry or colour): laid over white.
- PGM of 16 bits: as 16-bit grey.
- Other 32-bit integers, floats and CIELAB: refused, because their range is not known.
- Animations, multi-page files: the first frame or page.
- The EXIF orientation is applied.

Stricter than Pillow: a JPEG without its end and a PNG with a wrong checksum are refused although
their pixels can be had, and so are sizes and scan counts that only an attack has.
``jpeg`` checks the streams of those.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, get_args

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from flax_attn.config import MEGAPIXEL, DataConfig, Resize
from flax_attn.data import jpeg
from flax_attn.data.image_formats import describe_readers, formats_of
from flax_attn.errors import DataError, UsageError

MAX_PIXELS = DataConfig().max_pixels
# Of the widest pixels there are, 16-bit RGBA.
BYTES_A_PIXEL = 8

_GREY16 = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_MODES = _GREY16 | {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}

_REMEDY = "scale it down, or raise --max-megapixels"

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(DataError):
    """An image that cannot be used: its name, and the reason without it."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name!r}: {reason}")
        self.name, self.reason = name, reason


def decode(
    source: bytes | Path,
    *,
    size: int,
    resize: Resize,
    centre_crop: float | None = None,
    name: str | None = None,
    sha256: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "s s 3"]:
    """Decodes an image to a square of ``size`` pixels, bilinear with antialiasing.

    Args:
      source: the encoded image, or its path.
      size: side in pixels.
      resize: "crop" scales the shorter side to ``size`` and keeps the centre; "stretch" scales both
        sides. A large JPEG is decoded at 1/2, 1/4 or 1/8 where that still leaves twice ``size``.
      centre_crop: of "crop", the share of the shorter side that is scaled; None is all of it.
      name: stands for the image in messages; by default it is the path.
      sha256: what the digest of the encoded image must be. Damage inside a JPEG often decodes, and
        only the digest shows it.
      max_pixels: more are refused, and files of more than ``BYTES_A_PIXEL`` for each of them.

    Raises:
      ImageError: not a regular file, not an image, damaged, cut short, of a refused kind, too
        large, or of another digest.
      UsageError: ``size`` is below 1, ``resize`` unknown, or ``centre_crop`` not in (0, 1] or of
        "stretch".
    """
    _check_way(size, resize, centre_crop)
    with open_image(source, name=name, sha256=sha256, max_pixels=max_pixels) as image:
        least = math.ceil(2 * size / (centre_crop or 1))
        image.draft(None, (least, least))
        image.load()
        square = to_square(_to_rgb(upright(image)), size, resize, centre_crop)
        return np.array(square, dtype=np.uint8)


def decode_pixels(
    image: Image.Image | np.ndarray,
    *,
    size: int,
    resize: Resize,
    centre_crop: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "s s 3"]:
    """Returns an opened image, or pixels [h, w, 3] of 8 bits, as ``decode`` returns a file.

    Raises:
      ImageError: an opened image that is damaged, of a refused kind or too large.
      UsageError: pixels of another shape or type, and as ``decode``.
    """
    _check_way(size, resize, centre_crop)
    if not isinstance(image, Image.Image):
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size:
            raise UsageError(
                f"pixels: got {pixels.dtype}{list(pixels.shape)}, expected uint8[h, w, 3]; "
                "scale floats to 0 to 255, and repeat grey three times"
            )
        image = Image.fromarray(pixels)
    with _named(str(getattr(image, "filename", "") or "image"), max_pixels):
        _check_header(image, max_pixels)
        square = to_square(_to_rgb(upright(image)), size, resize, centre_crop)
        return np.array(square, dtype=np.uint8)


def _check_way(size: int, resize: Resize, centre_crop: float | None) -> None:
    if size < 1 or resize not in get_args(Resize):
        raise UsageError(f"size={size!r}, resize={resize!r}: expected size >= 1, crop or stretch")
    if centre_crop is not None and (resize != "crop" or not 0 < centre_crop <= 1):
        raise UsageError(
            f"centre_crop={centre_crop!r}, resize={resize!r}: expected a share above 0, at most 1, "
            "of resize crop"
        )


@contextmanager
def open_image(
    source: bytes | Path,
    *,
    name: str | None = None,
    sha256: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Image.Image]:
    """Opens an image and checks its header and structure, without loading its pixels.

    Raises:
      ImageError: as ``decode``, also for whatever fails inside the ``with``.
    """
    shown = name or ("image" if isinstance(source, bytes) else str(source))
    with _named(shown, max_pixels):
        content = source if isinstance(source, bytes) else _read(source, max_pixels)
        if not content:
            raise DataError("empty, 0 bytes")
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise DataError("not the content it had when the images were listed")
        with Image.open(io.BytesIO(content), formats=formats_of(shown)) as image:
            _check_header(image, max_pixels)
            _check_structure(content, image.format)
            yield image


@contextmanager
def _named(name: str, max_pixels: int) -> Iterator[None]:
    """Turns whatever fails inside into an ``ImageError`` of this name."""
    try:
        yield
    except DataError as error:
        raise ImageError(name, str(error)) from error.__cause__
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(name, _too_large(max_pixels)) from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(formats_of(name))
        raise ImageError(name, f"not an image, or its header is damaged ({kinds})") from error
    # Pillow's readers raise nearly any exception (SyntaxError, struct.error, KeyError, ...) on
    # damaged bytes, so nothing narrower would do.
    except Exception as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ImageError(name, reason or type(error).__name__) from error


def _read(path: Path, max_pixels: int) -> bytes:
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > (limit := BYTES_A_PIXEL * max_pixels):
            raise DataError(f"more than {limit // 1_000_000} MB: {_REMEDY}")
        return stream.read()


def open_regular(path: Path | str) -> BinaryIO:
    """Opens a regular, non-empty file; asks first, because opening a FIFO waits for ever.

    Raises:
      DataError: of another kind, or empty.
      OSError: missing, not readable, a loop of links.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"not a regular file but a {_kind_of_file(status.st_mode)}")
    if status.st_size == 0:
        raise DataError("empty, 0 bytes")
    return open(path, "rb")


def _kind_of_file(mode: int) -> str:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _check_header(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise DataError(f"{image.width}x{image.height}: {_too_large(max_pixels)}")
    # Pillow brings every PGM of more than 8 bits to the range of 16.
    is_deep_pgm = image.mode == "I" and image.format == "PPM"
    if image.mode not in _MODES and not is_deep_pgm:
        raise DataError(f"pixels of kind {image.mode} have no known range: convert to 8 bits")


def _check_structure(content: bytes, kind: str | None) -> None:
    """Checks what Pillow's decoders let pass."""
    if kind in ("JPEG", "MPO"):
        jpeg.check_jpeg(content)
    elif kind == "PNG":
        # A verified image cannot be loaded any more, so this is another one.
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            image.verify()


def _too_large(max_pixels: int) -> str:
    return f"more than {max_pixels // MEGAPIXEL} megapixels: {_REMEDY}"


def upright(image: Image.Image) -> Image.Image:
    """Returns the image turned as its EXIF orientation says."""
    orientation = _orientation(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height after turning as EXIF says, without loading the pixels."""
    is_on_its_side = _orientation(image) in (5, 6, 7, 8)
    return (image.height, image.width) if is_on_its_side else image.size


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        # An unreadable EXIF block is no reason to lose intact pixels.
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _GREY16 or image.mode == "I":  # only a PGM's pixels are "I" here
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_square(
    image: Image.Image,
    size: int,
    resize: Resize,
    centre_crop: float | None = None,
    *,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """Returns the image scaled to a square; see ``decode`` for ``resize`` and ``centre_crop``."""
    if resize == "stretch":
        return image.resize((size, size), resample)
    # The centre square of the original is scaled, which is the centre crop of the scaled image
    # without the work on the margins.
    side = min(image.size) * (centre_crop or 1)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), resample, box=box)


def decoder_version() -> str:
    """Returns a digest that changes with the decoder's source, Pillow, and what plug-ins read."""
    digest = hashlib.sha256(f"{PIL.__version__} {describe_readers()}".encode())
    for file in (__file__, jpeg.__file__):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]
