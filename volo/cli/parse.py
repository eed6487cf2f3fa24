"""What every command shares: settings from the command line, and the exit code of the process."""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import tyro

from volo.cli.flags import SECTIONS, described, flag_of, flags_over, negated
from volo.cli.short_help import asks_for_help, asks_for_short_help, shortened, spelled_for_tyro
from volo.errors import InputError, brief
from volo.log import LOGGER
from volo.settings.buckets import is_in_bucket
from volo.settings.config import Settings, build_settings, left_behind, merge
from volo.settings.data import place_here
from volo.settings.model import FORMS
from volo.settings.paths import folder_to_read, path_to_read
from volo.settings.ray_job import check_lasts
from volo.settings.recipes import recipe_settings
from volo.settings.run import RunSettings
from volo.settings.yaml_files import SettingsFile, read_yaml

Flags = TypeVar("Flags")
# Help texts are in docstrings. Without the second, tyro would read the sources of every class for comments, each time.
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
RESULTS = ("output_dir", "output")  # the flags that say where a command's results go
# A setting in a message: with its section, before its value, a name with an underscore, or the first word.
NAMED = r"(?<![\w./'-])(?:(?:model|data|augment|optim|teaching|run)\.{name}\b|{name}(?==)|(?=\w*_){name}\b|^{name}\b)"


def program(command: str) -> str:
    """What the usage line calls a command: as it was started, `python -m jobs.train` in a checkout or `volo train`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m jobs.{command}" if spec and spec.name == f"jobs.{command}" else f"volo {command}"


def parse_settings(argv: Sequence[str], *, prog: str, description: str) -> Settings | None:
    """One validated settings object from the command line; None after `--print-config`, which prints it.

    Raises:
        InputError: an unknown key, a value out of range, or settings that contradict each other.
        SystemExit: with code 2 for an unknown flag, 0 after `--help` or `--help-all`.
    """
    settings, _ = parse_settings_and(None, argv, prog=prog, description=description)
    return settings


def parse_settings_and(
    own: type | None, argv: Sequence[str], *, prog: str, description: str, without: Collection[str] = ()
) -> tuple[Settings | None, Any]:
    """Like `parse_settings`, with the flags of one command in addition.

    Args:
        own: A dataclass of them, or None.
        without: Settings that have no flag here.

    Returns:
        The settings, and an instance of `own`.
    """
    layers, given = _layers(argv), given_flags(argv)
    shown = _shown(layers)
    if asks_for_short_help(argv):
        kind = shortened(flags_over(shown, own, without))
        tyro.cli(kind, args=["--help"], prog=prog, description=description, config=CONFIG)
    kind = flags_over(shown, own, without, only=given)
    if asks_for_help(argv) or not given <= described(kind):  # every flag is listed, or compared with an unknown one
        kind = flags_over(shown, own, without)
    flags: Any = tyro.cli(kind, args=spelled_for_tyro(argv), prog=prog, description=description, config=CONFIG)
    if flags.use_amp and flags.no_amp:
        raise InputError("--use-amp and --no-amp contradict each other; give one of them")
    layers.append(_given(flags, given))
    try:
        settings = build_settings(*layers)
        if sized := _sized(settings, layers):
            layers.append(sized)
            settings = build_settings(*layers)
    except InputError as error:
        raise InputError(as_typed(str(error), given)) from None
    _say_what_has_no_effect(settings, layers, without)
    if flags.print_config:
        print(settings.to_yaml(), end="")
        return None, getattr(flags, "job", None)
    check_lasts(settings.run.output_dir, flag_of("output_dir"))
    return settings, getattr(flags, "job", None)


def parse_flags(flags: type[Flags], argv: Sequence[str], *, prog: str, description: str | None) -> Flags:
    """The flags of a command that takes no settings, as an instance of their dataclass."""
    parsed = tyro.cli(
        flags, args=spelled_for_tyro(argv), prog=prog, description=description,
        config=(*CONFIG, tyro.conf.FlagCreatePairsOff),
    )  # fmt: skip
    for name in RESULTS:
        if hasattr(parsed, name):
            check_lasts(getattr(parsed, name), flag_of(name))
    return parsed


def check_places(settings: Settings) -> None:
    """Raises InputError for a path that this user cannot reach, or a file in place of a folder; of the data, for what
    is read on this machine."""
    for name, path in (pair for section in settings.paths().values() for pair in section.items()):
        place = place_here(path) if name == "data_dir" and path is not None else path
        if place is not None and not is_in_bucket(place):
            (folder_to_read if name.endswith("_dir") else path_to_read)(place, flag_of(name))


def refuse_torchrun(prog: str) -> None:
    """Raises InputError for a command that starts its own workers, if torchrun would start it once for each rank."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError(f"{prog} starts its own workers, got torchrun around it; start it without torchrun")


def given_flags(argv: Sequence[str]) -> set[str]:
    """The flags that stand on the command line, spelled with dashes."""
    return {arg.split("=")[0].replace("_", "-") for arg in argv if arg.startswith("--")}


