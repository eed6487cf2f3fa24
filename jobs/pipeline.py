"""Train, then analyse what came out, on one Ray cluster: `make quickstart`.

    python -m jobs.pipeline --recipe quickstart

Takes the flags of jobs.train; the report lies in the run folder, under analysis/.
"""

import contextlib
from collections.abc import Sequence

from jobs.analyze import Flags, analyse_checkpoint
from jobs.cli import parse_settings, refuse_torchrun, run_job
from volo.errors import InputError

NO_SHOW = "--no-show"


def main(argv: Sequence[str]) -> None:
    settings = parse_settings(
        [arg for arg in argv if arg != NO_SHOW],
        prog="python -m jobs.pipeline",
        description=f"{__doc__}\n{NO_SHOW}: do not open the report in a browser where there is a display.",
    )
    if settings is None:
        return
    run = settings.run
    if run.num_workers == 0:
        raise InputError("jobs.pipeline runs on Ray, got --num-workers 0; use jobs.train, then jobs.analyze")
    if run.seeds is not None:
        raise InputError(f"jobs.pipeline trains one run, got seeds={list(run.seeds)}; use jobs.train for several")
    refuse_torchrun("jobs.pipeline")
    from volo.cluster.trainer import train_on_ray

    with contextlib.ExitStack() as cluster:
        train_on_ray(settings, cluster)
        analyse_checkpoint(
            Flags(
                checkpoint=str(settings.run_dir),
                output_dir=str(settings.run_dir / "analysis"),
                no_show=NO_SHOW in argv,
            ),
            run,
        )


if __name__ == "__main__":
    run_job(main)
