"""Do test prompts occur in the training data?"""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain

from staff.data.files import Source
from staff.data.prepare import check_columns
from staff.data.records import RecordOptions, to_example
from staff.errors import BadRow
from staff.types import Example


def count_leaks(train: Iterable[Source], test: Source, options: RecordOptions) -> tuple[int, int]:
    """How many test rows have a prompt that occurs in train, and the number of test rows.

    Prompts are compared without regard to case, runs of white space and how letters and accents are
    put together (Unicode's NFC). Of a conversation, everything before the last answer is the
    prompt, and in train, which learns every answer, everything before any of them; plain text is
    compared as a whole. Rows that cannot be used are passed over. Only the test prompts' hashes
    stay in memory.
    """
    prompts = [_digest(_prompts(example)[-1]) for example in _examples(test, options)]
    wanted, found = set(prompts), set[bytes]()
    for example in chain.from_iterable(_examples(source, options) for source in train):
        found |= wanted & {_digest(prompt) for prompt in _prompts(example)}
    return sum(digest in found for digest in prompts), len(prompts)


def _examples(source: Source, options: RecordOptions) -> Iterator[Example]:
    options = check_columns(source, options)
    for raw in source.records():
        if raw.record is None:
            continue
        try:
            yield to_example(raw.record, options)
        except BadRow:
            continue


def _prompts(example: Example) -> list[str]:
    """What stands before each answer. One question of a user is the same in and out of a chat."""
    if not example.messages:
        return [example.prompt or example.response]
    turns = [f"{turn.role}: {turn.text}" for turn in example.messages]
    answers = [n for n, turn in enumerate(example.messages) if turn.role == "assistant"]
    prompts = ["\n".join(turns[:n]) for n in answers]
    if answers[0] == 1 and example.messages[0].role == "user":
        prompts[0] = example.messages[0].text
    return prompts


def _digest(prompt: str) -> bytes:
    plain = unicodedata.normalize("NFC", " ".join(prompt.lower().split()))
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()
