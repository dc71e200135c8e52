"""The responses of a source as they were written, to compare predictions with."""

from staff.data.files import Source
from staff.data.prepare import Prepared
from staff.data.records import to_example
from staff.types import Example


def last_responses(source: Source, prepared: Prepared) -> list[str | None]:
    """The last response of every usable row, in the order of its store.

    Tokens cannot give it back where the tokenizer cannot spell it. None where the row's tokens do
    not stand for the whole of it: a conversation that was cut may have lost its last turns, and
    without a prompt the first token of the text may be what the model is given to go on from. None,
    too, where a chat template is to spell more than words: a tool's call, or thoughts.
    """
    cut = prepared.stores[0].truncated
    place = {int(row): n for n, row in enumerate(prepared.rows)}
    found: list[str | None] = [None] * len(place)
    for raw in source.records():
        n = place.get(raw.row)
        if n is not None and raw.record is not None:
            example = to_example(raw.record, prepared.options)
            if example.prompt or (example.messages and not cut[n]):
                found[n] = _last_response(example)
    return found


def _last_response(example: Example) -> str | None:
    answers = [m for m in example.messages if m.role == "assistant" and m.learnt]
    if not answers:
        return example.response
    return None if answers[-1].more.keys() - {"name"} else answers[-1].content
