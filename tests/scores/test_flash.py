"""What flash attention is handed, by way of transformers: its kernels need a GPU, here plain ones stand."""

import numpy as np
import pytest
import torch
from pretended import waits_of
from transformers import modeling_flash_attention_utils as flash

from staff.data.batches import collate
from staff.scores.effort import Scorer

CALLS = []


def attend(q, k, v, *, scale, window):
    """Causal attention of one row: q [T, H, D], k and v [T, G, D]."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    seen = torch.ones(len(q), len(q), dtype=torch.bool, device=q.device).tril()
    seen = seen if window[0] < 0 else seen.triu(-window[0])
    logits = torch.einsum("qhd,khd->hqk", q, k) * scale
    return torch.einsum("hqk,khd->qhd", logits.masked_fill(~seen, -torch.inf).softmax(-1), v)


def flash_attn_func(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    deterministic=False,
):  # fmt: skip
    assert causal
    CALLS.append(("padded", len(q)))
    rows = zip(q, k, v, strict=True)
    return torch.stack([attend(*row, scale=softmax_scale, window=window_size) for row in rows])


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
    softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False,
):  # fmt: skip
    assert causal
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    lengths = np.diff(getattr(cu_seqlens_q, "inside", cu_seqlens_q).numpy()).tolist()
    assert max(lengths) == max_seqlen_q == max_seqlen_k
    CALLS.append(("end to end", lengths))
    rows = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    return torch.cat([attend(*row, scale=softmax_scale, window=window_size) for row in rows])


@pytest.fixture
def by_flash(tiny, monkeypatch):
    """Makes a tiny model that attends by flash attention."""
    CALLS.clear()
    functions = [flash_attn_func, flash_attn_varlen_func, flash._pad_input, flash._unpad_input]
    if hasattr(flash, "_flash_with_kvcache_fn"):  # newer transformers
        functions.insert(2, None)
    monkeypatch.setattr(flash, "_lazy_imports", lambda *args, **how: functions)
    monkeypatch.setattr(flash, "_loaded_implementation", None)

    def build(family, **changes):
        model = tiny(family, **changes)
        model.config._attn_implementation_internal = "flash_attention_2"  # no package is looked for
        return model

    return build


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3", "phi3"])
def test_rows_are_told_apart_and_windows_told(tiny, by_flash, rows, family):
    """Some rows are longer than Gemma's window of 8."""
    batch = collate(rows)
    wanted = Scorer(tiny(family), padding_free=False)(batch)
    lengths = [len(row.input_ids) for row in rows]
    for free, call in ((False, ("padded", 8)), (True, ("end to end", lengths))):
        scorer = Scorer(by_flash(family), padding_free=free)
        CALLS.clear()
        found = scorer(batch)
        assert [call] * 2 == CALLS  # blocks
        for name, column in wanted.items():
            np.testing.assert_allclose(found[name], column, rtol=1e-4, err_msg=name)


def test_no_layer_waits_for_a_gpu_to_find_the_rows(by_flash, rows):
    batch = collate(rows)
    models = [by_flash("llama", num_hidden_layers=blocks) for blocks in (1, 3)]
    counted = [waits_of(model, batch, padding_free=True) for model in models]
    assert counted[0] == counted[1]
