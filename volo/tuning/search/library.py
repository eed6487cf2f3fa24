"""The library of search spaces, found by its place: inside the package, or beside it in a checkout. No Optuna."""

import importlib.util
import pkgutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from volo.errors import InputError

NAME = "tune_spaces"
PACKAGE = Path(__file__).parents[2]


@cache
def library() -> ModuleType:
    """The package `tune_spaces`, under that name, which its spaces and users' own import one another by.

    Raises:
        InputError: the folder is at neither place.
    """
    if NAME in sys.modules:
        return sys.modules[NAME]
    folder = library_folder()
    file, inside = folder / "__init__.py", [str(folder)]
    spec = importlib.util.spec_from_file_location(NAME, file, submodule_search_locations=inside)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def library_folder() -> Path:
    places = (PACKAGE / NAME, PACKAGE.parent / NAME)
    for folder in places:
        if (folder / "__init__.py").is_file():
            return folder
    raise InputError(
        f"the search spaces must lie in {places[0]}, or in {places[1]} in a checkout, got neither; install volo again"
    )


def space_names(package: ModuleType) -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))
