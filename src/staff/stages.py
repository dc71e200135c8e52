"""The stages of a run, one function each; `pipeline` says what happens when.

A finished stage is recognised by the fingerprint of everything its result depends on
(contents, never names or lengths) and is not done again.
"""

import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from staff.data import kept
from staff.data.files import Source
from staff.data.prepare import Prepared, prepare
from staff.data.records import RecordOptions
from staff.data.store import TokenStore
from staff.data.tokenise import Tokeniser
from staff.errors import ConfigError, ModelError
from staff.hashing import fingerprint, versions_of
from staff.ledger import StageRecord
from staff.models.folder import adapter_fault
from staff.models.memory import release_memory
from staff.models.placement import Spread, check_room
from staff.models.quantised import NONE, check_installed, library_of
from staff.models.trust import NO_TRUST, Trust
from staff.notes import read_note
from staff.progress import Progress, SilentProgress
from staff.rng import keys_of_ids, priorities
from staff.runs.cache import Cache
from staff.runs.config import DRAWN, FinetuneConfig, ScoreConfig, SelectConfig
from staff.runs.facts import untested
from staff.runs.manifest import device_facts
from staff.runs.settings import parse_room
from staff.runs.store import RunFolder, write_atomic
from staff.scores.run import Elsewhere, ScoreRun, score_rows
from staff.selectors.arguments import count_of
from staff.selectors.order import smallest
from staff.team import Team, current, in_team
from staff.training.adapter_folder import (
    ADAPTER_FILES,
    STAMP,
    checkpoints_of,
    file_hashes,
    has_files,
    place_adapter,
)
from staff.training.checkpoints import LIBRARIES
from staff.training.finetune import FinetuneResult, finetune
from staff.training.tokens import Part, Tokens
from staff.types import Floats, Ints, ScoreTable, read_only

if TYPE_CHECKING:
    from staff.scores.interpolate import Interpolated

TOKENS = "tokens"  # in the run folder while a process works there
PAD_ID = 0  # fills short rows up; masked, so any token will do


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


def trust_of(config: Any) -> Trust:
    """What the settings allow the models to do."""
    return Trust(pickle=config.allow_pickle, code=config.trust_remote_code)


def spread_of(config: Any) -> Spread | None:
    """Over what a model that is scored or evaluated is to be spread; None: one device."""
    if getattr(config, "device_map", "none") == "none":
        return None
    room = parse_room(config.max_memory) if config.max_memory else {}
    return Spread(room=room, folder=config.offload_folder)


def quantised_facts(quantize: str) -> dict[str, Any]:
    """What a fingerprint says of quantised weights; nothing where there are none."""
    if quantize == NONE:
        return {}
    check_installed(quantize)
    return {"quantize": quantize, "quantized by": versions_of(*library_of(quantize))}


def tokenisers(
    models: Sequence[str],
    *,
    max_length: int | None,
    weights: bool = True,
    trust: Trust = NO_TRUST,
) -> list[Tokeniser]:
    """One tokeniser a model; all cut at the same length, by default the shortest context.

    weights: of Hub models, whether they are to be fetched too.

    Raises:
        ConfigError: `max_length` is more than a model's context.
    """
    from staff.models.load import load_tokenizer

    limits = {model: context_length(model, weights=weights, trust=trust) for model in models}
    for model, limit in limits.items():
        if max_length and limit and max_length > limit:
            raise ConfigError(f"--max-length {max_length}: {model} takes at most {limit} tokens")
    length = max_length or min((x for x in limits.values() if x), default=None)
    return [
        Tokeniser(
            load_tokenizer(model, weights=weights, trust=trust), max_length=length, source=model
        )
        for model in models
    ]


def context_length(model: str, *, weights: bool = True, trust: Trust = NO_TRUST) -> int | None:
    """Longest input of a model in tokens; None where its configuration names none."""
    from staff.models.folder import context_of, local_folder

    return context_of(local_folder(model, weights=weights, trust=trust))


