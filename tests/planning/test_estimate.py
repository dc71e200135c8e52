"""A plan of real rows and models, without a probe and without weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from staff import planning
from staff.errors import ConfigError
from staff.models.families import SIZES, members
from staff.planning.costs import Cost
from staff.planning.devices import DEVICES
from staff.planning.estimate import _balance, estimate
from staff.planning.probe import Measured
from staff.planning.shape import read_shape
from staff.runs.config import SelectConfig
from staff.runs.plan_config import PlanConfig

COLUMNS = {"prompt_column": "mr", "response_column": "ref"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory, family):
    """The embedded models without their weights: (small, target)."""
    folders = []
    for model in map(Path, family):
        folder = tmp_path_factory.mktemp("bare") / model.name
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        folders.append(str(folder))
    return folders


@pytest.fixture(scope="module")
def data(e2e_file):
    return str(e2e_file(40))


@pytest.fixture(scope="module")
def settings(data, bare):
    small, target = bare
    return {"data": data, "small": small, "target": target, "keep": (0.5,), **COLUMNS}


def by_kind(plan):
    return {stage["kind"]: stage for stage in plan["stages"]}


def sized(path, model, family, **changes):
    """A model folder with the sizes of a row of the table and the embedded family's tokenizer."""
    shutil.copytree(family[0], path, ignore=shutil.ignore_patterns("*.safetensors"))
    sizes = members()[model].sizes
    config = {key: sizes[column] for column, key in SIZES.items()} | {
        "architectures": ["ForCausalLM"],
        "max_position_embeddings": 512,
    }
    (path / "config.json").write_text(json.dumps(config | changes))
    return str(path)


def test_the_stages_are_those_of_a_dry_run(settings, family, tmp_path):
    plan = estimate(PlanConfig(**settings, device="h100-80gb"))
    small, target = family
    dry = planning.plan(
        SelectConfig(**{**settings, "small": small, "target": target}, out=str(tmp_path / "x"))
    )
    names = ("name", "rows", "tokens")
    for ours, theirs in zip(plan["stages"], dry["stages"], strict=False):
        assert [ours[k] for k in names] == [theirs.get(k, 0) for k in names]
    assert len(plan["stages"]) == len(dry["stages"]) + 1  # and the tuning that is saved
    assert json.loads(json.dumps(plan, allow_nan=False)) == plan


def test_hours_are_operations_at_the_assumed_speed(settings):
    plan = estimate(PlanConfig(**settings, device="h100-80gb", utilisation=0.5))
    assert plan["data"]["longest"] > plan["data"]["median"] > 0
    speed = 0.5 * DEVICES["h100-80gb"].flops
    shape = read_shape(settings["small"])
    tuning = by_kind(plan)["tune small"]
    assert tuning["seconds"] == tuning["flops"] / speed
    # 3 epochs of padded tokens through the frozen weights, forward and back, and some more
    assert tuning["flops"] > 3 * 4 * shape.linear * plan["data"]["tokens"]
    assert tuning["padded_tokens"] >= tuning["tokens"]
    selection = [by_kind(plan)[kind]["seconds"] for kind in ("tune small", "score small", "verify")]
    whole = by_kind(plan)["tune target"]["seconds"]
    assert plan["selection"]["seconds"] == pytest.approx(sum(selection))
    assert plan["tuning"]["seconds"] == whole
    assert plan["ratio"] == pytest.approx(sum(selection) / whole)
    [coreset] = plan["coresets"]
    assert coreset["saved"] == pytest.approx(whole / 2)
    assert coreset["left"] == pytest.approx(whole / 2 - sum(selection))


