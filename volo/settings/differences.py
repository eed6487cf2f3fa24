"""What differs between two settings, and what may between a run and its continuation."""

from collections.abc import Mapping
from typing import Any

from volo.errors import brief
from volo.settings.config import Settings
from volo.settings.data import VAL_FRACTION
from volo.settings.run import RunSettings

# What may differ between a run and its continuation: it cannot change the weights that come out. (skip_nonfinite only
# decides whether a run with a bad step ends at all: with any value that lets it, it ends with the same weights. The
# content of data_dir, and the weights of the teacher, must be the same: volo/training/initial.py.)
FREE_ON_RESUME = frozenset(
    {
        "recipe",
        "data.data_dir",
        "data.skip_damaged",
        "data.image_store",
        "optim.max_steps",
        "optim.patience",
        "optim.init_weights",
        "optim.skip_nonfinite",
        "optim.grad_checkpointing",
    }
    | {"teaching.teacher"}
    | {f"run.{name}" for name in RunSettings.model_fields if name != "seed"}
)


def differences(before: Settings, after: Settings) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the settings that differ once both are resolved, with both values."""
    one, two = _compared(before), _compared(after)
    return {key: (one.get(key), two.get(key)) for key in sorted({*one, *two}) if one.get(key) != two.get(key)}


def _compared(settings: Settings) -> dict[str, Any]:
    """Without a val_fraction the data decide, and the hash of their split is compared elsewhere."""
    values = flatten(settings.resolved().to_dict())
    return values | ({"data.val_fraction": VAL_FRACTION} if values["data.val_fraction"] is None else {})


def listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as indented lines, to follow a sentence."""
    return "\n".join(f"  {name}: {brief(before)} before, {brief(now)} now" for name, (before, now) in changes.items())


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
