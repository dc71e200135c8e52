"""One process at a time in a folder, and beside one."""

import json
import os
import subprocess
import sys

import pytest

from staff import single
from staff.errors import RunError
from staff.runs.config import FinetuneConfig
from staff.runs.lock import hold, hold_beside

SECOND = """
import sys
from pathlib import Path
from staff.errors import RunError
from staff.runs.lock import hold_beside
try:
    with hold_beside(Path(sys.argv[1])):
        print("in")
except RunError as error:
    print(error)
"""


def second(out):
    done = subprocess.run(
        [sys.executable, "-c", SECOND, str(out)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_second_process_is_told_who_is_at_work(tmp_path):
    out = tmp_path / "new" / "adapter"
    with hold_beside(out):
        said = second(out)
        assert f"another staff process is running in {out}: process {os.getpid()} on " in said
    assert not (tmp_path / "new").exists()  # nothing was made there
    assert second(out) == "in\n"


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path):
    lock = tmp_path / ".adapter.lock"
    lock.write_text(json.dumps({"pid": 1, "host": "x", "started": "long ago"}))
    with hold_beside(tmp_path / "adapter"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".adapter.lock").symlink_to("mine")
    with (
        pytest.raises(RunError, match="is a link, and is not followed"),
        hold_beside(tmp_path / "adapter"),
    ):
        pass
    os.link(tmp_path / "mine", tmp_path / "lock")
    with (
        pytest.raises(RunError, match="a file with several hard links"),
        hold(tmp_path / "lock", place=tmp_path),
    ):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", [".adapter.tokens", ".adapter.partial"])
def test_fine_tuning_does_not_follow_links_beside_its_folder(tmp_path, e2e_file, family, name):
    data, mine = e2e_file(8, tmp_path / "train.jsonl"), tmp_path / "mine"
    (mine / "checkpoint-1").mkdir(parents=True)
    (tmp_path / name).symlink_to(mine)
    config = FinetuneConfig(
        data=str(data), model=family[0], out=str(tmp_path / "adapter"), max_steps=1,
        prompt_column="mr", response_column="ref",
    )  # fmt: skip
    with pytest.raises(RunError, match=f"{name} is a link, and is not followed"):
        single.finetune(config)
    assert [path.name for path in mine.iterdir()] == ["checkpoint-1"]
    (tmp_path / name).unlink()
    single.finetune(config)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "mine", "train.jsonl"]
