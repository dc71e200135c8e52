"""What is fuzzed: each target takes bytes, makes something of them, and lets only StaffError pass.

Used with any bytes: by Hypothesis in tests/test_fuzz.py (a few seconds) and by run.py, guided by
coverage (`make fuzz`, hours).
"""

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zstandard

from staff.cli.story import tell
from staff.data.files import open_source, write_records
from staff.data.prepare import prepare
from staff.data.records import FORMATS, RecordOptions
from staff.errors import StaffError
from staff.hashing import hash_file
from staff.reports.html import data_of, render_run
from staff.reports.text import render
from staff.rng import keys_of_ids
from staff.runs.compare_config import CompareConfig
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig
from staff.runs.config_file import build, dump_yaml
from staff.runs.facts import cut_facts, data_facts, region_facts
from staff.runs.manifest import begin, check_selection, read_manifest, write_manifest
from staff.runs.selection_file import write_selection
from staff.runs.store import RunFolder
from staff.selectors import select_staff

N = 40
NAMES = ("prompt", "response", "instruction", "input", "output", "text", "messages",
         "conversations", "role", "content", "from", "value", "system", "id", "a")  # fmt: skip
TEXTS = ("", " ", "a", "user", "assistant", "gpt", "human", "\ud800", "\x00", "\ufeff", "é" * 40,
         "\u2028", '"', "{", "-", "=1", "\r\n", "<b>", "9" * 30, "../x", "~")  # fmt: skip
NUMBERS = (0, 1, -1, 2, 50, 2**31, 2**63, 10**30, 0.5, 1e-300, 1e308, -0.0, float("inf"),
           float("nan"), True, False, None)  # fmt: skip


