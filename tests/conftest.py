"""Offline, quiet and deterministic: set before any library reads its environment."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import warm

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The files that take longest: begun first, or one process would still be at them when the others are
# done.
LONG = (
    *("tests/test_team.py", "tests/test_faults.py", "tests/docs/test_commands.py"),
    *(
        "tests/test_process.py",
        "tests/training/test_checkpoints.py",
        "tests/compare/test_process.py",
    ),
    *("tests/compare/test_run.py", "tests/test_pipeline.py", "tests/test_demo.py"),
    *("tests/test_methods.py", "tests/exports/test_trl.py", "tests/planning/test_estimate.py"),
    *("tests/test_rounds.py", "tests/reports/test_browser.py", "tests/test_benchmarks.py"),
)
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first; all others keep their order."""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::")[0], len(LONG)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data and weights that may not be shipped; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the unshipped data folder beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A folder for the PATH with a `staff` that need not import its libraries each time."""
    # A short path: a socket's has at most 100 letters.
    with tempfile.TemporaryDirectory() as name, warm.serving(Path(name)):
        yield Path(name)


@pytest.fixture(scope="session")
def staff_warm(programs: Path) -> list[str]:
    """What to begin a command with that is not to be stopped: a process as real as any other."""
    program = programs / "staff"
    return [str(program)] if program.exists() else [sys.executable, "-m", "staff"]


@pytest.fixture(scope="session")
def finish(staff_warm: list[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `staff` with these arguments, which must succeed."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*staff_warm, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def in_threads() -> Callable[..., None]:
    """Run functions in threads of their own that take turns every so many seconds, to their end."""

    def run(*works: Callable[[], None], interval: float) -> None:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(interval)
        try:
            threads = [threading.Thread(target=work) for work in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(usual)

    return run


@pytest.fixture(scope="session")
def family() -> tuple[str, str]:
    """The embedded pretrained models: small and target."""
    folder = Path(__file__).resolve().parents[1] / "src" / "staff" / "assets" / "family"
    return str(folder / "small"), str(folder / "target")


@pytest.fixture(scope="session")
def e2e_rows() -> list[str]:
    """Lines of the embedded E2E NLG training file."""
    folder = Path(__file__).resolve().parents[1] / "src" / "staff" / "assets" / "e2e_nlg"
    return (folder / "train.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")


@pytest.fixture(scope="session")
def e2e_file(e2e_rows: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the first rows of that file, to `path` or a train.jsonl in a new folder."""

    def write(count: int | None = None, path: Path | None = None) -> Path:
        path = path or tmp_path_factory.mktemp("data") / "train.jsonl"
        path.write_text("".join(f"{line}\n" for line in e2e_rows[:count]), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Makes a tiny random model of a family of tests/data/families.json."""
    file = Path(__file__).parent / "data" / "families.json"
    described = json.loads(file.read_text(encoding="utf-8"))

    def build(family: str, **changes: Any) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        settings = {**described["common"], **described["families"][family], **changes}
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).eval()

    return build


@pytest.fixture(scope="session")
def latent() -> dict[str, Any]:
    """Changes that make the tiny Llama a DeepSeek V3: keys and values from one latent vector."""
    return {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 4,
        "first_k_dense_replace": 2,  # no routed experts
    }


@pytest.fixture(scope="session")
def hybrid() -> dict[str, Any]:
    """Changes that make the tiny Llama a Falcon H1: a state space beside attention."""
    return {
        "model_type": "falcon_h1",
        "num_key_value_heads": 2,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    }


@pytest.fixture(scope="session")
def trained_lora() -> Callable[..., Any]:
    """Attaches a LoRA to a model, its B drawn and not zero as before a training; saves it, too."""

    def attach(model: Any, path: Path | None = None, *, size: float = 0.1) -> Any:
        import torch

        from staff.models.adapters import attach_fresh

        peft = attach_fresh(model, seed=0)
        torch.manual_seed(1)
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=size)
        if path:
            peft.save_pretrained(path)
        return peft

    return attach


@pytest.fixture(scope="session")
def kept_for_backward() -> Callable[..., int]:
    """Runs something and tells the bytes it keeps for a backward pass, the model's weights aside."""

    def measure(model: Any, run: Callable[[], Any]) -> int:
        from torch.autograd.graph import saved_tensors_hooks

        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen: dict[int, tuple[int, Any]] = {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:  # held, so no place comes twice
                seen[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            run()
        return sum(size for size, _ in seen.values())

    return measure


@pytest.fixture
def hub_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Lay rows out as `datasets` keeps a Hub data set, someone/some-data:main; gives its commit.

    The split `train` has all rows, `test` the first two.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    from staff.data import tables

    def add(records: list[dict[str, Any]], commit: str = "1234567890" * 4) -> str:
        place = tmp_path / "cache" / "someone___some-data" / "main" / "0.0.0" / commit
        place.mkdir(parents=True)
        features = datasets.Dataset.from_list(records).features
        splits = {"train": records, "test": records[:2]}
        for split, rows in splits.items():
            writer = ArrowWriter(path=str(place / f"some-data-{split}.arrow"), features=features)
            for row in rows:
                writer.write(row)
            writer.finalize()
        datasets.DatasetInfo(
            features=features,
            builder_name="parquet",
            dataset_name="some-data",
            config_name="main",
            version="0.0.0",
            splits={
                split: {
                    "name": split,
                    "num_bytes": 1,
                    "num_examples": len(rows),
                    "dataset_name": "some-data",
                }
                for split, rows in splits.items()
            },
        ).write_to_directory(str(place))
        return commit

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tables._hub_builder.cache_clear()
    yield add
    tables._hub_builder.cache_clear()


@pytest.fixture(scope="session")
def traces():
    """A function from a folder to what a write to any of its files, or to it, would change.

    The lock apart: whoever looks whether there is anything to do holds it.
    """

    def look(folder):
        files = [path for path in folder.rglob("*") if path.name != ".lock"]
        stats = {path: path.lstat() for path in [folder, *files]}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}

    return look
