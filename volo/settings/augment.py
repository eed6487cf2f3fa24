"""Augmentation's section of the settings."""

import re
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from volo.errors import brief
from volo.settings.section import Section

Share = Annotated[float, Field(gt=0, le=1)]
CROP_RATIO = (3 / 4, 4 / 3)
STAGE = re.compile(r"([1-9]\d{0,5}|0\.\d+):(0\.\d+)")


class AugmentSettings(Section):
    """What happens to training images; every draw is a function of (seed, epoch, position)."""

    crop_padding: Annotated[int, Field(ge=0)] | None = None
    """Pixels to pad by before the random crop. Default: an eighth of the image size; 0 with crop_area."""
    crop_area: tuple[Share, Share] | None = None
    """Train on a random part of each image, resized to the image size, or to that of resize_schedule: the smallest and
    the largest share of the image's area that it has (0.08 1 for the published models). Image files are then read anew
    in every epoch."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = CROP_RATIO
    """Smallest and largest ratio of such a part's width to its height."""
    hflip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    auto_augment: Literal["none", "trivial", "rand"] = "none"
    """Changes of shape and color: trivial is one of TrivialAugment's 14 operations, with random strength, on every
    sample; rand two of them, one after the other, of RandAugment's strength."""
    rand_magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0
    """Strength of RandAugment, of 30."""
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Brightness, contrast and saturation change by up to this share of themselves, each by its own draw."""
    random_erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a box of 2 to 33% of the image is replaced by the mean color."""
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Mixup's Beta(alpha, alpha) coefficient, per sample; 0: off."""
    cutmix_alpha: Annotated[float, Field(ge=0)] = 0.0
    """CutMix's Beta(alpha, alpha) area, per sample; 0: off. If mixup is also on, each sample takes one of the two."""
    mix_prob: Annotated[float, Field(ge=0, le=1)] | None = None
    """Probability that a sample is mixed. Default: 1 with mixup or cutmix on."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability mass spread over all classes."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """What to do about classes of uneven sizes. weights: an image's loss counts in inverse proportion to the size of
    its class, 1 on average. sampling: an epoch shows as many images in total, of each class equally many, so images of
    small classes come several times."""
    resize_schedule: tuple[str, ...] = ()
    """Train on smaller images at first, given as SIZE:UNTIL with a fraction of the training: 24:0.6 trains at 24 pixels
    for the first 60% of it, 0.75:0.6 at three quarters of the image size, in whole patches. Several may follow each
    other; the full image size comes last."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mix_prob is not None and not (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError(
                f"mix_prob has no effect without mixup or cutmix, got mix_prob={self.mix_prob}, mixup_alpha=0, "
                "cutmix_alpha=0; set --mixup-alpha or --cutmix-alpha, or leave mix_prob out (--mix-prob None, if a "
                "recipe or a file sets it)"
            )
        return self

    @model_validator(mode="after")
    def _check_magnitude(self) -> Self:
        if self.rand_magnitude != type(self).model_fields["rand_magnitude"].default and self.auto_augment != "rand":
            raise ValueError(
                f"rand_magnitude has no effect without RandAugment, got rand_magnitude={self.rand_magnitude}, "
                f"auto_augment={self.auto_augment}; set --auto-augment rand, or leave rand_magnitude out"
            )
        return self

    @model_validator(mode="after")
    def _check_crop(self) -> Self:
        for name, value in (("crop_area", self.crop_area), ("crop_ratio", self.crop_ratio)):
            if value and value[0] > value[1]:
                raise ValueError(
                    f"{name} must give the smallest value first, got {name}={value[0]} {value[1]}; swap them"
                )
        if self.crop_ratio != CROP_RATIO and not self.crop_area:
            raise ValueError(
                f"crop_ratio has no effect without crop_area, got crop_ratio={' '.join(map(str, self.crop_ratio))}; "
                "set --crop-area, as in 0.08 1, or leave crop_ratio out"
            )
        if self.crop_area and self.crop_padding:
            raise ValueError(
                "crop_padding shifts images that are not cut at random, got "
                f"crop_padding={self.crop_padding} with crop_area={' '.join(map(str, self.crop_area))}; leave one of "
                "them out (--crop-padding None or --crop-area None, if a recipe or a file sets it)"
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        for stage in self.resize_schedule:
            if not STAGE.fullmatch(stage):
                raise ValueError(
                    "resize_schedule must be written as SIZE:UNTIL, with pixels or a fraction of the image size, and "
                    f"a fraction of the training below 1, got {brief(stage)}; 24:0.6 trains at 24 pixels for the first "
                    "60% of it"
                )
        ends = [float(stage.split(":")[1]) for stage in self.resize_schedule]
        if any(end <= 0 for end in ends) or any(before >= after for before, after in pairwise(ends)):
            raise ValueError(
                "resize_schedule must name fractions above 0, each larger than the one before, got "
                f"resize_schedule={' '.join(self.resize_schedule)}; order them, as in 16:0.3 24:0.6"
            )
        return self

    def resolved(self, image_size: int, patch_size: int = 1) -> "ResolvedAugment":
        mixes = self.mixup_alpha > 0 or self.cutmix_alpha > 0
        padding = 0 if self.crop_area else image_size // 8
        filled = self.filled(ResolvedAugment, crop_padding=padding, mix_prob=1.0 if mixes else None)
        in_pixels = tuple(_in_pixels(stage, image_size, patch_size) for stage in self.resize_schedule)
        return filled.model_copy(update={"resize_schedule": in_pixels})


def _in_pixels(stage: str, image_size: int, patch_size: int) -> str:
    size, until = stage.split(":")
    return f"{patch_size * round(float(size) * image_size / patch_size)}:{until}" if "." in size else stage


class ResolvedAugment(AugmentSettings):
    """All sizes are in pixels. mix_prob is None without mixup and cutmix, where it has no effect."""

    crop_padding: int

    @property
    def resize_stages(self) -> tuple[tuple[int, float], ...]:
        """Sizes of smaller images in pixels, each with the fraction of the training at which it ends."""
        stages = (stage.split(":") for stage in self.resize_schedule)
        return tuple((int(size), float(end)) for size, end in stages)
