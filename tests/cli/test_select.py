import os
import subprocess
from pathlib import Path

import pytest

from staff.cli.main import main
from staff.progress import SilentProgress
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest
from staff.runs.store import RunFolder


def test_the_pipeline_gets_the_settings_and_its_manifest_is_shown(
    pipeline, command, finished, capsys
):
    pipeline.answer = read_manifest(finished[0])
    assert main(command) == 0
    [(name, config, said)] = pipeline.calls
    assert (name, config.keep, config.method) == ("select", (0.1,), "random")
    assert said.keys() == {"progress", "say"}
    assert "/x/coreset-0.1.jsonl: 30 rows (10 %)" in " ".join(capsys.readouterr().out.split())


def test_quiet_says_nothing(pipeline, command, finished, capsys):
    pipeline.answer = read_manifest(finished[0])
    assert main([*command, "--quiet"]) == 0
    said = pipeline.calls[0][2]
    assert isinstance(said["progress"], SilentProgress)
    said["say"]("not this")
    assert capsys.readouterr() == ("", "")


def test_say_goes_to_standard_error(pipeline, command, capsys):
    assert main(command) == 0
    capsys.readouterr()
    pipeline.calls[0][2]["say"]("stage kept")
    assert capsys.readouterr() == ("", "stage kept\n")


def test_dry_run_only_plans(pipeline, command, capsys, tmp_path):
    pipeline.answer = {"rows": 300, "stages": [], "files": [str(tmp_path / "x" / "manifest.json")]}
    assert main([*command, "--dry-run"]) == 0
    assert [name for name, _, _ in pipeline.calls] == ["plan"]
    assert "Nothing was run." in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


def test_a_dry_run_says_that_the_run_is_finished(command, tmp_path, capsys, traces):
    again = ["select", "--scores", str(tmp_path / "x"), "--keep", "0.2", "--out"]
    for asked in (command, [*again, str(tmp_path / "again")]):
        assert main([*asked, "--dry-run"]) == 0
        assert "It would run:" in capsys.readouterr().out
        assert main(asked) == 0
        before = traces(tmp_path)
        capsys.readouterr()
        assert main([*asked, "--dry-run"]) == 0
        said = f"nothing would be: {asked[-1]} is already finished, made from the same inputs"
        assert said in capsys.readouterr().out
        assert traces(tmp_path) == before
        assert main([*asked, "--dry-run", "--overwrite"]) == 0
        assert "It would run:" in capsys.readouterr().out
        assert main([*asked, "--dry-run", "--nested"]) == 0
        assert "It would run:" in capsys.readouterr().out


@pytest.fixture
def read_only(tmp_path):
    """A function that makes a folder one that nothing can be written to."""
    mounted = []

    def seal(folder):
        if os.geteuid():
            folder.chmod(0o555)
            return
        for how in (["--bind", str(folder)], ["-o", "remount,ro,bind"]):  # permissions bind no root
            if subprocess.run(["mount", *how, str(folder)], capture_output=True).returncode:
                pytest.skip("cannot mount a folder read-only here")
            mounted.append(folder)

    yield seal
    for folder in tmp_path.iterdir():
        if folder in mounted:
            subprocess.run(["umount", str(folder)], check=True)
        elif folder.is_dir():
            folder.chmod(0o755)


def test_a_finished_run_that_nobody_can_write_to_is_left_as_it_is(
    command, tmp_path, capsys, read_only
):
    again = ["select", "--scores", str(tmp_path / "x"), "--keep", "0.2", "--out"]
    again.append(str(tmp_path / "again"))
    for asked in (command, again):
        assert main(asked) == 0
        read_only(Path(asked[-1]))
    capsys.readouterr()
    for asked in (command, again):
        assert main(asked) == 0
        assert f"already finished: {asked[-1]} was made from" in capsys.readouterr().err
        assert main([*asked, "--dry-run"]) == 0
        for more in (["--nested"], ["--overwrite"]):
            assert main([*asked, *more]) == 1
            said = f"error: {asked[-1]}: no permission to write to {asked[-1]}\n"
            assert capsys.readouterr().err.endswith(said)


def test_scores_select_again(pipeline, finished):
    assert main(["select", "--scores", str(finished[0]), "--keep", "0.5"]) == 0
    [(name, config, _)] = pipeline.calls
    assert (name, config.folder) == ("reselect", f"{finished[0]}-keep-0.5")


def test_what_the_method_of_the_scores_does_not_use_is_told(pipeline, finished, capsys):
    again = ["select", "--scores", str(finished[0]), "--keep", "0.5", "--within", "random"]
    assert main([*again, "--take", "middle"]) == 0
    assert capsys.readouterr().err == "warning: --take has no effect with --method staff\n"
    assert main([*again, "--take", "middle", "--quiet"]) == 0
    assert main(again) == 0
    assert capsys.readouterr().err == ""


def test_selecting_again_twice_is_the_same_configuration(pipeline, finished):
    again = ["select", "--scores", str(finished[0]), "--keep", "0.5"]
    earlier = SelectConfig(scores=str(finished[0]), keep=0.5)
    inherited = earlier.inherit(read_manifest(finished[0])["config"] | {"seed": 3})
    RunFolder(earlier.folder).start(inherited)
    RunFolder(earlier.folder).begin_writing(inherited)
    RunFolder(earlier.folder).manifest.write_text("{}")
    manifest = finished[0] / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"method": "staff"', '"method": "staff", "seed": 3')
    )
    assert main(again) == 0


def test_a_folder_of_another_configuration_is_refused_before_any_work(
    pipeline, command, tmp_path, capsys
):
    earlier = SelectConfig(data="other.jsonl", out=str(tmp_path / "x"), keep=0.1, method="random")
    RunFolder(tmp_path / "x").start(earlier)
    RunFolder(tmp_path / "x").begin_writing(earlier)
    RunFolder(tmp_path / "x").manifest.write_text("{}")  # finished
    assert main(command) == 5
    assert "was made with data = 'other.jsonl'" in capsys.readouterr().err
    assert not pipeline.calls
    assert main([*command, "--overwrite"]) == 0


def test_print_config_runs_nothing(pipeline, command, capsys):
    assert main([*command, "--print-config"]) == 0
    assert "method: random" in capsys.readouterr().out
    assert not pipeline.calls
