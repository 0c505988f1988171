"""Configuration: one YAML file, `APPORTION_*` environment variables over it, command-line flags over both.

A name that is not known is refused, together with the nearest one that is: a typing error in a limit must never mean
"no limit". `docs/configuration.md` is generated from the settings' descriptions:

    python -m server.config > docs/configuration.md
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import yaml
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from server.section import Section, merge, section_of
from server.settings import Config, Profile, Server

__all__ = ["Config", "ConfigError", "Profile", "Server", "load_config", "reference", "settings"]

PREFIX = "APPORTION_"
_NAMED = ("profiles", "scorers", "keys")  # sections with entries of the operator's own naming
CONFIG_VARIABLE = "APPORTION_CONFIG"
# Kubernetes puts these into every pod next to a Service that is called "apportion"; they are not meant for us.
_SERVICE_LINK = re.compile(r"APPORTION_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)\w*|PORT(?==\w+://))=.*")


class ConfigError(Exception):
    """What is wrong with the configuration, one line a problem, each led by the setting's full path."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class _Environment(Config, BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", enable_decoding=False)


def load_config(
    path: Path | None,
    *,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read the configuration. Raises ConfigError, which names every problem there is.

    path: the YAML file, else the one that APPORTION_CONFIG names, else none. overrides: full paths or nested, such as
    `{"server.port": 9000}`; None is a flag that was not given. environ: instead of the process's environment.
    """
    environ = os.environ if environ is None else environ
    file = path or (Path(named) if (named := environ.get(CONFIG_VARIABLE)) else None)
    data: Mapping[str, Any] = _from_yaml(file) if file else {}
    values, variables, problems = _from_environment(environ)
    data = merge(data, values)
    for name, value in overrides.items():
        if value is not None:
            data = merge(data, _nested(name.split("."), value))
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problems += _explain(detail["loc"], detail["type"], detail["msg"], detail["input"], variables)
    else:
        if not problems:
            return config
    raise ConfigError(problems) from None


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:  # YAML itself would silently keep the last
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} is set twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _from_yaml(path: Path) -> Mapping[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError([f"{where}: not YAML: {getattr(error, 'problem', None) or error}"]) from None
    if data is not None and not isinstance(data, dict):
        raise ConfigError([f"{path}: holds no settings; accepted: lines such as 'engine:' and '  url: ...' below it"])
    return cast(dict[str, Any], data or {})


def _from_environment(environ: Mapping[str, str]) -> tuple[Mapping[str, Any], dict[str, str], list[str]]:
    """The values, which variable set which path, and the variables that name nothing. Empty is not set."""
    named = {
        name.upper(): value
        for name, value in environ.items()
        if value and name.upper().startswith(PREFIX) and name.upper() != CONFIG_VARIABLE
        if not _SERVICE_LINK.fullmatch(f"{name.upper()}={value}")
    }
    source = EnvSettingsSource(_Environment)
    source.env_vars = {name.lower(): value for name, value in named.items()}
    values = source()
    variables: dict[str, str] = {}
    problems: list[str] = []
    for name in sorted(named):
        here: Any = values
        path = name.removeprefix(PREFIX).lower().split("__")
        for part in path:
            here = cast(dict[str, Any], here).get(part) if isinstance(here, dict) else None
        if here is None:
            problems.append(_unknown(".".join(path), name))
        variables[".".join(path)] = name
    return values, variables, problems


def _nested(path: Sequence[str], value: Any) -> Mapping[str, Any]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def settings(model: type[Section] = Config, under: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its full path; sections come before what is in them."""
    for name, field in model.model_fields.items():
        yield f"{under}{name}", field
        if (section := section_of(field.annotation)) is not None:
            yield from settings(section, f"{under}{name}." + ("<name>." if name in _NAMED else ""))


def _accepted(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    if (section := section_of(kind)) is not None:
        return f"a section with {', '.join(section.model_fields)}"
    if get_origin(kind) is tuple:
        part = get_args(kind)[0]
        return (
            "text, or a list of texts" if get_origin(part) is Annotated and get_args(part)[0] is str else "strategies"
        )
    words = {bool: "true or false", int: "whole number", float: "number", Path: "path"}
    bounds = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = [
        f"{word} {getattr(limit, name)}"
        for name, word in bounds.items()
        for limit in field.metadata
        if hasattr(limit, name)
    ]
    return ", ".join([words.get(kind, "text"), *limits])


def _explain(
    loc: Sequence[str | int], kind: str, message: str, given: Any, variables: Mapping[str, str]
) -> Iterator[str]:
    """One of pydantic's errors in our words."""
    if not loc:
        yield from message.removeprefix("Value error, ").splitlines()
        return
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
    setting = ".".join(str(part) for part in loc if not isinstance(part, int))
    variable = variables.get(setting)
    if kind == "extra_forbidden":
        yield _unknown(path, variable)
        return
    field = dict(settings()).get(_generic(setting).removesuffix(".<name>"))
    if kind == "missing" and field is not None:
        yield f"{path}: needed; accepted: {_accepted(field)}"
        return
    if kind == "value_error" or field is None:
        what = message.removeprefix("Value error, ")
    else:
        secret = SecretStr in (field.annotation, *get_args(field.annotation))
        shown = "what is given" if secret else ascii(given)[:60]
        what = f"{shown} is not accepted; accepted: {_accepted(field)}"
    yield f"{path}{f' ({variable})' if variable else ''}: {what}"


def _generic(path: str) -> str:
    return re.sub(rf"^({'|'.join(_NAMED)})\.[^.]*", r"\1.<name>", path)


def _unknown(path: str, variable: str | None) -> str:
    """A sentence with the nearest known name: spelled alike, or of the same name in another section."""
    parent, _, leaf = _generic(path).rpartition(".")
    names = {name: name.rpartition(".") for name, _ in settings()}

    def likeness(name: str) -> float:
        whole = SequenceMatcher(None, name, _generic(path)).ratio()
        last = SequenceMatcher(None, names[name][2], leaf).ratio() if names[name][0] == parent else 0
        return max(whole if whole >= 0.8 else 0, last if last >= 0.6 else 0, 0.7 if names[name][2] == leaf else 0)

    nearest = max(names, key=likeness)
    found = [nearest] if likeness(nearest) else [name for name in names if names[name][0] == parent]
    own = path.split(".")[1] if path.startswith(tuple(f"{name}." for name in _NAMED)) else "<name>"
    shown = [name.replace("<name>", own) for name in found]
    if variable:
        shown = [PREFIX + name.upper().replace(".", "__") for name in shown]
    hint = f"did you mean {shown[0]}?" if likeness(nearest) else f"known here: {', '.join(shown) or 'nothing'}"
    return f"{variable or path}: unknown setting; {hint}"


def reference() -> str:
    """The text of docs/configuration.md."""
    lines = _INTRODUCTION.splitlines()
    tables: dict[str, list[str]] = {}
    for path, field in settings():
        section = section_of(field.annotation)
        if section is not None:
            heading = f"{path}.<name>" if path in _NAMED else path
            tables[heading] = [f"## `{heading}`", "", field.description or "", ""]
            if path == "profiles":
                built_in = cast(Mapping[str, Profile], field.get_default(call_default_factory=True))
                tables[heading][-1:] = ["", "| profile | token_price | latency_price |", "|---|---|---|"]
                tables[heading] += [f"| {name} | {p.token_price} | {p.latency_price} |" for name, p in built_in.items()]
                tables[heading].append("")
            tables[heading] += _TABLE
        else:
            above = tables.setdefault(path.rpartition(".")[0], ["## Top level", "", *_TABLE])
            above.append(f"| `{path}` | {_default(field)} | {_accepted(field)} | {field.description} |")
    for rows in (tables.pop(""), *tables.values()):
        lines += ["", *rows]
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.default is None:
        return "not set"
    if field.is_required():
        return "needed"
    default: object = field.default
    if isinstance(default, tuple):
        entries = cast(tuple[object, ...], default)
        return ", ".join(f"`{json.dumps(entry) if isinstance(entry, str) else entry}`" for entry in entries) or "none"
    return f"`{json.dumps(default)}`"


_TABLE = ("| setting | default | accepted | what it is |", "|---|---|---|---|")
_INTRODUCTION = """\
# Configuration

<!-- Generated: python -m server.config > docs/configuration.md -->

Settings come from a YAML file (`--config`, or the path in `APPORTION_CONFIG`), from environment variables, and from
command-line flags. Flags go over the environment, the environment over the file, the file over the defaults.

The variable of a setting is `APPORTION_` and its path in capitals, with two underscores for each dot: `engine.url` is
`APPORTION_ENGINE__URL`. Lists are written with commas: `APPORTION_MENU="single, best_of_n@8"`. An empty variable counts
as not set.

A name that is not listed here is an error, in the file and in the environment: the server does not start, and says
which name comes nearest. `configs/default.yaml` holds every default."""


if __name__ == "__main__":
    sys.stdout.write(reference())
