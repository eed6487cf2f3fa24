"""The run's section of the settings."""

import contextlib
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from volo.errors import brief, cut
from volo.settings.durations import parse_duration
from volo.settings.section import NameText, PlaceText, Section

WORKER_COUNTS = re.compile(r"(\d+)(?::(\d+))?")


def _text_of_number(value: Any) -> Any:
    """A number as text; other values are returned as they are."""
    return str(value) if isinstance(value, int | float) else value


class RunSettings(Section):
    """Where the run is stored, and how it is started; of these settings only the seed can change the result."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random in training except the split."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] | None = None
    """Train once with each of these seeds, one after another, in <run_name>/seed<seed>; ends with a summary."""
    output_dir: PlaceText = "./outputs"
    """Folder of run folders; on a cluster, one that every node sees, or s3://BUCKET/PATH."""
    run_name: NameText | None = None
    """Name of the run's folder. Default: the recipe, or <dataset>-<model>; followed by the form, unless it is a flat
    model with mean pooling: nano-cli, nano-pyramid-token."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints to keep, in addition to the best one."""
    checkpoint_every: Annotated[str, BeforeValidator(_text_of_number)] | None = None
    """More checkpoints than the one after every epoch: 200 is every 200 steps, 5m every five minutes (s, m, h)."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between log records."""
    hang_timeout: str = "10m"
    """End the run, and name the rank that hangs, if no step, validation batch or save begins for this long (90s, 10m,
    2h); 0: never. Until the first step is done the limit is at least 90 minutes, for data and compilers."""
    resume_path: PlaceText | None = None
    """Start from this checkpoint's state: a run folder, its best or last, or a checkpoint folder."""
    fresh: bool = False
    """Rename an existing run of this name and start again."""
    num_workers: int | str | None = None
    """Number of Ray workers, or MIN:MAX for as many as the cluster has; 0: this process, without Ray. Default: the
    cluster's GPUs, or 1."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """On Ray: how often lost workers are restarted from the newest checkpoint before giving up."""
    num_readers: Annotated[int, Field(ge=0)] | None = None
    """Processes beside each worker that read and cut the images of the next steps, if these are read anew (crop_area);
    0: none. Default: the cores of its node, divided among the workers there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers compute; auto: on GPUs if there is one for each worker, otherwise on CPUs."""
    address: Annotated[str, Field(min_length=1)] | None = None
    """Ray cluster to use. Default: $RAY_ADDRESS, or a new cluster on this machine."""
    dashboard_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address at which the dashboard and job API of a new cluster listen; any other than loopback needs your token, in
    $RAY_AUTH_TOKEN or ~/.ray/auth_token."""

    @property
    def checkpoint_steps(self) -> int | None:
        """Steps between checkpoints; None if checkpoint_every is not a number of steps."""
        every = self.checkpoint_every
        return int(every) if every is not None and every.isdigit() else None

    @property
    def checkpoint_s(self) -> float | None:
        """Seconds between checkpoints; None if checkpoint_every is not a duration."""
        every = self.checkpoint_every
        return parse_duration(every) if every is not None and not every.isdigit() else None

    @field_validator("checkpoint_every")
    @classmethod
    def _check_checkpoint_every(cls, every: str | None) -> str | None:
        with contextlib.suppress(ValueError):
            if every is None or parse_duration(every) > 0:
                return every
        raise ValueError(
            f"checkpoint_every must be a number of steps or a duration above 0, as in 200, 90s or 5m, got "
            f"{brief(every)}"
        )

    @field_validator("hang_timeout", mode="before")
    @classmethod
    def _check_hang_timeout(cls, value: str | float) -> str:
        try:
            parse_duration(value)
        except ValueError as error:
            raise ValueError(f"hang_timeout: {error}") from None
        return str(value)

    @property
    def min_workers(self) -> int | None:
        """The fewest workers to train with; None if the cluster decides."""
        return int(str(self.num_workers).split(":")[0]) if self.num_workers is not None else None

    @property
    def max_workers(self) -> int | None:
        """The most workers to train with; None if the cluster decides."""
        return int(str(self.num_workers).split(":")[-1]) if self.num_workers is not None else None

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while they train."""
        return self.min_workers != self.max_workers

    @field_validator("num_workers")
    @classmethod
    def _check_num_workers(cls, value: int | str | None) -> int | str | None:
        found = WORKER_COUNTS.fullmatch(str(value))
        if value is None or (found and found[2] and 1 <= int(found[1]) <= int(found[2])):
            return value
        if found and not found[2]:
            return int(found[1])
        raise ValueError(f"num_workers must be a number, or MIN:MAX with 1 <= MIN <= MAX, got {brief(value)}")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.seeds is not None:
            self._check_seeds(self.seeds)
        if self.fresh and self.resume_path:
            raise ValueError(
                f"fresh starts again and resume_path starts from a checkpoint, got fresh and resume_path="
                f"{cut(self.resume_path)}; give one of them"
            )
        if self.num_workers == 0 and self.address:
            raise ValueError(
                f"address has no effect with num_workers=0, which starts no Ray, got "
                f"address={brief(self.address)}; drop one"
            )
        is_default = self.dashboard_host == type(self).model_fields["dashboard_host"].default
        if not is_default and (self.num_workers == 0 or self.address):
            raise ValueError(
                f"dashboard_host applies to a cluster of this run, got dashboard_host={cut(self.dashboard_host)} with "
                f"num_workers={self.num_workers}, address={brief(self.address)}; leave it out"
            )
        return self

    def _check_seeds(self, seeds: tuple[int, ...]) -> None:
        if not seeds or len({*seeds}) < len(seeds):
            raise ValueError(
                f"seeds must be one or more, all different, got seeds={brief(list(seeds))}; give each once"
            )
        if self.seed:
            raise ValueError(
                f"seed has no effect with seeds, got seed={self.seed}, seeds={brief(list(seeds))}; give one"
            )
        if self.resume_path:
            raise ValueError(
                f"resume_path starts one run from a checkpoint, got seeds={brief(list(seeds))} with it; give --seed in "
                "place of --seeds"
            )

    def resolved(self, default_name: str) -> "ResolvedRun":
        return self.filled(ResolvedRun, run_name=default_name)


class ResolvedRun(RunSettings):
    """The number of workers stays as it is: where it is None, the cluster decides."""

    run_name: str
