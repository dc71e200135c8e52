from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from staff.data.batches import collate
from staff.errors import ModelError
from staff.training.response_loss import goes_unmasked, padded_inputs, response_losses

SMALL = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": {},
    "gemma2": {},  # soft-caps the logits
    "mixtral": {"num_local_experts": 4},
    "phi3": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "bloom": {"n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},  # projects before the head
    "cohere": {"logit_scale": 0.25},  # scales the logits
}


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_models_own_loss(family, rows):
    """Each row alone through the model's own loss, against one padded batch."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], "vocab_size": 400})
    model = AutoModelForCausalLM.from_config(config).eval()
    examples = rows.get([0, 4, 7, 14])
    batch = collate(examples)
    with torch.no_grad():
        losses, of_row = response_losses(
            model,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
        )
        own = [
            model(
                input_ids=torch.tensor(example.input_ids)[None],
                labels=torch.tensor(example.labels)[None],
            ).loss.item()
            for example in examples
        ]
    assert len(losses) == rows.response_lengths[[0, 4, 7, 14]].sum()
    means = [losses[of_row == row].mean().item() for row in range(4)]
    np.testing.assert_allclose(means, own, rtol=1e-4)
    with torch.no_grad():  # as in bfloat16 on a GPU
        unmasked, _ = response_losses(model, **padded_inputs(batch, unmasked=True))
    torch.testing.assert_close(unmasked, losses, rtol=1e-5, atol=1e-6)
    # Nothing stays behind: the model gives whole logits again.
    assert model(batch.input_ids).logits.shape[:2] == batch.input_ids.shape
    half, _ = response_losses(model.bfloat16(), input_ids=batch.input_ids, labels=batch.labels)
    assert half.dtype == torch.float32


def test_a_mask_is_left_out_in_bfloat16_on_a_gpu_alone(rows):
    batch = collate(rows.get([0, 4]))
    assert padded_inputs(batch, unmasked=False).keys() == {"input_ids", "labels", "attention_mask"}
    assert padded_inputs(batch, unmasked=True).keys() == {"input_ids", "labels"}
    for device, dtype, wanted in (
        ("cuda:1", torch.bfloat16, True),
        ("cuda:1", torch.float16, False),  # before Ampere no flash kernel takes it
        ("cuda:1", torch.float32, False),
        ("cpu", torch.bfloat16, False),
    ):
        model = SimpleNamespace(device=torch.device(device), dtype=dtype)
        assert goes_unmasked(model) is wanted


def test_a_model_without_output_head():
    from transformers import LlamaConfig, LlamaModel

    model = LlamaModel(LlamaConfig(**SMALL))
    ids = torch.tensor([[3, 4]])
    with pytest.raises(ModelError, match="LlamaModel has no output head"):
        response_losses(model, input_ids=ids, attention_mask=ids, labels=ids)
