"""Settings of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flax_attn.config.setting import LOOKING, TRAIN, setting


@dataclass(frozen=True)
class RunConfig:
    """The run: where it lies, what it starts from, and what it keeps."""

    workdir: str | None = setting(
        None,
        "run directory (default: runs/<data set>-<model>-<norm>, with <backbone> of another one, "
        "fold-<fold> of a fold; of cross-validate folds-<folds>)",
        decides="place",
        commands=TRAIN,
        path="output",
    )
    weights: str = setting(
        "imagenet",
        "imagenet, none, or a .safetensors file of ported weights",
        decides="place",
        path="input",
        words=("imagenet", "none"),
    )
    init_from: str | None = setting(
        None,
        "start from the best checkpoint of this run directory",
        decides="place",
        commands=TRAIN,
        path="input",
    )
    feature_cache: str = setting(
        "runs/features", "folder of frozen-backbone features", decides="place", path="cache"
    )
    image_cache: str = setting(
        "runs/images",
        "folder of decoded images, 150 kB each at 224 pixels, or none",
        decides="place",
        commands=LOOKING,
        path="cache",
        words=("none",),
    )
    compilation_cache: str | None = setting(
        None,
        "folder of compiled programs, for later starts on this machine (default: none)",
        decides="place",
        commands=LOOKING,
        path="cache",
    )
    snapshot_epochs: tuple[int, ...] | None = setting(
        None,
        "epochs after which a light snapshot is kept, to see how attention changes",
        decides="course",
        commands=TRAIN,
    )
    save_every: int | None = setting(
        None,
        "steps between checkpoints inside an epoch (default: only at its end)",
        low=1,
        decides="course",
        commands=TRAIN,
    )
    keep_checkpoints: int = setting(
        2, "newest checkpoints kept, beside the best", low=1, decides="course", commands=TRAIN
    )
    stop_within: float = setting(
        9.0,
        "seconds that SIGTERM or Ctrl-C leaves to reach the end of a step and save",
        low=0,
        decides="speed",
        commands=(*TRAIN, "reproduce"),
    )
    resume_anyway: tuple[str, ...] | None = setting(
        None,
        "conditions that may differ from those of the run that is resumed",
        decides="course",
        commands=TRAIN,
    )

    @property
    def image_folder(self) -> Path | None:
        """The folder of decoded images; None where none are kept."""
        return None if self.image_cache == "none" else Path(self.image_cache)
