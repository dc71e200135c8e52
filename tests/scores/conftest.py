"""A few rows for tiny random models."""

import numpy as np
import pytest

from staff.types import IGNORE, TokenisedExample


@pytest.fixture(scope="session")
def rows() -> list[TokenisedExample]:
    """Eight rows of 6-23 tokens, the response a random tail of each."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(8):
        length = int(generator.integers(6, 24))
        ids = generator.integers(3, 101, length)
        labels = ids.copy()
        labels[: length - int(generator.integers(1, length - 1))] = IGNORE
        found.append(TokenisedExample(f"row-{i}", ids, labels))
    return found


@pytest.fixture
def llama4():
    """A tiny Llama 4: attention in chunks of 16, scaled by the place from 16 on; experts."""
    import torch
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    torch.manual_seed(0)
    config = Llama4TextConfig(
        vocab_size=101, hidden_size=32, intermediate_size=48, intermediate_size_mlp=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        num_local_experts=2, max_position_embeddings=128, attention_chunk_size=16,
        floor_scale=16, attn_scale=1.0, no_rope_layers=[1, 0], pad_token_id=0, bos_token_id=1,
        eos_token_id=2, initializer_range=0.15,
    )  # fmt: skip
    return Llama4ForCausalLM(config).eval()
