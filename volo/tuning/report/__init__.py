"""sweep_report.html: what a sweep tried, its results, and which of them are more than chance. No torch, no Ray."""

from volo.tuning.report.page import write_sweep_report
from volo.tuning.report.trials import SweepFacts

__all__ = ["SweepFacts", "write_sweep_report"]
