"""Every setting of a run: typed, validated here and nowhere else, frozen once checked.

Defaults < recipe < YAML file < command line, each a nested dictionary laid over the one before (`merge`), then one
`Settings` object (`build_settings`). A field that is None takes its value from elsewhere, as its description says;
`Settings.resolved()` writes those values in, and that is what stands beside every checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from volo.errors import InputError
from volo.model_settings import FORMS, FlatModel, ModelSettings, for_form_of
from volo.sections import (
    IMAGENET,
    NORMALISATION,
    VAL_FRACTION,
    AugmentSettings,
    DataSettings,
    OptimSettings,
    RunSettings,
    Section,
    TeachingSettings,
)


class Settings(Section):
    recipe: str | None = None
    model: ModelSettings = FlatModel()
    data: DataSettings = DataSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
    teaching: TeachingSettings = TeachingSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _check(self):
        patch = self.model.resolved().patch_size
        if self.data.image_size < patch:
            raise ValueError(
                "image_size must be at least patch_size, "
                f"got image_size={self.data.image_size}, patch_size={patch}"
            )
        if self.optim.batch_size < (self.run.max_workers or 1):
            raise ValueError(
                "batch_size must give each worker a sample, "
                f"got batch_size={self.optim.batch_size}, num_workers={self.run.num_workers}"
            )
        if self.data.dataset == "shapes" and self.augment.auto_augment != "none":
            raise ValueError(
                "auto_augment changes colours, by which the classes of shapes differ, got "
                f"auto_augment={self.augment.auto_augment}, dataset=shapes; leave it out"
            )
        padding = self.augment.crop_padding
        if padding is not None and padding >= self.data.image_size:
            raise ValueError(
                "crop_padding must be smaller than image_size, "
                f"got crop_padding={padding}, image_size={self.data.image_size}"
            )
        if self.model.outlook_op == "cpu" and self.run.device == "cuda":
            raise ValueError("outlook_op=cpu computes on the CPU only, got device=cuda; use auto, or --device cpu")
        if self.model.outlook_op == "fused" and self.run.device == "cpu":
            raise ValueError("outlook_op=fused computes on the GPU only, got device=cpu; use auto, or --device cuda")
        if self.teaching.token_labels and self.model.form != "published":
            raise ValueError(
                f"token_labels need an auxiliary head, which published models have, got model={self.model.variant}; "
                "choose volo_d1 to volo_d5, or --distillation"
            )
        mixes_images = self.augment.mixup_alpha or self.augment.cutmix_alpha
        if self.teaching.mix_token and (self.optim.compile or mixes_images):
            raise ValueError(
                "mix_token mixes patches itself, each step by another box, got compile or mixup or cutmix with it; "
                "leave them out"
            )
        if self.optim.init_weights and self.run.resume_path:
            raise ValueError(
                "init_weights has no effect with resume_path, which brings weights of its own, got "
                f"init_weights={self.optim.init_weights}, resume_path={self.run.resume_path}; give one of them"
            )
        if self.data.train_images is not None and self.optim.batch_size > self.data.train_images:
            raise ValueError(
                "batch_size must not exceed the training images, "
                f"got batch_size={self.optim.batch_size}, train_images={self.data.train_images}"
            )
        return self

    def resolved(self) -> "Settings":
        """The same settings with every derived value written in and every path absolute."""
        data, augment, optim, run = self.data, self.augment, self.optim, self.run
        data_dir = None if data.dataset == "shapes" else _absolute(data.data_dir or f"data/{data.dataset}")
        mean, std = NORMALISATION.get(data.dataset, IMAGENET)
        mixing = augment.mixup_alpha > 0 or augment.cutmix_alpha > 0
        return self.model_copy(
            update=dict(
                model=self.model.resolved(),
                data=data.model_copy(
                    update=dict(
                        data_dir=data_dir,
                        mean=data.mean or mean,
                        std=data.std or std,
                        val_fraction=data.resolved_fraction,
                    )
                ),
                augment=augment.model_copy(
                    update=dict(
                        crop_padding=data.image_size // 8 if augment.crop_padding is None else augment.crop_padding,
                        mix_prob=1.0 if augment.mix_prob is None and mixing else augment.mix_prob,
                    )
                ),
                optim=optim.model_copy(
                    update=dict(
                        warmup_epochs=optim.epochs / 20 if optim.warmup_epochs is None else optim.warmup_epochs,
                        init_weights=optim.init_weights and _absolute(optim.init_weights),
                    )
                ),
                teaching=self.teaching.model_copy(
                    update=dict(teacher=self.teaching.teacher and _absolute(self.teaching.teacher))
                ),
                run=run.model_copy(
                    update=dict(
                        output_dir=_absolute(run.output_dir),
                        run_name=run.run_name or self._default_name(),
                        resume_path=run.resume_path and _absolute(run.resume_path),
                    )
                ),
            )
        )

    def _default_name(self) -> str:
        name, suffix = self.recipe or f"{self.data.dataset}-{self.model.variant}", self.model.suffix
        return name if name.endswith(suffix) else name + suffix

    @property
    def run_dir(self) -> Path:
        run = self.resolved().run
        return Path(run.output_dir, run.run_name)

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


# What may differ between a run and its continuation: it cannot change the weights that come out. (skip_nonfinite only
# decides whether a run with a bad step ends at all: with any value that lets it, it ends with the same weights.)
FREE_ON_RESUME = frozenset(
    {"recipe", "data.data_dir", "data.skip_damaged", "optim.max_steps", "optim.init_weights", "optim.skip_nonfinite"}
    | {f"run.{name}" for name in RunSettings.model_fields if name != "seed"}
)


def build_settings(*layers: dict[str, Any]) -> Settings:
    """Lays nested dictionaries over the defaults, the last one on top, and checks the result.

    Raises:
        InputError: an unknown key or a value out of range; the message names each.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values = merge(values, layer)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise InputError(describe(error)) from None


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, key by key, nested dictionaries likewise.

    Where `above` sets another form of the model, what belongs to the form below it alone is left behind.
    """
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        nested = isinstance(value, dict) and isinstance(under, dict)
        merged[key] = merge(for_form_of(value, under), value) if nested else value
    return merged


class _Reader(yaml.SafeLoader):
    """Safe, and without numbers in base 60, as which YAML 1.1 would read the 1:4 of num_workers."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | str:
        return node.value if ":" in node.value else super().construct_yaml_int(node)