def model_facts(
    *,
    adapter: str | None = None,
    quantize: Callable[[str], str] = lambda role: NONE,
    trust: Trust = NO_TRUST,
    progress: Progress | None = None,
    **models: str,
) -> dict[str, dict[str, Any]]:
    """Path, content hash and number of parameters by role; the revision of a Hub model.

    quantize: how the weights of a role are kept, which is told where it is not in full.
    adapter: one that goes on the first model; the hash of both together comes beside it.
    """
    from staff.models.folder import local_folder, model_hash, revision_of
    from staff.models.weights import weight_files

    facts: dict[str, dict[str, Any]] = {}
    folders = [local_folder(path, trust=trust) for path in models.values()]
    files = [file for folder in folders for file in weight_files(folder)]
    size = sum(file.stat().st_size for file in files if file.is_file()) >> 20
    with (progress or SilentProgress()).stage("hash models", total=size, unit="MB") as stage:
        for role, path in models.items():
            facts[role] = {
                "path": path,
                "hash": model_hash(path, trust=trust, read=stage.advance),
                "parameters": count_parameters(path, trust=trust),
            }
            if (kept := quantize(role)) != NONE:
                facts[role]["quantize"] = kept
            if revision := revision_of(path, trust=trust):
                facts[role]["revision"] = revision
            if adapter is not None and len(facts) == 1:
                both = model_hash(path, adapter, trust=trust)
                facts[role]["adapter"] = {"path": adapter, "hash": both}
    return facts


def check_phi(config: Any, model: str) -> None:
    """Raise `ModelError` if the model has no value projection to score with, from its config."""
    if config.phi in ("last-value", "last-value-lora"):
        from staff.models.value_projection import check_value_projection

        check_value_projection(model, trust=trust_of(config))


def count_parameters(model: str, *, trust: Trust = NO_TRUST) -> int:
    """Numbers in a model's weight files; tied weights are stored, and counted, once.

    Raises ModelError for a file that is not whole.
    """
    from staff.models.folder import local_folder
    from staff.models.weights import count_numbers, weight_files

    return sum(map(count_numbers, weight_files(local_folder(model, trust=trust))))


def device_used(config: Any) -> dict[str, Any]:
    """Device and precision that the settings come to here; ConfigError if they cannot work."""
    from staff.models.load import check_attention, choose_device, choose_dtype

    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    check_attention(getattr(config, "attention", "auto"), device=device, dtype=dtype)
    spread = spread_of(config)
    if spread and getattr(config, "executor", "local") == "local":  # Ray's workers lie elsewhere
        check_room(spread.room)
    facts = device_facts(str(device), str(dtype).removeprefix("torch."))
    if found := untested(config, device.type):
        facts["untested"] = found
    return facts


def kernel_of(config: Any) -> dict[str, str]:
    """The attention kernel that was asked for, as results depend on it; empty for the default.

    Kernels differ by rounding, as devices do; but scores of two are not mixed in one table.
    """
    return {} if config.attention == "auto" else {"attention": config.attention}


def read(
    config: Any,
    source: Source,
    tokenisers: Sequence[Tokeniser],
    *,
    folder: Path,
    progress: Progress | None,
    kept_as: str | None = None,
) -> Prepared:
    """Tokenise the usable rows into ``folder/tokens``; nothing else is touched.

    On any error nothing is left. kept_as: take what an earlier start kept under that key.
    """
    tokens = folder / TOKENS
    fault = None
    if kept_as:
        prepared, fault = kept.take(tokens, kept_as)
        if prepared:
            with (progress or SilentProgress()).stage("read", total=prepared.rows_read) as stage:
                stage.note("rows and tokens are kept from an earlier start")
                stage.advance(prepared.rows_read)
            return prepared
    shutil.rmtree(tokens, ignore_errors=True)
    if fault:
        with (progress or SilentProgress()).stage("read") as stage:
            stage.note(f"the tokens of an earlier start {fault}: the data are read again")
    try:
        return prepare(
            source,
            record_options(config),
            tokenisers,
            on_bad_row=config.on_bad_row,
            out=tokens,
            progress=progress,
        )
    except BaseException:
        shutil.rmtree(tokens, ignore_errors=True)
        raise


