"""From settings or a name to a model."""

from torch import nn

from volo.config import ModelSettings, build_settings
from volo.model.flat import VOLO
from volo.variants import VARIANTS


def create_model(name: str, *, num_classes: int = 100, img_size: int = 32, **overrides) -> nn.Module:
    """A freshly initialised model of a named size.

    Args:
        name: One of `volo.variants.VARIANTS`.
        num_classes: Width of the logits.
        img_size: Pixels a side that the position embedding is made for; other sizes work too.
        **overrides: Any field of `volo.config.ModelSettings`, such as embed_dim=128.

    Returns:
        A module, images (B, 3, H, W) -> logits (B, num_classes).

    Raises:
        InputError: (a ValueError) an unknown name or setting, or values that do not fit each other.
    """
    settings = build_settings({"model": {"variant": name, **overrides}, "data": {"image_size": img_size}})
    return build_model(settings.model, num_classes=num_classes, image_size=img_size)


def build_model(settings: ModelSettings, *, num_classes: int, image_size: int) -> nn.Module:
    """The model that checked settings describe, freshly initialised from torch's global generator."""
    arguments = settings.resolved().model_dump(exclude={"variant"})
    return VOLO(num_classes=num_classes, img_size=image_size, **arguments)


__all__ = ["VARIANTS", "build_model", "create_model"]
