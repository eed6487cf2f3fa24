"""Who may import whom: the layers of the library, read from every import statement, those inside functions as well."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from volo.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = ("volo", "jobs", "tune_spaces")
HEAVY = {"torch", "ray"}

# Lowest first; a room of volo/ imports from its own layer and those below. A new module or package directly under volo/
# gets its place here.
LAYERS = (
    {
        "settings",
        "errors",
        "log",
        "console",
        "files",
        "frames",
        "hosts",
        "signals",
        "locks",
        "temporary",
        "streams",
        "teardown",
        "allocator",
        "cores",
        "tables",
        "cache",
        "storage",
    },
    {"model", "data", "threads"},
    {"runs", "ops"},
    {"training", "plots"},
    {"analysis", "doctor"},
    {"cluster"},
    {"tuning"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: level for level, layer in enumerate(LAYERS) for room in layer}
# Above the bottom, rooms of one layer leave each other alone.
USE_RAY = {"cluster", "tuning"}
SPACES_IMPORT = {"volo", "volo.settings.config", "volo.settings.recipes", "volo.errors"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imports_of(path: Path) -> set[str]:
    """Full names of what a file imports; `from volo import config` counts as volo.settings.config."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                names.add(inner if source.split(".")[0] in PACKAGES and is_module(inner) else source)
    return names


IMPORTS = {
    module_name(path): imports_of(path)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "__pycache__" not in path.parts
}


def top(name: str) -> str:
    return name.split(".")[0]


def room(name: str) -> str | None:
    """The second word of a module of volo/: volo.data.decoded.cache lies in data."""
    parts = name.split(".")
    return parts[1] if parts[0] == "volo" and len(parts) > 1 else None


def offences(is_wrong) -> list[str]:
    """Every import that `is_wrong(module, imported)` objects to, as a line to read."""
    pairs = [(module, name) for module, names in IMPORTS.items() for name in sorted(names)]
    return [f"{module} imports {name}" for module, name in pairs if is_wrong(module, name)]


def test_every_room_of_the_library_has_its_layer():
    rooms = {name for module in IMPORTS if (name := room(module))}
    assert rooms - LEVEL.keys() == set()


def test_no_module_imports_from_a_layer_above_its_own():
    def is_wrong(module, name):
        here, there = room(module), room(name)
        return here is not None and there is not None and LEVEL.get(there, 0) > LEVEL.get(here, 0)

    assert offences(is_wrong) == []


def test_rooms_of_one_layer_leave_each_other_alone():
    def is_wrong(module, name):
        here, there = room(module), room(name)
        if here is None or there is None or here == there:
            return False
        return LEVEL.get(here) == LEVEL.get(there) != 0

    assert offences(is_wrong) == []


def test_only_cluster_and_tuning_import_ray():
    assert offences(lambda module, name: top(name) == "ray" and room(module) not in USE_RAY) == []


def test_the_bottom_layer_imports_neither_torch_nor_ray():
    bottom = LAYERS[0] | {None}
    assert offences(lambda module, name: top(module) == "volo" and room(module) in bottom and top(name) in HEAVY) == []


def test_nothing_but_jobs_imports_jobs():
    assert offences(lambda module, name: top(name) == "jobs" and top(module) != "jobs") == []


def test_the_library_does_not_know_the_search_spaces():
    assert offences(lambda module, name: top(name) == "tune_spaces" and top(module) == "volo") == []


def test_search_spaces_import_settings_recipes_and_optuna_alone():
    def is_wrong(module, name):
        if top(module) != "tune_spaces" or name in SPACES_IMPORT:
            return False
        return top(name) not in {"optuna", "tune_spaces"} | sys.stdlib_module_names

    assert offences(is_wrong) == []


def test_every_import_of_our_own_names_a_module_that_exists():
    """A misspelt import inside a function would otherwise wait for its first call."""
    assert offences(lambda _, name: top(name) in PACKAGES and not is_module(name)) == []


def loaded(code: str, report: Path, *argv: str) -> tuple[int, set[str], str]:
    """Runs `code` in a fresh interpreter: its exit code, which of torch and ray it loaded, its errors."""
    at_exit = (
        "import atexit, json, pathlib, sys\n"
        "report = pathlib.Path(sys.argv.pop(1))\n"
        f"heavy = {sorted(HEAVY)}\n"
        "atexit.register(lambda: report.write_text(json.dumps([name for name in heavy if name in sys.modules])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", at_exit + code, str(report), *argv], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, set(json.loads(report.read_text())), done.stderr


LIGHT = ["volo", *sorted(f"volo.{name}" for name in LAYERS[0]), "volo.cli.main", "volo.cli.parse"]


def test_importing_the_light_ones_loads_neither_torch_nor_ray(tmp_path):
    """One after the other in one process, so that the message names the first that loads what it should not."""
    code = (
        "import importlib\n"
        f"for name in {LIGHT}:\n"
        "    importlib.import_module(name)\n"
        "    assert not {*heavy} & {*sys.modules}, name\n"
    )
    code, heavy, errors = loaded(code, tmp_path / "loaded.json")
    assert (code, heavy) == (0, set()), errors


def test_no_module_loads_the_compiler_of_pytorch_before_it_compiles():
    """It takes 1.5 s, of every command, worker and reader."""
    only_under_it = {"volo.model.outlook_ops.constants", "volo.model.outlook_ops.triton_kernels"}
    modules = sorted(name for name in IMPORTS if top(name) == "volo" and name not in {*only_under_it, "volo.__main__"})
    code = f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(name)\n"
    code += "    assert 'torch._dynamo' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_module(module: str, report: Path, *argv: str) -> tuple[int, set[str], str]:
    return loaded(f"import runpy\nrunpy.run_module({module!r}, run_name='__main__', alter_sys=True)", report, *argv)


JOBS = {path.stem for path in (ROOT / "jobs").glob("*.py") if '__name__ == "__main__"' in path.read_text()}


@pytest.mark.parametrize("job", sorted({"train"} | JOBS))
def test_help_of_a_job_answers_without_torch_or_ray(job, tmp_path):
    code, heavy, errors = run_module(f"jobs.{job}", tmp_path / "loaded.json", "--help")
    assert (code, heavy) == (0, set()), errors


def test_what_volo_says_of_itself_and_of_every_command_needs_neither_torch_nor_ray(tmp_path):
    """One after the other in one process, so that the message names the first that loads what it should not."""
    said = [["--help"], ["--version"], ["recipes"], ["spaces"], ["completion", "bash"]]
    code = (
        "import json, runpy\n"
        "for argv in json.loads(sys.argv.pop(1)):\n"
        "    sys.argv[1:] = argv\n"
        "    try:\n"
        "        runpy.run_module('volo', run_name='__main__')\n"
        "    except SystemExit as ended:\n"
        "        assert not ended.code, argv\n"
        "    assert not {*heavy} & {*sys.modules}, argv\n"
    )
    argvs = json.dumps([*said, *([command, "--help-all"] for command in COMMANDS)])
    assert loaded(code, tmp_path / "loaded.json", argvs)[:2] == (0, set())


def test_a_refused_setting_ends_with_code_2_before_torch_or_ray_is_loaded(tmp_path):
    code, heavy, errors = run_module("jobs.train", tmp_path / "loaded.json", "--epochs", "0")
    assert (code, heavy) == (2, set()), errors
    assert "epochs" in errors