def reading_key(
    config: Any, source: Source, data_hash: str, tokenisers: Sequence[Tokeniser]
) -> str:
    """What the rows that are read with these settings are kept as."""
    return kept.made_from(
        data_hash, source.kind, record_options(config), config.on_bad_row, tokenisers
    )


def read_once(
    config: Any,
    source: Source,
    tokenisers: Sequence[Tokeniser],
    *,
    data_hash: str,
    folder: Path,
    afresh: bool,
    progress: Progress | None,
) -> tuple[Prepared, str]:
    """`read`, or what an earlier start kept; and what it is to be kept as.

    data_hash: of the source, before it is read. afresh: nothing of an earlier start is taken.
    Raises what `read` does, and DataError if the source changed meanwhile.
    """
    key = reading_key(config, source, data_hash, tokenisers)
    kept_as = None if afresh else key
    prepared = read(config, source, tokenisers, folder=folder, progress=progress, kept_as=kept_as)
    source.check_unchanged(data_hash)
    return prepared, key


def note_read(record: StageRecord, prepared: Prepared) -> None:
    """What reading took goes into `record`; of rows that an earlier start read, its cost then."""
    record.rows = prepared.rows_read
    record.tokens = prepared.tokens[0] if prepared.tokens else 0
    if prepared.kept:
        record.reused, record.seconds = True, prepared.seconds


def keep_read(prepared: Prepared, folder: RunFolder, key: str, *, tokens: Path) -> None:
    """Put the rejected rows' file in its place; keep what was read, in `tokens`, for the next."""
    kept.put_rejected(prepared, folder.rejected)
    kept.keep(prepared, tokens / TOKENS, key)


@contextmanager
def tokens_of(folder: Path) -> Iterator[None]:
    """A run at work in `folder`: its tokens go when it is done, and stay if it is to go on."""
    tokens = folder / TOKENS
    try:
        yield
    except BaseException:
        if not kept.marked(tokens):
            shutil.rmtree(tokens, ignore_errors=True)
        raise
    shutil.rmtree(tokens, ignore_errors=True)


def finetune_small(
    config: Any,
    store: TokenStore,
    *,
    model_hash: str,
    out: Path,
    record: StageRecord,
    progress: Progress | None,
) -> str:
    """Step 1: LoRA fine-tuning of the small model; the finished adapter is kept.

    On every row, or on a random ``config.finetune_on`` of them.
    """
    made_from = fingerprint(
        {
            "tokens": store.content_hash,
            "model": model_hash,
            "dtype": device_used(config)["dtype"],
            "versions": versions_of("staff-coreset", *LIBRARIES),
            **{k: getattr(config, k) for k in ("epochs", "learning_rate", "batch_size", "seed")},
            **({} if config.finetune_on == 1 else {"finetune_on": config.finetune_on}),
            **kernel_of(config),
            **quantised_facts(config.quantized("small")),
        }
    )
    stamp = _stamp_of(out)
    if stamp.get("made_from") == made_from:
        if not adapter_fault(out) and has_files(out, stamp.get("files")):
            shutil.rmtree(checkpoints_of(out), ignore_errors=True)  # of a start killed before that
            record.reused = True
            return str(out)
        with (progress or SilentProgress()).stage("fine-tune small") as stage:
            stage.note("the adapter of an earlier start is damaged or changed, and is made again")
    cache, fetched = cache_of(config), out.with_name(f".{out.name}.cached.partial")
    if cache and cache.fetch_adapter(made_from, fetched, ADAPTER_FILES):
        place_adapter(fetched, out)
        shutil.rmtree(fetched, ignore_errors=True)
        _write_stamp(out, made_from)
        shutil.rmtree(checkpoints_of(out), ignore_errors=True)  # of a start that was stopped
        record.reused = True
        return str(out)
    result = tune(
        config,
        store,
        model_hash=model_hash,
        out=out,
        made_from=made_from,
        name="fine-tune small",
        progress=progress,
        on_placed=lambda _: _write_stamp(out, made_from),
    )
    record.rows, record.tokens = result.rows, result.tokens
    if cache:
        cache.keep_adapter(made_from, out, ADAPTER_FILES)
    return str(out)


