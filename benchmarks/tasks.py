"""The benchmark tasks: real data sets as prompt and response, always the same rows.

`data` is a folder with one folder per set, each with the JSON Lines files of its official splits:
e2e_nlg (mr, ref), cogs (sentence, logical_form), snips_full (text, intent, segments), dialogsum
(dialogue, summary), gsm8k (question, answer) and bioinstruct (instruction, input, output). Without
it the only task is `e2e_demo`: the sample of E2E NLG that staff ships.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff.demo import TASK as DEMO
from staff.runs.store import write_atomic

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """Which files, how a record becomes a pair, and how many rows are drawn.

    test_rows: of the test file, one a prompt; where there is none of its own (`held_out`), they
    are drawn from the training file first. characters: longest prompt and response together.
    """

    folder: str
    train: str
    test: str
    pair: Callable[[Record], tuple[str, str]]
    train_rows: int = 4000
    test_rows: int = 400
    characters: int | None = None

    @property
    def held_out(self) -> bool:
        """Whether the test rows come from the training file."""
        return self.train == self.test


def snips_line(record: Record) -> str:
    """Intent and slots on one line: ``PlayMusic | artist = Sia | year = 2014``.

    >>> snips_line({"intent": "A", "segments": [["add ", None], ["Sia", "artist"]]})
    'A | artist = Sia'
    """
    slots = [f"{slot} = {text.strip()}" for text, slot in record["segments"] if slot]
    return " | ".join([record["intent"], *slots])


TASKS = {
    "e2e_demo": Task("", "train", "test", lambda r: (r["mr"], r["ref"])),
    "e2e_nlg": Task("e2e_nlg", "train", "test", lambda r: (r["mr"], r["ref"])),
    "cogs": Task("cogs", "train", "test", lambda r: (r["sentence"], r["logical_form"])),
    "snips": Task("snips_full", "train", "val", lambda r: (r["text"].strip(), snips_line(r))),
    # Of what the embedded family's 512 positions hold; longer dialogues would lose their summary.
    "dialogsum": Task(
        "dialogsum",
        "train",
        "test",
        lambda r: (r["dialogue"], r.get("summary") or r["summary1"]),
        characters=1000,
    ),
    "gsm8k": Task(
        "gsm8k", "train", "test", lambda r: (r["question"], r["answer"]), characters=1500
    ),
    "bioinstruct": Task(
        "bioinstruct",
        "test",
        "test",
        lambda r: ("\n".join(filter(None, (r["instruction"], r["input"]))), r["output"]),
        train_rows=2000,
        test_rows=500,
        characters=1500,
    ),
}


def write_task(name: str, data: Path | None, out: Path, *, rows: int | None = None) -> Path:
    """Write `train.jsonl` and `test.jsonl` (prompt, response) into `out`; returns `out`.

    Rows are drawn by the hash of their text. rows: fewer training rows than the task has. Files of
    the same rows are left as they are; SystemExit where they are of others.
    """
    task = TASKS[name]
    folder = DEMO if not task.folder else data / task.folder if data else None
    if folder is None:
        raise SystemExit(f"{name} needs --data: a folder with {task.folder}/")
    train = list(_pairs(task, folder / f"{task.train}.jsonl"))
    tests = train if task.held_out else list(_pairs(task, folder / f"{task.test}.jsonl"))
    test = _drawn(_one_a_prompt(tests), task.test_rows)
    held = {prompt for prompt, _ in test}
    train = _drawn([pair for pair in train if pair[0] not in held], rows or task.train_rows)
    out.mkdir(parents=True, exist_ok=True)
    for split, drawn in (("train", train), ("test", test)):
        lines = (
            json.dumps({"prompt": p, "response": r}, ensure_ascii=False) + "\n" for p, r in drawn
        )
        text, file = "".join(lines), out / f"{split}.jsonl"
        if not file.is_file():
            write_atomic(file, text)
        elif file.read_text(encoding="utf-8") != text:  # another process may be at work on it
            raise SystemExit(f"{file} is of other rows: give another --work, or remove it")
    return out


def _pairs(task: Task, path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            prompt, response = task.pair(json.loads(line))
            fits = not task.characters or len(prompt) + len(response) <= task.characters
            if prompt.strip() and response.strip() and fits:
                yield prompt, response


def _one_a_prompt(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return list({prompt: (prompt, response) for prompt, response in reversed(pairs)}.values())


def _drawn(pairs: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """`count` of them, those of the smallest hash."""
    return sorted(pairs, key=lambda pair: hashlib.sha256("\0".join(pair).encode()).digest())[:count]
