"""Checks whether PyTorch can use this machine's GPUs, and which driver its build needs."""

import re
import subprocess
from pathlib import Path

import torch

from volo.doctor.findings import Finding, failure, ok, warning

KERNEL_MODULE = Path("/proc/driver/nvidia/version")
ASK_S = 5.0
# The oldest driver for each major version of CUDA (https://docs.nvidia.com/deploy/cuda-compatibility/).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
OTHER_BUILD = "install the build of PyTorch for your driver (docs/clusters.md), or a newer driver"


def check_gpu(is_required: bool) -> Finding:
    """Runs a computation on each GPU. Having none is a failure only if training was told to use one."""
    driver, cuda = driver_version(), torch.version.cuda
    say = failure if is_required else warning
    if not torch.cuda.is_available():
        if driver is None:
            found = "none, and no NVIDIA driver"
            return failure("GPU", found, "omit --device cuda") if is_required else ok("GPU", f"{found}: CPU")
        return say("GPU", f"{fit(driver, cuda)}: PyTorch finds none", OTHER_BUILD)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    try:
        for index in range(len(names)):
            torch.ones(8, device=torch.device("cuda", index)).sum().item()
    except RuntimeError as error:
        return failure("GPU", f"{names[0]} cannot compute: {str(error).splitlines()[0]}", OTHER_BUILD)
    return ok("GPU", f"{len(names)} x {names[0]}, {fit(driver, cuda)}")


def fit(driver: str | None, cuda: str | None) -> str:
    """Whether the driver fits the build of PyTorch, in words."""
    if cuda is None:
        return f"driver {driver}, PyTorch built without CUDA"
    said = f"driver {driver or 'unknown'}, PyTorch built for CUDA {cuda}"
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    if driver and oldest and int(driver.split(".")[0]) < oldest:
        return f"{said}, which needs driver {oldest} or newer"
    return said


def driver_version() -> str | None:
    """The version of the NVIDIA driver, such as 580.65.06; None without a driver."""
    try:
        if version := re.search(r"\s(\d{3}\.[\d.]*\d)\s", KERNEL_MODULE.read_text()):
            return version[1]
    except OSError:
        pass
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        lines = subprocess.run(asked, capture_output=True, text=True, timeout=ASK_S).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return lines[0] if lines and lines[0][0].isdigit() else None
