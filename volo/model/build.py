"""Builds a model from a name or from settings."""

import re
from typing import Any

from volo.errors import InputError, brief, is_whole
from volo.model.flat import VOLO
from volo.model.published import PublishedVOLO
from volo.model.pyramid import VOLOPyramid
from volo.settings.config import Settings, build_settings
from volo.settings.data import RGB
from volo.settings.model import ModelSettings
from volo.settings.sizes import VARIANTS, forms_of

FORMS = {"flat": VOLO, "pyramid": VOLOPyramid, "published": PublishedVOLO}
AnyVOLO = VOLO | VOLOPyramid | PublishedVOLO


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    img_size: int | None = None,
    hierarchical: bool = False,
    in_chans: int = RGB,
    **overrides: Any,
) -> AnyVOLO:
    """A newly initialized model of a named size.

    Args:
        name: One of `volo.settings.sizes.VARIANTS`.
        num_classes: Number of logits; with 0 the model returns features, as in timm. Default: 100, or 1000 for a
            published model.
        img_size: Image height and width that the position embedding is made for; images may have other sizes. Default:
            32, or 224 for a published model.
        hierarchical: Build a pyramid of stages instead of a flat model.
        in_chans: Channels of the images, 1 to 13.
        **overrides: Settings of the form (volo/settings/model/), such as pooling="cli" or embed_dim=128 for a flat
            model, and downsample_kind="token" or stage_depths=(1, 1, 3) for a pyramid.

    Returns:
        A module that maps images (B, in_chans, H, W) to logits (B, num_classes), or, if num_classes is 0, to features
        (B, C).

    Raises:
        InputError: (a ValueError) an unknown name or setting, an argument of another type, values that do not fit each
            other, or sizes for which there is no memory.
    """
    is_published = isinstance(name, str) and name in VARIANTS and "published" in forms_of(name)
    if num_classes is None:
        num_classes = 1000 if is_published else 100
    if not (is_whole(num_classes) and num_classes >= 0):
        raise InputError(
            f"num_classes must be a whole number of at least 0 (features instead of logits), got {brief(num_classes)}; "
            "give the number of classes"
        )
    if img_size is None:
        img_size = 224 if is_published else 32
    if not is_whole(img_size):
        raise InputError(f"img_size must be a whole number of pixels, got {brief(img_size)}; give 32 or 224, say")
    if not isinstance(hierarchical, bool):
        raise InputError(f"hierarchical must be True or False, got {brief(hierarchical)}; give one of them")
    values = {"variant": name, **overrides}
    if hierarchical and values.setdefault("form", "pyramid") != "pyramid":
        raise InputError(f"hierarchical makes a pyramid, got form={brief(values['form'])}; drop one of them")
    data = {"dataset": "imagefolder", "image_size": int(img_size), "in_chans": in_chans}
    settings = build_settings({"model": values, "data": data})
    try:
        return build_model(
            settings.model, num_classes=int(num_classes), image_size=int(img_size), in_chans=settings.data.in_chans
        )
    except (RuntimeError, TypeError, OverflowError) as error:
        if not re.search("memory|overflow", str(error), re.IGNORECASE):
            raise
        sizes = f"{num_classes=:,}, {img_size=}, {brief(values)}"
        raise InputError(f"a model must have sizes that fit into memory, got {sizes}; choose smaller ones") from error


def build_model(settings: ModelSettings, *, num_classes: int, image_size: int, in_chans: int = RGB) -> AnyVOLO:
    """The model for checked settings, initialized from torch's global random generator."""
    arguments = settings.resolved().model_dump(exclude={"form", "variant"}, exclude_none=True)
    return FORMS[settings.form](num_classes=num_classes, img_size=image_size, in_chans=in_chans, **arguments)


def model_for(settings: Settings, num_classes: int) -> AnyVOLO:
    """The model of a run's settings, as `build_model`."""
    data = settings.data
    return build_model(settings.model, num_classes=num_classes, image_size=data.image_size, in_chans=data.in_chans)


__all__ = ["VARIANTS", "build_model", "create_model", "model_for"]
