"""`volo submit`, for a checkout and for `ray job submit --working-dir . -- python -m jobs.submit`."""

from volo.cli.outcome import run_job

if __name__ == "__main__":
    run_job("volo.cli.submit")
