"""The command that holds the fast path against the oracle, on right models and on a wrong one."""

import numpy as np
import pytest

from staff.check_model import check_model, comparison
from staff.cli.main import main
from staff.models import by_row
from staff.models.adapters import attach_fresh
from staff.reports.checked import render_checked
from staff.runs.config import CheckModelConfig
from staff.scores import effort
from staff.scores.check import hold_against_oracle
from staff.scores.oracle import oracle_effort

COLUMNS = ["--prompt-column", "mr", "--response-column", "ref"]


@pytest.fixture(scope="module")
def data(e2e_file):
    return e2e_file(60)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox"])
def test_all_ways_agree_and_the_kernels_are_those_asked_for(tiny, rows, family):
    model = tiny(family)
    seen = set()
    model.register_forward_pre_hook(lambda m, _: seen.add(m.config._attn_implementation))
    done = []
    found = hold_against_oracle(model, rows, note=done.append)
    assert sum(done) == len(rows)
    assert seen == {"sdpa", "eager", *([by_row.NAME] if found.kernel == "sdpa" else [])}
    assert (found.kernel, found.left_out) == (model.config._attn_implementation, ())
    assert list(found.norms) == [
        "one row at a time", *(["8 rows, end to end"] if effort.Scorer(model).laying else []),
        "8 rows, padded on the right", "8 rows, padded on the left", "8 rows, --padding-free",
        f"attention {({'sdpa', 'eager'} - {found.kernel}).pop()}",
    ]  # fmt: skip
    assert np.array_equal(found.truth, [oracle_effort(model, row) for row in rows])
    for norms in found.norms.values():
        np.testing.assert_allclose(norms, found.truth, rtol=1e-4)


@pytest.mark.parametrize("phi", ["last-value-lora", "lm-head", "adapter"])
@pytest.mark.parametrize("adapted", [False, True])
def test_every_gradient_and_an_adapter(tiny, rows, phi, adapted):
    model = tiny("llama")
    if adapted:
        model = attach_fresh(model, seed=0)
    found = hold_against_oracle(model, rows, phi=phi, seed=3)
    assert len(found.norms) == 6
    for norms in found.norms.values():
        np.testing.assert_allclose(norms, found.truth, rtol=1e-4)


def test_a_kernel_that_the_model_has_not_is_left_out(tiny, rows, monkeypatch):
    model = tiny("llama", attn_implementation="eager")

    def refuse(name):
        raise ValueError(f"no {name} here")

    monkeypatch.setattr(model, "set_attn_implementation", refuse)
    found = hold_against_oracle(model, rows)
    assert (found.kernel, found.left_out) == ("eager", ("sdpa",))
    assert len(found.norms) == 4


def test_a_kernel_that_would_leave_out_a_cap_is_left_out(tiny, rows):
    found = hold_against_oracle(tiny("gemma2"), rows[:2])
    assert (found.kernel, found.left_out) == ("eager", ("sdpa",))


def test_rows_in_one_sequence_are_left_out_where_a_model_mixes_them(tiny, rows):
    found = hold_against_oracle(tiny("opt"), rows[:2])
    assert found.left_out == ("--padding-free",)
    assert "8 rows, --padding-free" not in found.norms


def test_the_embedded_family(data, family):
    facts = check_model(
        CheckModelConfig(
            model=family[1], data=str(data), rows=12, device="cpu", prompt_column="mr",
            response_column="ref",
        )
    )  # fmt: skip
    assert facts["agrees"]
    assert facts["rows"] == 12
    assert facts["layer"]["name"].endswith("self_attn.v_proj")
    assert facts["layer"]["fused"] is False
    judged = [one for one in facts["comparisons"] if one["judged"]]
    assert len(judged) == 6
    assert all(one["largest"] < 1e-4 and one["rank"] > 0.99 for one in judged)
    half = facts["comparisons"][-1]
    assert half["name"] == "bfloat16"
    assert judged[0]["largest"] < half["largest"] < 0.2
    text = render_checked(facts, width=100)
    for words in ("attention sdpa", "v_proj, values ", "12 rows, ", "bfloat16", "times as fast"):
        assert words in text
    assert "the norms in float32 agree (relative tolerance 0.001)" in text
    assert max(map(len, text.splitlines())) <= 100


def test_another_gradient(data, family, capsys):
    command = ["check-model", family[0], "--data", str(data), "--rows", "3", "--phi", "lm-head"]
    assert main([*command, *COLUMNS, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "Gradient  of lm-head" in out
    assert "Layer" not in out


def test_a_wrong_fast_path_is_found_and_the_exit_code_is_1(data, family, capsys, monkeypatch):
    """Mask and positions are what padding on the left needs and padding on the right does not."""
    original = effort.Scorer._inputs

    def without_mask(self, batch, device):
        return {
            k: v
            for k, v in original(self, batch, device).items()
            if k in ("input_ids", "use_cache")
        }

    monkeypatch.setattr(effort.Scorer, "_inputs", without_mask)
    command = ["check-model", family[0], "--data", str(data), "--rows", "8", "--device", "cpu"]
    assert main([*command, *COLUMNS]) == 1
    out, error = capsys.readouterr()
    assert "the norms in float32 DIFFER (relative tolerance 0.001" in out
    assert error.splitlines()[-1].startswith("error: 8 rows, padded on the left: the norm of row ")
    assert "more than --tolerance 0.001" in error
    assert main([*command, *COLUMNS, "--tolerance", "1e9"]) == 0


def test_differences_by_hand():
    rows = np.array([5, 7, 9])
    found = comparison("x", np.array([1.0, 2.2, 3.0]), np.array([1.0, 2.0, 3.0]), rows, judged=True)
    assert found["largest"] == pytest.approx(0.1)
    assert (found["median"], found["row"], found["rank"]) == (0.0, 7, 1.0)
    none = comparison("x", np.array([0.0, np.nan]), np.array([0.0, 1.0]), rows[:2], judged=True)
    assert (none["largest"], none["row"], none["rank"]) == (np.inf, 7, None)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "model is missing: give a model folder, e.g. staff check-model MODEL …"),
        (["m"], 2, "data is missing: give --data FILE"),
        (["./nowhere", "--data", "DATA", *COLUMNS], 4, "model folder ./nowhere does not exist"),
        (["MODEL", "--data", "nowhere.jsonl"], 3, "nowhere.jsonl"),
        (["MODEL", "--data", "DATA", "--rows", "0"], 2, "--rows must be at least 1"),
        (["MODEL", "--data", "DATA", "--tolerance", "0"], 2, "--tolerance must be above 0"),
        (["MODEL", "--data", "DATA", *COLUMNS, "--device", "cuda:99"], 2, "'cuda:99' is not"),
    ],
)
def test_what_cannot_be_checked(data, family, capsys, arguments, code, words):
    given = {"DATA": str(data), "MODEL": family[0]}
    assert main(["check-model", *(given.get(a, a) for a in arguments)]) == code
    assert words in capsys.readouterr().err
