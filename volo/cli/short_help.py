"""`--help` of a command with a hundred flags: the common ones, about a screen of them. `--help-all` lists the rest."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
# By their settings' names, in the order in which they are listed.
COMMON = (
    *("recipe", "config", "variant", "dataset", "data_dir", "epochs", "max_steps", "batch_size", "lr", "init_weights"),
    *("num_workers", "device", "output_dir", "run_name", "fresh", "seed", "address", "print_config"),
    "help_all",
)
# Left to --help-all where the options of a search need the room.
NOT_BESIDE_SEARCH = {"address", "variant", "batch_size", "lr", "init_weights", "device"}
COMMON_OF_SEARCH = (
    *("space", "num_samples", "sweep_name", "sampler", "pruner", "objectives", "max_concurrent", "workers_per_trial"),
    *("budget_minutes", "confirm_top", "winner_epochs"),
)


def asks_for_help(argv: Sequence[str]) -> bool:
    return not {*HELP, HELP_ALL}.isdisjoint(argv)


def asks_for_short_help(argv: Sequence[str]) -> bool:
    return asks_for_help(argv) and HELP_ALL not in argv


def spelled_for_tyro(argv: Sequence[str]) -> list[str]:
    """The command line with `--help`, with which tyro lists all flags, in place of `--help-all`."""
    return [HELP[-1] if arg == HELP_ALL else arg for arg in argv]


def shortened(flags: type) -> type:
    """A dataclass for tyro with those flags of a command that are in COMMON or COMMON_OF_SEARCH."""
    fields: dict[str, dataclasses.Field] = {}
    job: list[tuple] = []
    for field in dataclasses.fields(flags):
        if field.name == "job":
            job = [("job", _with_others_hidden(field.type))]
        elif dataclasses.is_dataclass(field.type):
            fields |= {inner.name: inner for inner in dataclasses.fields(field.type)}
        else:
            fields[field.name] = field
    names = [name for name in COMMON if name in fields and not (job and name in NOT_BESIDE_SEARCH)]
    shown: list[Any] = [(name, fields[name].type, fields[name].default) for name in names]
    return dataclasses.make_dataclass("Flags", job + shown, frozen=True)


def _with_others_hidden(options: Any) -> type:
    """A subclass, since tyro reads a field's help from the source of the class that it was defined in."""
    others = [field for field in dataclasses.fields(options) if field.name not in COMMON_OF_SEARCH]
    hidden: list[Any] = [(field.name, Annotated[field.type, tyro.conf.Suppress], _default(field)) for field in others]
    short = dataclasses.make_dataclass(options.__name__, hidden, bases=(options,), frozen=True)
    short.__doc__ = options.__doc__
    return short


def _default(field: dataclasses.Field) -> Any:
    return dataclasses.field(default=field.default, default_factory=field.default_factory)
