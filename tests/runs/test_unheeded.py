import pytest

from staff.runs.compare_config import CompareConfig
from staff.runs.config import SelectConfig
from staff.runs.config_file import build, dump_yaml
from staff.runs.settings import Method
from staff.runs.shared_settings import Allocates
from staff.runs.unheeded import HEEDED, NEEDS, heeded_by, unheeded
from staff.selectors import SELECTORS, select_ranked

PLACES = {"data": "d.jsonl", "small": "S", "target": "T", "keep": [0.1], "out": "o"}


def said(**typed):
    return unheeded(SelectConfig(**{**PLACES, **typed}), typed)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"method": "ccs", "within": "hardest", "verify_per_region": 3, "allocation": "paper"},
         ["--allocation, --within, --verify-per-region have no effect with --method ccs"]),
        ({"method": "ifd", "cut": 0.1}, ["--cut has no effect with --method ifd"]),
        ({"method": "el2n", "preset": "paper"}, ["--preset has no effect with --method el2n"]),
        ({"method": "ccs", "preset": "paper"}, []),  # it sets the cut
        ({"take": "middle"}, ["--take has no effect with --method staff"]),
        ({"clusters": 9, "verify_cap": 900},
         ["--clusters has no effect without --within spread",
          "--verify-cap has no effect without --verify-per-region auto"]),
        ({"within": "spread", "clusters": 9, "verify_per_region": "auto", "verify_cap": 900}, []),
        ({"method": "length", "take": "middle", "seed": 3}, []),
        ({"method": "random", "features": True, "finetune_on": 0.5, "skip_finetune": True},
         ["--finetune-on, --features have no effect with --method random"]),
        ({"skip_finetune": True, "finetune_on": 0.5},
         ["--finetune-on has no effect with --skip-finetune"]),
        ({"adapter": "A", "finetune_on": 0.5}, ["--finetune-on has no effect with --adapter"]),
        ({"keep": [], "total": [9], "keep_of": "tokens"}, ["--keep-of has no effect without --keep"]),
    ],
)  # fmt: skip
def test_what_the_method_does_not_use_is_told(typed, words):
    assert said(**typed) == words


def test_of_a_file_only_what_is_not_the_default_is_told(tmp_path):
    path = tmp_path / "config.yaml"
    made = SelectConfig(**PLACES, preset="paper", verify_per_region=3)
    path.write_text(dump_yaml(made))  # every setting
    assert unheeded(build(SelectConfig, file=path), ()) == []
    flags = {"method": "ifd"}
    assert unheeded(build(SelectConfig, file=path, flags=flags), flags) == [
        "--preset, --verify-per-region have no effect with --method ifd"
    ]


def test_scores_that_cannot_be_read_are_for_the_selection_to_tell():
    assert unheeded(SelectConfig(scores="nowhere", keep=[0.3], take="middle"), {"take"}) == []


def test_a_comparison_heeds_what_one_of_its_methods_does():
    config = CompareConfig(
        **PLACES, test="t.jsonl", methods=["ccs", "random"], cut=0, take="middle"
    )
    assert unheeded(config, {"cut", "take"}) == ["--take has no effect with --methods ccs random"]


def test_every_setting_of_the_table_is_one_and_is_used_by_a_method():
    methods = Method.__args__
    assert set(HEEDED) - {"ranking"} < set(methods)
    used = {name for method in methods for name in heeded_by(method)}
    assert used == set(Allocates.__annotations__)
    assert used > set(NEEDS)


def test_what_is_not_in_the_table_ranks_by_a_score():
    ranked = {name for name, selector in SELECTORS.items() if selector is select_ranked}
    assert set(SELECTORS) - set(HEEDED) == ranked
