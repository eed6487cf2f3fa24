"""Check this machine, and the cluster that is to be used, before a training: one line per check, with its remedy.

    volo doctor --recipe small --dataset cifar100
    volo doctor --recipe small --address HOST:6379 --output-dir /shared/outputs

Takes the flags of `volo train` and trains nothing. Ends with exit code 0, or 6 if a check fails.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from volo.cli.parse import parse_settings, program
from volo.console import print_table
from volo.doctor.findings import Check, Finding, examine
from volo.errors import ExitCode
from volo.settings.config import ResolvedSettings


def main(argv: Sequence[str]) -> None:
    settings = parse_settings(argv, prog=program("doctor"), description=__doc__)
    if settings is None:
        return
    findings = examine(checks(settings.resolved()))
    print_table(("status", "check", "found"), [_row(finding) for finding in findings], num_left=3)
    counts = {status: sum(one.status == status for one in findings) for status in ("failure", "warning")}
    print(", ".join(f"{count} {status}{'s' * (count != 1)}" for status, count in counts.items()))
    if counts["failure"]:
        sys.exit(ExitCode.UNHEALTHY)


def checks(settings: ResolvedSettings) -> dict[str, Check]:
    """By name, those that concern what the settings would start."""
    from volo.cluster.connect import OWN_CLUSTER, resolved_address
    from volo.doctor.cpu import check_cpu
    from volo.doctor.data import check_cache, check_data
    from volo.doctor.gpu import check_gpu
    from volo.doctor.storage import check_disk, check_output
    from volo.doctor.versions import check_tested_versions, check_versions

    run = settings.run
    joins = run.num_workers != 0 and resolved_address(run.address) != OWN_CLUSTER
    local: dict[str, Check] = {
        "versions": check_versions,
        "tested versions": check_tested_versions,
        "CPU": lambda: check_cpu(settings),
        "GPU": lambda: check_gpu(is_required=run.device == "cuda" and not joins),
        "data": lambda: check_data(settings.data.here()),
        "cache": lambda: check_cache(settings.data.here()),
        "output": lambda: check_output(run.output_dir),
        "disk": lambda: check_disk(settings),
    }
    return local if run.num_workers == 0 else local | _of_ray(settings, joins)


def _of_ray(settings: ResolvedSettings, joins: bool) -> dict[str, Check]:
    from volo.cluster.doctor import check_address, check_cluster, check_doors, check_folder

    run = settings.run

    def upload() -> Finding:
        from volo.cluster.upload import check_upload

        return check_upload(Path.cwd(), is_needed=joins)

    of_ray: dict[str, Check] = {
        "address": lambda: check_address(run.address),
        "access": lambda: check_doors(run),
        "upload": upload,
    }
    if not joins:
        return of_ray | {"Ray's folder": check_folder}
    return of_ray | {"cluster": lambda: check_cluster(settings)}


def _row(finding: Finding) -> tuple[str, str, str]:
    return finding.status, finding.check, "; ".join(filter(None, (finding.found, finding.remedy)))
