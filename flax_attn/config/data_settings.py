"""Settings of the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flax_attn.config.setting import GIVEN, LOOKING, TRAIN, TRAINING, UNFROZEN, setting

MEGAPIXEL = 1_000_000

Resize = Literal["crop", "stretch"]
Normalise = Literal["imagenet", "data"]
BadImagePolicy = Literal["fail", "quarantine"]
Question = Literal["metadata", "picture", "pair", "pictures"]


@dataclass(frozen=True)
class DataConfig:
    """The images: which data set, where it lies, their size, and how they are read."""

    dataset: str = setting("drawn_pets", "data set", decides="data", commands=LOOKING)
    data_dir: str | None = setting(
        None,
        "folder of the data set (of all but drawn ones)",
        decides="place",
        commands=LOOKING,
        path="input",
    )
    train_dir: str | None = setting(
        None,
        "training images of folder, in DATA_DIR (default: by name; . takes its sub-folders as "
        "classes)",
        decides="place",
        commands=LOOKING,
        path="inner",
        needs="parts",
    )
    val_dir: str | None = setting(
        None,
        "validation images of folder (default: by name, else a share of the training images)",
        decides="place",
        commands=LOOKING,
        path="inner",
        needs="parts",
    )
    test_dir: str | None = setting(
        None,
        "test images of folder (default: by name)",
        decides="place",
        commands=LOOKING,
        path="inner",
        needs="parts",
    )
    mask_dir: str | None = setting(
        None,
        "masks of the images of folder, for --roi-weights and measures of maps (default: "
        "DATA_DIR_masks)",
        decides="place",
        commands=(*TRAINING, "explain"),
        path="input",
        needs="masks",
    )
    image_size: int = setting(
        224, "side of the images in pixels, a multiple of 32", low=32, decides="data"
    )
    resize: Resize = setting(
        "crop", "crop: shorter side, then centre crop; stretch: both sides", decides="data"
    )
    centre_crop: float | None = setting(
        None,
        "what is used of an image: its centre, of this share of the shorter side (resize crop)",
        above=0,
        high=1,
        decides="data",
        only_with={"resize": "crop"},
    )
    crop_margin: int = setting(
        0,
        "pixels beyond IMAGE_SIZE to which images are scaled: training takes a window of "
        "IMAGE_SIZE at random, all else the centre",
        low=0,
        decides="data",
        only_with=UNFROZEN,
    )
    normalise: Normalise = setting(
        "imagenet",
        "colours: by the mean and deviation of ImageNet, or of the training images (data)",
    )
    train_count: int = setting(
        1200,
        "training pictures drawn (drawn_pets); scenes of drawn_pets_asked",
        low=2,
        decides="data",
        commands=(*TRAINING, "explain"),
    )
    val_count: int = setting(
        300,
        "validation pictures drawn (drawn_pets); scenes of drawn_pets_asked",
        low=2,
        decides="data",
        commands=LOOKING,
    )
    val_fraction: float = setting(
        0.2,
        "validation share of a data set without a split",
        low=0.01,
        high=0.99,
        decides="data",
        commands=("train", "ablate", "reproduce"),  # ``cross-validate`` divides in folds
    )
    folds: int | None = setting(
        None,
        "parts that the training and validation images are divided into, of which FOLD validates "
        "(default: none; of cross-validate: 5)",
        low=2,
        decides="data",
        commands=TRAIN,
    )
    fold: int | None = setting(
        None,
        "the fold that validates, from 1 to FOLDS; the others train",
        low=1,
        decides="data",
        commands=("train",),
        only_with={"folds": GIVEN},
    )
    label_column: str | None = setting(
        None,
        "the column of labelled_csv that names labels (default: found by its header)",
        decides="data",
        commands=LOOKING,
        needs="table",
    )
    label_separator: str | None = setting(
        None,
        "what separates labels in a cell of labelled_csv, such as ';', space or comma; none: a "
        "cell is one label (default: | or what the cells show)",
        decides="data",
        commands=LOOKING,
        needs="table",
    )
    group_column: str | None = setting(
        None,
        "the column of labelled_csv whose equal cells keep images on one side of a split, such as "
        "patient_id (default: found by its header)",
        decides="data",
        commands=LOOKING,
        needs="table",
    )
    question: Question | None = setting(
        None,
        "how drawn_pets_asked asks for an animal by its coat: metadata, a picture of another "
        "animal with that coat, a picture of a pair for two animals alike, or two pictures for "
        "two (default: metadata)",
        decides="data",
        commands=LOOKING,
        needs="questions",
    )
    data_seed: int = setting(0, "seed of the drawn pictures", low=0, decides="data")
    max_megapixels: int = setting(
        50,
        "size of an image above which it is refused: raise it for large photographs",
        # Pillow itself refuses more.
        low=1,
        high=178,
        decides="course",
        commands=(*LOOKING, "predict"),
    )
    workers: int = setting(
        2,
        "threads that decode images",
        low=1,
        decides="speed",
        commands=(*LOOKING, "predict"),
    )
    on_bad_image: BadImagePolicy = setting(
        "fail",
        "unusable images: end the run, or set them aside and list them",
        decides="course",
        commands=LOOKING,
    )

    @property
    def window(self) -> int | None:
        """The side of the window that training takes of an image at random; None for all of it."""
        return self.image_size if self.crop_margin else None

    @property
    def max_pixels(self) -> int:
        """The number of pixels above which an image is refused."""
        return MEGAPIXEL * self.max_megapixels