def check_team(config: Any) -> None:
    """Raise `ConfigError` for ``--fsdp`` in a process that is alone."""
    if config.fsdp and current() is None:
        raise ConfigError(
            "--fsdp divides a model among several processes: start it with "
            f"torchrun --nproc-per-node N -m staff {config.command} …"
        )


def tune(
    config: Any, store: TokenStore, *, model_hash: str, out: Path, made_from: str, **how: Any
) -> FinetuneResult:
    """Fine-tune as `staff select` does its small model, or `staff finetune`; alone or as a team.

    model_hash: of the model, for processes on other machines.
    how: `name`, `progress`, `on_log` and `on_placed` of `training.finetune.finetune`.
    """
    results: list[FinetuneResult] = []

    def work(_: Mapping[str, Any]) -> int:
        results.append(_tune(config, store, out, made_from, **how))
        return 0

    if team := current():
        order = {"act": "fine-tune", "together": True, **_told(config, store, out)}
        order |= {"model": _tuned(config), "model_hash": model_hash, "made_from": made_from}
        team.lead(order, work)
    else:
        work({})
    return results[0]


def _tuned(config: Any) -> str:
    """The model that is fine-tuned."""
    return str(config.model if isinstance(config, FinetuneConfig) else config.small)


def _tune(config: Any, store: TokenStore, out: Path, made_from: str, **how: Any) -> FinetuneResult:
    """This process's part of it."""
    team = current()
    # A checkpoint of so many processes is not one of another number; an adapter is.
    checkpoint = fingerprint([made_from, team.size]) if team else made_from
    alone = isinstance(config, FinetuneConfig)
    own = {name: getattr(config, name) for name in ("rank", "alpha", "max_steps") if alone}
    result = finetune(
        model=_tuned(config),
        tokens=store if alone else sample(store, config.finetune_on, seed=config.seed),
        out=out,
        pad_id=PAD_ID,
        epochs=config.epochs,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        gradient_checkpointing=config.activation_checkpointing,
        fsdp=config.fsdp,
        learning_rate=config.learning_rate,
        seed=config.seed,
        dtype=config.dtype,
        device=config.device,
        attention=config.attention,
        made_from=checkpoint,
        checkpoint_seconds=config.checkpoint_seconds,
        quantize=config.quantized("small"),
        trust=trust_of(config),
        share=team.share() if team else None,
        # What lies in a run's own folder was made from something else.
        overwrite=config.overwrite if alone else True,
        **own,
        **how,
    )
    # The trainer's cycles would keep model and optimiser beside the model that is loaded next.
    release_memory()
    return result


def cache_of(config: Any) -> Cache | None:
    """The cache that is asked for, made if it is not there."""
    return Cache(config.cache).open() if config.cache else None


def _stamp_of(adapter: Path) -> dict[str, Any]:
    """What an adapter was made from, and its files; empty if that is not told, or damaged."""
    try:
        found = read_note(adapter / STAMP)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_stamp(adapter: Path, made_from: str) -> None:
    stamp = {"made_from": made_from, "files": file_hashes(adapter)}
    write_atomic(adapter / STAMP, json.dumps(stamp) + "\n")


def sample(store: TokenStore, share: float, *, seed: int) -> Tokens:
    """A random ⌊share·n⌋ of the stored rows, at least one; the store itself if that is all."""
    rows = drawn(store, share, seed=seed, stream="fine-tune on")
    return store if len(rows) == len(store) else Part(store, rows)


def rows_to_score(store: TokenStore, share: float, *, seed: int) -> Ints:
    """Positions of the rows that ``--score-on`` has scored, ascending."""
    return drawn(store, share, seed=seed, stream="score on")


def check_score_on(share: float, n: int) -> None:
    """Raise `DataError` if of n rows too few are scored to tell the others' scores from."""
    from staff.scores.interpolate import check_enough

    count = max(1, count_of(share, n))
    if count < n:
        check_enough(count)


