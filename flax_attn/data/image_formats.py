"""Which kinds of image files can be read here, told by their endings and by their first bytes.

Pillow reads more formats than are named here: some of its readers start external programs, others
are of kinds that nobody keeps photographs in. AVIF, HEIC and JPEG XL are read where Pillow itself
or an installed plug-in registers them.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath

from PIL import Image

_ALWAYS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# Formats that another package may bring: its module, and its name in the package index.
_PLUGINS = {
    "AVIF": ("pillow_avif", "pillow-avif-plugin"),
    "HEIF": ("pillow_heif", "pillow-heif"),
    "JXL": ("pillow_jxl", "pillow-jxl-plugin"),
}
# What files of those formats are called, for advice where none of them can be read.
_NEEDS_PLUGIN = {
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), "HEIF"),
    ".jxl": "JXL",
}
# A Targa file has no magic number: any bytes may pass for one, so its ending decides.
_TARGA = "TGA"
# Files of these formats begin with two letters, as texts may: the whole header decides.
WEAK = frozenset({"BMP", "PPM"})
# Floats, whose range is not known.
_REFUSED = frozenset({".pfm"})

# An ending that says what a file is; what follows a dot may also be a number or a sentence.
_ENDING = re.compile(r"\.(?=\w*[a-z])\w{1,12}")


@cache
def _start() -> None:
    """Has Pillow register all of its own readers."""
    Image.init()


@cache
def _load_plugin(name: str) -> None:
    """Imports the plug-in of a format, if it is installed."""
    try:
        module = import_module(_PLUGINS[name][0])
        # This one registers only when asked to.
        if name == "HEIF":
            module.register_heif_opener()
    # A plug-in that does not fit this Pillow or this system is as good as none.
    except Exception:
        return


def readable_formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that are tried on any file."""
    _start()
    # Pillow registers an ending only where the library behind the format is there.
    for name in _PLUGINS:
        if name not in Image.EXTENSION.values():
            _load_plugin(name)
    registered = set(Image.EXTENSION.values())
    return (*_ALWAYS, *(name for name in _PLUGINS if name in registered))


def formats_of(name: str) -> tuple[str, ...]:
    """Returns the formats to try on a file of this name."""
    formats = readable_formats()
    is_targa = Image.EXTENSION.get(PurePath(name).suffix.lower()) == _TARGA
    return (*formats, _TARGA) if is_targa else formats


def image_endings() -> tuple[str, ...]:
    """Returns the endings of image files, in lower case and in order."""
    formats = {*readable_formats(), _TARGA, "MPO"}
    known = {ending for ending, name in Image.EXTENSION.items() if name in formats}
    return tuple(sorted(known - _REFUSED))


def ending_of(name: str) -> str:
    """Returns the ending of a file's name in lower case, "" where it has none that tells a kind."""
    ending = PurePath(name).suffix.lower()
    return ending if _ENDING.fullmatch(ending) else ""


def format_by_content(start: bytes) -> str | None:
    """Returns the format of a file that begins like this; None if it begins like no image."""
    for name in readable_formats():
        accept = Image.OPEN[name][1]
        if accept is not None and accept(start) is True:
            return name
    return None


def plugin_for(ending: str) -> str | None:
    """Returns the package that would read files of an ending; None if no package is missing."""
    name = _NEEDS_PLUGIN.get(ending)
    return None if name is None or name in readable_formats() else _PLUGINS[name][1]


def describe_readers() -> str:
    """Returns the formats and the versions of the plug-ins, which beside Pillow decide pixels."""
    versions = []
    for _, package in _PLUGINS.values():
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join((*readable_formats(), *versions))
