"""Train a VOLO: on a Ray cluster, in this process, or as one rank of torchrun.

    volo train --recipe quickstart                      Ray, its own cluster on this machine
    volo train --recipe quickstart --num-workers 0      this process, without Ray
    torchrun --nproc_per_node=2 -m volo train --recipe quickstart
    ray job submit --working-dir . -- python -m jobs.train --recipe quickstart --output-dir /shared/outputs

The same command resumes. Several seeds, one after the other with a summary: --seeds 0 1 2.
"""

import os
from collections.abc import Sequence

from volo.cli.parse import check_places, given_flags, parse_settings, program
from volo.cluster.connect import prepare
from volo.errors import InputError
from volo.settings.paths import folder_to_write


def main(argv: Sequence[str]) -> None:
    settings = parse_settings(argv, prog=program("train"), description=__doc__)
    if settings is None:
        return
    if settings.run.seeds is not None and "--seed" in given_flags(argv):
        raise InputError("--seed has no effect with --seeds; give one of them")
    check_places(settings)
    folder_to_write(settings.run_dir, "the run folder")
    is_rank = "TORCHELASTIC_RUN_ID" in os.environ
    if is_rank and (given := given_flags(argv) & {"--num-workers", "--address", "--max-failures"}):
        raise InputError(
            f"{' and '.join(sorted(given))} cannot be given under torchrun, which starts the workers itself and no "
            "Ray; set torchrun's --nproc_per_node and --max-restarts, or start volo train without torchrun"
        )
    if is_rank and settings.run.is_elastic:
        raise InputError(
            f"num_workers must be one number under torchrun, got {settings.run.num_workers}; torchrun has its own "
            "--nnodes MIN:MAX"
        )
    if is_rank or settings.run.num_workers == 0:
        from volo.training.launch import train_here

        train_here(settings)
    else:
        prepare(settings.run.address, settings.run.dashboard_host)
        from volo.cluster.trainer import train_on_ray

        train_on_ray(settings)
