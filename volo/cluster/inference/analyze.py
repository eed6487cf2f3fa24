"""The analyses over the workers of a Ray cluster."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from volo.analysis.job import analyze
from volo.analysis.subject import Subject, View, Work
from volo.cluster.connect import connected
from volo.cluster.inference.work import work_on_ray
from volo.cluster.workers import plan_workers
from volo.errors import InferenceError
from volo.settings.run import RunSettings


def analyze_on_ray(
    path: Path,
    analyses: Sequence[str],
    output_dir: Path,
    *,
    split: str,
    data_dir: str | None,
    run: RunSettings,
    fresh: bool = False,
) -> Path:
    """As `analyze`; the workers compute and the driver draws. Returns the report.

    Ray starts with the first computation, after checkpoint and data have been checked.
    """
    with contextlib.ExitStack() as stack:

        def compute(subject: Subject, view: View, work: Work) -> np.ndarray:
            stack.enter_context(connected(run.address, loss=InferenceError))
            return work_on_ray(subject, view, work, plan_workers(run))

        return analyze(path, analyses, output_dir, split=split, data_dir=data_dir, compute=compute, fresh=fresh)
