"""Nothing in the project runs what it reads: the calls that could are looked for in every file's syntax tree."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for name in ("volo", "jobs", "tune_spaces", "benchmarks") for path in (ROOT / name).rglob("*.py"))

# Modules that unpickle whatever they are given, and functions that run what a file or a text holds.
FORBIDDEN_MODULES = {"shelve", "joblib", "dill", "cloudpickle", "marshal", "jsonpickle", "torch.package", "torch.hub"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pandas.read_pickle", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.serialization.add_safe_globals",
    "torch.export.load", "ray.tune.Tuner.restore", "ray.cloudpickle.load", "ray.cloudpickle.loads",
    "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "yaml.load_all",
}  # fmt: skip
UNSAFE_LOADERS = {"Loader", "CLoader", "FullLoader", "CFullLoader", "UnsafeLoader", "CUnsafeLoader"}

# What is read here has been checked, for the reason given.
ALLOWED = {
    ("volo/data/archives/pickles.py", "pickle.Unpickler"): "names no function but those that make an array",
    ("volo/analysis/export.py", "torch.export.load"): "bytes that this process has just made",
}


def offences(source: str) -> list[tuple[int, str]]:
    """Line and name of every call, import or name that is forbidden."""
    tree = ast.parse(source)
    names = imported(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if is_forbidden_module(alias.name)]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name) for name in full if is_forbidden_module(name)]
        elif isinstance(node, ast.Call):
            found += [(node.lineno, name) for name in of_call(node, names)]
        elif isinstance(node, ast.ClassDef):
            bases = [full_name(base, names) for base in node.bases]
            found += [(node.lineno, base) for base in bases if base in FORBIDDEN_CALLS]
        elif (isinstance(node, ast.Attribute) and node.attr in UNSAFE_LOADERS and base_is(node, "yaml", names)) or (
            isinstance(node, ast.Constant) and node.value in UNSAFE_LOADERS
        ):
            found.append((node.lineno, "yaml loader"))
    return found


def imported(tree: ast.AST) -> dict[str, str]:
    """What each name of a file stands for, by its import; `np` is numpy."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """A dotted name, its first word as it was imported; empty for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (above := full_name(node.value, names)):
        return f"{above}.{node.attr}"
    return ""


def base_is(node: ast.Attribute, module: str, names: dict[str, str]) -> bool:
    return full_name(node.value, names) == module


def is_forbidden_module(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in FORBIDDEN_MODULES)


def of_call(call: ast.Call, names: dict[str, str]) -> list[str]:
    name = full_name(call.func, names)
    options = {keyword.arg: getattr(keyword.value, "value", ...) for keyword in call.keywords}
    if name in FORBIDDEN_CALLS or name.endswith(("Tuner.restore", "Trainer.restore")):
        return [name]
    if name == "torch.load" and options.get("weights_only") is not True:
        return [name]
    if name in ("numpy.load", "numpy.lib.format.read_array") and options.get("allow_pickle", False) is not False:
        return [name]
    if name == "yaml.load" and len(call.args) + len(call.keywords) < 2:
        return [name]
    if name.startswith("subprocess.") and options.get("shell", False) is not False:
        return [f"{name} with a shell"]
    return []


def test_nothing_in_the_project_runs_what_it_reads():
    found = [(str(path.relative_to(ROOT)), *one) for path in FILES for one in offences(path.read_text())]
    assert [one for one in found if (one[0], one[2]) not in ALLOWED] == []
    assert {(file, name) for file, _, name in found} == set(ALLOWED), "an exception that nothing needs any more"


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=safe)",
        "from torch import load as read\nread(path)",
        "import pickle as p\np.loads(text)",
        "from pickle import Unpickler\nclass Own(Unpickler): pass",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, yaml.FullLoader)",
        "import yaml\nyaml.load(text, getattr(yaml, 'UnsafeLoader'))",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "def f():\n    import joblib",
        "from ray import cloudpickle\ncloudpickle.loads(text)",
        "from dill import load",
        "from ray.tune import Tuner\nTuner.restore(path, train)",
        "from ray import tune\ntune.Tuner.restore(path, train)",
        "eval(text)",
        "exec(text)",
        "import torch\ntorch.jit.load(path)",
        "import subprocess\nsubprocess.run(text, shell=True)",
    ],
)
def test_a_call_that_could_run_what_it_reads_is_found(source):
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path, mmap_mode='r')\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)\nyaml.load(text, getattr(yaml, 'CSafeLoader', yaml.SafeLoader))",
        "import torch, re\nmodel.eval()\ntorch.compile(model)\nre.compile(text)\nlearner.load(folder)",
        "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass",
    ],
)
def test_a_call_that_runs_nothing_passes(source):
    assert offences(source) == []
