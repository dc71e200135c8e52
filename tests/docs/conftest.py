"""Models of the Hub that cannot be had here, in a cache of their own."""

import json
import shutil
from pathlib import Path

import pytest

import staff

# The Hub's models that stand-ins take the place of: those of the tutorials, and of `--small auto`.
LARGE = {
    "meta-llama/Llama-3.2-1B": "small",
    "meta-llama/Llama-3.1-8B": "target",
    "google/gemma-2b": "small",
    "google/gemma-7b": "target",
}


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A cache of the Hub with the embedded family under the names of LARGE, and as long a context."""
    folder = tmp_path_factory.mktemp("hub")
    for name, model in LARGE.items():
        kept = folder / f"models--{name.replace('/', '--')}"
        snapshot = kept / "snapshots" / ("0" * 40)
        shutil.copytree(Path(staff.__file__).parent / "assets" / "family" / model, snapshot)
        for file, setting in (
            ("config.json", "max_position_embeddings"),
            ("tokenizer_config.json", "model_max_length"),
        ):
            facts = json.loads((snapshot / file).read_text(encoding="utf-8"))
            (snapshot / file).write_text(json.dumps(facts | {setting: 2048}), encoding="utf-8")
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(snapshot.name)
    return folder
