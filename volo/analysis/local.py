"""The analyses in this process, without Ray."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from volo.analysis.job import analyze
from volo.analysis.subject import Subject, View, Work
from volo.threads import set_threads


def analyze_here(
    path: Path,
    analyses: Sequence[str],
    output_dir: Path,
    *,
    split: str,
    data_dir: str | None,
    device: str,
    fresh: bool = False,
) -> Path:
    """As `analyze`, on a GPU if there is one and `device` allows it. Returns the report."""
    use_gpu = device != "cpu" and torch.cuda.is_available()
    own = torch.device("cuda" if use_gpu else "cpu")
    set_threads(1)

    def compute(subject: Subject, view: View, work: Work) -> np.ndarray:
        return work(subject, view, own, 0, 1)

    return analyze(path, analyses, output_dir, split=split, data_dir=data_dir, compute=compute, fresh=fresh)
