"""The stages of a run, one function each; `pipeline` says what happens when.

A finished stage is recognised by the fingerprint of everything its result depends on
(contents, never names or lengths) and is not done again.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from staff.data.files import Source
from staff.data.prepare import Prepared, prepare
from staff.data.records import RecordOptions
from staff.data.store import TokenStore
from staff.data.tokenise import Tokeniser
from staff.errors import ConfigError
from staff.progress import Progress
from staff.runs.store import write_atomic
from staff.training.finetune import finetune
from staff.types import Ints, ScoreTable

STAMP = "staff.json"  # in the adapter folder: what it was made from
LEDGER = ".stages.json"


def fingerprint(facts: Any) -> str:
    """SHA-256 (hex) of facts in canonical JSON.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class StageRecord:
    """What one stage cost; `reused` if its result was there already."""

    name: str
    seconds: float = 0.0
    tokens: int = 0
    rows: int = 0
    reused: bool = False


class Ledger:
    """The cost of every stage of one run, in order.

    Kept in a hidden file of the run folder, so that a stage whose result is reused keeps
    what it cost when it was done: nothing else of a run may hold times.
    """

    def __init__(self, folder: Path) -> None:
        self.stages: list[StageRecord] = []
        self._path = folder / LEDGER
        self._known: dict[str, Any] = {}
        if self._path.is_file():
            self._known = json.loads(self._path.read_text())

    @contextmanager
    def stage(self, name: str) -> Iterator[StageRecord]:
        """Time a block; the record it gives takes tokens and rows, and whether it was reused."""
        record = StageRecord(name)
        start = time.monotonic()
        yield record
        record.seconds = round(time.monotonic() - start, 3)
        if record.reused and name in self._known:
            record = StageRecord(name, **self._known[name], reused=True)
        self._known[name] = {k: getattr(record, k) for k in ("seconds", "tokens", "rows")}
        write_atomic(self._path, json.dumps(self._known))
        self.stages.append(record)

    def as_dicts(self) -> list[dict[str, Any]]:
        """For the manifest."""
        return [asdict(stage) for stage in self.stages]


def record_options(config: Any) -> RecordOptions:
    """The settings that say how a record is read."""
    return RecordOptions(
        format=config.input_format,
        prompt_column=config.prompt_column,
        response_column=config.response_column,
        prompt_template=config.prompt_template,
        id_column=config.id_column,
        source_column=config.source_column,
        messages_column=config.messages_column,
        text_column=config.text_column,
    )


def tokenisers(models: Sequence[str], *, max_length: int | None) -> list[Tokeniser]:
    """One tokeniser a model; all cut at the same length, by default the shortest context.

    Raises:
        ConfigError: `max_length` is more than a model's context.
    """
    from staff.models.load import load_tokenizer

    limits = {model: context_length(model) for model in models}
    for model, limit in limits.items():
        if max_length and limit and max_length > limit:
            raise ConfigError(f"--max-length {max_length}: {model} takes at most {limit} tokens")
    length = max_length or min((x for x in limits.values() if x), default=None)
    return [Tokeniser(load_tokenizer(model), max_length=length, source=model) for model in models]


def context_length(model: str) -> int | None:
    """Longest input of a model in tokens; None where its configuration names none."""
    from staff.models.folder import read_config
    from staff.models.load import local_folder

    config = read_config(local_folder(model))
    config = config.get("text_config") or config
    lengths = (config.get(k) for k in ("max_position_embeddings", "n_positions", "seq_length"))
    return next((int(x) for x in lengths if x), None)


def pad_id(model: str) -> int:
    """A token to fill short rows with; it is always masked."""
    from staff.models.load import load_tokenizer

    return load_tokenizer(model).pad_token_id or 0


def model_facts(**models: str) -> dict[str, dict[str, Any]]:
    """Path and content hash by role; `score` adds the number of parameters."""
    from staff.models.load import model_hash

    return {role: {"path": path, "hash": model_hash(path)} for role, path in models.items()}


def device_used(config: Any) -> dict[str, Any]:
    """Device and precision that the settings come to here."""
    from staff.models.load import choose_device, choose_dtype
    from staff.runs.manifest import device_facts

    device = choose_device(config.device)
    return device_facts(str(device), str(choose_dtype(config.dtype, device)).removeprefix("torch."))


