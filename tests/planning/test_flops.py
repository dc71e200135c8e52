"""Operations by the formulas: worked out by hand, and as torch counts them in the real code."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from staff.data.batches import collate
from staff.errors import ConfigError
from staff.models.adapters import attach_fresh
from staff.planning import flops
from staff.planning import shape as shape_module
from staff.planning.shape import Lora, Shape, shape_of
from staff.planning.work import work_of
from staff.scores.effort import Scorer
from staff.training.response_loss import response_losses

# Two rows of 5 tokens, 6 of the 10 in the loss.
ROWS = [(5, 4), (5, 2)]
# The angles of rotary positions, head_dim·T, which transformers before 5.20 makes by a product.
ANGLES = 4 * 5


@pytest.fixture
def work(store):
    return work_of([np.arange(2)], store(ROWS))


def counted(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_the_shape_of_a_llama(by_hand):
    assert shape_of(by_hand) == Shape(
        # 2·576 in the blocks, 2·(8 + 8) in their norms, 8 in the last, 32·8 for embedding and head
        parameters=1152 + 32 + 8 + 2 * 256,
        in_blocks=1152 + 32,
        vocabulary=32,
        hidden=8,
        blocks=2,
        linear=1152,
        # q and o 8 + 8, k and v 8 + 4, gate, up and down 8 + 16: 128 a block
        ends=256,
        attention=2 * 2 * 4,
        scores=2 * 2,
        eager=True,
        capped=False,
        last_attention=8,
        last_output=64,
        last_mlp=384,
        value=(8, 4),
        quantisable=1152,
        largest=128,
        lora=Lora(parameters=256, ends=256, stacked=0, met=0, added=0),
    )
    assert shape_of(by_hand).adapter(8) == 2048


def test_blocks_whose_heads_differ():
    """Gemma 4: its config does not tell the size of all heads at once."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    if "gemma4_text" not in CONFIG_MAPPING:
        pytest.skip("these transformers have no Gemma 4")
    config = AutoConfig.for_model(
        "gemma4_text", vocab_size=101, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, global_head_dim=16,
        layer_types=["sliding_attention", "full_attention"], hidden_size_per_layer_input=0,
        num_kv_shared_layers=0, num_global_key_value_heads=1, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.device("meta"):
        found = shape_of(AutoModelForCausalLM.from_config(config))
    assert (found.attention, found.scores) == (4 * 8 + 4 * 16, 4 + 4)
    assert found.last_attention == 4 * 16


def test_the_adapter_is_as_large_as_pefts(tiny):
    for family in ("llama", "gpt-neox", "gemma2", "phi3", "qwen3", "olmo2", "mixtral"):
        model = tiny(family)
        adapter = shape_of(model).adapter(8)
        tuned = attach_fresh(model, seed=0)
        assert adapter == sum(p.numel() for p in tuned.parameters() if p.requires_grad), family


def test_a_forward_pass(by_hand, work):
    # 2·1152·10 + attention 4·16·10·5 + head 2·32·8·6 = 23040 + 3200 + 3072
    assert flops.forward(shape_of(by_hand), work).tolist() == [29312]


def test_a_lora_step(by_hand, work):
    # frozen weights 4·(1152·10 + 256·6) = 52224, attention 12·16·10·5 = 9600, LoRA 6·2048·10 = 122880
    assert flops.finetune(shape_of(by_hand), work, rank=8).tolist() == [184704]


def test_a_scoring_pass(by_hand, work):
    # forward 29312, less the last feed-forward part at 4 prompt tokens, 2·384·4 = 3072: 26240
    # back through head and that part 2·(256 + 384)·6 = 7680, to the values 2·64·10 + 2·8·10·5 = 2080
    # norms of 2 rows: the gradient itself, 5·8·4 = 160 products, is cheaper than 25·(8 + 4) = 300
    assert flops.score(shape_of(by_hand), work, phi="last-value").tolist() == [36640]
    # norms by Gram matrices of 3 tokens, 9·(8 + 32) = 360 products, below 3·8·32 = 768
    assert flops.score(shape_of(by_hand), work, phi="lm-head").tolist() == [26240 + 4 * 360]
    with pytest.raises(ConfigError, match="the cost of phi 'other' is not known"):
        flops.score(shape_of(by_hand), work, phi="other")


def test_torch_counts_the_same_in_a_lora_step(by_hand, store, work):
    batch = collate(store(ROWS).get([0, 1]))
    expected = flops.finetune(shape_of(by_hand), work)[0]
    tuned = attach_fresh(copy.deepcopy(by_hand), seed=0).train()

    def step():
        losses, _ = response_losses(
            tuned,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
        )
        losses.sum().backward()

    # Nothing is learnt below the first block, so the gradient ends at its q, k and v, frozen
    # 2·10·(64 + 32 + 32) and of their LoRA 2·10·3·8·8: a formula for a block would be too long.
    assert counted(step) - (expected - 2560 - 3840) in (0, ANGLES)


@pytest.mark.parametrize("phi", ["last-value", "lm-head"])
def test_torch_counts_the_same_in_scoring(by_hand, store, work, phi):
    batch = collate(store(ROWS).get([0, 1]))
    scorer = Scorer(copy.deepcopy(by_hand), phi=phi)
    expected = flops.score(shape_of(by_hand), work, phi=phi)[0]
    # The formula takes 3 and 3 response tokens where there are 4 and 2: (16 + 4)·40 products.
    more = 2 * (20 - 18) * 40 if phi == "lm-head" else 0
    assert counted(lambda: scorer(batch)) - (expected + more) in (0, ANGLES)


@pytest.mark.parametrize("family", ["gpt-neox", "gemma2", "phi3", "qwen3", "olmo2", "gpt2", "opt"])
def test_other_families_are_near(tiny, store, family):
    """They differ in what of a fused layer is a value, and in what may skip prompt positions."""
    tokens = store([(24, 10), (24, 6), (24, 20), (24, 3)])
    model = tiny(family, attn_implementation="eager")
    shape, work = shape_of(model), work_of([np.arange(4)], tokens)
    scorer, batch = Scorer(model), collate(tokens.get(range(4)))
    assert counted(lambda: scorer(batch)) == pytest.approx(
        flops.score(shape, work, phi="last-value")[0], rel=0.35
    )


def test_values_from_a_latent_vector(tiny, latent, store):
    """DeepSeek: queries and keys are of another width than values, and the config's head_dim is
    that of the part with positions."""
    heads = {"qk_nope_head_dim": 12, "qk_rope_head_dim": 4, "v_head_dim": 8}
    model = tiny("llama", **(latent | heads), attn_implementation="eager")
    shape = shape_of(model)
    assert shape.attention == 2 * 4 * (12 + 4 + 8) // 2  # blocks, heads, mean of both products
    assert (shape.last_output, shape.value[1]) == (4 * 8 * 32, 4 * 8)
    tokens = store([(24, 10), (24, 6), (24, 20), (24, 3)])
    scorer, batch = Scorer(model), collate(tokens.get(range(4)))
    expected = flops.score(shape, work_of([np.arange(4)], tokens), phi="last-value")[0]
    assert counted(lambda: scorer(batch)) == pytest.approx(expected, rel=0.35)


def test_of_routed_experts_the_chosen_count(tiny, store):
    """Their LoRA is added to all of them, whatever the rows; memory in test_memory."""
    changes = {"num_local_experts": 8, "experts_implementation": "eager"}  # that can be counted
    model = tiny("mixtral", **changes, attn_implementation="eager")
    tokens = store([(48, 47)] * 4)
    shape, work = shape_of(model), work_of([np.arange(4)], tokens)
    # 2 of 8 experts in 2 blocks, gate, up and down of 32·48 each
    assert shape.lora.met == shape.lora.stacked / 4 == 2 * 2 * 3 * 32 * 48
    assert shape.lora.added == 2 * 8 * (2 * 2 + 1) * 32 * 48  # twice the rank in gate and up
    assert shape.met == shape.linear + 101 * 32 < shape.parameters / 2
    batch = collate(tokens.get(range(4)))
    names = ("input_ids", "attention_mask", "labels")
    inputs = {name: getattr(batch, name) for name in names}
    assert counted(lambda: model(inputs["input_ids"])) == pytest.approx(
        flops.forward(shape, work)[0], rel=0.02
    )
    tuned = attach_fresh(copy.deepcopy(model), seed=0).train()
    assert counted(lambda: response_losses(tuned, **inputs)[0].sum().backward()) == pytest.approx(
        flops.finetune(shape, work)[0], rel=0.1
    )


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ({"model_type": "ernie4_5_moe", "moe_num_experts": 16, "moe_k": 2}, 2),
        ({"model_type": "glm4_moe", "n_routed_experts": 16, "num_experts_per_tok": 4}, 4),
        ({"model_type": "gpt_oss", "num_local_experts": 16, "num_experts_per_tok": 4}, 4),
    ],
)
def test_experts_are_known_by_many_names(sizes, chosen):
    from transformers import AutoConfig

    config = AutoConfig.for_model(**sizes)
    assert shape_module._experts(config) == (chosen, 16)


def test_checkpointed_blocks_go_forward_twice(by_hand, store):
    shape, work = shape_of(by_hand), work_of([np.arange(1)], store([(5, 4)]))
    # 2·1152 and the adapter's 2·2048 a token, and attention 4·16·5·5
    again = flops.finetune(shape, work, checkpointing=True) - flops.finetune(shape, work)
    assert again.tolist() == [(2 * 1152 + 2 * 2048) * 5 + 4 * 16 * 25]
