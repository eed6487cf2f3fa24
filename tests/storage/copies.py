"""Runs on object storage as tests look at them, and machines that have nothing in common but that."""

from dataclasses import dataclass
from pathlib import Path

from tests.faults.tools.kills import Countdown, die
from tests.training.runs import small_run
from volo.runs import stored
from volo.runs.copies import local_copy
from volo.settings.config import Settings, merge
from volo.storage.bucket import Bucket

EPOCHS = 3  # of four steps, with a checkpoint after every other


def machine(tmp_path: Path, name: str) -> dict[str, str]:
    """What a process is given that runs on a machine with a disk of its own."""
    return {"VOLO_CACHE_DIR": str(tmp_path / "machines" / name)}


def stored_run(place: str, tmp_path: Path, images: Path, **overrides) -> Settings:
    values = {"run": dict(output_dir=place, checkpoint_every=2), "optim": dict(epochs=EPOCHS)}
    return small_run(tmp_path, images, **merge(values, overrides))


def seen(settings: Settings) -> Path:
    """The run, as somebody sees it who brings it from where it is kept."""
    return local_copy(settings.home, "a run")


def checkpoints(settings: Settings) -> list[int]:
    return [*stored.manifests(Bucket(settings.home).names())]


@dataclass(frozen=True)
class KillThere:
    """The process dies at the `count`-th call of a function of volo/runs/stored.py, before it or after."""

    function: str
    count: int
    is_after: bool = False

    exit_code = -9

    def arm(self, run_dir: Path) -> None:
        real, countdown = getattr(stored, self.function), Countdown(self.count, die)

        def counted(*args, **kwargs):
            if not self.is_after:
                countdown.tick()
            result = real(*args, **kwargs)
            if self.is_after:
                countdown.tick()
            return result

        setattr(stored, self.function, counted)