def read(
    config: Any, source: Source, models: Sequence[str], *, folder: Path, progress: Progress | None
) -> Prepared:
    """Tokenise the usable rows for `models` into ``folder/tokens``; rejected.jsonl beside it."""
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    prepared = prepare(
        source,
        record_options(config),
        tokenisers(models, max_length=config.max_length),
        on_bad_row=config.on_bad_row,
        out=folder / "tokens",
        progress=progress,
    )
    rejected = folder / "rejected.jsonl"
    rejected.unlink(missing_ok=True)
    if prepared.rejected_path:
        prepared.rejected_path.replace(rejected)
    return prepared


def tokens_hash(store: TokenStore) -> str:
    """SHA-256 of the tokenised rows: data, template, tokenizer and maximal length in one."""
    digest = hashlib.sha256()
    with store.path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def finetune_small(
    config: Any,
    store: TokenStore,
    *,
    model_hash: str,
    out: Path,
    record: StageRecord,
    progress: Progress | None,
) -> str:
    """Step 1: LoRA fine-tuning of the small model on every row; the finished adapter is kept."""
    made_from = fingerprint(
        {
            "tokens": tokens_hash(store),
            "model": model_hash,
            "dtype": device_used(config)["dtype"],
            **{k: getattr(config, k) for k in ("epochs", "learning_rate", "seed")},
        }
    )
    stamp = out / STAMP
    if stamp.is_file() and json.loads(stamp.read_text()).get("made_from") == made_from:
        record.reused = True
        return str(out)
    shutil.rmtree(out, ignore_errors=True)
    result = finetune(
        model=config.small,
        tokens=store,
        out=out,
        pad_id=pad_id(config.small),
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        seed=config.seed,
        dtype=config.dtype,
        device=config.device,
        name="fine-tune small",
        progress=progress,
    )
    record.rows, record.tokens = len(store), result.tokens
    write_atomic(stamp, json.dumps({"made_from": made_from}) + "\n")
    return str(out)


class LazyScorer:
    """A scorer whose model is loaded for the first batch: stored scores need none."""

    def __init__(self, config: Any, *, model: str, adapter: str | None, facts: dict) -> None:
        from staff.scores.signals import SIGNALS

        self.config, self.model, self.adapter, self.facts = config, model, adapter, facts
        self.columns = ("effort", *SIGNALS)
        self._scorer: Any = None

    def __call__(self, batch: Any) -> Any:
        """Score one batch: columns float64 [B]."""
        if self._scorer is None:
            self._scorer = self._load()
        return self._scorer(batch)

    def _load(self) -> Any:
        from staff.models.load import load_model
        from staff.scores.effort import Scorer

        config = self.config
        model = load_model(
            self.model,
            dtype=config.dtype,
            device=config.device,
            adapter=self.adapter,
            merge=config.phi != "adapter",
        )
        self.facts["parameters"] = sum(p.numel() for p in model.parameters())
        return Scorer(model, phi=config.phi, features=config.features, seed=config.seed)


def score(
    config: Any,
    store: TokenStore,
    *,
    model: str,
    facts: dict[str, Any],
    out: Path,
    name: str,
    record: StageRecord,
    adapter: str | None = None,
    positions: Ints | None = None,
    progress: Progress | None = None,
) -> ScoreTable:
    """Step 2: effort scores (and signals) of the rows at `positions`, of all by default.

    facts: the model's entry in the manifest; its hash goes into the fingerprint, its number
    of parameters comes back if it was loaded. Adds what was scored to `record`.
    """
    from staff.models.load import model_hash
    from staff.scores.run import score_rows

    scored = score_rows(
        LazyScorer(config, model=model, adapter=adapter, facts=facts),
        store,
        positions,
        batch_tokens=config.batch_tokens,
        pad_id=pad_id(model),
        out=out,
        fingerprint={
            "scorer": config.phi,
            "model_hash": facts["hash"] if adapter is None else model_hash(model, adapter),
            "data_hash": tokens_hash(store),
            "dtype": device_used(config)["dtype"],
            "features": config.features,
            "seed": config.seed,
        },
        name=name,
        progress=progress,
    )
    record.rows, record.tokens = scored.rows + scored.reused, scored.tokens
    record.reused = scored.rows == 0
    return scored.table
