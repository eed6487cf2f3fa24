"""The library uses public names of other libraries only, read from its source; the exceptions lie in one file each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("volo", "jobs", "tune_spaces", "benchmarks")
LIBRARIES = ("ray", "optuna", "torch", "torchvision", "numpy")
UNDOCUMENTED = ("ray.train.v2", "ray._private", "ray._raylet")
DOCUMENTED = {"_exit", "_current_frames"}  # of Python's os and sys, underscore or not

# Each with its fallback in the file itself, and a test that takes the names away (tests/model/test_torch_internals.py).
ALLOWED = {
    "volo/model/torch_internals.py": {
        "_linear_pointwise": "oneDNN's linear layer has no other name",
        "_softmax_backward_data": "autograd alone computes it in place by a public name",
        "_has_any_global_hook": "PyTorch has no public question whether calling a module does more than forward",
        "_forward_hooks": "as above",
        "_forward_pre_hooks": "as above",
        "_backward_hooks": "as above",
        "_backward_pre_hooks": "as above",
    },
    # Pickles of NumPy arrays name these, whoever reads them; data/archives/pickles.py lets nothing else through.
    "volo/data/archives/pickles.py": {"_core": "the pickles name it"},
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(trees: list[ast.Module]) -> set[str]:
    """Private names that our own code defines: functions, classes, variables, attributes of self, and fields."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return {name for name in names if is_private(name)}


def private_names(tree: ast.Module, own: set[str]) -> Iterator[tuple[int, str]]:
    """The line and name of each use of something private that is not ours."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((line, name) for path in imported(node) if (name := private_part(path)))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr not in own | DOCUMENTED or is_super(node.value):
                yield line, node.attr
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in UNDOCUMENTED:
            yield line, ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if is_private(name) and name not in own:
                yield line, name


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [] if node.level else [f"{node.module}.{alias.name}" for alias in node.names]


def private_part(path: str) -> str:
    """What makes an import from one of the libraries private; empty if nothing does."""
    if path.split(".")[0] not in LIBRARIES:
        return ""
    if undocumented := [name for name in UNDOCUMENTED if f"{path}.".startswith(f"{name}.")]:
        return undocumented[0]
    return next((part for part in path.split(".") if is_private(part)), "")


def is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "super"


def found_in(sources: dict[str, str]) -> dict[str, list[tuple[int, str]]]:
    trees = {name: ast.parse(source, name) for name, source in sources.items()}
    own = own_names(list(trees.values()))
    found = {name: list(private_names(tree, own)) for name, tree in trees.items()}
    return {name: names for name, names in found.items() if names}


def test_no_private_name_of_another_library_is_used_but_for_those_that_stand_alone_in_one_file():
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found = found_in({str(path.relative_to(ROOT)): path.read_text() for path in files})
    offences = [
        f"{file}:{line} uses {name}"
        for file, names in found.items()
        for line, name in names
        if name not in ALLOWED.get(file, {})
    ]
    assert offences == []
    assert [name for file, names in ALLOWED.items() for name in names if name not in (ROOT / file).read_text()] == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import ray._private.worker", "ray._private"),
        ("from ray.train.v2._internal.execution import callback", "ray.train.v2"),
        ("from ray.train.v2.api.config import RunConfig", "ray.train.v2"),
        ("import ray\nray.train.v2.api", "ray.train.v2"),
        ("from ray.util import _thing", "_thing"),
        ("def f(trial):\n    return trial._trial_id", "_trial_id"),
        ("class A(B):\n    def _made(self):\n        return super()._made()", "_made"),
        ("import torch\ntorch._foreach_lerp_([], [], 1)", "_foreach_lerp_"),
        ("import torch\nhasattr(torch.ops.mkldnn, '_linear_pointwise')", "_linear_pointwise"),
    ],
)
def test_a_private_name_is_seen(source, name):
    assert [found for _, found in found_in({"file": source})["file"]] == [name]


def test_public_names_and_our_own_private_ones_are_left_alone():
    source = (
        "import os\nimport ray.train\nfrom ray.tune import Stopper\n"
        "class A:\n    def __init__(self):\n        self._x = 1\n"
        "def f(a):\n    return a._x, a.__dict__, os._exit\n"
    )
    assert found_in({"file": source}) == {}
