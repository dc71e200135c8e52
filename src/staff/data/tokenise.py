"""From an `Example` to token ids, and which of them are in the loss.

prompt and response   [bos] + prompt + "\\n" | response + [eos]     (right of the bar: in the loss)
text                  [bos] | text + [eos]                         (all but the first token)
messages              the tokenizer's chat template                (assistant turns)

bos only where the tokenizer itself puts it, eos where it has one. Special tokens spelt out
in the data (``<|endoftext|>``) stay text.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from staff.data.chat import ChatEncoder
from staff.errors import BadRow
from staff.types import IGNORE, Example, Ints, TokenisedExample, read_only


class Tokeniser:
    """Tokenise examples for one model.

    tokenizer: a Hugging Face tokenizer. max_length: longer samples lose their tail (None: never).
    source: the model it belongs to, for messages.
    """

    def __init__(self, tokenizer: Any, *, max_length: int | None, source: str = "") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.source = source
        self._before = _leading_specials(tokenizer)
        self._after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self._chat: ChatEncoder | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides the token ids: if equal, they always are."""
        return hashlib.sha256(
            json.dumps(
                [
                    _definition(self.tokenizer),
                    self.tokenizer.chat_template,
                    self.tokenizer.special_tokens_map,
                    self._before,
                    self._after,
                    self.max_length,
                ],
                sort_keys=True,
                default=str,
            ).encode("utf-8", "surrogatepass")
        ).hexdigest()

    def encode(self, example: Example) -> TokenisedExample:
        """Tokenise one example.

        Raises `BadRow` when nothing of the response is left, `DataError` when the tokenizer
        cannot do messages.
        """
        [result] = self.encode_batch([example])
        if isinstance(result, BadRow):
            raise result
        return result

    def encode_batch(self, examples: Sequence[Example]) -> list[TokenisedExample | BadRow]:
        """Tokenise many examples at once; a `BadRow` stands where one cannot be used."""
        pairs = [i for i, example in enumerate(examples) if not example.messages]
        chats = [i for i, example in enumerate(examples) if example.messages]
        results: dict[int, TokenisedExample | BadRow] = {}
        texts = [t for i in pairs for t in _prompt_and_response(examples[i])]
        tokens = self._plain(texts)
        for i, prompt, response in zip(pairs, tokens[::2], tokens[1::2], strict=True):
            results[i] = self._join(examples[i], prompt, response)
        if chats:
            self._chat = self._chat or ChatEncoder(self.tokenizer, source=self.source)
            for i, encoded in zip(
                chats, self._chat.encode_batch([examples[i].messages for i in chats]), strict=True
            ):
                results[i] = (
                    encoded if isinstance(encoded, BadRow) else self._finish(examples[i], *encoded)
                )
        return [results[i] for i in range(len(examples))]

    def _plain(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts in which nothing is special."""
        if not texts:
            return []
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # lengths are dealt with here
        )["input_ids"]

    def _join(
        self, example: Example, prompt: list[int], response: list[int]
    ) -> TokenisedExample | BadRow:
        if not response:
            return BadRow("response is empty to the tokenizer")
        start = len(self._before) + len(prompt)
        ids = np.array(self._before + prompt + response + self._after, np.int64)  # [T]
        return self._finish(example, ids, np.arange(len(ids)) >= start)

    def _finish(self, example: Example, ids: Ints, in_loss: Any) -> TokenisedExample | BadRow:
        """Cut the tail, make the labels. ids int64 [T], in_loss bool [T]."""
        truncated = self.max_length is not None and len(ids) > self.max_length
        labels = np.where(in_loss, ids, IGNORE)
        labels[:1] = IGNORE  # nothing precedes the first token: no model can be asked for it
        if not (labels != IGNORE).any():
            return BadRow("response is empty to the tokenizer")
        if truncated:
            first = int((labels != IGNORE).argmax())
            ids, labels = ids[: self.max_length], labels[: self.max_length]
            if first >= len(ids):
                return BadRow(
                    f"response is wholly cut off by the maximum length {self.max_length} "
                    f"({first} tokens come before it)"
                )
        return TokenisedExample(example.id, read_only(ids), read_only(labels), truncated)


def _prompt_and_response(example: Example) -> tuple[str, str]:
    return (example.prompt + "\n" if example.prompt else "", example.response)


def _leading_specials(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text: usually bos or nothing."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    dressed = tokenizer("a")["input_ids"]
    for start in range(len(dressed)):
        if dressed[start : start + len(bare)] == bare:
            return dressed[:start]
    return []


def _definition(tokenizer: Any) -> Any:
    """The tokenizer's model and rules; its padding and truncation state do not matter here."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return sorted(tokenizer.get_vocab().items())
    definition = json.loads(backend.to_str())
    return {k: v for k, v in definition.items() if k not in ("padding", "truncation")}
