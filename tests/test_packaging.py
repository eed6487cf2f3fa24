"""What leaves the repository: the wheel, the upload of a Ray job, the versions that are installed with it."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ray._private.runtime_env.packaging import create_package
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

from tests.test_imports import IMPORTS

ROOT = Path(__file__).parents[1]
PACKAGES = ("volo", "jobs", "tune_spaces")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Torch pins these itself, to what it was built with.
PINNED_BY_TORCH = re.compile(r"(nvidia|cuda)-.*|triton")
# Ignored wherever they lie; any other pattern is tied to the root, or `data/` would take volo/data with it.
IGNORED_ANYWHERE = {
    "__pycache__/", "*.pyc", "*.egg-info/", ".pytest_cache/", ".ruff_cache/", ".mypy_cache/", ".hypothesis/",
    ".DS_Store", "*.swp",
}  # fmt: skip


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Paths of the files under version control."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository, so nothing says which files belong to it")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split("\0")) - {""}


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory) -> set[str]:
    """Paths in the archive that Ray makes of `--working-dir .`, by the function that it calls for it."""
    archive = tmp_path_factory.mktemp("upload") / "working_dir.zip"

    def pack(working_dir: str, excludes: list[str], is_file: bool = False) -> None:
        create_package(working_dir, archive, include_gitignore=True, excludes=excludes)

    upload_working_dir_if_needed({"working_dir": str(ROOT)}, include_gitignore=True, upload_fn=pack)
    return set(zipfile.ZipFile(archive).namelist())


def modules_on_disk() -> set[str]:
    return {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    split = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in split}


def direct_requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for text in [*project["dependencies"], *(line for extra in extras for line in extra)]]


def installed_requirements() -> set[str]:
    """Names of all that the project needs here, directly or through others."""
    queue, seen = direct_requirements(), set()
    while queue:
        requirement = queue.pop()
        for extra in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            try:
                below = [Requirement(text) for text in requires(requirement.name) or []]
            except PackageNotFoundError:
                continue
            seen.add(key)
            queue += [needed for needed in below if needed.marker is None or needed.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def test_every_module_is_under_version_control(tracked):
    assert modules_on_disk() - tracked == set()


def test_every_module_and_its_data_reach_the_workers_of_a_ray_job(tracked, uploaded):
    data = {path for path in tracked if path.split("/")[0] in PACKAGES and (ROOT / path).exists()}
    assert (modules_on_disk() | data) - uploaded == set()


def test_a_ray_job_uploads_no_data_results_or_environment(uploaded):
    roots = {path.split("/")[0] for path in uploaded}
    assert roots & {".git", ".venv", "venv", "data", "outputs", "checkpoints", "build", "dist"} == set()
    assert not any("__pycache__" in path for path in uploaded)


def test_ignore_patterns_are_tied_to_the_root():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    patterns = {line.removeprefix("!") for line in lines if line.strip() and not line.startswith("#")}
    assert {pattern for pattern in patterns if not pattern.startswith("/")} - IGNORED_ANYWHERE == set()


def test_every_installed_requirement_is_pinned():
    assert {name for name in installed_requirements() - pins().keys() if not PINNED_BY_TORCH.fullmatch(name)} == set()


def test_tests_find_every_extra_installed():
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert {line for lines in extras.values() for line in lines} == {*extras["dev"]}


def test_constraints_leave_to_torch_what_torch_pins():
    assert [name for name in pins() if PINNED_BY_TORCH.fullmatch(name)] == []


def test_pins_have_no_local_version():
    """A local version, as in 1.0+cpu, exists in one index alone."""
    assert [name for name, version in pins().items() if version.local] == []


@pytest.mark.parametrize("requirement", direct_requirements(), ids=lambda requirement: requirement.name)
def test_the_pin_is_a_version_that_pyproject_allows(requirement):
    pin = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin, prereleases=True)


def test_every_folder_of_modules_is_a_package():
    """Without its __init__.py a folder is found by some tools and passed over by others."""
    folders = {Path(path).parent for path in modules_on_disk()}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").exists()] == []


def test_third_party_imports_are_declared():
    # module: its distribution, or whose part it is
    named = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "triton": "torch"}
    declared = {canonicalize_name(requirement.name) for requirement in direct_requirements()}
    used = {name.split(".")[0] for names in IMPORTS.values() for name in names}
    third_party = used - set(PACKAGES) - sys.stdlib_module_names
    assert {name for name in third_party if canonicalize_name(named.get(name, name)) not in declared} == set()


def test_the_tests_that_another_version_of_ray_is_tried_with_exist():
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("RAY_TESTS"))
    for target in line.partition("=")[2].split():
        path, _, name = target.partition("::")
        source = (ROOT / path).read_text()
        assert not name or f"def {name}(" in source, target
