"""What stages cost, over restarts and rounds."""

import json

import pytest

from staff.ledger import LEDGER, Ledger


def spend(ledger, name, *, rows, seconds, reused=False, error=None):
    """One block of a stage, as if it had taken so long."""
    try:
        with ledger.stage(name) as record:
            record.rows, record.tokens, record.reused = rows, 10 * rows, reused
            ledger.clock += seconds
            if error:
                raise error
    except KeyboardInterrupt:
        pass


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """Makes a ledger of one folder, with a clock that only `spend` moves."""
    made = []
    monkeypatch.setattr("time.monotonic", lambda: made[-1].clock if made else 0.0)

    def make():
        made.append(Ledger(tmp_path))
        made[-1].clock = 100.0
        return made[-1]

    return make


def known(tmp_path):
    return json.loads((tmp_path / LEDGER).read_text())["verify"]


def test_rounds_are_one_stage(ledger, tmp_path):
    one = ledger()
    spend(one, "verify", rows=200, seconds=5)
    spend(one, "other", rows=7, seconds=1)
    spend(one, "verify", rows=350, seconds=3)
    assert [(s.name, s.seconds, s.rows, s.tokens) for s in one.stages] == [
        ("verify", 8.0, 350, 3500), ("other", 1.0, 7, 70),
    ]  # fmt: skip
    assert known(tmp_path) == {"seconds": 8.0, "tokens": 3500, "rows": 350}


def test_rounds_that_are_all_there_cost_what_they_did(ledger):
    first = ledger()
    spend(first, "verify", rows=200, seconds=5)
    spend(first, "verify", rows=350, seconds=3)
    again = ledger()
    spend(again, "verify", rows=200, seconds=0.1, reused=True)
    spend(again, "verify", rows=350, seconds=0.1, reused=True)
    [stage] = again.stages
    assert (stage.seconds, stage.rows, stage.reused) == (8.0, 350, True)


def test_fewer_rounds_than_before(ledger, tmp_path):
    first = ledger()
    spend(first, "verify", rows=200, seconds=5)
    spend(first, "verify", rows=350, seconds=3)
    again = ledger()
    spend(again, "verify", rows=200, seconds=0.1, reused=True)
    assert [(s.seconds, s.rows, s.tokens) for s in again.stages] == [(8.0, 200, 2000)]
    assert known(tmp_path)["rows"] == 350  # of all that was ever done


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_a_restart_in_a_later_round_adds_up(ledger, tmp_path, error):
    first = ledger()
    spend(first, "verify", rows=200, seconds=5)
    if error:  # stopped within the second round, else killed between the two
        spend(first, "verify", rows=0, seconds=2, error=error)
        assert known(tmp_path) == {"seconds": 7.0, "unfinished": True}
    again = ledger()
    spend(again, "verify", rows=200, seconds=0.25, reused=True)
    spend(again, "verify", rows=350, seconds=3)
    [stage] = again.stages
    assert (stage.rows, stage.reused) == (350, False)
    assert stage.seconds == (10.25 if error else 8.0)
    assert known(tmp_path)["seconds"] == stage.seconds
