"""Assembly of the command line, and the one place where an error becomes an exit code."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, UnknownOptionError
from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

from staff import __version__
from staff.errors import (
    DiskFullError,
    StaffError,
    ToldElsewhereError,
    is_disk_full,
    tells_of_memory,
)
from staff.visible import visible

SUMMARY = "Choose the part of a fine-tuning set that is worth training on."
EPILOGUE = """\
Start here:

  staff demo
  staff select train.jsonl --small SMALL --target TARGET \\
    --keep 0.1 --out runs/x

Exit codes: 0 done, 1 other failure (disk or memory full, output closed),
2 usage or settings, 3 data, 4 model, 5 run folder, 70 internal error,
130 stopped by Ctrl-C, 143 by SIGTERM.
"""
VERBS = {
    "select": "Select coresets of a training file with a small and a target model.",
    "score": "Score every row of a file with one model.",
    "why": "Explain why a row was or was not chosen.",
    "finetune": "Fine-tune a model on a coreset (LoRA).",
    "evaluate": "Measure a model on a test file: loss, ROUGE-L, BLEU, exact match.",
    "compare": "Compare selection methods on your task, with confidence intervals.",
    "report": "Show the summary of a finished run again.",
    "export": "Write a coreset in a trainer's format: TRL, LLaMA-Factory, axolotl, datasets.",
    "cache": "List or prune the scores and adapters kept by --cache.",
    "check-model": "Check the fast scores of your model against plain autograd on your rows.",
    "plan": "Estimate before a run what selection costs, what it saves, and whether it pays off.",
    "families": "List target models and the small model that --small auto takes for each.",
    "demo": "Run the whole pipeline on a small real data set that comes with staff.",
}
# Their results are files, not what they print.
WRITING = ("select", "score", "finetune", "compare", "export", "demo")
# They take a data file by position.
READING = ("select", "score", "finetune", "evaluate", "compare", "plan")
INTERNAL, STOPPED, TERMINATED = 70, 130, 143
_signals: list[int] = []  # Ctrl-C, and SIGTERM from a scheduler that wants the machine back


def build_app() -> App:
    """The command line; a verb's module is imported when the verb is used."""
    app = App(
        name="staff",
        help=SUMMARY,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=__version__,
        version_format="plaintext",
        result_action="return_value",
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    for position, (name, text) in enumerate(VERBS.items()):
        app.command(
            f"staff.cli.{name.replace('-', '_')}:app", name=name, help=text, sort_key=position
        )
    app.register_install_completion_command(help="Install shell completion and stop.")
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (`staff --help` lists them)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores it
            signal.signal(signal.SIGINT, _stop)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # a service may start with them closed
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - it stays
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ± still gets its numbers
    try:
        build_app()(arguments)
        sys.stdout.flush()
        return 0
    except (BrokenPipeError, SystemExit) as error:  # `staff report runs/x | head`
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _let_go_of_pipes()  # rich, which writes the help, leaves by SystemExit
        if not _writes(arguments):
            return 0
        return _fail(f"stopped: the output was closed{_how_to_go_on(arguments)}", 1)
    except KeyboardInterrupt:
        return _stopped(arguments)
    except ToldElsewhereError:
        return 0
    except Exception as error:
        if _signals:  # a library made an error of its own of being stopped
            return _stopped(arguments)
        if "--debug" in arguments:
            import traceback

            sys.stderr.write(visible(traceback.format_exc()))
        _let_go_of_pipes()  # standard output that could not be written would be tried again
        return _fail(*explain(error))


def _stop(number: int, frame: object) -> None:
    _signals.append(number)
    raise KeyboardInterrupt


def _stopped(arguments: Sequence[str]) -> int:
    """Say so. Then Python leaves, and a further Ctrl-C ends it without a traceback."""
    ours = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is _stop
    ]
    for number in ours:
        signal.signal(number, signal.SIG_IGN)
    code = TERMINATED if signal.SIGTERM in _signals else STOPPED
    _fail(f"stopped{_how_to_go_on(arguments)}", code, prefix="")
    for number in ours:
        signal.signal(number, signal.SIG_DFL)
    return code


def explain(error: Exception) -> tuple[str, int]:
    """Words for a user and the exit code of any exception."""
    if isinstance(error, StaffError):
        return str(error), error.exit_code
    if isinstance(error, CycloptsError):
        return _usage(error), 2
    if is_disk_full(error):
        return str(DiskFullError(getattr(error, "filename", None))), DiskFullError.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 1
    if _is_out_of_memory(error):
        what = "--batch-tokens (finetune: --micro-batch-size) or --max-length"
        return f"out of memory: lower {what}", 1
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"internal error, {text}\n--debug shows the traceback; please report it", INTERNAL


def _is_out_of_memory(error: Exception) -> bool:
    """Python's, or torch's: told by its text, since torch is not imported for that."""
    words = isinstance(error, RuntimeError) and tells_of_memory(str(error))
    return isinstance(error, MemoryError) or words


def _writes(arguments: Sequence[str]) -> bool:
    """Whether the command leaves files, rather than only text to read."""
    named = {argument.partition("=")[0] for argument in arguments}
    if named & {"--help", "-h", "--dry-run", "--print-config"}:
        return False
    if arguments[:1] == ["evaluate"]:
        return "--out" in named
    return bool(arguments) and arguments[0] in WRITING  # `plan` takes an --out, and leaves nothing


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """How to resume a command that was stopped."""
    if not _writes(arguments) or arguments[0] == "evaluate":
        return ""
    if arguments[0] == "finetune":
        return ": run the same command again; it resumes from the last checkpoint"
    if arguments[0] == "export":
        return ": run the same command again"
    if "--overwrite" in arguments:
        return ": run the same command again, without --overwrite to keep finished stages"
    return ": run the same command again; it resumes from the last checkpoint or finished stage"


def _let_go_of_pipes() -> None:
    """Discard what is still buffered, or Python would complain about it when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _usage(error: CycloptsError) -> str:
    """One line on a mistyped command line: what is wrong, and where to look."""
    error.verbose = False
    text = str(error).strip().replace(", ...", ", …").rstrip(".")
    text = text[:1].lower() + text[1:]
    chain = " ".join(error.command_chain or ())
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        text = f"{error.argument.name} needs a value"
    if isinstance(error, UnusedCliTokensError):
        unused = error.unused_tokens or []
        text = f"too many arguments: {' '.join(unused)}"
        if chain in READING and all(map(os.path.isfile, unused)):  # as of shards/*.jsonl
            text += ": give several files as a folder, or as a pattern in quotes"
    if isinstance(error, UnknownOptionError) and "Did you mean" in text:
        return text.replace(". Did", "; did")
    return f"{text} (see staff {chain + ' ' if chain else ''}--help)"


def _fail(text: str, code: int, prefix: str = "error: ") -> int:
    write: Callable[[str], object] = sys.stderr.write
    write(visible(f"{prefix}{text}\n"))
    return code
