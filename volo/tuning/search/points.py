"""Lists all points of a discrete space, following its conditions, without random draws."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from volo.errors import InputError
from volo.tuning.search.distinct import identity_of, identity_of_failed
from volo.tuning.search.spaces import Space

MOST_POINTS = 10_000


class NotDiscrete(InputError):
    """The points of a space cannot be listed."""


@dataclass(frozen=True)
class Point:
    """Parameters by name, and the identity of what a trial with them trains (`distinct.identity`)."""

    params: dict[str, Any]
    identity: str


def all_points(space: Space) -> list[Point]:
    """All points, in the order of their values; only the first of those that train the same settings.

    Raises:
        InputError: the points cannot be listed, or there are too many.
    """
    points = list(islice(_distinct(space), MOST_POINTS + 1))
    if len(points) > MOST_POINTS:
        raise NotDiscrete(f"a grid may have up to {MOST_POINTS:,} points; use --sampler tpe or random")
    return points


def known_points(space: Space, at_most: int = MOST_POINTS) -> list[Point] | None:
    """Like `all_points`, but None if the points cannot be listed or there are more than `at_most`."""
    try:
        points = list(islice(_distinct(space), at_most + 1))
    except NotDiscrete:
        return None
    return points if len(points) <= at_most else None


def point_of(space: Space, trial: Any) -> Point:
    """The values that a trial takes, and the result. Raises only NotDiscrete: a point may be one where the space
    raises."""
    try:
        identity = identity_of(space.drawn(trial))
    except NotDiscrete:
        raise
    except Exception:
        identity = identity_of_failed(trial.params)
    return Point(dict(trial.params), identity)


def _distinct(space: Space) -> Iterator[Point]:
    seen = set()
    for point in _walked(space):
        if point.identity not in seen:
            seen.add(point.identity)
            yield point


def _walked(space: Space) -> Iterator[Point]:
    path: list[list] = []  # name, values, which of them
    while True:
        walk = Walk(path)
        yield point_of(space, walk)
        path = walk.path
        while path and path[-1][2] + 1 >= len(path[-1][1]):
            path.pop()
        if not path:
            return
        path[-1][2] += 1


class Walk:
    """A trial that takes the values in `path`, and the first value of every other parameter."""

    def __init__(self, path: list[list]):
        self.path = [list(step) for step in path]
        self.params: dict[str, Any] = {}
        self._num_taken = 0

    def __getattr__(self, name: str) -> Any:
        raise NotDiscrete(f"a grid needs a space that does nothing but suggest values, got one that uses trial.{name}")

    def set_user_attr(self, key: str, value: Any) -> None:
        """Does nothing: attributes are not part of a point."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, list(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._take(name, list(range(low, high + 1, step)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is None:
            raise NotDiscrete(f"a grid needs a discrete space, got {name} between {low} and {high}; use --sampler tpe")
        return self._take(name, [low + number * step for number in range(round((high - low) / step) + 1)])

    def _take(self, name: str, values: list[Any]) -> Any:
        if name in self.params:
            return self.params[name]
        if self._num_taken == len(self.path):
            self.path.append([name, values, 0])
        _, _, which = self.path[self._num_taken]
        self._num_taken += 1
        self.params[name] = values[which]
        return values[which]