def test_what_was_measured_is_weighed_by_hand():
    def cost(kind, seconds, setup=None, **more):
        return Cost(kind, kind, 100, flops=1.0, seconds=seconds, setup_seconds=setup, **more)

    costs = [
        cost("start", 3.0), cost("read", 8.0), cost("tune small", 40.0, 4.0, memory=7),
        cost("score small", 10.0, 2.0, memory=9), cost("verify", 6.0, 1.0, memory=8),
        cost("tune target", 100.0, 5.0, memory=99),
    ]  # fmt: skip
    starts = {"start": Measured(3.0, 3.0, 1, 0), "start of tuning": Measured(2.0, 2.0, 1, 0)}
    config = PlanConfig(data="d", small="s", target="t", keep=0.5, epochs=2)
    found = _balance(config, costs, {"0.5": 0.5, "n50": 0.5}, starts, n=100)
    # Whatever the rows: a start 3, verification 6 and set-up 4 + 2. With the rows: reading 8, and
    # 36 and 8. Tuning: a start 2 and set-up 5 once, and for all rows reading 8 and steps 95.
    assert found["selection"] == {"flops": 3.0, "seconds": 15 + 52, "memory": 9}
    assert (found["unit"], found["tuning"]["seconds"]) == ("seconds", 7 + 103)
    assert found["ratio"] == 67 / 110
    grows, stays = found["coresets"]
    for one in (grows, stays):
        assert (one["keep"], one["cost"], one["saved"]) == (0.5, 7 + 103 / 2, 103 / 2)
        assert one["left"] == 103 / 2 - 67
        assert one["epochs"] == (67 - 8 / 2) / (95 / 2) * 2
    # 100 rows save 51.5 and cost 52: never. Of 50 rows, whatever the others, 66.5 is to be won
    # back, and each other one wins 0.51: 131.
    assert (grows["rows"], stays["rows"]) == (None, 131)
    # Not measured but at a device's speed: neither starts nor reading, and no set-up told.
    plain = [replace(c, setup_seconds=None) for c in costs]
    found = _balance(config, plain, {"0.5": 0.5}, {}, n=100)
    assert (found["selection"]["seconds"], found["tuning"]["seconds"]) == (56, 100)
    # In operations where one stage has no seconds.
    found = _balance(config, [*plain[:-1], replace(plain[-1], seconds=None)], {}, {}, n=100)
    assert (found["unit"], found["ratio"], found["tuning"]["seconds"]) == ("flops", 3, None)
    found = _balance(config, [replace(plain[4], seconds=None), plain[-1]], {}, {}, n=100)
    assert (found["unit"], found["ratio"], found["selection"]["seconds"]) == ("flops", 1, None)


def test_without_a_speed_there_are_operations(settings):
    plan = estimate(PlanConfig(**settings, device="cpu", dtype="float32"))
    assert plan["unit"] == "flops"
    assert by_kind(plan)["tune target"]["seconds"] is None
    assert plan["ratio"] > 0
    # float32 has no peak in the table
    assert estimate(PlanConfig(**settings, device="l40s", dtype="float32"))["unit"] == "flops"


def test_less_work_is_less_cost(settings):
    whole = by_kind(estimate(PlanConfig(**settings, device="l40s")))
    part = by_kind(estimate(PlanConfig(**settings, device="l40s", finetune_on=0.5, epochs=1)))
    assert part["tune small"]["rows"] == 20
    assert part["tune small"]["flops"] < whole["tune small"]["flops"] / 5
    # Epochs group the rows anew, so padding differs a little.
    assert part["tune target"]["flops"] * 3 == pytest.approx(whole["tune target"]["flops"], rel=0.1)
    none = by_kind(estimate(PlanConfig(**settings, device="l40s", skip_finetune=True)))
    assert "tune small" not in none
    ranked = by_kind(estimate(PlanConfig(**settings, device="l40s", method="ifd")))
    assert "verify" not in ranked
    untuned = by_kind(estimate(PlanConfig(**settings, device="l40s", verify_against="untuned")))
    assert untuned["score untuned"]["rows"] == untuned["verify"]["rows"] > 0
    assert untuned["score untuned"]["flops"] < untuned["score small"]["flops"]
    assert 0 < ranked["score alone"]["flops"] < ranked["score small"]["flops"]


def test_sizes_may_be_in_tokens(settings):
    plan = estimate(PlanConfig(**{**settings, "keep": ()}, tokens=(1000,), device="l40s"))
    [coreset] = plan["coresets"]
    assert coreset["name"] == "t1000"
    assert coreset["keep"] == 1000 / plan["data"]["tokens"]
    # Of more tokens than there are, all rows, as in the run.
    plan = estimate(PlanConfig(**{**settings, "keep": ()}, tokens=(10**6,), device="l40s"))
    [coreset] = plan["coresets"]
    assert (coreset["keep"], coreset["saved"]) == (1.0, 0.0)
    assert coreset["cost"] == plan["tuning"]["seconds"]


def test_scoring_with_the_target_itself_may_pay_off(settings, family):
    small = settings["target"]
    plan = estimate(PlanConfig(**settings | {"small": small}, device="l40s", skip_finetune=True))
    assert plan["coresets"][0]["left"] > 0
    assert any("100% of the target's active parameters" in text for text in plan["warnings"])
    assert not any("costs more" in text or "it saves" in text for text in plan["warnings"])


