"""Print a script that completes the commands of volo and their flags in a shell.

eval "$(volo completion bash)"               in ~/.bashrc
volo completion zsh > DIR/_volo              DIR: a folder of $fpath, before compinit
volo completion fish > ~/.config/fish/completions/volo.fish
"""

import dataclasses
from collections.abc import Sequence
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Annotated, Any, Literal

import tyro

from volo.cli.flags import flags_over
from volo.cli.main import COMMANDS, module_of
from volo.cli.parse import parse_flags, program


@dataclasses.dataclass(frozen=True)
class Flags:
    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """The shell that is to read the script."""


def main(argv: Sequence[str]) -> None:
    flags = parse_flags(Flags, argv, prog=program("completion"), description=__doc__)
    tyro.cli(
        _every_command(), prog="volo", args=["--tyro-write-completion", flags.shell, "-"],
        config=(tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip


def _every_command() -> Any:
    """The flags of all commands, as a union of dataclasses that tyro takes for subcommands."""
    kinds = [
        Annotated[flags_of(name), tyro.conf.subcommand(name, description=summary, prefix_name=False)]
        for name, summary in COMMANDS.items()
    ]
    return reduce(or_, kinds)


def flags_of(command: str) -> type:
    """The dataclass of a command's flags; of one that takes settings, over the defaults."""
    from volo.cli.pipeline import PipelineOptions
    from volo.settings.config import build_settings
    from volo.tuning.options import SweepOptions

    options = {"train": None, "doctor": None, "tune": SweepOptions, "pipeline": PipelineOptions}
    if command in options:
        return flags_over(build_settings(), options[command], ())
    return import_module(module_of(command)).Flags
