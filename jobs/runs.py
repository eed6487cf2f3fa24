"""`volo runs`, for a checkout and for `ray job submit --working-dir . -- python -m jobs.runs`."""

from volo.cli.outcome import run_job
from volo.cli.runs import main

if __name__ == "__main__":
    run_job(main)
