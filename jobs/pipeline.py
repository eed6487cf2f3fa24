"""`volo pipeline`, for a checkout and for `ray job submit --working-dir . -- python -m jobs.pipeline`."""

from volo.cli.outcome import run_job
from volo.cli.pipeline import main

if __name__ == "__main__":
    run_job(main)
