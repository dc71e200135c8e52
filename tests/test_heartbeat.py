"""A process that is silent, its connections open, as of a machine that has lost its power."""

import os
import signal
import subprocess
import sys
import time

import pytest

from staff.heartbeat import Heartbeat

EVERY, PATIENCE = 0.05, 1.5
OTHER = f"""
import sys, time
from datetime import timedelta
from torch.distributed import PrefixStore, TCPStore
from staff.heartbeat import Heartbeat

store = PrefixStore("x", TCPStore("127.0.0.1", int(sys.argv[1]), 2, False))
with Heartbeat(store, rank=1, size=2, every={EVERY}, patience={PATIENCE}):
    print("here", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store():
    from torch.distributed import PrefixStore, TCPStore

    server = TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
    return PrefixStore("x", server), server.port


@pytest.fixture
def other(store):
    """Another process that says that it is alive."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(store[1])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def until(done, seconds=60):
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.02)
    return done()


def test_a_process_that_is_there_is_heard_and_one_that_stands_still_is_missed(store, other):
    assert other.stdout.readline() == "here\n"
    gone = []
    with Heartbeat(
        store[0], rank=0, size=2, every=EVERY, patience=PATIENCE, gone=gone.append
    ) as alive:
        time.sleep(2 * PATIENCE)
        assert gone == []
        os.kill(other.pid, signal.SIGSTOP)  # it closes nothing
        assert until(lambda: gone == [1])
        os.kill(other.pid, signal.SIGCONT)
        time.sleep(PATIENCE / 3)
        assert other.poll() is None  # it does not miss the others for having stood still itself
    assert not any(thread.is_alive() for thread in alive._threads)


def test_a_process_that_misses_another_ends_with_words(store, other):
    assert other.wait(timeout=120) == 1
    assert "error: process 0 of this run has not been heard of" in other.stderr.read()
