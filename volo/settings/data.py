"""The data's section of the settings."""

import os
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from volo.errors import InputError, brief
from volo.settings.buckets import check_place, is_in_bucket
from volo.settings.paths import folder_to_read
from volo.settings.section import PlaceText, Section

VAL_FRACTION = 0.1  # the default
MAX_IMAGE_SIZE = 16384  # an image of which takes 805 MB, with three channels
MAX_CHANS = 13  # of the satellites whose images have most
GRAY, RGB = 1, 3  # numbers of channels that every image can have

PLACE_HERE = "VOLO_DATA_DIR"  # of the data on this machine, in place of data_dir

Dataset = Literal["cifar100", "cifar10", "imagefolder", "shapes"]

# Mean and standard deviation of pixels in [0, 1].
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALIZATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


class DataSettings(Section):
    """Which images to use, and how they are read and split."""

    dataset: Dataset = "cifar100"
    """imagefolder reads class folders, in train/, val/ and test/ or without, or tars; shapes is drawn, not read."""
    data_dir: PlaceText | None = None
    """Folder of the data, or s3://BUCKET/PATH of packed images. CIFAR is downloaded into it (from $VOLO_DATA_MIRROR if
    that is set). Default: ./data/<dataset>."""
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] = 32
    """Height and width, in pixels, that images are resized to. If a command is not given it, photographs in an image
    folder decide: the largest of 32, 48, 64, 96, 128, 160, 192 and 224 that half of their shorter sides reach."""
    resize: Literal["crop", "squash"] = "crop"
    """crop keeps the aspect ratio and takes the center square; squash keeps the whole image."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Side of the center square over the shorter side of the image; the published models were evaluated at 0.96."""
    in_chans: Annotated[int, Field(ge=1, le=MAX_CHANS)] = RGB
    """Channels that images are read as: 3, red, green and blue; 1, gray; another number up to 13, which the files must
    have: the bands of an image, such as 4 of RGBA, or the frames of a TIFF."""
    image_store: Literal["auto", "decoded", "files"] = "auto"
    """What an image folder's training images are read from: decoded, a cache on each node's disk that holds every image
    at image_size; files, the image files, anew in every epoch. auto: files with crop_area, or if the cache has no room
    for all images."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Fraction of the training images of each class held out for validation; 0: none, and no best checkpoint. Default:
    0.1, unless an image folder has its own val/, valid/ or validation/."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split; --seed does not change it, so seeds are comparable."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel (red, green, blue) of pixels in [0, 1], to subtract. Default: the usual one of these
    channels; three have the data set's or ImageNet's, gray has the mean of these, and others have 0.5."""
    std: tuple[PositiveFloat, ...] | None = None
    """Standard deviation of each channel, to divide by. Default: the usual one of these channels, as of mean."""
    train_images: Annotated[int, Field(ge=1)] | None = None
    """Train on a stratified subset of this many images."""
    skip_damaged: bool = False
    """Leave out images of a folder that cannot be read, and list them in damaged_images.txt in the run folder."""

    @property
    def validates(self) -> bool:
        """Whether images are held out for validation."""
        return self.val_fraction != 0

    def resolved(self, is_cut: bool = False) -> "ResolvedData":
        """`is_cut`: training images are cut at random."""
        mean, std = (_for_channels(of_rgb, self.in_chans) for of_rgb in NORMALIZATION.get(self.dataset, IMAGENET))
        val_fraction = None if self.dataset == "imagefolder" else VAL_FRACTION
        resolved = self.filled(ResolvedData, mean=mean, std=std, val_fraction=val_fraction)
        reads_files = is_cut and self.dataset == "imagefolder"
        return resolved.model_copy(update={"image_store": "files"}) if reads_files else resolved

    @model_validator(mode="after")
    def _check(self) -> Self:
        native = {"shapes": 32, "cifar10": 32, "cifar100": 32}.get(self.dataset)
        if native and self.resize != "crop":
            raise ValueError(f"resize has no effect on {self.dataset}, whose images are square; leave it out")
        if self.crop_pct != 1 and (native or self.resize != "crop"):
            found = f"dataset={self.dataset}" if native else f"resize={self.resize}"
            raise ValueError(
                f"crop_pct cuts the center square of an image folder's images, got crop_pct={self.crop_pct} with "
                f"{found}; leave it out"
            )
        if native and self.image_store == "files":
            raise ValueError(
                f"image_store=files needs a data set of image files, got dataset={self.dataset}; leave it out"
            )
        if self.skip_damaged and self.dataset != "imagefolder":
            raise ValueError(
                f"skip_damaged has no effect on {self.dataset}, whose archive is checked as a whole; leave it out"
            )
        if self.dataset == "shapes" and self.image_size != native:
            raise ValueError(f"shapes are drawn at {native} pixels, got image_size={self.image_size}; leave it out")
        if self.data_dir is not None and is_in_bucket(self.data_dir) and self.dataset in NORMALIZATION:
            raise ValueError(
                f"data_dir on object storage must hold packed images, got dataset={self.dataset} with "
                f"{brief(self.data_dir)}; add --dataset imagefolder, or name a folder"
            )
        if self.dataset == "shapes" and self.data_dir is not None:
            raise ValueError(
                f"data_dir has no effect on shapes, which are drawn, got {brief(self.data_dir)}; leave it out, or "
                "choose another --dataset"
            )
        return self

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if self.dataset == "shapes" and self.in_chans != RGB:
            raise ValueError(
                f"in_chans must be 3 for shapes, whose classes differ by color, got in_chans={self.in_chans}; leave it "
                "out"
            )
        if self.dataset in NORMALIZATION and self.in_chans not in (GRAY, RGB):
            raise ValueError(
                f"in_chans must be 3 or 1 for {self.dataset}, whose images are RGB, got in_chans={self.in_chans}; "
                "leave it out, or give --in-chans 1 for their gray"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.in_chans:
                raise ValueError(
                    f"{name} must have one value for each channel, got {brief(list(values))} with "
                    f"in_chans={self.in_chans}; give as many, or leave {name} out (--{name} None, if a file sets it)"
                )
        return self


class ResolvedData(DataSettings):
    """Two derived values may still be None: data_dir of shapes, which are drawn, and val_fraction of an image
    folder, since only reading it tells whether it has its own validation images."""

    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]

    @property
    def folder(self) -> str:
        """data_dir, for the data sets that are read from one."""
        assert self.data_dir is not None, f"{self.dataset} is not read from a folder"
        return self.data_dir

    def here(self) -> Self:
        """The same settings with the place where this machine has the data (`place_here`), to open them. Settings that
        are kept or sent elsewhere keep data_dir.

        Raises:
            InputError: as `place_here`; CIFAR on object storage.
        """
        if self.data_dir is None or (place := place_here(self.data_dir)) == self.data_dir:
            return self
        if is_in_bucket(place) and self.dataset in NORMALIZATION:
            raise InputError(
                f"{PLACE_HERE} on object storage must hold packed images, got {brief(place)} for dataset="
                f"{self.dataset}; unset it, or name a folder"
            )
        return self.model_copy(update={"data_dir": place})


def place_here(data_dir: str) -> str:
    """Where this machine has the data: at $VOLO_DATA_DIR if that is set, otherwise at `data_dir`.

    Raises:
        InputError: it is neither an absolute path of a folder nor a place on object storage.
    """
    place = os.environ.get(PLACE_HERE)
    if not place:
        return data_dir
    if is_in_bucket(place := check_place(place, PLACE_HERE)):
        return place
    if not place.startswith(("/", "~")):
        raise InputError(
            f"{PLACE_HERE} must be an absolute path, since each process of a machine has a working directory of its "
            f"own, got {brief(place)}; name the whole path"
        )
    return str(folder_to_read(place, PLACE_HERE))


def _for_channels(of_rgb: tuple[float, float, float], in_chans: int) -> tuple[float, ...]:
    """The default of each channel, where of_rgb is that of red, green and blue."""
    if in_chans == RGB:
        return of_rgb
    return (round(sum(of_rgb) / len(of_rgb), 6),) if in_chans == GRAY else (0.5,) * in_chans
