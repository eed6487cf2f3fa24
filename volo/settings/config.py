"""All settings of a run: typed, validated only here, frozen once checked.

Defaults < recipe < YAML file < command line, each a nested dictionary laid over the one before (`merge`), then one
`Settings` object (`build_settings`). A field that is None takes its value from elsewhere, as its description says.
`Settings.resolved()` writes those values in, and that is what a model file holds; a settings file does not
(`Settings.to_yaml`), so that they are derived again if other settings are laid over it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from volo.cache import place_of_copies
from volo.errors import InputError, brief, cut, first_of
from volo.settings.augment import AugmentSettings, ResolvedAugment
from volo.settings.buckets import is_in_bucket
from volo.settings.data import DataSettings, ResolvedData
from volo.settings.model import FORMS, FlatModel, ModelSettings, ResolvedModel, for_form_of, owner
from volo.settings.optim import OptimSettings, ResolvedOptim
from volo.settings.paths import local_path
from volo.settings.run import ResolvedRun, RunSettings
from volo.settings.section import Section
from volo.settings.sizes import NUM_CLASS_BLOCKS, VARIANTS
from volo.settings.teaching import TeachingSettings
from volo.settings.weights import address_of
from volo.settings.yaml_files import SettingsFile, reason_in, to_text


class Settings(Section):
    recipe: Annotated[str, Field(min_length=1)] | None = None
    model: ModelSettings = FlatModel()
    data: DataSettings = DataSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
    teaching: TeachingSettings = TeachingSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        patch = self.model.resolved().patch_size
        if self.data.image_size < patch:
            raise ValueError(
                f"image_size must be at least patch_size, got image_size={self.data.image_size}, patch_size={patch}; "
                "raise --image-size, or lower --patch-size"
            )
        if self.optim.batch_size < (self.run.max_workers or 1):
            raise ValueError(
                "batch_size must give each worker a sample, "
                f"got batch_size={self.optim.batch_size}, num_workers={self.run.num_workers}; raise --batch-size, or "
                "lower --num-workers"
            )
        for name, off in (("auto_augment", "none"), ("color_jitter", 0)):
            if self.data.dataset == "shapes" and (found := getattr(self.augment, name)) != off:
                raise ValueError(
                    f"{name} changes colors, by which the classes of shapes differ, got {name}={found}, "
                    "dataset=shapes; leave it out"
                )
        if self.augment.crop_area and self.data.image_store == "decoded":
            raise ValueError(
                "crop_area cuts parts from the whole images, which decoded ones are not, got image_store=decoded; "
                "leave it out (--image-store auto, if a recipe or a file sets it)"
            )
        padding = self.augment.crop_padding
        if padding is not None and padding >= self.data.image_size:
            raise ValueError(
                "crop_padding must be smaller than image_size, "
                f"got crop_padding={padding}, image_size={self.data.image_size}; lower --crop-padding"
            )
        for size, _ in self.augment.resolved(self.data.image_size, patch).resize_stages:
            if not patch <= size < self.data.image_size:
                raise ValueError(
                    "resize_schedule must name sizes of at least patch_size and below image_size, got "
                    f"{size} with patch_size={patch}, image_size={self.data.image_size}; choose a size between them, "
                    "or give --resize-schedule without one"
                )
        if self.augment.resize_schedule and (other := self._other_than_resizing()):
            raise ValueError(
                f"resize_schedule needs a model that sees images as they are, got {other} with it; leave that "
                "out, or give --resize-schedule without a size"
            )
        if self.model.outlook_op == "cpu" and self.run.device == "cuda":
            raise ValueError("outlook_op=cpu computes on the CPU only, got device=cuda; use auto, or --device cpu")
        if self.model.outlook_op == "fused" and self.run.device == "cpu":
            raise ValueError("outlook_op=fused computes on the GPU only, got device=cpu; use auto, or --device cuda")
        if self.teaching.token_labels and self.model.form != "published":
            raise ValueError(
                f"token_labels need an auxiliary head, which published models have, got model={self.model.variant}; "
                "choose --model volo_d1 to volo_d5, or --distillation in place of --token-labels"
            )
        if self.teaching.mix_token and (others := self._others_than_mix_token()):
            found = ", ".join(f"{name}={value}" for name, value in others.items())
            raise ValueError(
                f"mix_token mixes patches itself, each step by another box, got {found} with it; leave mix_token out, "
                f"or set {' '.join(OFF[name] for name in others)}"
            )
        if self.optim.whiten_stem and getattr(self.model.resolved(), "stem_channels", True) == ():
            raise ValueError(
                "whiten_stem needs a stem of convolutions, got stem_channels=(); set --stem-channels, or omit "
                "--whiten-stem (--no-whiten-stem, if a recipe or a file sets it)"
            )
        if self.optim.freeze is not None and not (self.optim.init_weights or self.run.resume_path):
            raise ValueError(
                f"freeze keeps the weights that training starts from, got freeze={self.optim.freeze} without any; give "
                "--init-weights, or leave freeze out (--freeze None, if a recipe or a file sets it)"
            )
        if isinstance(self.optim.freeze, int) and self.optim.freeze > (blocks := num_blocks(self.model)):
            raise ValueError(
                f"freeze must leave something to train, got freeze={self.optim.freeze} for {blocks} blocks; lower "
                "--freeze, or give --freeze backbone"
            )
        if self.optim.patience is not None and not self.data.validates:
            raise ValueError(
                f"patience needs validation images, got patience={self.optim.patience} with val_fraction=0; leave one "
                "of them out"
            )
        if self.optim.init_weights and self.run.resume_path:
            raise ValueError(
                "init_weights has no effect with resume_path, which brings its own weights, got "
                f"init_weights={cut(self.optim.init_weights)}, resume_path={cut(self.run.resume_path)}; give one "
                "of them"
            )
        if self.data.train_images is not None and self.optim.batch_size > self.data.train_images:
            raise ValueError(
                "batch_size must not exceed the training images, "
                f"got batch_size={self.optim.batch_size}, train_images={self.data.train_images}; lower --batch-size, "
                "or raise --train-images"
            )
        return self

    def _others_than_mix_token(self) -> dict[str, Any]:
        """Settings that exclude mix_token."""
        augment = self.augment
        values = dict(compile=self.optim.compile, mixup_alpha=augment.mixup_alpha, cutmix_alpha=augment.cutmix_alpha)
        found = {name: value for name, value in values.items() if value}
        return found | ({"mix_prob": augment.mix_prob} if found and augment.mix_prob is not None else {})

    def _other_than_resizing(self) -> str:
        """A setting that excludes resize_schedule: the model enlarges all images, or labels belong to fixed patches."""
        if (size := getattr(self.model, "input_size", None)) is not None:
            return f"input_size={size}"
        return "token_labels=True" if self.teaching.token_labels else ""

    def paths(self) -> dict[str, dict[str, str | None]]:
        """Every path, by section and name, as it was given; the data's own where none was. Addresses are no paths."""
        weights = self.optim.init_weights
        return {
            "data": {"data_dir": self.data.data_dir or self._default_data_dir()},
            "optim": {"init_weights": weights} if weights is None or address_of(weights) is None else {},
            "teaching": {"teacher": self.teaching.teacher},
            "run": {"output_dir": self.run.output_dir, "resume_path": self.run.resume_path},
        }

    def located(self) -> Self:
        """The same settings with every path absolute, the data's own too: what is sent to a process elsewhere."""
        return self.model_copy(update={name: self._located(name, values) for name, values in self.paths().items()})

    def _located(self, section: str, paths: Mapping[str, str | None]) -> Section:
        absolute = {key: path and _absolute(path, key) for key, path in paths.items()}
        return getattr(self, section).model_copy(update=absolute)

    def resolved(self) -> "ResolvedSettings":
        """The same settings with every derived value written in and every path absolute."""
        located = self.located()
        model = located.model.resolved()
        sections: dict[str, Any] = dict(
            model=model,
            data=located.data.resolved(is_cut=self.augment.crop_area is not None),
            augment=located.augment.resolved(self.data.image_size, model.patch_size),
            optim=located.optim.resolved(),
            teaching=located.teaching,
            run=located.run.resolved(self._default_name()),
        )
        return located.filled(ResolvedSettings).model_copy(update=sections)

    def _default_data_dir(self) -> str | None:
        return None if self.data.dataset == "shapes" else f"data/{self.data.dataset}"

    def _default_name(self) -> str:
        suffix = self.model.suffix
        name = f"{self.data.dataset}-{self.model.variant}" if self.recipe is None else self.recipe
        return name if name.endswith(suffix) else name + suffix

    @property
    def home(self) -> str:
        """Where the run is kept: its folder, or its place on object storage."""
        run = self.resolved().run
        return f"{run.output_dir}/{run.run_name}" if self.is_in_bucket else str(self.run_dir)

    @property
    def is_in_bucket(self) -> bool:
        """Whether the run is kept on object storage."""
        return is_in_bucket(self.run.output_dir)

    @property
    def run_dir(self) -> Path:
        """The run's folder on this machine; of a run on object storage, a working copy in the cache."""
        run = self.resolved().run
        folder = place_of_copies("runs", run.output_dir) if self.is_in_bucket else Path(run.output_dir)
        return folder / run.run_name

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """As a settings file (yaml_files.py): what is given, with absolute paths; what is derived as comments.

        Read alone, it means the same settings; if others are laid over it, what they leave open is derived again.
        """
        given, located = self.to_dict(), self.located().to_dict()
        for name in SECTIONS:
            values = given[name].items()
            given[name] = {key: value if value is None else located[name][key] for key, value in values}
        if "form" not in self.model.model_fields_set:
            given["model"]["form"] = None
        return to_text(given, self.resolved().to_dict(), self._reasons())

    def _reasons(self) -> dict[str, dict[str, str | None]]:
        """Where derived values come from, by section and name."""
        reasons: dict[str, dict[str, str | None]] = {
            name: {key: reason_in(field.description) for key, field in type(getattr(self, name)).model_fields.items()}
            for name in SECTIONS
        }
        model = self.model
        reasons["model"] |= dict.fromkeys(("form", *VARIANTS[model.variant][model.form]), f"of {model.variant}")
        return reasons


