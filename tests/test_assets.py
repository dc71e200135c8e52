"""What is shipped: the embedded family and the demo's data."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

ASSETS = Path(__file__).resolve().parents[1] / "src" / "staff" / "assets"


@pytest.mark.parametrize("size", ["small", "target"])
def test_weights_are_bf16_safetensors(size):
    with safe_open(ASSETS / "family" / size / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype.__str__() for name in weights.keys()} == {  # noqa: SIM118
            "torch.bfloat16"
        }


def reports() -> dict:
    return {
        size: json.loads((ASSETS / "family" / size / "pretraining.json").read_text())
        for size in ("small", "target")
    }


def test_the_family_is_small_and_was_really_trained():
    weights = sum(p.stat().st_size for p in (ASSETS / "family").rglob("*") if p.is_file())
    assert weights <= 16e6
    assert reports()["small"]["tokens"] >= 20e6
    assert 4e6 <= reports()["target"]["parameters"] <= 6e6


def test_the_target_is_trained_to_the_end():
    found = reports()
    assert found["target"]["tokens"] >= 20e6
    assert found["target"]["held_out_loss"] <= 0.95 * found["small"]["held_out_loss"]


def test_both_sizes_have_one_tokenizer():
    texts = {
        (ASSETS / "family" / size / "tokenizer.json").read_text() for size in ("small", "target")
    }
    assert len(texts) == 1


def test_the_demo_data_is_whole_and_credited():
    folder = ASSETS / "e2e_nlg"
    rows = {
        split: [
            json.loads(line)
            for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        ]
        for split in ("train", "val", "test")
    }
    assert {split: len(r) for split, r in rows.items()} == {"train": 4000, "val": 300, "test": 400}
    assert all(set(row) == {"mr", "ref"} for split in rows.values() for row in split)
    meanings = {split: {row["mr"] for row in r} for split, r in rows.items()}
    assert not meanings["train"] & meanings["test"]
    source = (folder / "SOURCE.md").read_text(encoding="utf-8")
    # The licence asks for its text or a link.
    assert "[**CC BY-SA 4.0**](https://creativecommons.org/licenses/by-sa/4.0/)" in source
