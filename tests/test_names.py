"""No two classes of the library share a name, so that a name in an error or a search means one thing."""

import ast
from collections import defaultdict
from pathlib import Path

VOLO = Path(__file__).parents[1] / "volo"
ONE_PER_COMMAND = {"Flags"}  # of each module of volo/cli: the flags of its command


def test_no_public_class_name_is_defined_twice():
    places = defaultdict(list)
    for path in sorted(VOLO.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(VOLO)))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert set(twice) <= ONE_PER_COMMAND, twice
