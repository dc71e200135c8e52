"""The fast path against the slow truth."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version

from staff.data.batches import Batch, collate
from staff.errors import ConfigError, DataError, ModelError
from staff.models.load import load_model
from staff.scores import effort
from staff.scores.effort import Scorer
from staff.scores.flat import Laying
from staff.scores.oracle import oracle_effort
from staff.training.packed import packing_of
from staff.types import IGNORE, TokenisedExample

DESCRIBED = json.loads((Path(__file__).parents[1] / "data" / "families.json").read_text())
FAMILIES = sorted(DESCRIBED["families"])
PADDED = {"bloom", "falcon-rw", "falcon-7b", "falcon-40b", "gemma2"} | {
    family
    for family, least in DESCRIBED["lengths_reach_attention_since"].items()
    if Version(version("transformers")) < Version(least)
}
PHIS = ["last-value", "last-value-lora", "lm-head", "adapter"]


def in_batches(scorer, rows, *, size, side="right"):
    parts = [
        scorer(collate(rows[i : i + size], side=side))["effort"] for i in range(0, len(rows), size)
    ]
    return np.concatenate(parts)


def oracle(model, rows, **options):
    return np.array([oracle_effort(model, row, **options) for row in rows])


def tied_routing(model, rows):
    """Rows [n] in which some token's choice of experts hangs on less than float32 can hold."""
    gates = [m for n, m in model.named_modules() if n.endswith("mlp.gate")]
    ties = np.zeros(len(rows), bool)
    for i, row in enumerate(rows):
        margins = []

        def watch(gate, _args, output, margins=margins):
            top = output[0].float().softmax(-1).topk(gate.top_k + 1, dim=-1).values
            margins.append(float((top[:, -2] - top[:, -1]).min()))

        handles = [gate.register_forward_hook(watch) for gate in gates]
        with torch.no_grad():
            model(input_ids=torch.tensor(row.input_ids)[None])
        for handle in handles:
            handle.remove()
        ties[i] = any(m < 1e-6 for m in margins)
    return ties


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_oracle_over_batch_sizes_and_padding(tiny, rows, family):
    model = tiny(family)
    truth = oracle(model, rows)
    sure = ~tied_routing(model, rows)  # all True without routing
    assert sure.mean() > 0.8
    for free in (None, False):
        scorer = Scorer(model, padding_free=free)
        for size in (1, 3, 8):
            for side in ("right", "left"):
                ours = in_batches(scorer, rows, size=size, side=side)
                np.testing.assert_allclose(ours[sure], truth[sure], rtol=1e-4)


