"""Flags of the commands that apply a trained model: which workers, and where they run."""

import dataclasses
from typing import Annotated, Literal

import tyro
from pydantic import ValidationError

from volo.errors import InputError, brief
from volo.settings.config import describe
from volo.settings.run import RunSettings


@dataclasses.dataclass(frozen=True)
class WorkerFlags:
    """The workers, and where they run."""

    num_workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Ray workers; 0: this process, without Ray. Default: the cluster's GPUs, otherwise 1."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers compute."""
    address: Annotated[str | None, tyro.conf.arg(metavar="STR")] = None
    """Ray cluster to use. Default: $RAY_ADDRESS, otherwise its own on this machine."""

    def run_settings(self) -> RunSettings:
        """Raises InputError for values that are out of range or contradict each other."""
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"--num-workers must be at least 0, got {self.num_workers}")
        if self.num_workers == 0 and self.address:
            raise InputError(f"--address has no effect with --num-workers 0, got {brief(self.address)}; drop one")
        try:
            return RunSettings(**dataclasses.asdict(self))
        except ValidationError as error:
            raise InputError(describe(error)) from None