def as_typed(message: str, given: Collection[str]) -> str:
    """A message about settings, with the flags that stand on the command line in place of the settings' names."""
    for section in Settings.model_fields.values():
        for name in getattr(section.annotation, "model_fields", {}) or _model_names():
            if (flag := flag_of(name)) in given:
                message = re.sub(NAMED.format(name=name), flag, message)
    return message


def _model_names() -> set[str]:
    return {name for form in FORMS.values() for name in form.model_fields}


def known_first(argv: Sequence[str], *flags: str) -> argparse.Namespace:
    """The values of flags that decide what others there are, and their defaults; None for those not given."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in flags:
        first.add_argument(flag, action="append", default=[])
    try:
        known = vars(first.parse_known_args(list(argv))[0])
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None
    for name, values in known.items():
        if len(values) > 1:
            raise InputError(f"--{name} can be given once, got {' and '.join(values)}; leave one out")
    return argparse.Namespace(**{name: values[0] if values else None for name, values in known.items()})


def _layers(argv: Sequence[str]) -> list[dict[str, Any]]:
    """Recipe and YAML file, as they are: what the flags are laid over. The file may name the recipe that it lies over;
    a flag has the last word."""
    known = known_first(argv, "--recipe", "--config")
    named = {} if known.recipe is None else recipe_settings(known.recipe)
    if known.config is None:
        return [named, {}]
    file = read_yaml(known.config)
    layers = [named if known.recipe is not None else _recipe_of(file), file]
    file.pop("recipe", None)
    return layers


def _recipe_of(file: SettingsFile) -> dict[str, Any]:
    name = file.get("recipe")
    try:
        return {} if name is None else recipe_settings(name)
    except InputError as error:
        raise InputError(file.located(str(error))) from None


def _sized(settings: Settings, layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One more layer, of the size that an image folder's photographs suggest if none is given, and of patches that fit
    it; it says so."""
    given: dict[str, Any] = {}
    for layer in layers:
        given = merge(given, layer)
    folder = settings.paths()["data"]["data_dir"]
    if settings.data.dataset != "imagefolder" or "image_size" in given.get("data", {}) or folder is None:
        return {}
    from volo.data.folders.sizing import chosen_size, geometry  # NumPy and Pillow take time to load

    try:
        size = chosen_size(place_here(folder))
    except InputError:  # said where the data are opened
        return {}
    if size in (None, settings.data.image_size):
        return {}
    fits = not {"patch_size", "stem_channels"} & given.get("model", {}).keys()
    model = geometry(settings.model, size) if fits else {}
    patches = f" in patches of {model['patch_size']}" if model else ""
    _say(f"images are used at {size} pixels{patches}, as most of them have that many; --image-size sets it")
    return {"data": {"image_size": size}, "model": model}


def _say_what_has_no_effect(settings: Settings, layers: Sequence[dict[str, Any]], without: Collection[str]) -> None:
    """Of what the file sets, what the flags leave behind by choosing another form of the model or weights to start
    from, and what this job decides itself. (A flag for either is refused; a recipe's own values may be left behind.)"""
    file = merge({}, layers[1])
    where = {"model": f"on {settings.model.called}", "optim": "on the weights that training starts from"}
    for section, lost in left_behind(*layers).items():
        for name in (name for name in file.get(section, {}) if name in lost):
            _say(f"{section}.{name}={brief(lost[name])} of --config has no effect {where[section]}")
    for name, value in file.get("run", {}).items():
        if name in without and value not in (None, RunSettings.model_fields[name].default):
            _say(f"run.{name}={brief(value)} of --config has no effect here")


def _say(message: str) -> None:
    """Once, also under torchrun, where every rank reads the same command."""
    if os.environ.get("RANK", "0") == "0":
        LOGGER.info(message)


def _shown(layers: list[dict[str, Any]]) -> Settings:
    """The defaults that `--help` shows: of the layers, or where only flags make them whole, of the recipe."""
    try:
        return build_settings(*layers)
    except InputError:
        return build_settings(layers[0])


def _given(flags: Any, given: set[str]) -> dict[str, Any]:
    """What the command line says, as one more layer: its own flags alone."""
    values: dict[str, Any] = {name: _spoken(flags, name, given) for name in SECTIONS}
    values["model"] = {}
    for group in ("model", *FORMS):
        values["model"] |= _spoken(flags, group, given)
    if given & {"--hierarchical", "--no-hierarchical"}:
        values["model"]["form"] = "pyramid" if flags.hierarchical else "flat"
    if flags.use_amp or flags.no_amp:
        values["optim"]["use_amp"] = flags.use_amp
    return values


def _spoken(flags: Any, name: str, given: set[str]) -> dict[str, Any]:
    """The values of a group of flags that stand on the command line, switched on or off."""
    group = getattr(flags, name, None)
    names = [field.name for field in dataclasses.fields(group)] if group else []
    return {name: getattr(group, name) for name in names if given & {flag_of(name), negated(name)}}
