"""From a settings class to a command: its flags, YAML, --print-config, and one terminal."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from cyclopts import App, Group, Parameter, Token
from pydantic.fields import FieldInfo

from staff.cli.terminal import Terminal, open_terminal
from staff.errors import ConfigError
from staff.progress import WARNING
from staff.runs.config_file import build, dump_yaml
from staff.runs.settings import PANELS, RUNNING, Settings, coreset_name, panel_of
from staff.runs.unheeded import unheeded
from staff.team import helps, in_team

Config = TypeVar("Config", bound=Settings)

RUN = Group(RUNNING, sort_key=PANELS.index(RUNNING))


def _switch(text: str) -> Any:
    return Annotated[bool | None, Parameter(help=text, negative=(), group=RUN)]


Quiet = _switch("Print only errors and what was asked for.")
Verbose = _switch("Print more, including warnings of the libraries.")
DryRun = _switch("Show what would be done (rows and tokens per stage, files) and stop.")
Debug = _switch("Show the traceback if an error occurs.")


def _as_typed(kind: Any, tokens: Sequence[Token]) -> str | list[str]:
    typed = [token.value for token in tokens]
    return typed if get_origin(kind) is list else typed[0]


# Completed by names of files, and passed on as it is spelt.
AsPath = Parameter(converter=_as_typed, metavar="STR")
ConfigFile = Annotated[
    Path | None,
    AsPath,
    Parameter(help="Read settings from this YAML file; flags override it.", group=RUNNING),
]
COMMON = {
    "config": ConfigFile,
    "print_config": _switch("Print the resulting settings as YAML and stop."),
    "dry_run": DryRun,
    "quiet": Quiet,
    "verbose": Verbose,
    "debug": Debug,
    "json": _switch("Print the result as JSON."),
}


def verb(
    config: type[Config],
    *,
    dry_run: bool | str = False,
    json: bool = False,
    torchrun: bool = False,
    operand: str = "data",
) -> Callable[[Callable[[Config, Terminal], None]], Callable[..., None]]:
    """Make a command of a function of settings and a terminal.

    Every field of `config` becomes a flag; the field `operand` may also be given by
    position. With `dry_run` there is a flag --dry-run (a text is its help), and with `json` one
    --json, which the function heeds.
    torchrun: it may be started in several processes, which then work together.
    """
    wanted = {"dry_run": dry_run, "json": json}
    common = {name: kind for name, kind in COMMON.items() if wanted.get(name, True)}
    if isinstance(dry_run, str):
        common["dry_run"] = _switch(dry_run)

    def decorate(function: Callable[[Config, Terminal], None]) -> Callable[..., None]:
        def command(first: str | None = None, **given: Any) -> None:
            flags = {operand: first, **given}
            running = {name: flags.pop(name, None) for name in common}
            typed = {name: value for name, value in flags.items() if value is not None}
            settings = build(config, flags=typed, file=running.get("config"))
            if not torchrun:
                refuse_team(config.command)
            if helps() and (running["print_config"] or running.get("dry_run")):
                return
            terminal = open_terminal(
                quiet=bool(running["quiet"]),
                verbose=bool(running["verbose"]),
                dry_run=bool(running.get("dry_run")),
                json=bool(running.get("json")),
            )
            for text in unheeded(settings, typed):
                terminal.say(f"{WARNING}{text}")
            if running["print_config"]:
                terminal.result(dump_yaml(settings))
            else:
                function(settings, terminal)

        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD
                if name == operand
                else inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=kind,
            )
            for name, kind in {
                **{name: _kind(config.model_fields[name]) for name in config.ordered()},
                **common,
            }.items()
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__name__ = function.__name__
        return command

    return decorate


def refuse_team(name: str) -> None:
    """Raise `ConfigError` if torchrun started several processes of a verb that works in one."""
    if in_team():
        raise ConfigError(f"staff {name} works in one process: start it without torchrun")


def command_app(name: str, command: Callable[..., None], *, examples: str) -> App:
    """The application of one verb, with its examples under its flags.

    examples: in lines of at most 59 columns. Longer ones would be wrapped in a narrow terminal,
    and could not be copied from there.
    """
    operands = {
        **dict.fromkeys(("why", "report", "export"), " RUN"),
        "demo": "",
        "check-model": " MODEL",
        "families": " [WORD]",
    }
    operand = operands.get(name, " DATA")
    usage = f"Usage: staff {name}{operand} [FLAGS]"
    app = App(name=name, usage=usage, help_epilogue=f"Examples:\n\n{examples.strip(chr(10))}\n")
    app.default(command)
    return app


def _kind(field: FieldInfo) -> Any:
    """Type and help of one flag. Values stay text: the settings class judges them."""
    inner = _unwrapped(field.annotation)
    mapping = get_origin(inner) is dict
    several = mapping or get_origin(inner) is tuple
    item = _unwrapped(get_args(inner)[mapping]) if several else inner
    panel = panel_of(field)
    text = _default_text(field.default)
    parameter = Parameter(
        help=field.description,
        group=Group(panel, sort_key=PANELS.index(panel)),
        negative=None if item is bool else (),  # --no-… overrides a YAML file
        consume_multiple=(1, None) if several else None,
        show_default=(lambda _: text) if text else False,
    )
    kind = item if get_origin(item) is Literal else bool if item is bool else str
    if kind is str and item is not str:
        named = "FRACTION" if field.description and "raction" in field.description else "NUMBER"
        parameter = Parameter.combine(parameter, Parameter(metavar=named))
    if item is str and not mapping:  # a path most often
        kind, parameter = Path, Parameter.combine(parameter, AsPath)
    if mapping:
        parameter = Parameter.combine(parameter, Parameter(metavar="NAME=FILE"))
    return Annotated[(list[kind] if several else kind) | None, parameter]  # type: ignore[valid-type]


def _unwrapped(kind: Any) -> Any:
    """The plain type inside Annotated and ``| None``."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif type(None) in get_args(kind):
            kind = next(inner for inner in get_args(kind) if inner is not type(None))
        else:
            return kind


def _default_text(value: Any) -> str:
    """How `--help` writes a default; empty when there is nothing to write."""
    if value is None or value is False or value in ((), {}):
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return coreset_name(value) if isinstance(value, float) else str(value)
