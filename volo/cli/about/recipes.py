"""List the recipes: named experiments, what to expect of each, and the command that runs it.

volo recipes
"""

import dataclasses
from collections.abc import Sequence

from volo.cli.parse import parse_flags, program
from volo.console import print_entries
from volo.settings.config import Settings, build_settings
from volo.settings.recipes import RECIPES, recipe_settings


@dataclasses.dataclass(frozen=True)
class Flags:
    """None but help."""


def main(argv: Sequence[str]) -> None:
    parse_flags(Flags, argv, prog=program("recipes"), description=__doc__)
    print_entries({name: _lines(name) for name in RECIPES})


def _lines(name: str) -> list[str]:
    recipe = RECIPES[name]
    settings = build_settings(recipe_settings(name))
    return [recipe().expects, _what(settings), str(recipe.__doc__)]


def _what(settings: Settings) -> str:
    optim, data = settings.optim, settings.data
    return (
        f"{settings.model.variant} on {data.dataset} at {data.image_size} pixels, unless --dataset says otherwise; "
        f"{optim.epochs} epochs, batches of {optim.batch_size}"
    )
