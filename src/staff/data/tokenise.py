"""From an `Example` to token ids, and which of them are in the loss.

prompt and response   [bos] + prompt + "\\n" | response + [eos]     (right of the bar: in the loss)
text                  [bos] | text + [eos]                         (all but the first token)
messages              the tokenizer's chat template                (assistant turns)

bos only where the tokenizer itself puts it, eos where it has one. Special tokens spelt out
in the data (``<|endoftext|>``) stay text.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from staff.data.chat import ChatEncoder, any_of, special_tokens
from staff.errors import BadRow
from staff.hashing import hash_file
from staff.types import IGNORE, Example, Ints, TokenisedExample, read_only
from staff.words import counted

OFF = ("off", "false", "f", "no", "n", "0")  # as the tokenizers library reads it


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
        self._usual = _encodes_as_usual(tokenizer)
        self._special = any_of(special_tokens(tokenizer))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides the token ids: if equal, they always are."""
        return self._fingerprint(self.tokenizer.chat_template, self.tokenizer.special_tokens_map)

    @property
    def plain_fingerprint(self) -> str:
        """The same for rows that are no conversations: a chat template does not matter to them."""
        return self._fingerprint()

    def _fingerprint(self, *more: Any) -> str:
        facts = [_definition(self.tokenizer), *more, self._before, self._after, self.max_length]
        if not self._usual:
            facts.append(_rules_of_its_own(self.tokenizer))
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

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
                chats, self._chat.encode_batch([examples[i] for i in chats]), strict=True
            ):
                results[i] = (
                    encoded if isinstance(encoded, BadRow) else self._finish(examples[i], *encoded)
                )
        return [results[i] for i in range(len(examples))]

    def spelt_special(self, example: Example) -> str | None:
        """A special token that the example spells out, and that stays text here; None if none."""
        texts = (example.prompt, example.response, *(m.content for m in example.messages))
        found = next(filter(None, map(self._special.search, texts)), None)
        return found[0] if found else None

    def _plain(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts in which nothing is special."""
        if not texts:
            return []
        if self._usual:  # without the characters' places, in three quarters of the time
            backend = self.tokenizer.backend_tokenizer
            backend.encode_special_tokens = True
            backend.no_truncation()
            backend.no_padding()
            encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in encoded]
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
            return BadRow("response has no tokens to train on")
        start = len(self._before) + len(prompt)
        ids = np.array(self._before + prompt + response + self._after, np.int64)  # [T]
        in_loss = np.zeros(len(ids), np.bool_)
        in_loss[start:] = True
        return self._finish(example, ids, in_loss)

    def _finish(self, example: Example, ids: Ints, in_loss: Any) -> TokenisedExample | BadRow:
        """Cut the tail, make the labels. ids int64 [T], in_loss bool [T]."""
        truncated = self.max_length is not None and len(ids) > self.max_length
        in_loss[:1] = False  # nothing precedes the first token: no model can be asked for it
        first = int(in_loss.argmax()) if len(ids) else 0
        if not in_loss[first : first + 1].any():
            return BadRow("response has no tokens to train on")
        labels = np.where(in_loss, ids, IGNORE)
        if truncated:
            ids, labels = ids[: self.max_length], labels[: self.max_length]
            if first >= len(ids):
                return BadRow(
                    f"response is entirely cut off by the maximum length {self.max_length} "
                    f"({counted(first, 'token comes', 'tokens come')} before it)"
                )
        return TokenisedExample(example.id, read_only(ids), read_only(labels), truncated)


def _prompt_and_response(example: Example) -> tuple[str, str]:
    return (example.prompt + "\n" if example.prompt else "", example.response)


def threads() -> int:
    """How many threads tokenizers take: one a core, unless the environment says otherwise.

    TOKENIZERS_PARALLELISM=false says one, and RAYON_NUM_THREADS (or else OMP_NUM_THREADS, which
    the library is told of here) says how many.
    """
    if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in OFF:
        return 1
    asked = os.environ.get("RAYON_NUM_THREADS", "") or os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        os.environ["RAYON_NUM_THREADS"] = asked
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _encodes_as_usual(tokenizer: Any) -> bool:
    """Whether the tokenizers library alone says what a text becomes: the class adds no rules."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    kind = type(tokenizer)
    return (
        getattr(kind, "_encode_plus", None) is PreTrainedTokenizerFast._encode_plus
        and kind.__call__ is PreTrainedTokenizerBase.__call__
        and not hasattr(kind, "_switch_to_input_mode")
    )


def _leading_specials(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text: usually bos or nothing."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    dressed = tokenizer("a")["input_ids"]
    for start in range(len(dressed)):
        if dressed[start : start + len(bare)] == bare:
            return dressed[:start]
    return []


def _rules_of_its_own(tokenizer: Any) -> Any:
    """What else decides the ids where the class adds rules or is all there is: its name, files."""
    name = type(tokenizer).__qualname__
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        return name
    switches = {
        switch: value
        for switch, value in tokenizer.init_kwargs.items()
        if isinstance(value, bool) and switch not in ("is_local", "local_files_only")
    }
    with TemporaryDirectory(prefix="staff-") as folder:
        with suppress(NotImplementedError):
            tokenizer.save_vocabulary(folder)
        files = {file.name: hash_file(file) for file in sorted(Path(folder).iterdir())}
    return [name, switches, files]


def _definition(tokenizer: Any) -> Any:
    """The tokenizer's model and rules; its padding and truncation state do not matter here."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return sorted(tokenizer.get_vocab().items())
    definition = json.loads(backend.to_str())
    return {k: v for k, v in definition.items() if k not in ("padding", "truncation")}
