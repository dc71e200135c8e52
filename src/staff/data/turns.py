"""Where the assistant's turns are in a conversation that a chat template has made a text of.

The text of the first k messages, with and without the k-th, must be a prefix of the whole. Where it
is not, because the template writes the last turn differently, the turn is found by its words.
"""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

from staff.data.records import THOUGHTS
from staff.errors import BadRow

Span = tuple[int, int]  # characters [start, end) of a rendered conversation
Turn = dict[str, Any]  # role and content, as a chat template gets them, and what else it reads
END = "\U0010fff2"  # private use: behind the words of a message
BEGIN = "\U0010fff3"  # private use, too: before them
BETWEEN = re.compile(f"{BEGIN}([^{BEGIN}{END}]*){END}")


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
                behind = self._behind_header(k, opened[asked:], before=here[1])
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

    def _behind_header(self, k: int, header: str, *, before: int) -> int | None:
        """Where the header of message k ends in the whole, if it begins as it is asked for.

        For templates that write turns before it differently, too, when the talk goes on (Qwen3.5:
        no thoughts in the calls before the last question). before: where its words end: later
        turns may begin more as it is asked for.
        """
        ends = self._ends(self.messages, range(k), self.whole)
        least = self.added.match(header)
        if not ends or least is None:
            return None
        for length in range(len(header), least.end() - 1, -1):
            if (at := self.whole.find(header[:length], ends[-1], before)) >= 0:
                return at + self._common_length(header, self.whole[at:])
        return None

    def hold(self, spans: Sequence[Span], learnt: Sequence[bool]) -> bool:
        """Whether the words of the messages that are learnt are in these spans, and no others.

        Some templates write the words beside a call behind its tool's answer (Gemma 4). learnt: of
        each message. True, too, where the template would write another text if it met marks.
        """
        for within in (True, False):
            marked = [
                _with_marks(message, name=not within) if kind == within else message
                for message, kind in zip(self.messages, learnt, strict=True)
            ]
            for start, end in self._marked(marked):
                parts = [(max(start, first), min(end, last)) for first, last in spans]
                inside = sum(max(0, last - first) for first, last in parts)
                if inside != (end - start if within else 0):
                    return False
        return True

    def _marked(self, messages: Sequence[Turn]) -> list[Span]:
        """Where in the whole the marked parts of these messages are; none if it is another text."""
        try:
            pieces = BETWEEN.split(self.template(messages))  # plain, marked, plain, … plain
        except BadRow:
            return []
        if "".join(pieces) != self.whole:
            return []
        ends = list(accumulate(map(len, pieces)))
        return list(zip(ends[:-1:2], ends[1::2], strict=True))

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
        found = alike = _alike(one, other)
        for text in (one, other):
            for token in self.added.finditer(text):
                if token.start() >= alike:
                    break
                if token.end() > alike:
                    found = min(found, token.start())
        return found


def _alike(one: str, other: str) -> int:
    """How many characters both begin with.

    By halves: a step for every character takes a fifth of the time of a long conversation.

    >>> _alike("abcd", "abxd"), _alike("ab", "abc"), _alike("", "a")
    (2, 2, 0)
    """
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def writes_calls(messages: Sequence[Turn], template: Template) -> bool:
    """Whether a template writes every call of a tool, and not the words beside it alone."""
    count = 0

    def marked(call: Turn) -> Turn:
        nonlocal count
        count += 1
        return _renamed(call, f"{BEGIN}{count}{END}")

    marked_all = [
        {**message, "tool_calls": list(map(marked, message["tool_calls"]))}
        if message.get("tool_calls")
        else message
        for message in messages
    ]
    # A tool's answer may tell its name again, so they are told apart.
    return not count or len(set(BETWEEN.findall(template(marked_all)))) == count


def _said(message: Turn) -> str:
    """A message's words; where it calls tools, the name of the last one."""
    calls = message.get("tool_calls")
    words: str = calls[-1]["function"]["name"] if calls else message["content"] or ""
    return words.strip()


def _with_end(message: Turn) -> Turn:
    """The same with a mark behind its words, or the last tool's name: words beside it may go."""
    if message.get("tool_calls"):
        *others, last = message["tool_calls"]
        return {**message, "tool_calls": [*others, _renamed(last, END)]}
    content = message["content"] or ""
    end = len(content.rstrip())
    return {**message, "content": content[:end] + END + content[end:]}


def _with_marks(message: Turn, *, name: bool) -> Turn:
    """The same with marks around its words and thoughts, and with `name` around tools it calls."""
    texts = {field: message.get(field) for field in ("content", *THOUGHTS)}
    marked = {field: _around(text) for field, text in texts.items() if isinstance(text, str)}
    if not name or not message.get("tool_calls"):
        return {**message, **marked}
    calls = [_renamed(call, around=True) for call in message["tool_calls"]]
    return {**message, **marked, "tool_calls": calls}


def _around(text: str) -> str:
    """A text with marks around all but the white space at its ends, which templates take off."""
    words = text.strip()
    start = len(text) - len(text.lstrip())
    return f"{text[:start]}{BEGIN}{words}{END}{text[start + len(words) :]}" if words else text


def _renamed(call: Turn, behind: str = "", *, around: bool = False) -> Turn:
    """A tool's call with something behind the tool's name, or with marks around it."""
    function = call["function"]
    name = _around(function["name"]) if around else function["name"] + behind
    return {**call, "function": {**function, "name": name}}
