"""Settings as YAML files: read, and written to be read again."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from volo.errors import InputError
from volo.files import read_edited
from volo.settings.paths import local_path

HEAD = "# A file for --config. A null is derived from the other settings; the comment beside it says what comes out.\n"


class _Reader(yaml.SafeLoader):
    """A safe loader without YAML 1.1's numbers in base 60, such as the 1:4 of num_workers. A key given twice, of which
    only the last would count, is an error."""

    def construct_int(self, node: yaml.ScalarNode) -> int | str:
        return node.value if ":" in node.value else self.construct_yaml_int(node)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for name, count in counts.items():
            if count > 1:
                raise yaml.composer.ComposerError(None, None, f"the key {name!r} is given twice", node.start_mark)
        return node


_Reader.add_constructor("tag:yaml.org,2002:int", _Reader.construct_int)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A settings file as a dictionary. Raises InputError if it is missing or holds no mapping."""
    path = local_path(path, "--config")
    try:
        values = yaml.load(read_edited(path), _Reader)
    except OSError as error:
        raise InputError(f"--config must name a readable YAML file, got {str(path)!r} ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config must be valid YAML, got {str(path)!r}: {error}") from None
    if not isinstance(values, dict):
        raise InputError(
            f"--config must hold sections such as 'model:' or 'optim:', got {type(values).__name__} in {str(path)!r}"
        )
    return values


def to_text(
    given: Mapping[str, Any], resolved: Mapping[str, Any], reasons: Mapping[str, Mapping[str, str | None]]
) -> str:
    """Settings as YAML, a line each; a value that is None and derived stands beside it in a comment.

    Args:
        given: Nested settings, None where nothing is given.
        resolved: The same with every derived value.
        reasons: By section and name, where a derived value comes from.
    """
    lines = [HEAD]
    for name, value in given.items():
        if not isinstance(value, Mapping):
            lines.append(_line(name, value, ""))
            continue
        lines.append(f"{name}:\n")
        for key, inner in value.items():
            lines.append("  " + _line(key, inner, _comment(inner, resolved[name][key], reasons[name].get(key))))
    return "".join(lines)


def reason_in(description: str | None) -> str | None:
    """What a setting's description says its default is, in words."""
    found = re.search(r"Default: (.+?)(?:[;.] |\.?$)", " ".join((description or "").split()))
    return found[1] if found and not found[1][0].isdigit() else None


def _line(name: str, value: Any, comment: str) -> str:
    in_a_list = yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()
    return f"{name}: {in_a_list[1:-1]}{comment}\n"


def _comment(given: Any, resolved: Any, reason: str | None) -> str:
    if given is not None or resolved is None:
        return ""
    return f"  # {json.dumps(resolved)}" + (f", {reason}" if reason else "")
