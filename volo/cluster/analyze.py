"""The analyses over the workers of a Ray cluster."""

from collections.abc import Sequence
from pathlib import Path

from volo.analysis.job import analyse
from volo.cluster.connect import connected
from volo.cluster.inference import logits_on_ray
from volo.cluster.workers import plan_workers
from volo.config import RunSettings


def analyse_on_ray(
    path: Path, analyses: Sequence[str], output_dir: Path, *, split: str, data_dir: str | None, run: RunSettings
) -> Path:
    """As `analyse`; the workers compute, the driver draws. Returns the report."""
    with connected(run.address):
        workers = plan_workers(run)
        return analyse(
            path,
            analyses,
            output_dir,
            split=split,
            data_dir=data_dir,
            compute_logits=lambda name: logits_on_ray(path, name, data_dir, workers),
        )
