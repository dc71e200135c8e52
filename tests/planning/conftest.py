"""A Llama small enough to count by hand, and token stores of chosen lengths."""

import numpy as np
import pytest

from staff.data.store import TokenStore
from staff.types import IGNORE, TokenisedExample

# Of one block: q 8·8, k and v 8·4, o 8·8, gate, up and down 8·16: 64 + 2·32 + 64 + 3·128 = 576.
BY_HAND = {
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def by_hand(tiny):
    """The Llama of `BY_HAND`, with attention as plain matrix products, which can be counted."""
    return tiny("llama", **BY_HAND, attn_implementation="eager")


@pytest.fixture
def store(tmp_path):
    """Writes rows of (tokens, tokens in the loss) into a store."""

    def write(rows, name="tokens.arrow"):
        examples = []
        for number, (length, responses) in enumerate(rows):
            ids = np.arange(length) % 30 + 1
            labels = np.where(np.arange(length) >= length - responses, ids, IGNORE)
            examples.append(TokenisedExample(f"id-{number}", ids, labels))
        with TokenStore.write(tmp_path / name) as writer:
            writer.append(range(len(rows)), examples)
        return TokenStore.open(tmp_path / name)

    return write
