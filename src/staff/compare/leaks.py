"""Do test prompts occur in the training data?"""

import hashlib
from collections.abc import Iterator

from staff.data.files import Source
from staff.data.prepare import check_columns
from staff.data.records import RecordOptions, to_example
from staff.errors import BadRow
from staff.types import Example


def count_leaks(train: Source, test: Source, options: RecordOptions) -> tuple[int, int]:
    """How many test rows have a prompt that occurs in train, and the number of test rows.

    Prompts are compared without regard to case and runs of white space. Of a conversation,
    everything before the last answer is the prompt; plain text is compared as a whole. Rows
    that cannot be used are passed over. Only the test prompts' hashes stay in memory.
    """
    prompts = [_digest(example) for example in _examples(test, options)]
    wanted, found = set(prompts), set[bytes]()
    for example in _examples(train, options):
        if (digest := _digest(example)) in wanted:
            found.add(digest)
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


def _digest(example: Example) -> bytes:
    if example.messages:
        turns = list(example.messages)
        while turns and turns[-1].role != "assistant":
            turns.pop()
        text = "\n".join(f"{turn.role}: {turn.content}" for turn in turns[:-1])
    else:
        text = example.prompt or example.response
    plain = " ".join(text.lower().split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()
