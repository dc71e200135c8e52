"""The benchmarks against others: everyone computes the same norms, and the GPU's command works."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from staff.scores.oracle import oracle_effort

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
WAYS = (
    "staff",
    "one_row",
    "opacus",
    "bergson",
    "bergson_own",
    "torch_func",
    "torch_func_last_block",
)


@pytest.fixture
def scripts(monkeypatch):
    """Import a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_finds_the_norms_of_the_oracle(scripts, way):
    peer = way.partition("_")[0]
    if peer in ("opacus", "bergson") and not importlib.util.find_spec(peer):
        pytest.skip(f"needs {peer}, which only build/peers has (make benchmark-peers)")
    model, rows = model_and_rows(scripts)
    batches = scripts("peers").in_batches(rows, size=4)
    truth = [oracle_effort(model, row) for row in scripts("peers").unpadded(batches)]
    run = getattr(scripts("ways"), f"{way}_way")(model, batches)
    first, second = run(), run()
    np.testing.assert_allclose(first, truth, rtol=1e-4)
    np.testing.assert_array_equal(second, first)


def model_and_rows(scripts):
    scoring = scripts("scoring")
    return scoring.make_model(2, 64, 300), scoring.make_rows(6, 300)


def test_a_peer_that_cannot_is_told_and_the_others_are_measured(scripts):
    import torch

    peers = scripts("peers")
    model, rows = model_and_rows(scripts)

    def fails(model, batches):
        raise RuntimeError("no such kernel\nand more")

    def absent(model, batches):
        import no_such_package

        return no_such_package

    peers.PEERS = {"staff": peers.ways.staff_way, "torch.func": fails, "opacus": absent}
    setting = peers.Setting("tiny", lambda: model, rows, torch.float32)
    found = peers.measure(setting, batch_rows=4, repeats=2, say=print)
    text = "\n".join(peers.table(found))
    assert len(found["staff"].seconds) == len(found[peers.RELEASED].seconds) == 2
    assert found["staff"].apart < 1e-4
    assert "| torch.func | not measured: RuntimeError: no such kernel | | |" in text
    assert "| opacus | not measured: no_such_package is not installed | | |" in text


def test_the_verdict_names_peers_that_are_not_half_as_fast(scripts):
    peers = scripts("peers")
    took = {"staff": 1.0, "opacus (ghost norms)": 2.5, "bergson": 1.9, "one row at a time": 1.1}
    found = {name: peers.Measured(seconds=[took[name]] * 3) for name in took}
    assert peers.verdict(found).endswith("not reached: bergson 1.90.")
    found["bergson"].seconds = [2.0, 2.0, 9.0]
    assert peers.verdict(found).endswith("torch.func: reached.")


def test_what_does_not_fit_into_memory_is_told(scripts):
    import torch

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    found = scripts("gpu").in_turn(
        {"large": lambda: full, "small": lambda: lambda: np.array([2.0, 5.0])},
        torch.device("cpu"),
        repeats=2,
        truth=np.array([1.0]),
    )
    assert found["large"]["why"] == "out of memory"
    assert found["large"]["seconds"] == []
    assert len(found["small"]["seconds"]) == 2
    assert found["small"]["apart"] == {"median": 1.0, "largest": 1.0}


def test_a_family_that_fails_does_not_end_the_measurement(scripts, monkeypatch):
    import torch

    def fails(model, examples):
        raise RuntimeError("no kernel image is available\nfor execution on the device")

    gpu = scripts("gpu")
    monkeypatch.setattr(gpu, "hold_against_oracle", fails)
    found = gpu.families(["llama"], torch.device("cpu"), rows=1)
    assert found == [{"family": "llama", "why": "RuntimeError: no kernel image is available"}]
    line = "| llama | not measured: RuntimeError: no kernel image is available | | | |"
    assert line in gpu.families_table(found)


def test_the_gpu_command_on_a_cpu(tmp_path):
    command = ["bash", str(BENCHMARKS / "gpu.sh"), "--device", "cpu", "--tiny", "--name", "trial"]
    done = subprocess.run(
        [*command, "--families", "llama", "gemma2", "bloom", "--out", str(tmp_path)],
        env={**os.environ, "GPU_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "gpu-trial.md").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "gpu-trial.json").read_text(encoding="utf-8"))
    assert done.stdout == page
    assert "A trial of the script at tiny sizes" in page
    assert results["machine"]["device"] == "CPU"

    for one in results["families"]:
        assert all(way["median"] < 0.02 for way in [one["oracle"], *one["staff"].values()]), one
    assert [one["family"] for one in results["families"]] == ["llama", "gemma2", "bloom"]

    assert [found["vocabulary"] for found in results["speed"]] == [300, 500]
    for found in results["speed"]:
        for name, way in found["ways"].items():
            if way.get("why") != "bergson is not installed":
                assert len(way["seconds"]) == 1, (name, way)
            if "apart" in way:
                assert way["apart"]["median"] < 0.02, (name, way)
        assert "apart" in found["ways"]["torch.func (last block)"]
    assert "| time against a plain forward + loss |" in page
    assert "| not measured | not measured |" in page  # utilisation and memory


def test_without_a_gpu_nothing_is_measured_unless_asked_for(scripts, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    gpu = scripts("gpu")
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="no CUDA GPU here; --device cpu --tiny"):
        gpu.main()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("plain forward + loss", "| time against a plain forward + loss | 0.50 | ≤ 0.8 |"),
        ("bergson", "| speed of staff (norms only) against bergson | 4.0 | |"),
        (
            "staff (padding-free, sdpa)",
            "| speed of staff (padding-free, sdpa) against padded | 0.50 | |",
        ),
    ],
)
def test_ratios_compare_like_with_like(scripts, name, wanted):
    # All signals take a second, norms alone half of it, the other way two seconds.
    medians = {"staff": 1.0, "staff (norms only)": 0.5, name: 2.0}
    assert scripts("gpu").ratios(medians) == [wanted]


