"""What a probe times, and what it makes of it."""

import os
import time
import weakref

import numpy as np
import pytest

from staff.data.files import open_source
from staff.errors import StaffError
from staff.planning import probe
from staff.planning.counts import tokenised
from staff.planning.estimate import estimate
from staff.planning.probe import (
    START,
    START_TUNING,
    _apart,
    _probe_selection,
    _probe_tuning,
    _verified,
    choose,
    extrapolate,
    spread,
)
from staff.runs.plan_config import PlanConfig
from staff.selectors import select_staff


@pytest.fixture
def config(family, e2e_file):
    small, target = family
    return PlanConfig(
        data=str(e2e_file(24)), small=small, target=target, keep=(0.5,), dtype="float32", epochs=2,
        regions=3, verify_per_region=2, prompt_column="mr", response_column="ref", batch_tokens=512,
    )  # fmt: skip


def test_each_group_goes_at_the_speed_of_its_middle():
    operations = np.array([1.0, 2, 3, 10, 20, 30, 100, 200, 300, 1000, 2000, 3000, 4, 40, 400])
    largest, chosen, groups = choose(operations, 5)
    assert largest == 11
    # Five groups of three: 1 2 3, 4 10 20, 30 40 100, 200 300 400, 1000 2000 3000.
    assert operations[list(chosen)].tolist() == [2, 10, 40, 300, 2000]
    seconds = np.array([1.0, 1.0, 2.0, 3.0, 10.0])
    # 6/2·1 + 34/10·1 + 170/40·2 + 900/300·3 + 6000/2000·10
    assert extrapolate(operations, chosen, groups, seconds) == pytest.approx(3 + 3.4 + 8.5 + 9 + 30)


def test_few_batches_are_all_timed():
    largest, chosen, groups = choose(np.array([5.0, 7.0]), 5)
    assert (largest, sorted(chosen)) == (1, [0, 1])
    assert extrapolate(np.array([5.0, 7.0]), chosen, groups, np.array([2.0, 3.0])) == 5.0


def test_rows_are_spread_over_their_lengths():
    lengths = np.array([9, 1, 5, 3, 7])
    assert lengths[spread(lengths, 3)].tolist() == [1, 5, 9]
    assert lengths[spread(lengths, 5)].tolist() == [1, 3, 5, 7, 9]


def test_as_many_rows_are_expected_as_are_verified(config):
    scores = np.random.default_rng(0).gamma(2.0, size=400)
    config = config.model_copy(update={"regions": 30, "verify_per_region": 6})
    asked = []

    def verify(rows):
        asked.append(len(rows))
        return scores[rows]

    select_staff(scores=scores, total=40, verify=verify, regions=30, verify_per_region=6)
    assert _verified(config, scores, np.ones(400), n=400) == asked[0]
    # A quarter of the rows stands for all of them, near enough.
    some = _verified(config, scores[::4], np.full(100, 4.0), n=400)
    assert some == pytest.approx(asked[0], rel=0.3)


def check(found):
    starts, stages = [START, START_TUNING], ["tune small", "score small", "verify", "tune target"]
    assert sorted(found) == sorted([*starts, *stages])
    assert [found[name].rows for name in stages] == [24, 24, found["verify"].rows, 24]
    assert 1 <= found["verify"].rows <= 6
    for name, stage in found.items():
        # What passes beside the batches: of a start, all of it.
        assert 0 < stage.setup_seconds <= stage.seconds, name
        assert (stage.setup_seconds == stage.seconds) == (name in starts), name
        assert stage.memory > 100e6, name  # with Python and torch


def test_the_stages_are_measured(config):
    source = open_source(config.data)
    with tokenised(config, source, (config.small, config.target), None) as prepared:
        small, target = prepared.stores[0].path, prepared.stores[-1].path
        now = time.monotonic()
        found = _probe_selection(config, small, target, since=now - 100)
        assert found[START].seconds > 100  # with what passed before the call
        check(found | _probe_tuning(config, target, since=now))


def test_one_model_is_let_go_of_before_the_next_is_loaded(config, monkeypatch):
    """As in a run; a peak would have both."""
    config = config.model_copy(update={"skip_finetune": True})
    source, there, make = open_source(config.data), [], probe._scorer

    def scorer(config, role, adapter, **more):
        assert all(made() is None for _, made in there)
        found = make(config, role, adapter, **more)
        there.append((role, weakref.ref(found)))
        return found

    monkeypatch.setattr(probe, "_scorer", scorer)
    with tokenised(config, source, (config.small, config.target), None) as prepared:
        paths = [store.path for store in prepared.stores]
        _probe_selection(config, paths[0], paths[-1], since=time.monotonic())
    assert [role for role, _ in there] == ["small", "target"]


@pytest.mark.slow
def test_a_plan_is_measured_in_processes_of_its_own(config):
    plan = estimate(config.model_copy(update={"probe": True}))
    stages = {stage["kind"]: stage for stage in plan["stages"]}
    assert plan["unit"] == "seconds"
    assert plan["device"]["probe"]
    assert stages["verify"]["name"] == "verify on target, about"
    assert plan["selection"]["seconds"] > stages["tune small"]["setup_seconds"] > 0
    # Start and reading are in both totals; a coreset saves no set-up.
    told = sum(stage["seconds"] or 0 for kind, stage in stages.items() if kind != "tune target")
    assert plan["selection"]["seconds"] == pytest.approx(told)
    [coreset] = plan["coresets"]
    tuning = stages["tune target"]
    steps = tuning["seconds"] - tuning["setup_seconds"] + stages["read"]["seconds"]
    assert coreset["saved"] == pytest.approx(steps / 2)
    assert plan["tuning"]["seconds"] - coreset["cost"] == pytest.approx(steps / 2)


def test_a_process_that_is_killed_is_told():
    with pytest.raises(
        StaffError, match="most likely because memory ran out: lower --micro-batch-size"
    ):
        _apart(os._exit, 9)