def _absolute(place: str, name: str) -> str:
    return place if is_in_bucket(place) else str(local_path(place, name))


def num_blocks(model: ModelSettings) -> int:
    """Outlookers, transformer blocks, and blocks of class attention."""
    full: Any = model.resolved()
    if model.form == "pyramid":
        return sum(full.stage_depths)
    if model.form == "published":
        return sum(full.layers) + NUM_CLASS_BLOCKS
    return full.local_depth + full.global_depth + (full.class_depth if full.pooling == "cli" else 0)


class ResolvedSettings(Settings):
    """Settings in which nothing is left to derive: what a run computes with and a model file holds."""

    model: ResolvedModel
    data: ResolvedData
    augment: ResolvedAugment
    optim: ResolvedOptim
    run: ResolvedRun


MAX_FINDINGS = 10
SECTIONS = tuple(name for name in Settings.model_fields if name != "recipe")

# What a command line says to turn a setting off, wherever it was turned on.
OFF = {
    "compile": "--no-compile",
    "mixup_alpha": "--mixup-alpha 0",
    "cutmix_alpha": "--cutmix-alpha 0",
    "mix_prob": "--mix-prob None",
}


def build_settings(*layers: dict[str, Any]) -> Settings:
    """Lays nested dictionaries over the defaults, the last one on top, and checks the result.

    Raises:
        InputError: an unknown key, a value out of range, or a layer that is no dictionary; the message names each, and
            its line if a file gives it.
    """
    values: dict[str, Any] = {}
    try:
        for layer in layers:
            values = merge(values, layer)
        return Settings.model_validate(values)
    except ValidationError as error:
        said = describe(error)
    except InputError as error:
        said = str(error)
    for number, layer in enumerate(layers, start=1):
        if isinstance(layer, SettingsFile):
            said = layer.located(said, layers[number:])
    raise InputError(said)


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section and in each key by key.

    If `above` sets another form of the model, settings that only the form below has are dropped; if it starts from
    weights, a stem that whitens is (`left_behind` lists both).

    Raises:
        InputError: another value where a section, or a dictionary of sections, is wanted.
    """
    if not isinstance(above, Mapping):
        raise InputError(
            f"settings must be a dictionary of sections, got {brief(above)}; give {{'data': {{...}}, ...}}, or "
            "volo.settings.recipes.recipe_settings(name) for those of a recipe"
        )
    merged = dict(below)
    for name, value in above.items():
        over, under = _section(name, value), _section(name, merged.get(name, {}))
        if not (isinstance(over, dict) and isinstance(under, dict)):
            merged[name] = over
        else:
            merged[name] = _kept(name, under, over) | over
    return merged


def _kept(name: str, under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Of a section, what the one above leaves."""
    if name == "model":
        return for_form_of(over, under)
    if name == "optim" and any(over.get(key) is not None for key in ("init_weights", "freeze")):
        return {key: value for key, value in under.items() if key != "whiten_stem"}
    return under


