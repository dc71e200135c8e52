"""Settings from and to YAML, and from flags and YAML together, with clear errors."""

import re
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from staff import __version__
from staff.data.streams import is_utf8
from staff.errors import ConfigError
from staff.runs.compare_config import CompareConfig
from staff.runs.config import RESELECT, SelectConfig
from staff.runs.settings import Settings, flag, listed
from staff.runs.shared_settings import preset_values
from staff.visible import SHOWN, one_line, shortened

Config = TypeVar("Config", bound=Settings)

SIZES = ("keep", "total", "tokens")
LONGEST, BRACKETS = 1 << 20, 1000  # characters; PyYAML takes seconds for ten thousand brackets
VALUES = 10_000  # with every alias written out: a few lines of them can stand for gigabytes


def build(
    config: type[Config], *, flags: Mapping[str, Any] | None = None, file: str | Path | None = None
) -> Config:
    """Settings from a YAML file with flags over it.

    flags: values by field name; only those that were given. --keep, --total or
    --tokens on the command line replaces all of the file's, because they are one question.

    Raises:
        ConfigError: unknown name, wrong type, out of range or incomplete; says where.
    """
    flags = flags or {}
    written = load_yaml(file, config) if file is not None else {}
    if any(name in flags for name in SIZES):
        written = {name: value for name, value in written.items() if name not in SIZES}
    origin = {name: f"{file}: {name}" for name in written} | {name: flag(name) for name in flags}
    for name, value in {**written, **flags}.items():
        _refuse_no_text(origin[name], value)
    try:
        return config(**{**written, **flags})
    except ValidationError as error:
        raise ConfigError(_explain(error, origin, config)) from None


def _refuse_no_text(where: str, value: Any) -> None:
    """Raise `ConfigError` for a text that no file and no manifest could hold."""
    inner = [*value, *value.values()] if isinstance(value, Mapping) else listed(value)
    for text in inner:
        if isinstance(text, str) and not is_utf8(text):
            raise ConfigError(
                f"{where} {_quoted(text)} is not UTF-8 text: rename the file or folder"
            )
        if isinstance(text, str) and "\0" in text:
            raise ConfigError(f"{where} {_quoted(text)} contains a NUL character")


def load_yaml(path: str | Path, config: type[Settings]) -> dict[str, Any]:
    """Read the settings of one YAML file: names checked, values not yet.

    Names may be written with - or _. Raises `ConfigError` naming file and line.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            text = file.read(LONGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file: --config takes YAML") from None
    if len(text) > LONGEST or text.count("[") + text.count("{") > BRACKETS:
        raise ConfigError(f"{path}: too long or too deeply nested for settings")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: settings are lines like `keep: [0.1, 0.2]`")
        if _values_in(node, {}) > VALUES:
            raise ConfigError(f"{path}: too many values for settings, with aliases written out")
        named = list(_named(node))
        lines = [(key.value, key.start_mark.line + 1) for key, _ in named]
        inner = [(key.value, [one.value for one, _ in _named(value)])
                 for key, value in named if isinstance(value, yaml.MappingNode)]  # fmt: skip
        values = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    except RecursionError:
        raise ConfigError(f"{path}: lists and mappings are nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # PyYAML's, of a value that is not of its tag (!!int many) or out of range
        raise ConfigError(f"{path}: not valid YAML ({str(error).partition(';')[0]})") from None
    seen: dict[str, int] = {}
    for key, line in lines:
        name = key.replace("-", "_")
        if name not in config.model_fields:
            raise ConfigError(f"{path}, line {line}: {_unknown(key, config)}")
        if name in seen:
            raise ConfigError(f"{path}: {name} is set twice, in line {seen[name]} and line {line}")
        seen[name] = line
    for key, names in inner:
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ConfigError(f"{path}: {key} has {shortened(twice[0])} twice")
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def _values_in(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """How many values a node holds, itself included, each as often as aliases name it.

    known: those of nodes that were looked at. A list that holds itself has no end of them.
    """
    if node not in known:
        known[node] = inf
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [one for pair in inner for one in pair]
        known[node] = 1 + sum(_values_in(one, known) for one in inner)
    return known[node]


def _named(node: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """Keys that are plain values, with what they stand for; others are refused once it is loaded.

    They cannot be written out either: lists that hold one another many times are endless as text.
    """
    return ((key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode))


def dump_yaml(config: Settings, *, replay: str | None = None) -> str:
    """Settings as YAML in the order of ``--help``; replays with ``--config``.

    Left out: what is not set, `overwrite` (a replay must not wipe its own folder), and
    what the preset says anyway, so that another ``--preset`` still has its effect.
    """
    dumped = config.model_dump(mode="json", exclude_none=True, exclude={"overwrite"})
    values = {name: dumped[name] for name in config.ordered() if name in dumped}
    remark = ""
    if isinstance(config, SelectConfig) and config.scores:
        own = RESELECT & config.model_fields_set  # the rest comes from that run
        values = {name: value for name, value in values.items() if name in own}
    if isinstance(config, SelectConfig | CompareConfig):
        preset = preset_values(config.preset)
        values = {k: v for k, v in values.items() if not (k in preset and preset[k] == v)}
        remark = "  # " + ", ".join(f"{name}: {value}" for name, value in preset.items())
    values = {name: value for name, value in values.items() if value not in ([], {})}
    # A path may hold line breaks, and what comes after one would be settings.
    again = f"; again: {one_line(replay)}" if replay else ""
    head = f"# staff {__version__}{again}\n"
    body = yaml.dump(values, Dumper=_OneLineEach, sort_keys=False, allow_unicode=True, width=10_000)
    return head + re.sub(r"^(preset: \w+)$", lambda m: m[1] + remark, body, flags=re.MULTILINE)


class _OneLineEach(yaml.SafeDumper):
    """One setting a line: lists are written as [0.1, 0.2]."""


_OneLineEach.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True)
)


def written_by(path: str | Path) -> str | None:
    """The command whose settings a file holds, by the remark of `dump_yaml`; None if there is none.

    Raises nothing: a file that cannot be read has no remark.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            found = re.match(r"# staff .*; again: staff (\w+) ", file.readline())
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None


