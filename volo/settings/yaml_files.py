"""Settings as YAML files: read, and written to be read again."""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from volo.errors import InputError, brief, first_of
from volo.settings.paths import local_path

HEAD = "# A file for --config. A null is derived from the other settings; the comment beside it says what comes out.\n"
MAX_CHARACTERS = 100_000
MAX_DEPTH = 8  # the settings themselves have three: a section, a setting, its list
MAX_PLACES = 8


class SettingsFile(dict[str, Any]):
    """The sections of a file, and where in it they and their settings are."""

    def __init__(self, values: Mapping[str, Any], path: Path, lines: Mapping[str, int]):
        super().__init__(values)
        self.path, self.lines = path, lines

    def located(self, message: str, above: Sequence[Mapping[str, Any]] = ()) -> str:
        """A message about settings; each of its lines ends with where the settings that it names are in the file. Those
        that a layer above gives too are not."""
        names = [name for name in self.lines if not any(_gives(layer, name) for layer in above)]
        return "\n".join(line + self._places(line, names) for line in message.split("\n"))

    def _places(self, line: str, names: Sequence[str]) -> str:
        words = set(re.findall(r"[A-Za-z_][\w.]*", line))
        found = sorted({self.lines[name] for name in names if _is_named(name, line, words)})
        if not found:
            return ""
        return f" (line{'s' * (len(found) > 1)} {first_of(list(map(str, found)), MAX_PLACES)} of {str(self.path)!r})"


def _is_named(name: str, line: str, words: Collection[str]) -> bool:
    section, _, last = name.rpartition(".")
    if section and name in words:
        return True
    return last in words and (f"{last}=" in line or line.removeprefix("--").startswith(f"{last} "))


def _gives(layer: Mapping[str, Any], name: str) -> bool:
    section, _, inner = name.partition(".")
    values = layer.get(section)
    return isinstance(values, Mapping) and inner in values


class _Reader(yaml.SafeLoader):
    """A safe loader for settings: names over plain values and lists of them.

    Refuses names given twice, of which only the last would count, aliases and merge keys, which could make a small file
    a huge one, and what is nested deeper than settings are. What only YAML 1.1 takes for a truth value, a date, or a
    number in base 8 or 60, such as off, 010 or the 1:4 of num_workers, is text.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _fault("aliases (*) are not read; write the value itself", event)
        if self.depth > MAX_DEPTH:
            raise _fault(f"values must be nested at most {MAX_DEPTH} deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _fault("merge keys (<<) are not read; write the values themselves", key)
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise _fault(f"a key must be a name, got {brief(shown)}", key)
            if key.value in seen:
                raise _fault(f"the key {brief(key.value)} is given twice", key)
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError):  # too many digits, or a tag that the value does not fit
            kind = node.tag.rpartition(":")[2]
            raise _fault(f"{brief(node.value)} cannot be read as {kind}", node) from None

    def construct_number(self, node: yaml.ScalarNode) -> int | float | str:
        if ":" in node.value or re.match(r"[+-]?0[0-9_]", node.value):
            return node.value
        return self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)


_Reader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in pairs if not tag.endswith((":bool", ":timestamp"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Reader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
for _kind in ("int", "float"):
    _Reader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Reader.construct_number)


def _fault(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def read_yaml(path: str | Path) -> SettingsFile:
    """A settings file. Raises InputError if it is missing, too large or holds no mapping."""
    path = local_path(path, "--config")
    try:
        reader = _Reader(_text_of(path))
        node = reader.get_single_node()
        values = None if node is None else reader.construct_document(node)
    except OSError as error:
        raise InputError(f"--config must name a readable YAML file, got {str(path)!r} ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config must be valid YAML, got {str(path)!r}{_described(error)}") from None
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise InputError(
            f"--config must hold sections such as 'model:' or 'optim:', got {type(values).__name__} in {str(path)!r}"
        )
    return SettingsFile(values, path, _lines(node))


def _text_of(path: Path) -> str:
    """As `read_edited`, but refuses what is no settings file by its size, before reading more of it."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(MAX_CHARACTERS + 1)
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"--config must have at most {MAX_CHARACTERS:,} characters, got more in {str(path)!r}; settings take a few "
            "thousand"
        )
    return text


def _lines(root: yaml.MappingNode) -> dict[str, int]:
    """The line of each section and setting, by its dotted name."""
    lines = {}
    for key, value in root.value:
        lines[key.value] = key.start_mark.line + 1
        for inner, _ in value.value if isinstance(value, yaml.MappingNode) else ():
            lines[f"{key.value}.{inner.value}"] = inner.start_mark.line + 1
    return lines


def _described(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f", line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f", character {error.position + 1}: {error.reason}"
    return f": {error}"


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