def test_a_way_that_does_not_fit_is_in_no_ratio(scripts):
    """Ours neither: the page is written all the same."""
    assert scripts("gpu").ratios({"plain forward + loss": 2.0, "bergson": 2.0}) == []
    medians = {"staff (norms only)": 0.5, "plain forward + loss": 2.0, "bergson": 2.0}
    assert scripts("gpu").ratios(medians) == [
        "| speed of staff (norms only) against bergson | 4.0 | |"
    ]


@pytest.mark.slow
def test_micro_batches_and_checkpointing_take_less_memory(scripts):
    grown, ways = scripts("training_memory").grown, scripts("training_memory").WAYS
    found = {name: grown(how, tight=True) for name, how in ways.items()}
    whole = found["the whole batch at once"]
    assert found["--micro-batch-size 2"] < whole / 2, found
    assert found["--activation-checkpointing"] < whole * 2 / 3, found
    assert found["both"] < found["--micro-batch-size 2"], found


def test_the_chart_of_cost_has_means_of_tasks_with_all_seeds_and_every_task(scripts):
    cost, found = scripts("cost"), scripts("grid_report").Found

    def task(**levels):
        values = {}
        for name, (level, seeds) in levels.items():
            variant = name.replace("_", "-")
            values |= {(variant, "0.1", s): np.full(9, level) for s in range(seeds)}
        return found(values={"loss": values})

    tasks = {
        "cogs": task(within_random=(1.0, 3), random_epochs_0=(1.2, 3), random_epochs_1=(2.0, 1)),
        "snips": task(within_random=(1.0, 3), random_epochs_0=(1.2, 3)),
        "dialogsum": task(within_random=(1.0, 1), random_epochs_0=(0.5, 1)),
    }
    stages = {"fine-tune small": 30, "score small": 9, "verify on target": 1, "read": 50}
    short = {name: seconds for name, seconds in stages.items() if name != "fine-tune small"}
    measured = {"tuning": 100, "ways": {"T = 3": stages, "T = 1": stages, "T = 0": short}}
    shown = cost.points(tasks, measured)
    mine = [point for point in shown if point["way"] == "T = 0" and "y" in point]
    mine = [point for point in mine if point["panel"] == cost.VERIFIED]
    assert {point["ratio"] for point in mine} == {0.1}
    [mean] = [point for point in mine if "tasks" in point]
    assert [mean[k] for k in ("y", "low", "high")] == pytest.approx([20] * 3)
    assert mean["tasks"] == 2
    single = {p["task"]: (round(p["y"], 6), p["all"]) for p in mine if "task" in p}
    assert single == {"cogs": (20, True), "snips": (20, True), "dialogsum": (-50, False)}
    [one] = [point for point in shown if point["way"] == "T = 1"]  # one seed: no mean
    assert (one["task"], one["all"]) == ("cogs", False)
    bases = [p["ratio"] for p in shown if "base" in p]
    assert bases == [0.4, 0.39]  # the second is not verified
    svg = cost.plot(shown)
    for text in ("T = 0 (mean of 2 tasks)", "T = 1", "dialogsum"):
        assert f">{text}</text>" in svg
    assert cost.dtype_of(tasks) == "float32"
    tasks["snips"].dtype = "bfloat16"
    with pytest.raises(SystemExit, match="one dtype, not bfloat16, float32"):
        cost.dtype_of(tasks)


def test_the_agreement_of_two_models_is_told_with_and_without_the_cut(scripts):
    target = np.arange(1.0, 101)
    small = target.copy()
    small[:10] += 1000  # what the target finds easiest is what the cut takes
    lines = list(
        scripts("verification").agreement(
            {"small": small, "small_untuned": target**2, "target": target}
        )
    )
    [tuned] = [line for line in lines if line.startswith("| T = 3 |")]
    # Ranks: ten rows go up by 90 and ninety down by 10: 1 - 6 (10·90² + 90·10²)/(100³ - 100).
    assert tuned.startswith("| T = 3 | 0.46 (")
    assert tuned.endswith("| 1.00 |")


def test_regions_are_told_from_the_manifests_of_the_grid(scripts, tmp_path, monkeypatch):
    regions = scripts("regions")
    folder = tmp_path / "snips" / "seed1-0abc" / "random-epochs-1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()
    manifest = {
        "created": "2026-01-02T00:00:00",
        "regions": [{"ratio": v, "verified": v and 9} for v in (None, 8.0, 4.0, 2.0)],
        "proxy": {
            "rows": 27,
            "spearman": 0.5,
            "interval": [0.2, 0.7],
            "budget_moved": {"0.1": 0.25},
        },
    }
    monkeypatch.setattr(regions, "read_manifest", lambda folder: manifest)
    found = regions.collect(tmp_path)
    assert list(found) == ["snips, T = 1, seed 1"]
    assert "| snips | T = 1 | 1 | 27 | 0.50 (0.20 to 0.70) |" in list(regions.report(found))
    found["snips, T = 1, seed 1"]["scores"] = "T = 3"
    wanted = "| snips | 1 | 3 | 8.00 | 8.00 | 4.00 | 4.00 | 2.00 | 25 % |"
    assert wanted in list(regions.report(found))
