"""Predict the classes of unlabeled images: a table with the five most likely classes of each.

    volo predict --checkpoint outputs/quickstart --input photos more/one.jpg --output predictions.csv

Killed and started again, it continues with what is missing. Files that cannot be read are listed beside the table, in
predictions.errors.csv.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from volo.cli.parse import parse_flags, program, refuse_torchrun
from volo.cli.workers import WorkerFlags
from volo.cluster.connect import prepare
from volo.errors import InputError, brief
from volo.settings.buckets import place_to_read
from volo.settings.paths import file_to_write, local_path, path_to_read
from volo.settings.run import RunSettings


@dataclasses.dataclass(frozen=True)
class Flags:
    checkpoint: str
    """A run folder (its best checkpoint, otherwise its newest), its best or last, a checkpoint folder, or a single
    model.safetensors or .pt."""
    input: tuple[str, ...]
    """Folders, searched at any depth for the formats Pillow reads, and files; every node of a cluster must see them."""
    output: str = "./predictions.csv"
    """The table: path, class_1, prob_1, class_2, ... in the order of the paths."""
    batch_size: int = 128
    """Images per batch on a worker."""
    temperature: float = 1.0
    """Divide the logits by this, as an analysis fits it: probabilities then say how often the model is right."""
    workers: WorkerFlags = dataclasses.field(default_factory=WorkerFlags)

    def check(self) -> RunSettings:
        """Raises InputError for values out of range."""
        if not self.input:
            raise InputError("--input needs at least one folder or file, got none")
        place_to_read(self.checkpoint, "--checkpoint")
        for path in self.input:
            path_to_read(path, "--input")
        if self.batch_size < 1:
            raise InputError(f"--batch-size must be at least 1, got {self.batch_size}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"--temperature must be above 0, got {self.temperature}; leave it out for 1")
        if self.output_file.suffix != ".csv":
            raise InputError(f"--output must name a file ending in .csv, got {brief(self.output)}")
        file_to_write(self.output, "--output")
        return self.workers.run_settings()

    @property
    def output_file(self) -> Path:
        return local_path(self.output, "--output")


def main(argv: Sequence[str]) -> None:
    prog = program("predict")
    flags = parse_flags(Flags, argv, prog=prog, description=__doc__)
    run = flags.check()
    refuse_torchrun(prog)
    from volo.runs import checkpoint

    path = checkpoint.find(flags.checkpoint)
    print(f"predicting with {path}", flush=True)
    how: dict[str, Any] = dict(batch_size=flags.batch_size, temperature=flags.temperature)
    if run.num_workers == 0:
        from volo.analysis.predict import predict_here

        predict_here(path, flags.input, flags.output_file, device=run.device, **how)
    else:
        prepare(run.address)
        from volo.cluster.inference.predict import predict_on_ray

        predict_on_ray(path, flags.input, flags.output_file, run=run, **how)