def _unknown(name: str, config: type[Settings]) -> str:
    near = get_close_matches(name.replace("-", "_"), config.model_fields, n=1)
    if near:
        return f"unknown setting {name!r}; did you mean {near[0]!r}?"
    return f"unknown setting {name!r}; staff {config.command} --help lists all, as flags"


_WANTED = {
    "int_": "a whole number",
    "float_": "a number",
    "finite_": "a finite number",
    "string_": "text (put it in quotes)",
    "bool_": "true or false",
    "tuple_": "a list",
}
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}


def _explain(error: ValidationError, origin: Mapping[str, str], config: type[Settings]) -> str:
    """The first mistake in one line: where it was written, what is wrong, what is right."""
    mistake, *others = error.errors(include_url=False)
    name, kind, value = str(mistake["loc"][0]), mistake["type"], mistake["input"]
    where = origin.get(name, name)
    context = mistake.get("ctx", {})
    if kind == "literal_error":
        near = get_close_matches(str(value), re.findall(r"'([^']+)'", context["expected"]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{where} must be {context['expected']}, not {_quoted(value)}{hint}"
    if kind == "extra_forbidden":
        return _unknown(name, config)
    if name == "keep" and kind in _LIMITS:
        rows = "; for a number of rows use --total" if "total" in config.model_fields else ""
        return (
            f"{where} {shortened(str(value))} must be above 0 and at most 1: it is a fraction "
            f"(0.1 keeps 10 %){rows}"
        )
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        return f"{where} must be {words} {context[key]}, not {shortened(str(value))}"
    if kind == "value_error":
        return f"{where} {context['error']}"
    for prefix, wanted in _WANTED.items():
        if kind.startswith(prefix):
            file = name in SIZES and re.search(r"[A-Za-z]{2}|/", str(value))
            hint = (
                f" (a file goes before the flags: staff {config.command} train.jsonl …)"
                if file
                else ""
            )
            literal = [e for e in others if e["type"] == "literal_error" and e["loc"][0] == name]
            wanted = " or ".join([wanted, *(e["ctx"]["expected"] for e in literal)])
            return f"{where} must be {wanted}, not {_quoted(value)}{hint}"
    return f"{where}: {mistake['msg']}"


def _quoted(value: Any) -> str:
    """A wrong value as far as a line holds it: YAML's aliases can write out to gigabytes."""
    if isinstance(value, date):
        return str(value)
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = SHOWN
    return short.repr(value)