def _section(name: str, value: Any) -> Any:
    """A section as a dictionary: an empty one for none, `model: small` for its variant. Other values are returned as
    they are. Raises InputError for any other value of a section."""
    if name not in SECTIONS or isinstance(value, dict):
        return value
    if value is None:
        return {}
    if name == "model" and isinstance(value, str) and value in VARIANTS:
        return {"variant": value}
    if name == "model":
        raise InputError(
            f"model must be a section, or one of {', '.join(VARIANTS)}, got model={brief(value)}; write model: small, "
            "or model: {variant: small, ...} with other settings of the model"
        )
    section: Any = Settings.model_fields[name].annotation
    example = next(iter(section.model_fields))
    raise InputError(f"{name} must be a section, got {name}={brief(value)}; write {name}: {{{example}: ..., ...}}")


def left_behind(*layers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings, by section, that one layer gives and a layer above it drops, because it sets another form of the model,
    which cannot have them, or weights to start from; except defaults. Layers as in `build_settings`."""
    return {name: lost for name in ("model", "optim") if (lost := _left_behind(name, layers))}


def _left_behind(name: str, layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    section: dict[str, Any] = {}
    lost: dict[str, Any] = {}
    for layer in layers:
        over = _section(name, layer.get(name))
        kept = _kept(name, section, over)
        lost |= {key: value for key, value in section.items() if key not in kept}
        section = kept | over
    return {
        key: value for key, value in lost.items() if value not in (None, _default(name, key)) and key not in section
    }


def _default(section: str, key: str) -> Any:
    kind: Any = FORMS[owner(key) or "flat"] if section == "model" else Settings.model_fields[section].annotation
    return kind.model_fields[key].default


def describe(error: ValidationError) -> str:
    """pydantic's findings as this project's sentences: rule, value, and what to change."""
    lines = []
    for found in error.errors()[: 10 * MAX_FINDINGS]:
        name = ".".join(str(part) for part in found["loc"] if str(part).isidentifier() and part not in FORMS)
        if found["type"] == "value_error":
            lines.append(str(found["ctx"]["error"]))
        elif found["type"] == "union_tag_invalid":
            lines.append(f"{name}.form must be one of {', '.join(FORMS)}, got {brief(found['ctx']['tag'])}")
        elif found["type"] == "extra_forbidden":
            *above, key = found["loc"]
            shown = str(key) if str(key).isidentifier() else brief(key)
            unknown = ".".join([*(str(part) for part in above if part not in FORMS), shown])
            value, known = brief(found["input"]), ", ".join(sorted(_fields_at(tuple(above))))
            lines.append(f"{unknown} is no setting, got {unknown}={value}; known here: {known}")
        else:
            rule = found["msg"].removeprefix("Input ").replace("should", "must")
            lines.append(f"{name} {rule[0].lower()}{rule[1:]}, got {brief(found['input'])}".lstrip())
    return first_of(list(dict.fromkeys(lines)), MAX_FINDINGS, "\n")


def _fields_at(location: tuple) -> list[str]:
    section: Any = Settings
    for part in location:
        section = FORMS.get(part) or section.model_fields[part].annotation
    return list(section.model_fields)