def test_what_would_go_wrong_is_told(settings, family, tmp_path):
    large = sized(tmp_path / "large", "meta-llama/Llama-2-13b-hf", family)
    small = sized(tmp_path / "small", "EleutherAI/pythia-70m", family)
    tokenizer = json.loads((tmp_path / "small" / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 4096, "content": "<x>"})
    (tmp_path / "small" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    plan = estimate(
        PlanConfig(
            **{**settings, "small": small, "target": large, "keep": (0.5, 1.0)},
            max_length=100,
            device="rtx-4090",
        )
    )
    assert plan["models"]["target"]["parameters"] == 13_015_864_320
    told = "\n".join(plan["warnings"])
    # 26 GB of weights alone
    assert "memory is too small: verify on target needs 26." in told
    assert "tune target on all needs" in told
    assert "fine-tune small needs" not in told
    assert "the small model (gpt_neox) is not of the target's family (llama)" in told
    assert "the tokenizers have different vocabularies" in told
    cut = plan["data"]["truncated"]
    assert 0 < cut < 40
    assert f"{cut} of 40 responses are truncated at 100 tokens" in told
    assert "the target has a chat template, but the data are not conversations" in told
    assert "selection does not pay off at 1: " in told
    assert "does not pay off at 0.5" not in told


def test_a_family_without_faults_is_not_warned_of(settings, tmp_path, family):
    target = sized(tmp_path / "target", "meta-llama/Llama-2-13b-hf", family)
    (tmp_path / "target" / "chat_template.jinja").unlink()
    asked = {**settings, "target": target, "device": "h100-80gb"}
    assert estimate(PlanConfig(**asked))["warnings"] == []
    plan = estimate(PlanConfig(**asked, regions=50))
    [few] = plan["warnings"]
    assert few == (
        "50 regions are too many for 36 rows: regions of 10 rows or fewer are not verified on the "
        "target and get equal shares; give fewer --regions (about 2)"
    )
    # 30 of 40 rows are verified at most (three regions of more than 10 among 36): of each 2 of the
    # 3·4 operations a weight and token that tuning takes, and the way back.
    assert 0.75 * 0.16 < plan["ratio"] < 0.75 * 0.25


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": "b1000"}, "not in the table: give one of h200, h100-80gb"),
        ({"device": "h200", "probe": True}, "times this machine, not h200"),
        ({"total": (41,)}, "--total 41: the data has only 40 usable rows"),
    ],
)
def test_refusals(settings, given, words):
    with pytest.raises(ConfigError, match=words):
        estimate(PlanConfig(**{**settings, **given}))


def test_phi_has_its_price(settings):
    costs = {
        phi: by_kind(estimate(PlanConfig(**settings, device="l40s", phi=phi)))["score small"]
        for phi in ("last-value", "adapter")
    }
    assert costs["adapter"]["flops"] > 1.5 * costs["last-value"]["flops"]


def test_micro_batches_take_less_room_and_as_much_work(settings):
    plans = [
        by_kind(estimate(PlanConfig(**settings, device="l40s", micro_batch_size=size)))
        for size in (None, 8, 2)
    ]
    for kind in ("tune small", "tune target"):
        whole, same, less = (plan[kind] for plan in plans)
        assert whole == same
        assert less["memory"] < whole["memory"]
        assert {**less, "memory": 0} == {**whole, "memory": 0}
    assert plans[0]["score small"] == plans[2]["score small"]


def test_processes_share_steps_and_shards(settings):
    def planned(**more):
        return estimate(PlanConfig(**settings, device="l40s", shard_rows=5, **more))

    one, four = planned(), planned(processes=4)
    assert four["processes"] == {"tuning": 4, "scoring": 4}
    for kind in ("tune small", "tune target", "score small", "verify"):
        alone, shared = by_kind(one)[kind], by_kind(four)[kind]
        assert shared["flops"] == alone["flops"]
        assert shared["seconds"] == pytest.approx(shared["share"] * alone["seconds"])
        assert 0.25 <= shared["share"] < 0.4
    for kind in ("tune small", "tune target"):  # two rows of eight
        assert by_kind(four)[kind]["memory"] < by_kind(one)[kind]["memory"]
    assert by_kind(four)["verify"]["memory"] == by_kind(one)["verify"]["memory"]
    assert by_kind(four)["read"]["seconds"] > 0
    told = "\n".join(four["warnings"])
    assert "communication between processes and their start-up are not" in told
    assert "nothing to do" not in told
    few = "\n".join(
        estimate(PlanConfig(**settings, device="l40s", processes=4, batch_size=3))["warnings"]
    )
    assert "fine-tuning: --batch-size 3 for 4 processes, so 1 has nothing to do" in few
    assert "score small: 1 shard for 4 processes, so 3 have nothing to do; lower --shard" in few
    verify = "verify on target: 1 shard for 4 processes, so 3 have nothing to do"
    assert f"{verify}; lower --shard-rows below " in few  # FEW, or more short ones


