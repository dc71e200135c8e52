"""Token ids of a conversation in the tokenizer's own chat template, loss on assistant turns.

Templates that mark assistant turns with ``{% generation %}`` are used as they are. For others, each
turn is found by rendering the conversation up to it (`staff.data.turns`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import product
from typing import Any

import numpy as np

from staff.data.records import THOUGHTS
from staff.data.turns import Span, Template, Turn, Turns, writes_calls
from staff.errors import BadRow, DataError
from staff.types import Bools, Example, Ints
from staff.visible import one_line

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
OPEN, CLOSE = "\U0010fff0", "\U0010fff1"  # private use: around text that only looks special
MARKED = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)
# The same as Python and JSON spell them.
ESCAPED = re.compile(
    "|".join(re.escape(spell(c)[1:-1]) for c in (OPEN, CLOSE) for spell in (repr, json.dumps)), re.I
)
LONGEST = 300  # characters of what a template says of a row
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
        try:  # some have a second one for rows with tools (Command R)
            self.template: str = tokenizer.get_chat_template()
            for_tools: str = tokenizer.get_chat_template(tools=[])
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
        both = (self.template, for_tools)
        self._dated = [_with_a_date(template) for template in both]
        self._marks_turns = [GENERATION.search(template) is not None for template in both]
        special = special_tokens(tokenizer)
        self._special_ids = tokenizer.convert_tokens_to_ids(sorted(special))
        self._special = any_of(special)
        self._added = any_of(special | {str(t) for t in tokenizer.added_tokens_decoder.values()})

    def encode_batch(self, examples: Sequence[Example]) -> list[tuple[Ints, Bools] | BadRow]:
        """(ids int64 [T], in the loss bool [T]) of each conversation, or the `BadRow` it is."""
        results: list[Any] = []
        for example in examples:
            try:
                results.append(self._render(example))
            except BadRow as bad:
                results.append(bad)
                continue
            more = example.given or any(message.more for message in example.messages)
            if more and ESCAPED.search(results[-1][0]):
                results[-1] = BadRow(
                    f"the chat template of {self.source} escapes special tokens of the data"
                )
        plain = [i for i, r in enumerate(results) if not isinstance(r, BadRow) and OPEN not in r[0]]
        encoded = self._tokens([results[i][0] for i in plain]) if plain else []
        for i, tokens in zip(plain, encoded, strict=True):
            results[i] = _with_mask(tokens, results[i][1], self._special_ids)
        for i, result in enumerate(results):
            if not isinstance(result, BadRow) and isinstance(result[0], str):
                tokens = self._marked_tokens(result[0])
                results[i] = _with_mask(tokens, result[1], self._special_ids)
        return results

    def _render(self, example: Example) -> tuple[str, list[Span]]:
        """The conversation as text (special look-alikes marked) and its turns in the loss."""
        given = self._marked(example.given)

        def template(messages: Sequence[Turn], *, prompt: bool = False) -> str:
            return self._template(messages, given, prompt=prompt)[0]

        messages = self._form(example, given, template)
        answers = [m.learnt for m in example.messages if m.role == "assistant"]
        learnt = [m.role == "assistant" and m.learnt for m in example.messages]
        if self._marks_turns["tools" in given]:
            whole, spans = self._template(messages, given, marks=True)
            if not all(answers):
                marked, turns = len(spans), Turns(messages, template, added=self._added)
                if marked == len(answers):
                    spans = [span for span, kept in zip(spans, answers, strict=True) if kept]
                if marked != len(answers) or not turns.hold(spans, learnt):
                    raise BadRow(
                        f"the chat template of {self.source} marks {marked} turns of "
                        f"{len(answers)} answers, so those of weight 0 cannot be told"
                    )
            return whole, spans

        turns = Turns(messages, template, added=self._added)
        spans = []
        for k, message in enumerate(example.messages):
            if message.role != "assistant" or not message.learnt:
                continue
            if (span := turns.find(k)) is None:
                raise BadRow(
                    f"the chat template of {self.source} writes earlier turns differently as the "
                    "conversation goes on, so assistant turns cannot be told apart; mark them in "
                    "the template with {% generation %} … {% endgeneration %}, or use single turns"
                )
            spans.append(span)
        plain = all(answers) and not any(message.more for message in example.messages)
        if not plain and not turns.hold(spans, learnt):
            raise BadRow(
                f"the chat template of {self.source} writes a part of an answer away from it, "
                "behind a tool's result for instance, so assistant turns cannot be told apart"
            )
        return turns.whole, spans

    def _form(self, example: Example, given: Mapping[str, Any], template: Template) -> list[Turn]:
        """The messages in the first form that the template writes with all that is in them.

        Most take the arguments of a tool's call as an object and no words as an empty text, some
        want the text of the object, or null.
        """
        plain = [
            {"role": m.role, "content": self._mark(m.content), **self._marked(m.more)}
            for m in example.messages
        ]
        if not any(message.more for message in example.messages):
            return plain
        refused = None
        for as_text, null in product((False, True), repeat=2):
            messages = [_formed(message, as_text=as_text, null=null) for message in plain]
            try:
                template(messages)
                if writes_calls(messages, template):
                    break
                refused = BadRow(f"the chat template of {self.source} leaves out tool calls")
            except BadRow as bad:
                refused = refused or bad
        else:
            assert refused is not None
            raise refused
        self._refuse_lost_thoughts(messages, given)
        return messages

    def _refuse_lost_thoughts(self, messages: Sequence[Turn], given: Mapping[str, Any]) -> None:
        """Thoughts that a template leaves out of an answer even where it is the last one.

        Of earlier answers they may go, and where the row's own arguments ask for it.
        """
        thinking = [k for k, m in enumerate(messages) if any(m.get(name) for name in THOUGHTS)]
        if not thinking or messages[thinking[-1]]["role"] != "assistant":
            return
        upto = messages[: thinking[-1] + 1]
        tools = {name: value for name, value in given.items() if name == "tools"}
        try:
            written = "".join(self._template(upto, arguments)[0] for arguments in (given, tools))
        except BadRow:
            return  # it takes no talk that ends there
        for name in THOUGHTS:
            if str(upto[-1].get(name) or "").strip() not in written:
                raise BadRow(
                    f"the chat template of {self.source} leaves out {name} of an answer: write it "
                    "into its content as the model does (<think> … </think>)"
                )

    def _template(
        self,
        messages: Sequence[Turn],
        given: Mapping[str, Any],
        *,
        prompt: bool = False,
        marks: bool = False,
    ) -> tuple[str, list[Span]]:
        """given: what the template gets beside the messages."""
        from jinja2 import TemplateError, UndefinedError
        from transformers.utils.chat_template_utils import render_jinja_template

        settings = {"date_string": TODAY.strftime("%d %b %Y"), **self.tokenizer.special_tokens_map}
        try:
            rendered: Any = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self._dated["tools" in given],
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marks,
                **{**settings, **given},
            )
        except Exception as error:  # a template computes what its author likes
            told = isinstance(error, TemplateError)
            if _bare(messages) and (not told or isinstance(error, UndefinedError)):
                raise BadRow("a tool call has no arguments ({} stands for none)") from error
            how = "refuses" if told else "cannot write"
            why = one_line(str(error) or type(error).__name__)[:LONGEST]
            raise BadRow(f"the chat template {how} it: {why}") from error
        [text], spans = rendered
        return text, [(start, end) for start, end in spans[0]] if marks else []

    def _marked(self, value: Any) -> Any:
        """The same, with all texts in it marked."""
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, Mapping):
            return {self._mark(str(name)): self._marked(one) for name, one in value.items()}
        return [self._marked(one) for one in value] if isinstance(value, list) else value

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


def _formed(message: Turn, *, as_text: bool, null: bool) -> Turn:
    """A call of tools with arguments as text, or null for no words; any other message as it is."""
    if not message.get("tool_calls"):
        return message
    calls = message["tool_calls"]
    return {
        **message,
        "content": message["content"] or (None if null else ""),
        "tool_calls": [_as_text(call) for call in calls] if as_text else calls,
    }


def _bare(messages: Sequence[Turn]) -> bool:
    """Whether a call of a tool is without arguments, which most templates cannot write."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    return any("arguments" not in call["function"] for call in calls)


def _as_text(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's call with its arguments as the text of JSON."""
    function = call["function"]
    if isinstance(function.get("arguments", ""), str):
        return dict(call)
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


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
