"""Where the assistant's turns are in a conversation that a chat template has made a text of.

The text of the first k messages, with and without the k-th, must be a prefix of the whole. Where it
is not, because the template writes the last turn differently, the turn is found by its words.
"""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

from staff.errors import BadRow

Span = tuple[int, int]  # characters [start, end) of a rendered conversation
Turn = dict[str, Any]  # role and content, as a chat template gets them, and what else it reads
END = "\U0010fff2"  # private use: behind the words of a message


class Template(Protocol):
    """A chat template."""

    def __call__(self, messages: Sequence[Turn], *, prompt: bool = False) -> str:
        """The text of these messages; prompt: with a header that asks for an answer.

        Raises `BadRow` where the template refuses them.
        """


class Turns:
    """Finds the turns of one conversation.

    added: finds the tokenizer's added tokens, none of which may be cut in two.
    """

    def __init__(
        self, messages: Sequence[Turn], template: Template, *, added: re.Pattern[str]
    ) -> None:
        self.messages = messages
        self.template = template
        self.added = added
        self.whole = template(messages)

    def find(self, k: int) -> Span | None:
        """The characters that message k adds after its header; None where they are not found."""
        messages, whole = self.messages, self.whole
        if k == 0:
            before = opened = ""  # most templates cannot render an empty conversation
        else:
            before = self.template(messages[:k])
            opened = self.template(messages[:k], prompt=True)
        upto = whole if k == len(messages) - 1 else self.template(messages[: k + 1])
        if whole.startswith(opened) and whole.startswith(upto) and len(opened) < len(upto):
            start = len(opened)
            if opened == before:  # the template writes no header on request: look for the text
                if messages[k].get("tool_calls"):
                    return None
                words = self._words(messages[: k + 1], k, upto)
                start = max(start, words[0] if words else upto.find(_said(messages[k]), start))
            return start, len(upto)
        return self._by_words(k, before, opened, upto)

    def _by_words(self, k: int, before: str, opened: str, upto: str) -> Span | None:
        """The same where the template writes a last turn, or asks for one, in a way of its own.

        Qwen3 thinks in the last answer only, Phi-3 puts eos behind it, and DeepSeek-R1 asks with a
        ``<think>`` that it does not write. The turn begins where the whole parts from what asks
        for it, behind all earlier words and a header, and ends with its own words and what is
        the same behind them. None where any of that is not to be found.

        What the template makes, before: of the messages before k; opened: the same, asking for an
        answer; upto: of those up to k.
        """
        messages, whole = self.messages, self.whole
        own, here = self._words(messages[: k + 1], k, upto), self._words(messages, k, whole)
        if own is None or here is None:
            return None
        start, header = self._common_length(opened, whole), opened != before
        if start < len(opened):
            earlier = self._ends(messages[:k], range(k), opened, prompt=True)
            if earlier is None:
                return None
            asked = self._common_length(opened, before)
            if start < max(earlier, default=0):
                behind = self._behind_header(k, opened[asked:])
                if behind is None:
                    return None
                start = behind
            elif header and start <= asked:
                return None
        if here[0] >= 0 and not (messages[k].get("tool_calls") and not header):
            start = min(start, here[0]) if header else here[0]
        elif not header:
            return None
        end = here[1] + self._common_length(upto[own[1] :], whole[here[1] :])
        return (start, end) if start < end else None

    def _behind_header(self, k: int, header: str) -> int | None:
        """Where the header of message k ends in the whole, if it begins as it is asked for.

        For templates that write turns before it differently, too, when the talk goes on (Qwen3.5:
        no thoughts in the calls before the last question).
        """
        ends = self._ends(self.messages, range(k), self.whole)
        least = self.added.match(header)
        if not ends or least is None:
            return None
        for length in range(len(header), least.end() - 1, -1):
            if (at := self.whole.find(header[:length], ends[-1])) >= 0:
                return at + length
        return None

    def _words(self, messages: Sequence[Turn], k: int, text: str) -> Span | None:
        """Where in `text`, the template's of these messages, the words of message k are.

        -1 for the start where the template left some out; None where they cannot be found.
        """
        ends = self._ends(messages, [k], text)
        calls = messages[k].get("tool_calls")  # whose tool's answer may tell its name, too
        if not ends or (len(ends) > 1 and not calls):
            return None
        words = _said(messages[k])
        return (ends[0] - len(words) if text.endswith(words, 0, ends[0]) else -1), ends[0]

    def _ends(
        self, messages: Sequence[Turn], which: Sequence[int], text: str, *, prompt: bool = False
    ) -> list[int] | None:
        """Where in `text`, the template's of these messages, the words of some of them end.

        None where the template would write another text if it met a mark there.
        """
        marked = list(messages)
        for n in which:
            marked[n] = _with_end(marked[n])
        try:
            parts = self.template(marked, prompt=prompt).split(END)
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
            for token in self.added.finditer(text):
                if token.start() < alike < token.end():
                    found = min(found, token.start())
        return found


def writes_calls(messages: Sequence[Turn], template: Template) -> bool:
    """Whether a template writes every call of a tool, and not the words beside it alone."""
    calling = [message for message in messages if message.get("tool_calls")]
    marked = [_with_end(message) if message.get("tool_calls") else message for message in messages]
    return not calling or template(marked).count(END) >= len(calling)


def _said(message: Turn) -> str:
    """A message's words; where it calls tools, the name of the last one."""
    calls = message.get("tool_calls")
    words: str = calls[-1]["function"]["name"] if calls else message["content"] or ""
    return words.strip()


def _with_end(message: Turn) -> Turn:
    """The same with a mark behind its words, or the last tool's name: words beside it may go."""
    if message.get("tool_calls"):
        *others, last = message["tool_calls"]
        function = {**last["function"], "name": last["function"]["name"] + END}
        return {**message, "tool_calls": [*others, {**last, "function": function}]}
    content = message["content"] or ""
    end = len(content.rstrip())
    return {**message, "content": content[:end] + END + content[end:]}
