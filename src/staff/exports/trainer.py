"""What a trainer is to an export: how its rows look, and the files that its run needs."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from staff.data.records import CHAT
from staff.data.writers import json_text
from staff.errors import BadRow
from staff.exports.coreset import Coreset
from staff.types import Example

Kind = Literal["pair", "chat", "single", "text"]


@dataclass(frozen=True, slots=True)
class Model:
    """The model to be tuned. name: a path or a Hub id; revision: of the Hub's.

    counted: whether it is the run's target, by whose tokenizer the rows' tokens were counted.
    Of its folder, or that of the Hub's cache, and None where it is not there: kind, the type of
    model that its config names; context, its longest input in tokens; template, the tokenizer's
    chat template, empty without one; turn_end, the token that ends a turn there, if it is known.
    """

    name: str
    revision: str | None = None
    counted: bool = True
    kind: str | None = None
    context: int | None = None
    template: str | None = None
    turn_end: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What the files of an export are written from: no text of the data is in it.

    data: name of the data file. rows: how many are in it. kind: what they are; ``single`` is a
    conversation whose only answer is its last turn. length: tokens at which a row is cut, None if
    that is not known. given: columns of what chat templates get beside messages. rich: whether
    messages have more than role and content.
    bits: of the weights of linear layers in which the model is to be loaded, 4 or 8; None: in full.
    rows_at_once: that are computed together; steps: gradients of so many add up before each step.
    """

    coreset: Coreset
    data: str
    rows: int
    kind: Kind
    model: Model
    length: int | None
    bits: Literal[4, 8] | None
    given: tuple[str, ...]
    rich: bool
    rows_at_once: int
    steps: int


@dataclass(frozen=True, slots=True)
class Trainer:
    """One trainer.

    shape: an example of a kind as the columns of its row; `BadRow` where the trainer cannot
    take it. command: what to run next, given the folder. files: name -> text, beside the data, with
    the model to be tuned in it; None where there are none. save: makes the data of a Parquet file,
    in a folder that is empty, where the trainer takes no Parquet. taken: names of columns that mean
    something to it, so that none of the user's may go by them. splits: takes conversations that end
    in their only answer as prompt and completion. gives: columns, of `data.columns.GIVEN`,
    that it hands on to the chat template. wraps: puts a template of its own around rows, beyond
    what was counted. note: what it would do with a row it cannot take.
    """

    shape: Callable[[Example, Kind], Mapping[str, Any]]
    command: Callable[[str], str]
    files: Callable[[Job], Mapping[str, str]] | None = None
    save: Callable[[Path, Path], None] | None = None
    taken: frozenset[str] = frozenset()
    splits: bool = False
    gives: frozenset[str] = frozenset()
    wraps: bool = False
    note: str = ""


def kind_of(coreset: Coreset, *, last_only: bool) -> Kind:
    """What the rows of a coreset are. last_only: each conversation ends in its only answer."""
    if coreset.options.format in CHAT:
        return "single" if last_only else "chat"
    return "text" if coreset.options.format == "text" else "pair"


def turns(example: Example) -> list[dict[str, Any]]:
    """The messages of a conversation as OpenAI writes them, with all that chat templates read.

    Raises `BadRow` for an answer that is not to be learnt: no such mark is there for it.
    """
    for number, message in enumerate(example.messages, 1):
        if not message.learnt:
            raise BadRow(f"message {number} has weight 0, and the trainer would learn it")
    return [{"role": m.role, "content": m.content, **m.more} for m in example.messages]


def given_columns(example: Example) -> dict[str, Any]:
    """What a chat template gets beside the messages, in the columns of `data.columns.GIVEN`."""
    given = dict(example.given)
    tools = given.pop("tools", None)
    return {"tools": tools and json_text(tools), "chat_template_kwargs": given}


def within(command: str) -> Callable[[str], str]:
    """A command that is to be run in the folder it is given."""
    return lambda folder: f"cd {shlex.quote(folder)} && {command}"