class Choices:
    """Decisions taken from bytes, 0 where they have run out."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self, below: int) -> int:
        """A number from 0 to below - 1."""
        self.at += 1
        return self.data[self.at - 1] % below if self.at <= len(self.data) else 0

    def of(self, options: Any) -> Any:
        """One of the options."""
        return options[self.number(len(options))]

    def rest(self) -> bytes:
        """The bytes that no decision was taken from."""
        return self.data[self.at :]

    def value(self, depth: int = 3) -> Any:
        """Something that JSON can say."""
        kind = self.number(6 if depth else 3)
        if kind <= 1:
            return self.of(TEXTS)
        if kind == 2:
            return self.of(NUMBERS)
        if kind == 3:
            return [self.value(depth - 1) for _ in range(self.number(4))]
        return {self.of(NAMES): self.value(depth - 1) for _ in range(self.number(5))}


def records(data: bytes) -> None:
    """A data file of these bytes, or of records made of them: read, turned to rows, and written."""
    choices = Choices(data)
    ending = choices.of((".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"))
    packing = choices.of(("", "", ".gz", ".zst"))
    made = choices.number(2)
    settings = {"format": choices.of((None, *FORMATS)), "id_column": choices.of((None, "id"))}
    skip = choices.of(("error", "skip"))
    written_as = choices.of(("jsonl", "json", "csv", "parquet"))
    if made:
        rows = [{choices.of(NAMES): choices.value() for _ in range(4)} for _ in range(3)]
        lines = [json.dumps(row) for row in rows]
        body = "\n".join(lines) if ending == ".jsonl" else f"[{','.join(lines)}]"
        content = body.encode("utf-8", "surrogatepass")
    else:
        content = choices.rest()
    if packing and choices.number(2):
        content = gzip.compress(content) if packing == ".gz" else zstandard.compress(content)
    with tempfile.TemporaryDirectory() as name, suppress(StaffError):
        path = Path(name) / f"a{ending}{packing}"
        path.write_bytes(content)
        source = open_source(path)
        source.estimated_rows()
        done = prepare(source, RecordOptions(**settings), [], on_bad_row=skip, out=Path(name))
        usable = set(done.rows.tolist())
        chosen = (raw for raw in source.records() if raw.row in usable)
        write_records(Path(name) / "b", chosen, format=written_as)


def configs(data: bytes) -> None:
    """A YAML file of these bytes, or of settings made of them; what is accepted comes back."""
    choices = Choices(data)
    kind = choices.of((SelectConfig, ScoreConfig, FinetuneConfig, EvaluateConfig, CompareConfig))
    if choices.number(2):
        names = list(kind.model_fields)
        settings = {choices.of(names): choices.value(2) for _ in range(choices.number(6))}
        content = yaml.safe_dump(settings, allow_unicode=True).encode("utf-8", "surrogatepass")
    else:
        content = choices.rest()
    with tempfile.TemporaryDirectory() as name, suppress(StaffError):
        path = Path(name) / "run.yaml"
        path.write_bytes(content)
        found = build(kind, file=path)
        path.write_text(dump_yaml(found), encoding="utf-8")
        assert build(kind, file=path) == found


@cache
def finished() -> Path:
    """A finished run of N rows, made without a model."""
    folder = RunFolder(Path(tempfile.mkdtemp(prefix="staff-fuzz-")) / "run")
    folder.path.mkdir()
    data = folder.path.parent / "a.jsonl"
    data.write_text("".join(f'{{"prompt": "p{i}", "response": "r{i}"}}\n' for i in range(N)))
    random = np.random.default_rng(0)
    scores, ids = random.gamma(2.0, size=N), [f"id-{i}" for i in range(N)]
    target = scores * random.uniform(1, 3, size=N)
    [selection] = select_staff(
        scores=scores, total=[10], verify=lambda rows: target[rows], keys=keys_of_ids(ids),
        regions=4, verify_per_region=3,
    )  # fmt: skip
    verified = np.isin(np.arange(N), selection.verification.rows)
    write_selection(
        folder.selection,
        ids=ids,
        rows=np.arange(N),
        scores={"effort": scores, "response_length": np.full(N, 3.0)},
        selections={"0.25": selection},
        score_target=np.where(verified, target, np.nan),
        regions=selection.regions.of_row,
        verified=verified,
    )
    config = SelectConfig(
        data=str(data), small="s", target="t", keep=0.25, regions=4, out=str(folder.path)
    )
    folder.config.write_text(dump_yaml(config, replay="staff select --config x"))
    source = open_source(data)
    prepared = prepare(source, RecordOptions(), [], out=folder.path)
    for left in folder.path.glob("tokens*"):
        left.unlink()
    manifest = begin("select", config.model_dump(mode="json"), seed=0)
    manifest |= {
        "data": data_facts(source, source.content_hash(), prepared),
        "models": {"small": {"path": "s", "parameters": 4}}, "target_rows_scored": 9,
        "device": {"type": "cpu", "name": "c", "threads": 1, "dtype": "float32"},
        "stages": [{"name": "read", "seconds": 1.0, "tokens": 9, "rows": N, "reused": False}],
        "cut": cut_facts(selection, scores, 0.1), "regions": region_facts({"0.25": selection}),
        "coresets": [{"name": "0.25", "keep": 0.25, "total": 10, "top_up": 0, "tokens": 30,
                      "path": "coreset-0.25.jsonl", "included": 0}],
        "stability": {"0.25": {"seeds": 2, "jaccard": 0.5, "chance": 0.2}},
        "files": {"selection.parquet": hash_file(folder.selection)},
    }  # fmt: skip
    write_manifest(folder.manifest, manifest)
    return folder.path


def run_folders(data: bytes) -> None:
    """A finished run with a file changed: told of, and read for another selection."""
    choices = Choices(data)
    with tempfile.TemporaryDirectory() as name, suppress(StaffError):
        folder = Path(name) / "run"
        shutil.copytree(finished(), folder)
        file = folder / choices.of(("manifest.json", "manifest.json", "selection.parquet"))
        if file.suffix == ".json" and choices.number(4):
            _change_json(file, choices)
        else:
            _change_bytes(file, choices)
        tell(folder, id=None, row=choices.number(N))
        manifest = read_manifest(folder)
        SelectConfig(scores=str(folder), keep=0.5).inherit(manifest["config"])
        RunFolder(folder).check_same_config(build(SelectConfig, file=folder / "config.yaml"))


def reports(data: bytes) -> None:
    """Summary and page of a finished run whose manifest was changed."""
    choices = Choices(data)
    with tempfile.TemporaryDirectory() as name, suppress(StaffError):
        folder = Path(name) / "run"
        shutil.copytree(finished(), folder)
        _change_json(folder / "manifest.json", choices)
        manifest = read_manifest(folder)
        check_selection(folder, manifest)
        render(manifest, folder=name, width=20 + choices.number(150))
        try:
            source = data_of(manifest)
        except StaffError:
            source = None
        render_run(RunFolder(folder), manifest, source)


def _change_json(file: Path, choices: Choices) -> None:
    """One to three values anywhere in the file removed or replaced."""
    found: Any = json.loads(file.read_text(encoding="utf-8"))
    for _ in range(1 + choices.number(3)):
        place = found
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = choices.of(keys)
            if isinstance(place[key], dict | list) and choices.number(4):
                place = place[key]
                continue
            if choices.number(4):
                place[key] = (
                    choices.of((*NUMBERS, *TEXTS)) if choices.number(4) else choices.value()
                )
            else:
                del place[key]
            break
    file.write_bytes(json.dumps(found).encode("utf-8", "surrogatepass"))


def _change_bytes(file: Path, choices: Choices) -> None:
    """Some bytes overwritten, and perhaps the end cut off."""
    content = bytearray(file.read_bytes())
    for _ in range(1 + choices.number(8)):
        at = (choices.number(256) * 256 + choices.number(256)) % len(content)
        content[at] = choices.number(256)
    if choices.number(2):
        del content[choices.number(256) * len(content) // 256 :]
    file.write_bytes(content)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "records": records,
    "configs": configs,
    "run_folders": run_folders,
    "reports": reports,
}
