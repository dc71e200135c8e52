import io

import pytest

from staff.cli.progress import PlainProgress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_plain_lines_at_the_start_the_end_and_now_and_then():
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, clock=clock).stage("score small", total=4000) as stage:
        for _ in range(40):
            clock.now += 0.5
            stage.advance(100)
    assert stream.getvalue().splitlines() == [
        "score small: 4,000 rows …",
        "score small: 1,000 of 4,000 rows, 200/s, 15.0 s left",
        "score small: 2,000 of 4,000 rows, 200/s, 10.0 s left",
        "score small: 3,000 of 4,000 rows, 200/s, 5.0 s left",
        "score small: 4,000 rows in 20.0 s",
    ]


def test_what_an_earlier_start_did_tells_no_speed():
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, clock=clock).stage("fine-tune", total=100, unit="steps") as stage:
        stage.skip(60)
        for _ in range(40):
            clock.now += 1.0
            stage.advance()
    assert stream.getvalue().splitlines()[1] == "fine-tune: 65 of 100 steps, 1/s, 35.0 s left"
    assert stream.getvalue().splitlines()[-1] == "fine-tune: 100 steps in 40.0 s"


def test_a_long_run_has_a_short_log():
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, clock=clock).stage("fine-tune", unit="steps") as stage:
        for _ in range(10 * 3600):
            clock.now += 1.0
            stage.advance()
    assert len(stream.getvalue().splitlines()) < 700
    assert stream.getvalue().splitlines()[-2:][1] == "fine-tune: 36,000 steps in 10 h 00 min"


def test_notes_and_failures_are_said():
    stream, clock = io.StringIO(), Clock()

    def fail():
        with PlainProgress(stream, clock=clock).stage("score", total=2) as stage:
            stage.note("out of memory: batches of 4,096 tokens from here")
            clock.now = 3.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert stream.getvalue().splitlines()[1:] == [
        "score: out of memory: batches of 4,096 tokens from here",
        "score: stopped after 3.0 s",
    ]
