"""Token ids and what of them is learnt, for prompt and response and for text."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer, CTRLTokenizer

from staff.data.tokenise import Tokeniser
from staff.errors import BadRow
from staff.types import IGNORE, Example

PAIR = Example(id="x", prompt="name[The Eagle]", response="The Eagle is a pub.")
TEXT = Example(id="x", response="The Eagle is a pub.")


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def learnt(example):
    return example.labels[example.labels != IGNORE].tolist()


def test_prompt_and_response(tokenizer):
    encoded = Tokeniser(tokenizer, max_length=None).encode(PAIR)
    prompt, response = plain(tokenizer, PAIR.prompt + "\n"), plain(tokenizer, PAIR.response)
    assert encoded.input_ids.tolist() == [1, *prompt, *response, 2]
    assert encoded.labels.tolist() == [IGNORE] * (1 + len(prompt)) + [*response, 2]
    assert (encoded.id, encoded.truncated) == ("x", False)
    assert encoded.input_ids.dtype == encoded.labels.dtype == np.int64
    assert not encoded.labels.flags.writeable


def test_text(tokenizer):
    encoded = Tokeniser(tokenizer, max_length=None).encode(TEXT)
    assert encoded.input_ids.tolist() == [1, *plain(tokenizer, TEXT.response), 2]
    assert learnt(encoded) == encoded.input_ids[1:].tolist()


def test_bos_only_where_the_tokenizer_puts_it(tokenizer):
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    encoded = Tokeniser(tokenizer, max_length=None).encode(TEXT)
    assert encoded.input_ids.tolist() == [*plain(tokenizer, TEXT.response), 2]
    # The first token has nothing before it, so no model can be asked for it.
    assert learnt(encoded) == encoded.input_ids[1:].tolist()


def test_eos_is_not_doubled_nor_made_up(tokenizer):
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A <|eos|>", special_tokens=[("<|bos|>", 1), ("<|eos|>", 2)]
    )
    ids = Tokeniser(tokenizer, max_length=None).encode(TEXT).input_ids.tolist()
    assert (ids[0], ids.count(2)) == (1, 1)
    tokenizer.eos_token = None
    assert 2 not in Tokeniser(tokenizer, max_length=None).encode(TEXT).input_ids


@pytest.mark.parametrize("special", ["<|eos|>", "<|pad|>", "<|bos|>", "<|user|>"])
def test_special_tokens_in_the_data_stay_text(tokenizer, special):
    example = Example(id="x", prompt=f"a {special} b", response=f"c {special}")
    ids = Tokeniser(tokenizer, max_length=None).encode(example).input_ids
    assert np.flatnonzero(ids < 6).tolist() == [0, len(ids) - 1]
    assert tokenizer.decode(ids) == f"<|bos|>a {special} b\nc {special}<|eos|>"
    # and the tokenizer itself is as it was
    assert tokenizer(special, add_special_tokens=False)["input_ids"] == [
        tokenizer.convert_tokens_to_ids(special)
    ]


def test_tail_is_cut(tokenizer):
    whole = Tokeniser(tokenizer, max_length=None).encode(PAIR)
    size = len(whole.input_ids)
    assert not Tokeniser(tokenizer, max_length=size).encode(PAIR).truncated
    for length in range(1, size):
        prompt = int((whole.labels == IGNORE).sum())
        tokeniser = Tokeniser(tokenizer, max_length=length)
        if length <= prompt:
            reason = f"entirely cut off by the maximum length {length} \\({prompt} tokens"
            with pytest.raises(BadRow, match=reason):
                tokeniser.encode(PAIR)
        else:
            cut = tokeniser.encode(PAIR)
            assert cut.truncated
            assert cut.input_ids.tolist() == whole.input_ids[:length].tolist()
            assert cut.labels.tolist() == whole.labels[:length].tolist()


def test_nothing_left_to_learn(tokenizer):
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()
    with pytest.raises(BadRow, match="has no tokens to train on"):
        Tokeniser(tokenizer, max_length=None).encode(Example(id="x", prompt="a", response="\u3000"))


def test_batch_is_the_same_as_one_by_one(tokenizer):
    tokeniser = Tokeniser(tokenizer, max_length=12)
    examples = [PAIR, TEXT, Example(id="y", prompt="word " * 50, response="x"), TEXT]
    batch = tokeniser.encode_batch(examples)
    assert isinstance(batch[2], BadRow)
    for one, example in zip(batch, examples, strict=True):
        if not isinstance(one, BadRow):
            alone = tokeniser.encode(example)
            assert one.input_ids.tolist() == alone.input_ids.tolist()
            assert one.labels.tolist() == alone.labels.tolist()
    assert tokeniser.encode_batch([]) == []


def test_fingerprint_tells_tokenisers_apart(tokenizer, tokenizer_folder):
    first = Tokeniser(tokenizer, max_length=8)
    same = Tokeniser(AutoTokenizer.from_pretrained(tokenizer_folder), max_length=8, source="b")
    same.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4)  # leaves state behind
    assert first.fingerprint == same.fingerprint
    assert first.fingerprint != Tokeniser(tokenizer, max_length=9).fingerprint
    same.tokenizer.chat_template += " "
    assert first.fingerprint != same.fingerprint
    other = AutoTokenizer.from_pretrained(tokenizer_folder)
    other.add_tokens(["zzz"])
    assert first.fingerprint != Tokeniser(other, max_length=8).fingerprint


def test_sentencepiece_weights_from_elsewhere(shared):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "bitstories1M")
    example = Example(id="x", prompt="Once upon", response="a time </s> there")
    ids = Tokeniser(tokenizer, max_length=None).encode(example).input_ids
    assert (ids[0], ids[-1]) == (1, 2)
    assert not np.isin(ids[1:-1], [1, 2]).any()


STRANGE = ["", " ", "a  b\n", "<|eos|> <|user|>", "né 日本 \U0001f600", "x" * 400, "\u200d", "\tA"]


def test_what_transformers_itself_would_say(tokenizer, family):
    for one in (tokenizer, AutoTokenizer.from_pretrained(family[0])):
        one.padding_side = "left"
        one("a", padding="max_length", max_length=9, truncation=True)  # it remembers that
        tokens = Tokeniser(one, max_length=None)._plain(STRANGE)
        assert tokens == [plain(one, text) for text in STRANGE]


def test_a_tokenizer_with_rules_of_its_own_is_asked(tokenizer, tokenizer_folder):
    class Lower(type(tokenizer)):
        def _encode_plus(self, text, **options):
            lower = [t.lower() for t in text] if isinstance(text, list) else text.lower()
            return super()._encode_plus(lower, **options)

    low = Lower.from_pretrained(tokenizer_folder)
    example = Example(id="x", response="THE EAGLE")
    small = Example(id="x", response="the eagle")
    both = [Tokeniser(low, max_length=None).encode(e).input_ids.tolist() for e in (example, small)]
    assert both[0] == both[1]
    other = Tokeniser(tokenizer, max_length=None)
    assert other.encode(example).input_ids.tolist() != both[0]
    assert other.plain_fingerprint != Tokeniser(low, max_length=None).plain_fingerprint


def test_tokenizers_without_a_backend_differ_by_their_files(tmp_path):
    """The same vocabulary, and other merges: other tokens."""
    vocab = ["<unk>", "a@@", "b@@", "c@@", "a", "b", "c", "ab@@", "bc", "ab", "abc", "bc@@"]
    ids, prints = [], []
    for name, merges in (("one", "a b\nb c</w>\n"), ("two", "b c</w>\na b\n")):
        for place in (name, f"{name} elsewhere"):
            folder = tmp_path / place
            folder.mkdir()
            (folder / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(vocab)}))
            (folder / "merges.txt").write_text(f"#version\n{merges}")
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
            tokeniser = Tokeniser(CTRLTokenizer.from_pretrained(folder), max_length=None)
            ids.append(tokeniser.encode(Example(id="x", prompt="a", response="abc")).input_ids)
            prints.append(tokeniser.plain_fingerprint)
    assert ids[0].tolist() == ids[1].tolist() != ids[2].tolist()
    assert prints[0] == prints[1] != prints[2] == prints[3]


def test_a_chat_template_matters_to_conversations_alone(tokenizer, tokenizer_folder):
    other = AutoTokenizer.from_pretrained(tokenizer_folder)
    other.chat_template = "{{ messages[0]['content'] }}"
    one, two = Tokeniser(tokenizer, max_length=9), Tokeniser(other, max_length=9)
    assert one.fingerprint != two.fingerprint
    assert one.plain_fingerprint == two.plain_fingerprint
    assert one.plain_fingerprint != Tokeniser(other, max_length=8).plain_fingerprint
