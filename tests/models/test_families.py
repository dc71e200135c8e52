"""The table behind --small auto, and who is found in it."""

import csv
import json
import re

import pytest

from staff.errors import ConfigError
from staff.models.families import SIZES, TABLE, members, pairs, sibling_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LLAMA = members()["meta-llama/Llama-3.1-8B"]
ONE_B = members()["meta-llama/Llama-3.2-1B"]


def folder(path, member, **changes):
    """A model folder as far as a config goes, with the sizes of a row of the table."""
    path.mkdir(parents=True)
    config = {key: member.sizes[column] for column, key in SIZES.items()}
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    return str(path)


def test_every_row_is_whole():
    lines = TABLE.read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert len(lines) - 1 == len(members())  # no id stands there twice
    for member in members().values():
        assert HUB_ID.fullmatch(member.target), member
        assert member.sources, member  # pages that were looked at
        assert all(re.fullmatch(r"https://[\w.-]+/\S+", url) for url in member.sources), member
        assert set(member.unconfirmed) <= {*SIZES, "sizes", "tied", "tokenizer"}, member
        assert member.family
        if member.small:
            small = members()[member.small]  # has a row of its own, with its sizes
            assert small.parameters < member.parameters
            same = small.sizes["model_type"] == member.sizes["model_type"]
            assert same or not member.same_tokenizer, member


def test_a_tokenizer_has_a_source_or_is_told_to_have_none():
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        told = "tokenizer" in row["unconfirmed"].split()
        assert bool(row["tokenizer_source"]) == (bool(row["small"]) and not told), row["target"]
    assert any("tokenizer" in row["unconfirmed"] for row in rows)


def test_the_rule_of_the_table():
    """The largest with a fifth of the target's parameters or fewer; else the smallest there is."""
    families: dict[tuple, dict] = {}
    for member in members().values():
        smallest = member
        while smallest.small:
            smallest = members()[smallest.small]
        family = families.setdefault((smallest.target, member.family), {})
        family |= {one.target: one for one in (smallest, member)}
    checked = 0
    for family in families.values():
        for member in (m for m in family.values() if m.small):
            sizes = {m.parameters for m in family.values() if m.parameters < member.parameters}
            fit = {size for size in sizes if 5 * size <= member.parameters}
            assert members()[member.small].parameters == (max(fit) if fit else min(sizes)), member
            checked += 1
    assert checked == len(pairs()) > 60


def test_parameters_are_what_transformers_counts():
    """One and two blocks of every size, on the meta device; all blocks of a model are alike."""
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    def count(sizes, layers):
        values = {key: sizes[column] for column, key in SIZES.items()} | {
            "num_hidden_layers": layers,
            "tie_word_embeddings": bool(sizes["tied"]),
            "pad_token_id": 0,
        }
        kind = values.pop("model_type")
        if kind in ("gpt_neox", "phi", "phi3", "qwen2"):
            assert values.pop("head_dim") * values["num_attention_heads"] == values["hidden_size"]
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
        model.tie_weights()
        return sum(parameter.numel() for parameter in model.parameters())

    known = {tuple(m.sizes.values()): m for m in members().values()}
    for member in known.values():
        one, two = (count(member.sizes, layers) for layers in (1, 2))
        assert one + (member.sizes["layers"] - 1) * (two - one) == member.parameters, member.target


@pytest.mark.parametrize("name", [LLAMA.target, f"{LLAMA.target}@main"])
def test_a_hub_id_is_looked_up(name):
    found = sibling_of(name)
    assert found.location == ONE_B.target
    assert found.say() == "--small auto: meta-llama/Llama-3.2-1B, of Llama 3.1+"


def test_another_vocabulary_is_told():
    assert "vocabulary differs" in sibling_of("mistralai/Mistral-Nemo-Base-2407").say()
    assert "it is not confirmed that it has" in sibling_of("microsoft/phi-2").say()


def test_a_folder_needs_the_name_and_the_sizes(tmp_path):
    path = folder(tmp_path / LLAMA.name, LLAMA)
    assert sibling_of(path).location == ONE_B.target
    cached = tmp_path / f"models--meta-llama--{LLAMA.name}" / "snapshots" / "0a1b"
    assert sibling_of(folder(cached, LLAMA)).location == ONE_B.target
    # By its sizes it may be Llama 3, 3.1, their instruct models, …: whose sibling differs.
    with pytest.raises(ConfigError, match=r"sizes of .*-8B-Instruct.* name does not say"):
        sibling_of(folder(tmp_path / "mine", LLAMA))
    wider = folder(tmp_path / "x" / LLAMA.name, LLAMA, vocab_size=128_264)  # tokens were added
    with pytest.raises(ConfigError, match="no model in the table of families has the sizes"):
        sibling_of(wider)


def test_sizes_that_a_config_leaves_out_are_defaults(tmp_path):
    """As Gemma 3 does, in a config within the config."""
    member = members()["google/gemma-3-4b-it"]
    inner = {key: member.sizes[column] for column, key in list(SIZES.items())[:4]}
    path = tmp_path / member.name
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": inner}))
    assert sibling_of(str(path)).location == "google/gemma-3-270m-it"


def test_the_sibling_beside_the_target_is_taken(tmp_path):
    path = folder(tmp_path / LLAMA.name, LLAMA)
    small = folder(tmp_path / ONE_B.name, ONE_B)
    assert sibling_of(path).location == small
    wrong = folder(tmp_path / "y" / LLAMA.name, LLAMA)
    folder(tmp_path / "y" / ONE_B.name, LLAMA)  # called so, but of other sizes
    assert sibling_of(wrong).location == ONE_B.target


@pytest.mark.parametrize("name", ["someone/something", "meta-llama/Llama-3.2-1B", "LLAMA"])
def test_what_is_not_known_is_refused_with_a_way_out(name):
    with pytest.raises(
        ConfigError, match=r"give --small MODEL: one by the same makers, .*families"
    ):
        sibling_of(name)
