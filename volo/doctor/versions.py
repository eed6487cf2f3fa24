"""Checks the versions of Python and the packages against the project's requirements and the tested versions."""

import platform
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from volo.doctor.findings import Finding, failure, ok, warning

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
SHOWN = ("torch", "ray", "optuna", "numpy")
INSTALL = (
    "pip install -c constraints.txt -e . in the project's folder"
    if CONSTRAINTS.is_file()
    else "pip install the wheel of volo again, which brings what it needs"
)
MAX_LISTED = 8


def check_versions() -> Finding:
    """Compares with the oldest versions that work (pyproject.toml), as stated by the installed project."""
    try:
        wanted = metadata.requires("volo") or []
    except metadata.PackageNotFoundError:
        return failure("versions", "the project is not installed, so its requirements are unknown", INSTALL)
    wrong = _wrong_python(str(metadata.metadata("volo").json.get("requires_python", "")))
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            wrong += _wrong(requirement)
    if wrong:
        return failure("versions", "too old or missing: " + _listed(wrong), INSTALL)
    shown = [f"{name} {found}" for name in SHOWN if (found := installed(name))]
    return ok("versions", ", ".join([f"python {platform.python_version()}", *shown]))


def check_tested_versions(constraints: Path = CONSTRAINTS) -> list[Finding]:
    """Compares with the versions that were tested together; no findings if the file is missing, as in a wheel."""
    if not constraints.is_file():
        return []
    lines = [line.split("==") for line in constraints.read_text().splitlines() if "==" in line and line[0] != "#"]
    pins = {name.strip(): Version(pin) for name, pin in lines}
    found = {name: installed(name) for name in pins}
    others = [
        f"{name} {version}, tested {pins[name]}" for name, version in found.items() if _differs(version, pins[name])
    ]
    if others:
        return [warning("tested versions", f"{len(others)} differ: " + _listed(others), INSTALL)]
    return [ok("tested versions", f"all match {constraints.name}")]


def installed(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _wrong_python(specifier: str) -> list[str]:
    if SpecifierSet(specifier).contains(platform.python_version(), prereleases=True):
        return []
    return [f"python {platform.python_version()} for {specifier}"]


def _wrong(requirement: Requirement) -> list[str]:
    found = installed(requirement.name)
    if found is None:
        return [f"no {requirement.name}"]
    if requirement.specifier.contains(found, prereleases=True):
        return []
    return [f"{requirement.name} {found} for {requirement.specifier}"]


def _differs(version: Version | None, pin: Version) -> bool:
    """A build for another GPU, such as 2.14.1+cu126, is the same version; a missing package is not needed here."""
    return version is not None and version.public != pin.public


def _listed(items: list[str]) -> str:
    more = len(items) - MAX_LISTED
    return "; ".join(items[:MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
