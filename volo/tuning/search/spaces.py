"""Search spaces: loaded by name or by path, and checked before anything is trained. No torch, no Ray."""

import hashlib
import importlib
import importlib.util
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna

from volo.errors import InputError, brief
from volo.settings.config import Settings, build_settings
from volo.settings.paths import path_to_read
from volo.tuning.search.asking import Asked, plain, plain_settings
from volo.tuning.search.library import space_names

NUM_TRIED = 30  # random points drawn to check that they give valid settings
MODES = ("max", "min")


@dataclass(frozen=True)
class Space:
    """A file of tune_spaces/, or a user's own (tune_spaces/__init__.py describes its parts).

    `draw` asks an Optuna trial and returns settings, nested as in a YAML file. `source` is a sha256 of the files that
    define it.
    """

    name: str
    recipe: str | None
    metric: str
    mode: str
    first_points: tuple[dict[str, Any], ...]
    draw: Callable[[Any], dict[str, Any]]
    source: str

    def drawn(self, trial: Any) -> dict[str, Any]:
        """The settings that a trial draws, in plain Python. Raises whatever the space raises, or InputError."""
        return plain_settings(self.draw(Asked(trial)))

    def settings(self, trial: Any, *base: dict[str, Any]) -> tuple[dict[str, Any], Settings]:
        """What a trial drew, and the checked settings. Raises whatever the space raises, or InputError."""
        drawn = self.drawn(trial)
        return drawn, build_settings(*base, drawn)


def load_space(name: str, package: ModuleType) -> Space:
    """The space of a name in `package`, or in a file named by a path that ends in .py.

    Raises:
        InputError: no such space, a file that raises, or one that lacks a part.
    """
    if name.endswith(".py"):
        path = path_to_read(name, "--space")
        module = _run_file(path)
        return _space(path.stem, module, [path])
    if name not in space_names(package):
        raise InputError(
            f"--space must be one of {', '.join(space_names(package))}, or a path that ends in .py, got {brief(name)}"
        )
    module = importlib.import_module(f"{package.__name__}.{name}")
    parts = [part for part in vars(module).values() if isinstance(part, ModuleType)]
    of_package = [part for part in parts if part.__name__.startswith(f"{package.__name__}.")]
    return _space(name, module, [Path(part.__file__) for part in (module, *of_package) if part.__file__])


def check_space(space: Space, *base: dict[str, Any]) -> None:
    """Checks the first points and NUM_TRIED random ones on top of the settings `base`.

    Raises:
        InputError: the space raises for a point, or its settings are invalid; the message names the point.
    """
    for number, point in enumerate(space.first_points, start=1):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Optuna warns about a value out of its range
            _try_point(space, optuna.trial.FixedTrial(point), f"point {number} of FIRST_POINTS", base)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(NUM_TRIED):
        _try_point(space, study.ask(), "a point", base)


def is_base(space: Space, *base: dict[str, Any]) -> bool:
    """Whether the space's first point equals the settings `base`, as it does for the space's own recipe."""
    if not space.first_points:
        return False
    _, first = space.settings(optuna.trial.FixedTrial(space.first_points[0]), *base)
    return first.resolved() == build_settings(*base).resolved()


def _try_point(space: Space, trial: Any, what: str, base: Sequence[dict[str, Any]]) -> None:
    try:
        drawn = space.drawn(trial)
    except InputError as error:
        raise InputError(f"the space {space.name} cannot be searched: {error}\n{what}: {trial.params}") from None
    except Exception as error:
        raise InputError(
            f"the space {space.name} must not raise, got {raised_in(space, error)}\n"
            f"{what}: {trial.params}; fix the space"
        ) from error
    try:
        build_settings(*base, drawn)
    except InputError as error:
        raise InputError(
            f"the space {space.name} must draw valid settings, got invalid ones: {error}\n{what}: {trial.params}; fix "
            "the space, or choose another --recipe for it"
        ) from None


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"--space must name an existing file, got {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "Python loads any file that ends in .py"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"the space {path} must not raise when it is loaded, got {_last_line(error)}") from error
    return module


def _space(name: str, module: ModuleType, files: list[Path]) -> Space:
    if missing := [part for part in ("space", "METRIC", "MODE") if not hasattr(module, part)]:
        raise InputError(f"a space must define space(trial), METRIC and MODE, got no {', '.join(missing)} in {name}")
    if module.MODE not in MODES:
        raise InputError(f"MODE must be one of {' or '.join(MODES)}, got {brief(module.MODE)} in {name}")
    return Space(
        name=name,
        recipe=getattr(module, "RECIPE", None),
        metric=module.METRIC,
        mode=module.MODE,
        first_points=tuple(plain(list(getattr(module, "FIRST_POINTS", ())))),
        draw=module.space,
        source=hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest(),
    )


def raised_in(space: Space, error: Exception) -> str:
    """The error, and the line of the space's file that raised it or called what raised it."""
    return _last_line(error, getattr(getattr(space.draw, "__code__", None), "co_filename", None))


def _last_line(error: Exception, file: str | None = None) -> str:
    """The error, and the last line of `file` in its traceback, or of any file if there is none."""
    found = list(traceback.extract_tb(error.__traceback__))
    frames = [frame for frame in found if frame.filename == file] or found
    where = f" at line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
