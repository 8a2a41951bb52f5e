"""Writes the best checkpoint of a run as a folder that travels (``flax-attn publish``)."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flax_attn.models.network import pixel_scale
from flax_attn.porting.publish.model_card import CARD_FILE, write_card
from flax_attn.runs.directory import ATTENTION_FILE, CURVES_FILE, Run
from flax_attn.runs.load import restore_best
from flax_attn.runs.published_folder import (
    WEIGHTS_FILE,
    PublishedWeights,
    without_folders,
    without_places,
)
from flax_attn.system.files import digest_file, write_bytes, write_json
from flax_attn.system.folders import new_folder, require_free
from flax_attn.system.tensor_files import encode_safetensors

_log = logging.getLogger(__name__)

PREPROCESSING_FILE = "preprocessor_config.json"

# Numbers that other programs have for it: bilinear, in Pillow.
_BILINEAR = 2


def publish_run(run: Run, workdir: Path, out: Path, *, photographs: bool = True) -> None:
    """Writes the best checkpoint of a run to a new folder, with all that its use takes.

    The folder appears when it is complete. Nothing in it says where things lay on this machine,
    which machine it is, or what the training images are called.

    Args:
      run: the run, as its directory has it.
      workdir: the run directory.
      out: the folder, which must be new or empty.
      photographs: whether ``attention.png`` is copied, which shows images of the validation part.

    Raises:
      UsageError: ``out`` holds something or cannot be written.
      CheckpointError: there is no checkpoint, or it does not fit.
      DiskFullError: no space is left for ``out``.
    """
    require_free(out, flag="DIR")
    best = restore_best(run, workdir)
    arrays = {n: np.asarray(a, order="C") for n, a in {**best.params, **best.stats}.items()}
    wanted = [CURVES_FILE, *([ATTENTION_FILE] if photographs else [])]
    pictures = [name for name in wanted if (workdir / name).is_file()]
    with new_folder(out) as folder:
        # Other libraries read "pt", "tf" and "flax" here, and show it.
        content = encode_safetensors(arrays, {"format": "flax"})
        write_bytes(folder / WEIGHTS_FILE, content)
        sha256 = digest_file(folder / WEIGHTS_FILE)
        told = replace(
            run,
            config=without_places(run.config),
            weights=without_folders(run.weights),
            device="",
            published=PublishedWeights(best.epoch, best.step, best.row, sha256),
        )
        told.save(folder)
        write_json(folder / PREPROCESSING_FILE, describe_preprocessing(run))
        for name in pictures:
            shutil.copyfile(workdir / name, folder / name)
        write_card(told, folder, name=out.absolute().name, pictures=pictures)
    count = sum(array.size for array in arrays.values())
    _log.info(
        f"wrote {out}: epoch {best.epoch}, {count / 1e6:.1f} M numbers in {WEIGHTS_FILE} "
        f"({len(content) / 1e6:.1f} MB); fill in license and datasets in {CARD_FILE}"
    )
    if ATTENTION_FILE in pictures:
        _log.warning(
            f"{ATTENTION_FILE} shows images of the validation part: leave it out with "
            "--no-photographs where they are not yours to show"
        )


def describe_preprocessing(run: Run) -> dict[str, Any]:
    """Returns how a photograph becomes the array that the network takes, for other programs."""
    data, scale = run.config.data, pixel_scale(run.config.model)
    stored = data.image_size + data.crop_margin
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": stored, "width": stored}
        if data.resize == "stretch"
        else {"shortest_edge": stored},
        "resample": _BILINEAR,
        "do_center_crop": data.resize == "crop" or data.crop_margin > 0,
        "crop_size": {"height": data.image_size, "width": data.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(scale.mean),
        "image_std": list(scale.std),
        # Before anything is resized: the centre of this share of the shorter side.
        "centre_crop": data.centre_crop,
    }