def drawn(store: TokenStore, share: float, *, seed: int, stream: str) -> Ints:
    """Positions of a random ⌊share·n⌋ of the stored rows, at least one; ascending."""
    count = max(1, count_of(share, len(store)))
    if count == len(store):
        return read_only(np.arange(count))
    order = priorities(keys_of_ids(store.ids, seed), seed, stream)
    return read_only(np.sort(smallest(order, count)))


def some(store: TokenStore, count: int, *, seed: int) -> Ints:
    """Positions of `count` random rows of the store, of all if it has no more; ascending."""
    order = priorities(keys_of_ids(store.ids, seed), seed, "check")
    return np.sort(smallest(order, min(count, len(store))))


def interpolate(store: TokenStore, scored: Ints, scores: Floats, *, seed: int) -> "Interpolated":
    """Scores of all rows, told from those float64 [m] of the rows at `scored`."""
    from staff.scores.interpolate import interpolate

    return interpolate(store, scored, scores, seed=seed)


def features_of(folder: Path) -> Any:
    """Pooled hidden states float32 [n, D] of a folder of scores, in the order of its rows."""
    from staff.scores.shards import read_features

    return read_features(folder)


class LazyScorer:
    """A scorer whose model is loaded for the first batch: stored scores need none.

    start: score the loss of responses without their prompts instead, after this token.
    """

    def __init__(
        self,
        config: Any,
        *,
        model: str,
        adapter: str | None,
        quantize: str = NONE,
        features: bool = False,
        start: int | None = None,
    ) -> None:
        from staff.scores.alone import ResponseAlone
        from staff.scores.signals import SIGNALS

        self.config, self.model, self.adapter = config, model, adapter
        self.quantize = quantize
        self.features, self.start = features, start
        self.columns = ("effort", *SIGNALS) if start is None else ResponseAlone.columns
        self._scorer: Any = None

    def __call__(self, batch: Any) -> Any:
        """Score one batch: columns float64 [B]."""
        if self._scorer is None:
            self._scorer = self._load()
        return self._scorer(batch)

    def release(self) -> None:
        """Let go of the model; it is loaded again if need be."""
        self._scorer = None

    def _load(self) -> Any:
        from staff.models.load import load_model
        from staff.scores.alone import ResponseAlone
        from staff.scores.effort import Scorer

        config = self.config
        if spread := spread_of(config):
            release_memory()  # the hooks of an earlier model that was spread are in cycles with it
        model = load_model(
            self.model,
            dtype=config.dtype,
            device=config.device,
            adapter=self.adapter,
            merge=config.phi != "adapter",
            attention=config.attention,
            quantize=self.quantize,
            spread=spread,
            trust=trust_of(config),
        )
        free = config.padding_free or None
        if self.start is not None:
            alone = Scorer(model, phi=None, signals=("loss",), padding_free=free)
            return ResponseAlone(alone, start=self.start)
        return Scorer(
            model,
            phi=config.phi,
            features=self.features,
            seed=config.seed,
            padding_free=free,
        )


def check_executor() -> None:
    """Raise `ConfigError` if Ray, which is asked for, cannot be had."""
    from staff.scores import ray

    if in_team() or current():
        raise ConfigError("--executor ray has workers of its own: start staff without torchrun")
    ray.check_installed()


@contextmanager
def executing(config: Any) -> Iterator[None]:
    """A run, and the cluster that it scores on where that is not this process."""
    if config.executor == "local":
        yield
        return
    from staff.scores import ray

    check_executor()
    with ray.session():
        yield


