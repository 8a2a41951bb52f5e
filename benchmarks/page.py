"""The page of an export in a headless Chromium: how long it takes, and how far from Python it is.

``python -m benchmarks.page RUN EXPORTED PHOTOGRAPHS --count 50``, after ``flax-attn export RUN
--out EXPORTED --export-formats page``. Photographs go in as they are, and again as PNG.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import flax_attn as fa
from flax_attn.data.decode import upright
from flax_attn.data.listing import list_images
from tests.helpers.browser import Browser, browsing, find_chromium
from tests.helpers.servers import Quiet, serve


class Isolated(Quiet):
    """Serves with the headers that let a page share memory between threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def as_png(photograph: Path, folder: Path) -> Path:
    path = folder / f"{photograph.stem}.png"
    with Image.open(photograph) as image:
        upright(image).convert("RGB").save(path, compress_level=1)
    return path


def look(browser: Browser, photograph: Path) -> tuple[list[float], dict[str, float]]:
    """Returns the probabilities of a photograph, and the milliseconds of reading and running."""
    browser.evaluate("find('clear').click()")
    browser.choose("#files", photograph)
    browser.wait("cards.length === 1 && !document.querySelector('.waiting')")
    return browser.evaluate(
        "[[...cards[0].result.outputs.probabilities.data], cards[0].result.times]"
    )


def measure(args: argparse.Namespace, work: Path, handler: type[Quiet]) -> None:
    executable = find_chromium()
    assert executable, "no Chromium is installed"
    files = sorted(list_images(args.photographs).images)
    chosen = [files[i * len(files) // args.count] for i in range(args.count)]
    pngs = [as_png(photograph, work) for photograph in chosen]
    with (
        serve(partial(handler, directory=str(args.exported / "page"))) as address,
        browsing(executable, work / "profile") as browser,
    ):
        begun = time.perf_counter()
        browser.open(address)
        browser.wait("document.body?.dataset.ready")
        ready = time.perf_counter()
        look(browser, chosen[0])
        print(f"{handler.__name__}: ready after {ready - begun:.1f} s, "
              f"first prediction after {time.perf_counter() - begun:.1f} s")  # fmt: skip
        for kind, given in (("as they are", chosen), ("as PNG", pngs)):
            said = [look(browser, photograph) for photograph in given]
            python = fa.load(args.run).predict(given).probabilities
            difference = np.abs(np.array([found for found, _ in said]) - python).max(-1)
            read, run = (np.median([times[name] for _, times in said]) for name in ("read", "run"))
            print(f"{len(given)} photographs {kind}: at most {difference.max():.1e} from Python, "
                  f"median {np.median(difference):.1e}; {read:.0f} ms to read, {run:.0f} ms to run "
                  "(medians)")  # fmt: skip
        assert browser.problems == [], browser.problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("exported", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--isolated", action="store_true", help="several threads")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(args, Path(folder), Isolated if args.isolated else Quiet)
    size = sum(path.stat().st_size for path in (args.exported / "page").rglob("*"))
    print(f"the page: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
