"""Token ids of a conversation in the tokenizer's own chat template, loss on assistant turns.

Templates that mark assistant turns with ``{% generation %}`` are used as they are. For others, each
turn is found by rendering the conversation up to it: the text of the first k messages, with and
without the k-th, must be a prefix of the whole.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from staff.errors import BadRow, DataError
from staff.types import Bools, Ints, Message

Span = tuple[int, int]  # characters [start, end) of a rendered conversation
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
OPEN, CLOSE = "\U0010fff0", "\U0010fff1"  # private use: around text that only looks special
MARKED = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)


class ChatEncoder:
    """Encode conversations for one tokenizer.

    Raises `DataError` when it has no chat template or no character offsets.
    """

    def __init__(self, tokenizer: Any, *, source: str = "") -> None:
        self.tokenizer = tokenizer
        self.source = source or "this model"
        try:
            self.template: str = tokenizer.get_chat_template()
        except ValueError as error:
            raise DataError(
                f"the tokenizer of {self.source} has no chat template, which messages need. Use an "
                "instruct model of the family, or give prompt and response columns."
            ) from error
        if not tokenizer.is_fast:
            raise DataError(
                f"the tokenizer of {self.source} does not say which characters its tokens come "
                "from, which messages need. Use a model with a tokenizer.json."
            )
        self.marks_turns = GENERATION.search(self.template) is not None
        special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        special |= set(tokenizer.all_special_tokens)
        longest_first = sorted(special - {""}, key=lambda token: (-len(token), token))
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode_batch(
        self, conversations: Sequence[Sequence[Message]]
    ) -> list[tuple[Ints, Bools] | BadRow]:
        """(ids int64 [T], in the loss bool [T]) of each, or the `BadRow` it is."""
        results: list[Any] = []
        for conversation in conversations:
            try:
                results.append(self._render(conversation))
            except BadRow as bad:
                results.append(bad)
        plain = [i for i, r in enumerate(results) if not isinstance(r, BadRow) and OPEN not in r[0]]
        encoded = self._tokens([results[i][0] for i in plain]) if plain else []
        for i, tokens in zip(plain, encoded, strict=True):
            results[i] = _with_mask(tokens, results[i][1])
        for i, result in enumerate(results):
            if not isinstance(result, BadRow) and isinstance(result[0], str):
                results[i] = _with_mask(self._marked_tokens(result[0]), result[1])
        return results

    def _render(self, conversation: Sequence[Message]) -> tuple[str, list[Span]]:
        """The conversation as text (special look-alikes marked) and its assistant turns."""
        messages = [{"role": m.role, "content": self._mark(m.content)} for m in conversation]
        if self.marks_turns:
            return self._template(messages, marks=True)
        whole, _ = self._template(messages)
        spans = []
        for k, message in enumerate(messages):
            if message["role"] == "assistant":
                spans.append(self._turn(messages, k, whole))
        return whole, spans

    def _turn(self, messages: list[dict[str, str]], k: int, whole: str) -> Span:
        """The characters that message k adds after its header."""
        if k == 0:
            before = opened = ""  # most templates cannot render an empty conversation
        else:
            before, _ = self._template(messages[:k])
            opened, _ = self._template(messages[:k], prompt=True)
        upto = whole if k == len(messages) - 1 else self._template(messages[: k + 1])[0]
        if not (whole.startswith(opened) and whole.startswith(upto) and len(opened) < len(upto)):
            raise BadRow(
                f"the chat template of {self.source} writes earlier turns differently as the "
                "conversation goes on, so assistant turns cannot be told apart; mark them in the "
                "template with {% generation %} … {% endgeneration %}, or use single turns"
            )
        start = len(opened)
        if opened == before:  # the template writes no header on request: look for the text itself
            start = max(start, whole.find(messages[k]["content"].strip(), start, len(upto)))
        return start, len(upto)

    def _template(
        self, messages: list[dict[str, str]], *, prompt: bool = False, marks: bool = False
    ) -> tuple[str, list[Span]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered: Any = render_jinja_template(
                conversations=[messages],
                chat_template=self.template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marks,
                # Llama 3 templates write today's date unless told one; runs must not depend on it.
                date_string="26 Jul 2024",
                **self.tokenizer.special_tokens_map,
            )
        except TemplateError as error:
            raise BadRow(f"the chat template refuses it: {error}") from error
        [text], spans = rendered
        return text, [(start, end) for start, end in spans[0]] if marks else []

    def _mark(self, text: str) -> str:
        if not self._special.search(text):
            return text
        if OPEN in text or CLOSE in text:
            raise BadRow("holds special tokens and the characters U+10FFF0 or U+10FFF1")
        return self._special.sub(f"{OPEN}\\g<0>{CLOSE}", text)

    def _tokens(self, texts: list[str], *, as_text: bool = False) -> list[list[tuple[int, Span]]]:
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=as_text,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [
            list(zip(ids, offsets, strict=True))
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _marked_tokens(self, text: str) -> list[tuple[int, Span]]:
        """Tokens of a text with marks: what is marked has no special tokens in it."""
        tokens: list[tuple[int, Span]] = []
        at = 0
        for n, piece in enumerate(MARKED.split(text)):  # plain, marked, plain, marked, … plain
            as_text = n % 2 == 1
            at += as_text  # the opening mark
            # A mark that the template parted from its twin is no more than a break in the text.
            for part in re.split(f"([{OPEN}{CLOSE}])", piece):
                if part and part not in (OPEN, CLOSE):
                    tokens += self._inner_tokens(part, at, as_text=as_text)
                at += len(part)
            at += as_text  # the closing mark
        return tokens

    def _inner_tokens(self, piece: str, at: int, *, as_text: bool) -> list[tuple[int, Span]]:
        """Tokens of a piece from within a text, their spans moved by `at`.

        Behind a line feed, which is taken off again: SentencePiece tokenizers would put a space
        before the start of a text.
        """
        lead = "\n" if at else ""
        [tokens] = self._tokens([lead + piece], as_text=as_text)
        if any(start < len(lead) < end for _, (start, end) in tokens):  # merged with the line feed
            lead = ""
            [tokens] = self._tokens([piece], as_text=as_text)
        move = at - len(lead)
        return [
            (token, (start + move, end + move))
            for token, (start, end) in tokens
            if end > len(lead) or not lead
        ]


def _with_mask(tokens: list[tuple[int, Span]], spans: list[Span]) -> tuple[Ints, Bools]:
    """ids int64 [T]; in the loss, bool [T]: the token shares a character with a span.

    Offsets may leave out white space (Llama 3 trims it), so a token reaches back to where the
    one before ended.
    """
    ids = np.array([token for token, _ in tokens], np.int64)
    in_loss = np.zeros(len(ids), bool)
    reached = 0
    for n, (_, (start, end)) in enumerate(tokens):
        start, end = min(start, reached), max(end, reached)
        in_loss[n] = any(start < last and end > first for first, last in spans)
        reached = end
    return ids, in_loss
