"""Rows without padding, one behind the other, score as they do padded and as the oracle has it."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version

from staff.data.batches import collate
from staff.errors import ModelError
from staff.scores.effort import Scorer
from staff.scores.oracle import oracle_effort
from staff.types import IGNORE, TokenisedExample

DESCRIBED = json.loads((Path(__file__).parents[1] / "data" / "families.json").read_text())
FAMILIES = set(DESCRIBED["families"])
MIXED = {"opt", "bloom"} | {  # positions from the mask; no positions at all; not for its mask
    family
    for family, least in DESCRIBED["positions_part_rows_since"].items()
    if Version(version("transformers")) < Version(least)
}
PHIS = ["last-value", "last-value-lora", "lm-head", "adapter"]


@pytest.mark.parametrize("family", sorted(FAMILIES - MIXED))
def test_scores_are_the_oracles_in_every_family(tiny, rows, family):
    """Rows beyond the sliding windows of 8 among them."""
    model = tiny(family)
    truth = np.array([oracle_effort(model, row) for row in rows])
    scorer = Scorer(model, padding_free=True)
    for size, side in ((3, "right"), (8, "left")):
        found = scored(scorer, rows, size=size, side=side)
        np.testing.assert_allclose(found["effort"], truth, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-neox"])
def test_every_phi_and_signal_is_that_of_padded_rows(tiny, rows, family, phi, kernel):
    model = tiny(family)
    model.set_attn_implementation(kernel)
    padded = scored(Scorer(model, phi=phi, features=True, seed=3), rows)
    flat = scored(Scorer(model, phi=phi, features=True, seed=3, padding_free=True), rows)
    assert {"effort", "loss", "entropy", "el2n", "features"} <= padded.keys() == flat.keys()
    for name, values in padded.items():
        np.testing.assert_allclose(flat[name], values, rtol=1e-4, atol=1e-6)


def test_the_adapter_of_routed_experts_is_scored_row_by_row(tiny, rows):
    padded, flat = (
        scored(Scorer(tiny("mixtral"), phi="adapter", padding_free=free), rows[:3])
        for free in (False, True)
    )
    np.testing.assert_allclose(flat["effort"], padded["effort"], rtol=1e-4)


def test_the_model_sees_no_padding(tiny, rows):
    model, seen = tiny("llama"), []
    scorer = Scorer(model, padding_free=True)
    model.get_input_embeddings().register_forward_hook(lambda m, args, o: seen.append(args[0]))
    scored(scorer, rows)
    [ids] = seen
    assert ids.tolist() == [[token for row in rows for token in row.input_ids]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(MIXED))
def test_a_family_that_mixes_such_rows_is_refused(tiny, family, dtype):
    with pytest.raises(ModelError, match="does not keep the rows of a packed sequence apart"):
        Scorer(tiny(family).to(dtype), padding_free=True)


def test_attention_in_chunks_is_refused(llama4):
    """Its chunks and scales go by places in the sequence; the rows that are tried are shorter."""
    with pytest.raises(ModelError, match="does not keep the rows of a packed sequence apart"):
        Scorer(llama4, phi="lm-head", padding_free=True)


def test_half_precision_is_not_taken_for_mixing(tiny):
    generator = np.random.default_rng(1)
    rows = []
    for i in range(32):
        ids = generator.integers(3, 101, int(generator.integers(6, 40)))
        labels = ids.copy()
        labels[: len(ids) // 2] = IGNORE
        rows.append(TokenisedExample(str(i), ids, labels))
    for family in sorted({"llama", "gemma3", "gpt-neox", "falcon-rw"} - MIXED):
        model = tiny(family).bfloat16()
        flat = scored(Scorer(model, padding_free=True), rows)["effort"]
        ranks = [np.argsort(np.argsort(v)) for v in (flat, scored(Scorer(model), rows)["effort"])]
        assert np.corrcoef(*ranks)[0, 1] >= 0.99, family


def scored(scorer, rows, *, size=8, side="right"):
    """Columns of all rows, in batches of `size`."""
    parts = [scorer(collate(rows[i : i + size], side=side)) for i in range(0, len(rows), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
