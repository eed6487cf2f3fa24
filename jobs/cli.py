"""What every job shares: settings from the command line, and the exit code of the process."""

import argparse
import dataclasses
import os
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from volo.config import OptimSettings, Section, Settings, build_settings, read_yaml
from volo.errors import InferenceError, InputError, Stopped, TrainingError
from volo.recipes import RECIPES, recipe_settings

DONE, UNFORESEEN, WRONG_INPUT, WORK_FAILED = 0, 1, 2, 3
SECTIONS = ("model", "data", "augment", "optim", "run")
FLAG_NAMES = {"variant": "model"}


def run_job(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a job's main on the command line and ends the process with the documented exit code."""
    sys.exit(exit_code(main, sys.argv[1:]))


def exit_code(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """0 done, 1 unforeseen, 2 wrong input, 3 training or inference failed; 128 + the signal that stopped it."""
    try:
        main(argv)
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except TrainingError as error:
        print(f"training failed: {error}", file=sys.stderr)
        return WORK_FAILED
    except InferenceError as error:
        print(f"inference failed: {error}", file=sys.stderr)
        return WORK_FAILED
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal_number
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return UNFORESEEN
    return DONE


def parse_settings(argv: Sequence[str], *, prog: str, description: str) -> Settings | None:
    """One validated settings object from the command line; None after `--print-config`, which prints it.

    Raises:
        InputError: an unknown key, a value out of range, or settings that contradict each other.
        SystemExit: with code 2 for an unknown flag, 0 after `--help`.
    """
    base = _base_settings(argv)
    flags = tyro.cli(
        _flags_over(base),
        args=list(argv),
        prog=prog,
        description=description,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    if flags.use_amp and flags.no_amp:
        raise InputError("--use-amp and --no-amp contradict each other; give one of them")
    amp = {"optim": {"use_amp": flags.use_amp}} if flags.use_amp or flags.no_amp else {}
    given = {name: dataclasses.asdict(getattr(flags, name)) for name in SECTIONS}
    settings = build_settings(base.to_dict(), given, amp)
    if flags.print_config:
        print(settings.resolved().to_yaml(), end="")
        return None
    return settings


def given_flags(argv: Sequence[str]) -> set[str]:
    """The flags that stand on the command line, spelled with dashes."""
    return {arg.split("=")[0].replace("_", "-") for arg in argv if arg.startswith("--")}


def _base_settings(argv: Sequence[str]) -> Settings:
    """Defaults, recipe and YAML file: what the flags are laid over, and what `--help` shows as defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--recipe")
    first.add_argument("--config")
    try:
        known, _ = first.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None
    recipe = recipe_settings(known.recipe) if known.recipe else {}
    return build_settings(recipe, read_yaml(known.config) if known.config else {})


def _flags_over(base: Settings) -> type:
    """A dataclass for tyro: one flag a setting, its default taken from `base`, its help from the setting's docstring.

    tyro only parses; what the values may be is decided in volo/config.py alone.
    """
    fields: list[tuple] = [
        ("recipe", _flag(str | None, f"Named experiment to start from: {', '.join(RECIPES)}."), base.recipe),
        ("config", _flag(str | None, "YAML file of settings, laid over the recipe."), None),
        ("use_amp", _flag(bool, OptimSettings.model_fields["use_amp"].description), False),
        ("no_amp", _flag(bool, "Compute in float32."), False),
        ("print_config", _flag(bool, "Check every value, print the resolved settings, and stop."), False),
    ]
    groups = [(name, group, group()) for name in SECTIONS for group in [_group(getattr(base, name))]]
    return dataclasses.make_dataclass("Flags", fields + groups, frozen=True)


def _group(section: Section) -> type:
    fields = [
        (name, _flag(field.annotation, field.description, FLAG_NAMES.get(name)), getattr(section, name))
        for name, field in type(section).model_fields.items()
        if name != "use_amp"
    ]
    group = dataclasses.make_dataclass(type(section).__name__, fields, frozen=True)
    group.__doc__ = type(section).__doc__
    return group


def _flag(annotation: Any, description: str | None, name: str | None = None) -> Any:
    """The annotation with its help text. A default of None is explained there, not shown, nor is a switch's."""
    kinds = [_plain(kind) for kind in typing.get_args(annotation) if kind is not type(None)]
    is_optional = type(None) in typing.get_args(annotation)
    metavar = kinds[0].__name__.upper() if is_optional and kinds[0] in (int, float, str) else None
    hint = "" if is_optional or annotation is bool else None
    return Annotated[annotation, tyro.conf.arg(name=name, help=description, metavar=metavar, help_behavior_hint=hint)]


def _plain(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