def score(
    config: Any,
    store: TokenStore,
    *,
    out: Path,
    record: StageRecord,
    positions: Ints | None = None,
    earlier: Sequence[Ints] = (),
    more: bool = False,
    scorer: LazyScorer | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> ScoreTable:
    """Step 2: effort scores (and signals) of the rows at `positions`, of all by default.

    what: model, facts (the model's entry in the manifest; its hash goes into the fingerprint),
    name of the stage; adapter; quantize; features: pooled hidden states too; alone: only the loss
    of responses without their prompts (for IFD). What was scored goes into `record`.
    earlier, more: rows that come in rounds, see `score_rows`; scorer: of an earlier round, whose
    model is loaded.

    The processes of a team score the shards between them; then all are read here.
    """
    done, team = 0, current()
    if team:
        order = {"act": "score", **_told(config, store, out), "what": what}
        order |= {"model": what["model"], "model_hash": what["facts"]["hash"]}
        order["positions"] = None if positions is None else positions.tolist()
        order |= {"earlier": [rows.tolist() for rows in earlier], "more": more}
        done = team.lead(order, partial(_do, team, progress))
        progress = None  # what is done now is reading
    scored = _score(
        config,
        store,
        out=out,
        positions=positions,
        earlier=earlier,
        more=more,
        scorer=scorer,
        progress=progress,
        **what,
    )
    record.rows = scored.rows + scored.reused
    record.tokens = int(store.lengths[scored.table.known].sum())
    record.reused = scored.rows + done == 0
    return scored.table


def follow(team: Team) -> None:
    """In a process that does not lead: do what the leader wants done, until that is all."""
    team.follow(partial(_do, team, None))


def _told(config: Any, store: TokenStore, out: Path) -> dict[str, Any]:
    """What every order says."""
    told = {"config": config.model_dump(mode="json"), "command": config.command}
    told["host"] = platform.node()
    return told | {"tokens": str(store.path.absolute()), "out": str(out.absolute())}


def _do(team: Team, progress: Progress | None, order: Mapping[str, Any]) -> int:
    """Do this process's share of an order; of its rows, how many were scored."""
    kinds = (SelectConfig, ScoreConfig, FinetuneConfig)
    kind = {c.command: c for c in kinds}[order["command"]]
    config = kind.model_validate(order["config"])
    store, out = TokenStore.open(Path(order["tokens"])), Path(order["out"])
    if order["host"] != platform.node():
        check_model_here(order["model"], order["model_hash"], trust_of(config))
    if order["act"] == "fine-tune":
        _tune(config, store, out, order["made_from"], progress=progress)
        return 0
    positions = order["positions"]
    return _score(
        config,
        store,
        out=out,
        positions=None if positions is None else np.array(positions, np.int64),
        earlier=[np.array(rows, np.int64) for rows in order["earlier"]],
        more=order["more"],
        progress=progress,
        share=(team.rank, team.size),
        **order["what"],
    ).rows


def _score(
    config: Any,
    store: TokenStore,
    *,
    model: str,
    facts: dict[str, Any],
    out: Path,
    name: str,
    adapter: str | None = None,
    quantize: str = NONE,
    positions: Ints | None = None,
    features: bool = False,
    alone: bool = False,
    scorer: LazyScorer | None = None,
    earlier: Sequence[Ints] = (),
    more: bool = False,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> ScoreRun:
    """What `score` says, in this process; a folder that holds features keeps them."""
    from staff.models.load import load_tokenizer, model_hash
    from staff.scores.alone import start_token
    from staff.scores.shards import has_features

    trust = trust_of(config)
    start = start_token(load_tokenizer(model, trust=trust), model=model) if alone else None
    features = features or config.features or has_features(out)
    made_from = {
        "scorer": config.phi if start is None else f"response after {start}",
        "model_hash": facts["hash"] if adapter is None else model_hash(model, adapter, trust=trust),
        "data_hash": store.content_hash,
        "dtype": device_used(config)["dtype"],
        "features": features,
        "seed": config.seed if config.phi in DRAWN else None,
        **kernel_of(config),
        **quantised_facts(quantize),
        "versions": versions_of("staff-coreset", "torch", "transformers", "peft"),
    }
    loading: dict[str, Any] = {"model": model, "adapter": adapter, "quantize": quantize}
    elsewhere = None
    if config.executor == "ray":
        if revision := facts.get("revision"):  # whatever is uploaded meanwhile
            loading["model"] = f"{model.partition('@')[0]}@{revision}"
        elsewhere = _on_ray(
            config, store, **loading, features=features, start=start,
            made_from=made_from,
            rows=len(store) if positions is None else len(positions) + sum(map(len, earlier)),
        )  # fmt: skip
    return score_rows(
        scorer or LazyScorer(config, **loading, features=features, start=start),
        store,
        positions,
        batch_tokens=config.batch_tokens,
        shard_rows=config.shard_rows,
        cache=cache_of(config),
        pad_id=PAD_ID,
        out=out,
        fingerprint=made_from,
        elsewhere=elsewhere,
        earlier=earlier,
        more=more,
        share=share,
        name=name,
        progress=progress,
    )


def _on_ray(
    config: Any,
    store: TokenStore,
    *,
    model: str,
    adapter: str | None,
    quantize: str,
    features: bool,
    start: int | None,
    made_from: Mapping[str, Any],
    rows: int,
) -> Elsewhere:
    """What scores parts on Ray's workers as this process would, and as precisely."""
    from staff.scores import ray

    settings = config.model_copy(update={"dtype": made_from["dtype"]})
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    adapter = None if adapter is None else str(Path(adapter).absolute())
    job = ray.Job(
        scorer=LazyScorer(
            settings,
            model=model,
            adapter=adapter,
            quantize=quantize,
            features=features,
            start=start,
        ),
        tokens=store.path.absolute(),
        data_hash=store.content_hash,
        batch_tokens=config.batch_tokens,
        pad_id=PAD_ID,
        rows=rows,
        check=partial(check_same, made_from, model=model, adapter=adapter, trust=trust_of(config)),
    )
    return partial(ray.score_parts, job, workers=config.workers, device=config.device)


@cache  # once a process, however many orders
def check_model_here(model: str, known: str, trust: Trust) -> None:
    """Raise `ModelError` if the model is another one here than where the run was started."""
    from staff.models.folder import model_hash

    if model_hash(model, trust=trust) != known:
        raise ModelError(
            f"{model} is not the same on {platform.node()} as where the run was started: give a "
            "path that is the same model on all machines"
        )


def check_same(
    made_from: Mapping[str, Any], *, model: str, adapter: str | None, trust: Trust
) -> None:
    """Raise `ModelError` if this machine would give other scores than those asked for.

    That is, where it has another model, adapter or version of a library.
    """
    from staff.models.folder import check_adapter, model_hash

    check_installed(made_from.get("quantize", NONE))
    for name, wanted in {**made_from["versions"], **made_from.get("quantized by", {})}.items():
        if (found := versions_of(name)[name]) != wanted:
            raise ModelError(
                f"a worker has {name} {found}, and the run was started with {wanted}: install the "
                "same versions on all machines"
            )
    if adapter is not None:
        check_adapter(adapter, trust=trust)
    if model_hash(model, adapter, trust=trust) != made_from["model_hash"]:
        both = model if adapter is None else f"{model} with {adapter}"
        raise ModelError(
            f"{both} is not the same on a worker as where the run was started: give a path that is "
            "the same model on all machines"
        )


class Rounds:
    """Scores rows round by round, on a model that is loaded once; each round has its own parts.

    model, facts, out, name, quantize: as of `score`.
    """

    def __init__(
        self,
        config: Any,
        store: TokenStore,
        *,
        model: str,
        facts: dict[str, Any],
        out: Path,
        name: str,
        quantize: str = NONE,
        progress: Progress | None = None,
    ) -> None:
        from staff.scores.shards import has_features

        self.config, self.out = config, out
        self.rows: list[Ints] = []
        features = config.features or has_features(out)
        self._scorer = LazyScorer(
            config, model=model, adapter=None, quantize=quantize, features=features
        )
        self._score = partial(
            score,
            config,
            store,
            model=model,
            facts=facts,
            out=out,
            name=name,
            quantize=quantize,
            features=features,
            scorer=self._scorer,
            progress=progress,
        )

    def score(self, rows: Ints, record: StageRecord, *, more: bool) -> ScoreTable:
        """Scores of these rows and of those of all rounds before; more: others may follow."""
        table = self._score(positions=rows, earlier=tuple(self.rows), more=more, record=record)
        self.rows.append(rows)
        if not more:
            self._scorer.release()
        return table

    def finish(self) -> None:
        """No round follows: remove the parts of other rows, and let go of the model."""
        from staff.scores.run import forget_others, plan_parts

        self._scorer.release()
        forget_others(self.out, plan_parts(self.rows, self.config.shard_rows))
