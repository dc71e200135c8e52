"""Token ids of a conversation in the tokenizer's own chat template, loss on assistant turns.

Templates that mark assistant turns with ``{% generation %}`` are used as they are. For others, each
turn is found by rendering the conversation up to it: the text of the first k messages, with and
without the k-th, must be a prefix of the whole. Where it is not, because the template writes the
last turn differently, the turn is found by its words.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

import numpy as np

from staff.errors import BadRow, DataError
from staff.types import Bools, Ints, Message

Span = tuple[int, int]  # characters [start, end) of a rendered conversation
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
OPEN, CLOSE = "\U0010fff0", "\U0010fff1"  # private use: around text that only looks special
MARKED = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)
END = "\U0010fff2"  # private use, too: behind the words of a message
# What a template takes for today (Llama 3, SmolLM3, gpt-oss): runs must not depend on the date.
TODAY = datetime(2024, 7, 26)
DATE_PARTS = ("d", "-d", "m", "-m", "b", "B", "y", "Y", "a", "A", "j", "H", "I", "M", "S", "p")


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
        self._dated = _with_a_date(self.template)
        self.marks_turns = GENERATION.search(self.template) is not None
        special = special_tokens(tokenizer)
        self._special_ids = tokenizer.convert_tokens_to_ids(sorted(special))
        self._special = any_of(special)
        self._added = any_of(special | {str(t) for t in tokenizer.added_tokens_decoder.values()})

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
            results[i] = _with_mask(tokens, results[i][1], self._special_ids)
        for i, result in enumerate(results):
            if not isinstance(result, BadRow) and isinstance(result[0], str):
                tokens = self._marked_tokens(result[0])
                results[i] = _with_mask(tokens, result[1], self._special_ids)
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
        if whole.startswith(opened) and whole.startswith(upto) and len(opened) < len(upto):
            start = len(opened)
            if opened == before:  # the template writes no header on request: look for the text
                words = self._words(messages[: k + 1], k, upto)
                text = messages[k]["content"].strip()
                start = max(start, words[0] if words else upto.find(text, start))
            return start, len(upto)
        if found := self._turn_by_words(messages, k, whole, before, opened, upto):
            return found
        raise BadRow(
            f"the chat template of {self.source} writes earlier turns differently as the "
            "conversation goes on, so assistant turns cannot be told apart; mark them in the "
            "template with {% generation %} … {% endgeneration %}, or use single turns"
        )

    def _turn_by_words(
        self,
        messages: list[dict[str, str]],
        k: int,
        whole: str,
        before: str,
        opened: str,
        upto: str,
    ) -> Span | None:
        """The same where the template writes a last turn, or asks for one, in a way of its own.

        Qwen3 thinks in the last answer only, Phi-3 puts eos behind it, and DeepSeek-R1 asks with a
        ``<think>`` that it does not write. The turn begins where the whole parts from what asks
        for it, behind all earlier words and a header, and ends with its own words and what is
        the same behind them. None where any of that is not to be found.

        What the template makes, whole: of all messages. before: of those before k; opened: the
        same, asking for an answer; upto: of those up to k.
        """
        own, here = self._words(messages[: k + 1], k, upto), self._words(messages, k, whole)
        if own is None or here is None:
            return None
        start, header = self._common_length(opened, whole), opened != before
        if start < len(opened):
            earlier = self._ends(messages[:k], range(k), opened, prompt=True)
            if earlier is None or start < max(earlier, default=0):
                return None
            if header and start <= self._common_length(opened, before):
                return None
        if here[0] >= 0:
            start = min(start, here[0]) if header else here[0]
        elif not header:
            return None
        end = here[1] + self._common_length(upto[own[1] :], whole[here[1] :])
        return (start, end) if start < end else None

    def _words(self, messages: list[dict[str, str]], k: int, text: str) -> Span | None:
        """Where in `text`, the template's of these messages, the words of message k are.

        -1 for the start where the template left some out; None where they cannot be found.
        """
        ends = self._ends(messages, [k], text)
        if ends is None or len(ends) != 1:
            return None
        words = messages[k]["content"].strip()
        return (ends[0] - len(words) if text.endswith(words, 0, ends[0]) else -1), ends[0]

    def _ends(
        self,
        messages: list[dict[str, str]],
        which: Sequence[int],
        text: str,
        *,
        prompt: bool = False,
    ) -> list[int] | None:
        """Where in `text`, the template's of these messages, the words of some of them end.

        None where the template would write another text if it met a mark there.
        """
        marked = [dict(message) for message in messages]
        for n in which:
            content = marked[n]["content"]
            end = len(content.rstrip())
            marked[n]["content"] = content[:end] + END + content[end:]
        try:
            parts = self._template(marked, prompt=prompt)[0].split(END)
        except BadRow:
            return None
        return list(accumulate(map(len, parts[:-1]))) if "".join(parts) == text else None

    def _common_length(self, one: str, other: str) -> int:
        """How many characters both begin with, no added token of either cut in two."""
        alike = next(
            (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
            min(len(one), len(other)),
        )
        found = alike
        for text in (one, other):
            for token in self._added.finditer(text):
                if token.start() < alike < token.end():
                    found = min(found, token.start())
        return found

    def _template(
        self, messages: list[dict[str, str]], *, prompt: bool = False, marks: bool = False
    ) -> tuple[str, list[Span]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered: Any = render_jinja_template(
                conversations=[messages],
                chat_template=self._dated,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marks,
                date_string=TODAY.strftime("%d %b %Y"),
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


def _with_a_date(template: str) -> str:
    """The template with a macro of its own for the function that would tell it today's date.

    A function given beside the messages would reach it as text.
    """
    if "strftime_now" not in template:
        return template
    parts = "".join(f" | replace('%{p}', '{TODAY.strftime(f'%{p}')}')" for p in DATE_PARTS)
    macro = f"{{% macro strftime_now(format) %}}{{{{ format{parts} }}}}{{% endmacro %}}"
    return f"{macro}\n{template}"  # transformers has a line feed behind a block taken off


def special_tokens(tokenizer: Any) -> set[str]:
    """The texts that a tokenizer takes for special tokens."""
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return special | set(tokenizer.all_special_tokens)


def any_of(tokens: set[str]) -> re.Pattern[str]:
    """Finds any of these, the longest that fits."""
    longest_first = sorted(tokens - {""}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _with_mask(
    tokens: list[tuple[int, Span]], spans: list[Span], special: list[int]
) -> tuple[Ints, Bools]:
    """ids int64 [T]; in the loss, bool [T]: the token shares a character with a span.

    Offsets may leave out white space (Llama 3 trims it), so a token reaches back to where the
    one before ended. A special token may take in what follows it (Phi-3's do, of white space):
    before a span it is of the header all the same.
    """
    ids = np.array([token for token, _ in tokens], np.int64)
    begins, ends = np.array([span for _, span in tokens], np.int64).reshape(-1, 2).T
    reached = np.maximum.accumulate(ends)
    starts = np.minimum(begins, np.concatenate([[0], reached])[:-1])
    is_special = np.isin(ids, special)
    in_loss = np.zeros(len(ids), bool)
    for first, last in spans:
        within = (starts < last) & (reached > first)
        in_loss |= within & ~(is_special & (begins < first))
    return ids, in_loss