_Reader.add_constructor("tag:yaml.org,2002:int", _Reader.construct_yaml_int)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A settings file as a dictionary. Raises InputError where it is missing or no mapping."""
    try:
        values = yaml.load(Path(path).read_text(), _Reader)
    except OSError as error:
        raise InputError(f"--config must name a readable YAML file, got {str(path)!r} ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config must be valid YAML, got {str(path)!r}: {error}") from None
    if not isinstance(values, dict):
        raise InputError(
            f"--config must hold sections such as 'model:' or 'optim:', got {type(values).__name__} in {str(path)!r}"
        )
    return values


def differences(before: Settings, after: Settings) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the settings that differ once both are resolved, with both values."""
    one, two = _compared(before), _compared(after)
    return {key: (one.get(key), two.get(key)) for key in sorted({*one, *two}) if one.get(key) != two.get(key)}


def _compared(settings: Settings) -> dict[str, Any]:
    """Where nothing is said of val_fraction, the data decide, and the hash of their split tells."""
    values = flatten(settings.resolved().to_dict())
    return values | ({"data.val_fraction": VAL_FRACTION} if values["data.val_fraction"] is None else {})


def listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as lines to stand below a sentence."""
    return "\n".join(f"  {name}: {before!r} before, {now!r} now" for name, (before, now) in changes.items())


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def describe(error: ValidationError) -> str:
    """pydantic's findings as this project's sentences: rule, value, and where to put it right."""
    lines = []
    for found in error.errors():
        name = ".".join(str(part) for part in found["loc"] if str(part).isidentifier() and part not in FORMS)
        if found["type"] == "value_error":
            lines.append(str(found["ctx"]["error"]))
        elif found["type"] == "union_tag_invalid":
            lines.append(f"{name}.form must be one of {', '.join(FORMS)}, got {found['ctx']['tag']!r}")
        elif found["type"] == "extra_forbidden":
            known = sorted(_fields_at(found["loc"][:-1]))
            lines.append(f"{name} is no setting, got {name}={found['input']!r}; known here: {', '.join(known)}")
        else:
            rule = found["msg"].removeprefix("Input ").replace("should", "must")
            lines.append(f"{name} {rule[0].lower()}{rule[1:]}, got {found['input']!r}")
    return "\n".join(dict.fromkeys(lines))


def _fields_at(location: tuple) -> list[str]:
    section: Any = Settings
    for part in location:
        section = FORMS.get(part) or section.model_fields[part].annotation
    return list(section.model_fields)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())

