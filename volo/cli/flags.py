"""The flags of a command that takes settings: what tyro is told of each of them."""

import dataclasses
import typing
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import tyro

from volo.settings.config import Settings
from volo.settings.model import FORMS, AnyModel, own_fields
from volo.settings.optim import OptimSettings
from volo.settings.recipes import RECIPES
from volo.settings.section import Section

SECTIONS = ("data", "augment", "optim", "teaching", "run")
FLAG_NAMES = {"variant": "model"}


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + FLAG_NAMES.get(name, name).replace("_", "-")


def negated(name: str) -> str:
    """The flag that switches a setting off."""
    return "--no-" + flag_of(name).removeprefix("--")


def flags_over(base: Settings, own: type | None, without: Collection[str], only: Collection[str] | None = None) -> type:
    """A dataclass for tyro: one flag a setting, its default taken from `base`, its help from the setting's docstring.

    tyro only parses; what the values may be is decided in volo/settings/config.py alone.

    Args:
        own: A dataclass of flags that are no settings, or None.
        without: Settings that have no flag.
        only: Flags. Settings that have none of these are left out: tyro takes nearly a millisecond for each.
    """
    fields: list[tuple] = [
        ("recipe", _flag(str | None, f"Named experiment to start from: {', '.join(RECIPES)}."), base.recipe),
        ("config", _flag(str | None, "YAML file of settings, laid over the recipe."), None),
        ("use_amp", _switch(OptimSettings.model_fields["use_amp"].description), False),
        ("no_amp", _switch("Compute in float32."), False),
        ("print_config", _switch("Check every value, print the settings as a file for --config, and stop."), False),
        ("help_all", _switch("Show every flag and exit."), False),
        ("hierarchical", _flag(bool, "A pyramid in place of a flat model; see below."), base.model.form == "pyramid"),
    ]
    sections = [(name, _group(getattr(base, name), without=without, only=only)) for name in SECTIONS]
    groups = [(name, group, group()) for name, group in (*_model_groups(base.model, only), *sections) if group]
    job = [("job", own)] if own else []
    return dataclasses.make_dataclass("Flags", job + fields + groups, frozen=True)


def described(flags: type) -> set[str]:
    """The flags that a dataclass for tyro describes."""
    found = set()
    for field in dataclasses.fields(flags):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= described(field.type)
            continue
        found.add(flag_of(field.name))
        if _plain(field.type) is bool and tyro.conf.FlagCreatePairsOff not in typing.get_args(field.type):
            found.add(negated(field.name))
    return found


def _model_groups(model: AnyModel, only: Collection[str] | None) -> list[tuple[str, type | None]]:
    """The settings of every form, so that each flag is known; `build_settings` refuses what a form cannot have."""
    forms = {name: model if model.form == name else form() for name, form in FORMS.items()}
    common = [name for name in AnyModel.model_fields if name != "form"]
    groups = [(name, _group(form, own_fields(name), only=only)) for name, form in forms.items()]
    return [("model", _group(model, common, AnyModel, only=only)), *groups]


def _group(
    section: Section,
    names: Sequence[str] | None = None,
    title: type | None = None,
    without: Collection[str] = (),
    only: Collection[str] | None = None,
) -> type | None:
    """A dataclass of a section's flags; None if it has none."""
    fields = [
        (name, _flag(field.annotation, field.description, FLAG_NAMES.get(name)), getattr(section, name))
        for name, field in type(section).model_fields.items()
        if name != "use_amp" and (names is None or name in names) and name not in without
        if only is None or not {flag_of(name), negated(name)}.isdisjoint(only)
    ]
    if not fields:
        return None
    title = title or type(section)
    group = dataclasses.make_dataclass(title.__name__, fields, frozen=True)
    group.__doc__ = title.__doc__
    return group


def _switch(description: str | None) -> Any:
    """A flag that turns on what nothing else turns off."""
    return Annotated[_flag(bool, description), tyro.conf.FlagCreatePairsOff]


def _flag(annotation: Any, description: str | None, name: str | None = None) -> Any:
    """The annotation with its help text. A default of None, or of a switch, is not shown but explained in the text."""
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    is_optional = type(None) in typing.get_args(annotation)
    metavar = "|".join(map(_metavar, kinds)) if is_optional else None
    hint = "" if is_optional or annotation is bool else None
    text = description and " ".join(description.split())
    return Annotated[annotation, tyro.conf.arg(name=name, help=text, metavar=metavar, help_behavior_hint=hint)]


def _metavar(kind: Any) -> str:
    """INT, {map,token}, INT [INT ...] or FLOAT FLOAT FLOAT."""
    kind = _plain(kind)
    if typing.get_origin(kind) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    if typing.get_origin(kind) is tuple:
        parts = [_metavar(part) for part in typing.get_args(kind) if part is not ...]
        return f"{parts[0]} [{parts[0]} ...]" if ... in typing.get_args(kind) else " ".join(parts)
    return kind.__name__.upper()


def _plain(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