def test_workers_of_ray_share_the_scoring_alone(settings):
    def planned(**more):
        return by_kind(estimate(PlanConfig(**settings, device="l40s", shard_rows=5, **more)))

    one, three = planned(), planned(executor="ray", workers=3)
    assert three["score small"]["seconds"] < 0.5 * one["score small"]["seconds"]
    for kind in ("tune small", "tune target"):
        assert three[kind] == one[kind]


def test_divided_weights_leave_room(settings, family, tmp_path):
    large = sized(tmp_path / "large", "meta-llama/Llama-2-13b-hf", family)
    where = {**settings, "target": large, "device": "h100-80gb", "skip_finetune": True}

    def planned(**more):
        return by_kind(estimate(PlanConfig(**where, **more)))

    plain = planned(processes=4)
    divided = planned(processes=4, fsdp=True)
    freed = plain["tune target"]["memory"] - divided["tune target"]["memory"]
    # Of 26 GB three quarters, less embedding and head (0.66 GB) and two of 40 blocks (1.3 GB).
    assert freed == pytest.approx(17.6e9, rel=0.02)
    assert divided["score small"] == plain["score small"]
    assert divided["verify"] == plain["verify"]
    quantised = {"quantize": "nf4", "small_quantize": "none", "processes": 4}
    kept = planned(**quantised, fsdp=True)["tune target"]
    assert kept == planned(**quantised)["tune target"]  # no trainer divides these


def test_room_on_the_device_bounds_what_scoring_takes_there(settings):
    def planned(**more):
        return estimate(PlanConfig(**settings, **more))

    for place, room in (({"device": "l40s"}, "gpu0=300KB"), ({"device": "cpu"}, "cpu=300KB")):
        whole = by_kind(planned(**place))
        free = planned(**place, device_map="auto")
        spread = by_kind(planned(**place, device_map="auto", max_memory=room))
        parameters = free["models"]["target"]["parameters"]
        size = free["device"]["bits"] // 8
        freed = whole["verify"]["memory"] - spread["verify"]["memory"]
        assert freed == pytest.approx(size * parameters - 300_000, abs=1)
        assert spread["tune target"] == whole["tune target"]
        assert by_kind(free)["verify"] == whole["verify"]
        assert any("assumes the whole model on it, unless" in text for text in free["warnings"])
    other = planned(device="l40s", device_map="auto", max_memory="cpu=1KB")
    assert other["device"]["room"] is None  # said of another kind of place
    # As staff select refuses it.
    with pytest.raises(ConfigError, match="gpu9, which does not exist here"):
        planned(device="cpu", device_map="auto", max_memory="gpu9=1KB")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fsdp": True}, "--fsdp is not counted because the number of processes is unknown"),
        (
            {"fsdp": True, "processes": 2, "quantize": "nf4", "small_quantize": "none"},
            "--fsdp is not counted for the target: it does not shard quantised weights",
        ),
        ({"executor": "ray"}, "--executor ray is counted as one worker"),
        ({"device_map": "auto"}, "--device-map: the time to move weights to the device"),
        ({"padding_free": True}, "--padding-free is not counted"),
        ({"quantize": "nf4"}, "--quantize: the time to dequantise weights is not counted"),
        (
            {"processes": 2, "verify_per_region": "auto"},
            "verify on target: each round's rows are divided among the processes separately",
        ),
    ],
)
def test_what_the_figures_do_not_follow_is_told(settings, given, words):
    told = estimate(PlanConfig(**settings, device="l40s", **given))["warnings"]
    assert any(words in text for text in told), told
    assert not any(words in t for t in estimate(PlanConfig(**settings, device="l40s"))["warnings"])


def test_a_spread_model_that_is_too_large_for_the_device_is_no_mistake(settings, family, tmp_path):
    large = sized(tmp_path / "large", "meta-llama/Llama-2-13b-hf", family)
    where = {**settings, "target": large, "device": "rtx-4090"}
    told = estimate(PlanConfig(**where, device_map="auto"))["warnings"]
    assert any(
        text.startswith("verify on target needs 27.")  # a GB of it logits and a block
        and text.endswith("--device-map places the rest elsewhere")
        for text in told
    )
    assert any("memory is too small: tune target" in text for text in told)  # tuned on one device
    told = estimate(PlanConfig(**where, device_map="auto", max_memory="gpu0=16GB"))["warnings"]
    assert not any("verify on target needs" in text for text in told)
