"""List the search spaces: what each one searches, over which recipe and for which metric, and what a trial costs.

    volo spaces

A name is for `volo tune --space NAME`. The files lie in the folder that the last line names; copy one to write your
own, which is searched by its path, --space path/to/file.py.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from types import ModuleType

from volo.cli.parse import parse_flags, program
from volo.console import print_entries
from volo.tuning.search.library import library, space_names


@dataclasses.dataclass(frozen=True)
class Flags:
    """None but help."""


def main(argv: Sequence[str]) -> None:
    parse_flags(Flags, argv, prog=program("spaces"), description=__doc__)
    package = library()
    spaces = {name: importlib.import_module(f"{package.__name__}.{name}") for name in space_names(package)}
    print_entries({name: _lines(space) for name, space in spaces.items()})
    print(f"files: {package.__path__[0]}")


def _lines(space: ModuleType) -> list[str]:
    aim = {"max": "the highest", "min": "the lowest"}[space.MODE]
    return [
        str(space.__doc__).splitlines()[0],
        f"recipe {space.RECIPE}, for {aim} {space.METRIC}; {len(space.FIRST_POINTS)} points tried first",
        f"cost of a trial: {space.COST}",
    ]
