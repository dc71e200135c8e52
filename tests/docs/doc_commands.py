"""The commands that README.md and docs/**.md tell a reader to type, and what is said to happen to them.

A block of commands is a fence marked sh, bash, shell or console, or any other block of code with a line
that begins like one. A comment of HTML, alone in its paragraph before the block, says what the test does:

    <!-- not run: REASON -->                 no run; its `staff` commands are parsed
    <!-- slow: REASON -->                    run by `make test-docs` only
    <!-- stand-ins: REASON -->               run with small models under the names of large ones of
                                             the Hub, on the first rows of the page's data
    <!-- not run on this page: REASON -->    the first of these for all blocks of the page
    <!-- run by tests/FILE -->               for all blocks of the page: that test runs them

Without one it is run. Blocks of a page are run one after the other in one shell, each from the page's own
folder. In a console block commands begin with `$ `, and what follows is what they print on standard output,
or with `error: ` on standard error, failing; `…` stands for anything within a line, and on a line of its
own for any number of lines.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("sh", "bash", "shell", "console")
COMMAND = re.compile(r"\s*(\$ |(staff|torchrun|python3?|pip|make|cd|git|curl|srun)\s)")
MARKER = re.compile(r"<!-- (not run|slow|stand-ins): (\S.*?) -->\s*", re.DOTALL)
OF_PAGE = re.compile(
    r"<!-- (?:(not run) on this page: (\S.*?)|(run) by (tests/\S+)) -->", re.DOTALL
)
ENDS = {"&&", "||", "|", ";", "&", ">", ">>", "<", "(", ")"}


@dataclass(frozen=True)
class Command:
    """Text for a shell, and what it prints where the page shows that."""

    text: str
    printed: str | None = None

    @property
    def fails(self) -> bool:
        """Whether the page shows an error: what is compared is then standard error."""
        return (self.printed or "").startswith("error: ")


@dataclass(frozen=True)
class Block:
    """Commands of a page. fate: run, slow, stand-ins, not run or elsewhere; reason: why."""

    page: Path
    line: int
    commands: tuple[Command, ...]
    fate: str = "run"
    reason: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """Where a reader finds it, e.g. docs/export.md:7."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """All blocks of commands of a page, in their order; text: instead of what is in the file."""
    text = page.read_text(encoding="utf-8") if text is None else text
    of_page = OF_PAGE.search(text)
    found, before = [], None
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in ("fence", "code_block"):
            commands = _commands(token.info.strip(), token.content)
            if commands:
                fate, reason = ("run", "")
                if of_page:
                    fate = "not run" if of_page[1] else "elsewhere"
                    reason = of_page[2] or of_page[4]
                elif before:
                    fate, reason = before[1], before[2]
                line = token.map[0] + 1 if token.map else 0
                found.append(Block(page, line, commands, fate, reason))
        before = MARKER.fullmatch(token.content) if token.type == "html_block" else None
    return found


def _commands(kind: str, content: str) -> tuple[Command, ...]:
    """The commands of one block of code; none if it holds something else."""
    lines = content.rstrip("\n").split("\n")
    if kind == "console" or lines[0].startswith("$ "):
        return tuple(_console(lines))
    if kind in SHELL or (kind in ("", "text") and any(map(COMMAND.match, lines))):
        return (Command(content),)
    return ()


def _console(lines: list[str]) -> Iterator[Command]:
    """Commands behind `$ `, each with the lines printed up to the next."""
    text: list[str] = []
    printed: list[str] = []
    for line in [*lines, "$ "]:
        if line.startswith("$ "):
            if text:
                yield Command("\n".join(text) + "\n", "\n".join(printed).rstrip() or None)
            text, printed = [line[2:]], []
        elif text[-1].endswith("\\"):
            text.append(line)
        else:
            printed.append(line)


def staff_commands(text: str) -> list[list[str]]:
    """Arguments of every `staff` in shell text, however it is started; `…` is left out."""
    found = []
    for line in text.replace("\\\n", " ").split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = [word for word in lexer if word != "…"]
        for at, word in enumerate(words):
            first = at == 0 or words[at - 1] in ENDS | {"-m"}
            if word == "staff" and first:
                rest = words[at + 1 :]
                end = next((i for i, w in enumerate(rest) if w in ENDS), len(rest))
                found.append(rest[:end])
    return found


def matches(printed: str, found: str) -> bool:
    """Whether what a page shows is what was printed, `…` standing for what varies.

    >>> matches("10 rows in … s", "10 rows in 0.1 s  "), matches("a\\n…\\nz", "a\\nb\\nc\\nz")
    (True, True)
    >>> matches("10 rows", "11 rows"), matches("a … c", "a b\\nc")
    (False, False)
    """
    pattern = ""
    for line in printed.rstrip().split("\n"):
        if line.strip() == "…":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += r"[^\n]*?".join(map(re.escape, line.rstrip().split("…"))) + "\n"
    text = "".join(line.rstrip() + "\n" for line in found.rstrip().split("\n"))
    return re.fullmatch(pattern, text) is not None