@pytest.mark.parametrize("phi", ["last-value", "last-value-lora", "adapter"])
def test_values_from_a_latent_vector_agree_with_the_oracle(tiny, latent, rows, phi):
    """Their projection is given [B, 1, T, d]."""
    model = tiny("llama", **latent)
    for free in (None, False):
        found = in_batches(Scorer(model, phi=phi, padding_free=free), rows, size=8, side="right")
        np.testing.assert_allclose(found, oracle(model, rows, phi=phi), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_laid_end_to_end_where_a_model_keeps_them_apart(tiny, family):
    """Attention of their own or with capped logits (Gemma 2) is not to be had by row."""
    laying = Scorer(tiny(family)).laying
    assert (laying is None) == (family in PADDED)
    half = Scorer(tiny(family).bfloat16()).laying
    assert (half is None) == (laying is None)
    assert laying is None or (half.tokens, half.responses) == (128, 64)


@pytest.mark.parametrize("windowed", [False, True])
def test_a_window_that_its_mask_alone_tells_keeps_rows_padded(tiny, windowed):
    """Wider than the rows that are tried, and not passed on to attention."""
    model = tiny("llama")
    if windowed:
        model.config.sliding_window = 8
        model.config.layer_types = ["full_attention", "sliding_attention"]
    assert (Scorer(model).laying is None) == windowed


def test_a_weight_that_blocks_share_counts_with_all_its_uses(tiny, rows):
    """As in Zamba; an oracle's gradient of the weight is that of both blocks."""
    model = tiny("llama")
    first, last = (block.self_attn.v_proj for block in model.model.layers)
    first.weight = last.weight
    for free in (None, False):
        found = in_batches(Scorer(model, padding_free=free), rows, size=8)
        np.testing.assert_allclose(found, oracle(model, rows), rtol=1e-4)


@pytest.mark.parametrize("told", [True, False])
def test_a_state_space_beside_attention_keeps_rows_padded(tiny, hybrid, told, monkeypatch):
    """Carrying over less from row to row than the scores and losses of short rows show.

    Where its config does not name the kinds of its layers, too.
    """
    model = tiny("llama", **hybrid, ssm_out_multiplier=0.003)
    if not told:
        for module in ("staff.scores.effort", "staff.training.packed"):
            monkeypatch.setattr(f"{module}.may_go_by_row", lambda _: True)
    assert Scorer(model, phi="lm-head", signals=()).laying is None
    assert packing_of(model) is None


def test_a_state_space_beside_attention_is_given_all_tokens(tiny, hybrid, rows):
    """Where that changes the scores of short rows by less than rounding, too."""
    model = tiny("llama", **hybrid, ssm_out_multiplier=1e-4)
    scorer = Scorer(model, phi="lm-head", signals=())
    for side in ("right", "left"):
        found = in_batches(scorer, rows, size=8, side=side)
        np.testing.assert_allclose(found, oracle(model, rows, phi="lm-head"), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_like_the_oracle_in_bfloat16(tiny, family):
    generator = np.random.default_rng(1)
    rows = []
    for i in range(32):
        ids = generator.integers(3, 101, int(generator.integers(6, 40)))
        labels = ids.copy()
        labels[: len(ids) - int(generator.integers(1, len(ids) - 1))] = IGNORE
        rows.append(TokenisedExample(str(i), ids, labels))
    model = tiny(family).bfloat16()
    truth = oracle(model, rows)
    for free, size, side in (
        (None, 1, "right"),
        (None, 8, "left"),
        (False, 8, "right"),
        (False, 8, "left"),
    ):
        scorer = Scorer(model, padding_free=free)
        assert rank_correlation(in_batches(scorer, rows, size=size, side=side), truth) >= 0.995


def rank_correlation(a, b):
    return np.corrcoef(*(np.argsort(np.argsort(scores)) for scores in (a, b)))[0, 1]


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_phi_agrees_with_the_oracle(tiny, rows, trained_lora, family, phi):
    model = tiny(family)
    sure = ~tied_routing(model, rows)
    if phi == "adapter":
        model = trained_lora(model)
    truth = oracle(model, rows, phi=phi, seed=3)
    for free, side in ((None, "left"), (False, "right"), (False, "left")):
        scorer = Scorer(model, phi=phi, seed=3, padding_free=free)
        ours = in_batches(scorer, rows, size=8, side=side)
        np.testing.assert_allclose(ours[sure], truth[sure], rtol=1e-4)


def test_a_fresh_adapter_depends_on_the_seed_only(tiny, rows):
    models = [tiny("llama") for _ in range(3)]  # building them seeds torch's generator
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = in_batches(Scorer(models[0], phi="adapter", seed=1), rows, size=8)
    assert torch.equal(state, torch.get_rng_state())  # nothing was drawn from it
    torch.manual_seed(6)
    again = in_batches(Scorer(models[1], phi="adapter", seed=1), rows, size=8)
    other = in_batches(Scorer(models[2], phi="adapter", seed=2), rows, size=8)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_released_projection_estimates_the_default_phi(tiny, rows):
    # ‖G Aᵀ‖² has mean ‖G‖²·r/(3 d_in) for A uniform within ±1/√d_in: its variance is 1/(3 d_in).
    model = tiny("llama")
    exact = in_batches(Scorer(model), rows, size=8)
    released = in_batches(Scorer(model, phi="last-value-lora"), rows, size=8)
    scale = 16 / 81 * np.sqrt(81 / (3 * 32))
    np.testing.assert_allclose(released / scale, exact, rtol=0.35)


@pytest.mark.parametrize("folder", ["stories260K", "bitstories1M", "bitstories3M"])
def test_real_weights(shared, rows, folder):
    path = shared / "models" / folder
    if not path.is_dir():
        pytest.skip("needs the unshipped models")
    model = load_model(str(path), dtype="float32", device="cpu")
    truth, scorer = oracle(model, rows), Scorer(model)
    for side in ("right", "left"):
        np.testing.assert_allclose(
            in_batches(scorer, rows, size=3, side=side), truth, rtol=1e-4, err_msg=side
        )


@pytest.mark.parametrize("free", [None, False])
def test_no_graph_below_phi_no_logits_at_prompts_no_weight_gradients(tiny, rows, free):
    model = tiny("llama")
    scorer = Scorer(model, padding_free=free)
    seen = {}
    watch = [
        model.model.layers[0].register_forward_hook(
            lambda _m, _a, out: seen.update(trunk=(out[0] if isinstance(out, tuple) else out))
        ),
        model.lm_head.register_forward_hook(lambda _m, _a, out: seen.update(logits=out)),
        model.model.layers[1].mlp.down_proj.register_forward_hook(
            lambda _m, _a, out: seen.update(mlp=out)
        ),
    ]
    scorer(collate(rows))
    for handle in watch:
        handle.remove()
    n = sum(int((row.labels[1:] != IGNORE).sum()) for row in rows)
    assert not seen["trunk"].requires_grad
    assert seen["logits"].shape == (1, n, 101)
    assert seen["mlp"].shape == (1, n, 32)  # the last block's feed-forward part is narrowed
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("leak", [1.0, 1e-2])
def test_a_part_that_is_not_token_wise_is_not_narrowed(tiny, rows, leak):
    model = tiny("llama")
    block = model.model.layers[-1]

    class Mixing(torch.nn.Module):  # looks at the token before: a causal model, but not token-wise
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(32, 32)

        def forward(self, x):
            before = torch.nn.functional.pad(self.inner(x), (0, 0, 1, 0))[:, :-1]
            return self.inner(x) + leak * before

    torch.manual_seed(0)
    block.mlp = Mixing()
    truth = oracle(model, rows)
    scorer = Scorer(model)
    assert scorer.laying is None  # nor laid end to end
    np.testing.assert_allclose(in_batches(scorer, rows, size=3), truth, rtol=1e-4)


def test_a_part_that_returns_another_shape_is_not_narrowed(llama4, rows):
    truth = np.array([oracle_effort(llama4, row, phi="lm-head") for row in rows])
    found = in_batches(Scorer(llama4, phi="lm-head", signals=()), rows, size=3)
    np.testing.assert_allclose(found, truth, rtol=1e-4)


@pytest.mark.parametrize("phi", ["last-value", "last-value-lora"])
def test_a_value_projection_that_is_never_called(tiny, phi):
    model = tiny("llama")
    attention = model.model.layers[-1].self_attn
    inner = torch.nn.Linear(32, 32)

    class SharesValues(torch.nn.Module):  # holds a projection, as blocks that share values do
        def __init__(self):
            super().__init__()
            self.v_proj, self.o_proj = attention.v_proj, inner

        def forward(self, hidden_states, **kwargs):
            return self.o_proj(hidden_states), None

    model.model.layers[-1].self_attn = SharesValues()
    with pytest.raises(ModelError, match=r"never calls model\.layers\.1\.self_attn\.v_proj"):
        Scorer(model, phi=phi)
    Scorer(model, phi="lm-head")


@pytest.mark.parametrize("options", [{}, {"phi": "adapter"}, {"features": True}])
@pytest.mark.parametrize("free", [None, False])  # False: as on a GPU
def test_a_model_that_looks_ahead_is_refused(tiny, options, free):
    changes = {"model_type": "bert", "is_decoder": True}
    Scorer(tiny("llama", **changes), padding_free=free, **options)
    with pytest.raises(ModelError, match="BertLMHeadModel looks at later tokens"):
        Scorer(tiny("llama", **changes | {"is_decoder": False}), padding_free=free, **options)


def test_signals_alone_need_no_gradient(tiny, rows):
    model = tiny("llama")
    batch = collate(rows)
    alone = Scorer(model, phi=None, signals=("loss",))(batch)
    assert list(alone) == ["loss"]
    np.testing.assert_allclose(alone["loss"], Scorer(model)(batch)["loss"], rtol=1e-5)


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_filling_changes_nothing(tiny, rows, phi, side):
    """Numbers of tokens and of logits rounded up, as in half precision."""
    model = tiny("llama")
    plain, filled = (Scorer(model, phi=phi, features=True, seed=3) for _ in range(2))
    filled.laying = Laying(by_row=True, tokens=64, responses=32)
    wanted, widths = in_batches_all(plain, rows, side=side), set()
    model.lm_head.register_forward_hook(lambda _m, _a, out: widths.add(out.shape[1] % 32))
    found = in_batches_all(filled, rows, side=side)
    assert widths == {0}
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6)


def in_batches_all(scorer, rows, *, side):
    parts = [scorer(collate(rows[i : i + 3], side=side)) for i in range(0, 9, 3)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("free", [None, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_features_are_means_over_real_tokens(tiny, rows, side, free):
    model = tiny("llama")
    ours = Scorer(model, features=True, padding_free=free)(collate(rows, side=side))["features"]
    for features, row in zip(ours, rows, strict=True):
        with torch.no_grad():
            states = model.model(input_ids=torch.tensor(row.input_ids)[None]).last_hidden_state
        np.testing.assert_allclose(features, states[0].mean(dim=0).numpy(), rtol=1e-3, atol=1e-5)


def test_means_of_states_are_float32():
    # 257 ones: bfloat16 would round their sum to 256.
    pooled = effort._pooled(torch.ones(1, 257, 1).bfloat16(), torch.ones(1, 257, dtype=torch.int64))
    assert pooled.tolist() == [[1.0]]


def test_dropout_is_off_whatever_state_the_model_comes_in(tiny, rows):
    found, wanted = (
        Scorer(tiny("llama", attention_dropout=0.5).train(training))(collate(rows))
        for training in (True, False)
    )
    for name, column in wanted.items():
        np.testing.assert_array_equal(found[name], column)


def test_columns_are_float64_of_the_batch(tiny, rows):
    scorer = Scorer(tiny("llama"))
    scores = scorer(collate(rows))
    assert tuple(scores) == scorer.columns
    assert {(v.dtype, v.shape) for v in scores.values()} == {(np.dtype("float64"), (8,))}


def test_a_row_without_response_is_an_error_naming_it(tiny, rows):
    ids = torch.tensor([[5, 6, 7], [5, 6, 7]])
    labels = torch.tensor([[IGNORE, 6, 7], [5, IGNORE, IGNORE]])  # a first token is never predicted
    batch = Batch(torch.tensor([40, 41]), ids, labels, torch.ones_like(ids))
    with pytest.raises(DataError, match="row 41"):
        Scorer(tiny("llama"))(batch)


def test_unknown_names_are_errors_with_the_nearest_one(tiny):
    with pytest.raises(ConfigError, match="did you mean 'last-value'"):
        Scorer(tiny("llama"), phi="last-valeu")
    with pytest.raises(ConfigError, match="did you mean 'entropy'"):
        Scorer(tiny("llama"), signals=("entrpy",))
