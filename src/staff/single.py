"""One stage on its own: score a file, fine-tune on it, evaluate on it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from staff.data.files import Source, open_source
from staff.data.kept import keep, put_rejected
from staff.data.places import refuse_link
from staff.data.prepare import REJECTED, Prepared
from staff.data.references import last_responses
from staff.data.tokenise import Tokeniser
from staff.errors import ProcessGoneError, StaffError
from staff.hashing import fingerprint
from staff.ledger import Ledger
from staff.progress import Progress, Say, silent
from staff.runs import manifest as manifests
from staff.runs.again import (
    ITEMS,
    METRICS,
    finished_run,
    made_already,
    made_from,
    may_be_made,
    refuse_results,
    told,
)
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig
from staff.runs.facts import data_facts, not_finite_facts, trust_remarks
from staff.runs.inputs import check_same_inputs, input_facts, write_inputs
from staff.runs.lock import hold_beside
from staff.runs.settings import named
from staff.runs.shared_settings import RECIPE
from staff.runs.store import RunFolder, write_atomic
from staff.selectors.verification import widening
from staff.stages import reading, scoring, tuning
from staff.stages.facts import end_tokens_hash, model_facts, tokenisers_of
from staff.stages.following import follow
from staff.stages.options import device_used, kernel_of, quantised_facts, spread_of, trust_of
from staff.stages.reading import TOKENS, keep_read, note_read, read_once, tokens_of
from staff.stages.scoring import executing
from staff.stages.tuning import check_team
from staff.team import gathered
from staff.training.adapter_folder import STAMP, check_out, checkpoints_of
from staff.training.evaluate import Evaluation
from staff.training.evaluate import evaluate as measure
from staff.training.finetune import FinetuneResult
from staff.training.metrics import MOST, bleu_interval
from staff.training.statistics import mean_interval, share_interval


def is_finished(
    config: ScoreConfig | FinetuneConfig | EvaluateConfig, *, progress: Progress | None = None
) -> bool:
    """Whether the command would leave what is at ``config.out`` as it is; writes nothing.

    Hashes what the command would, and raises what it would of another result there.
    """
    if config.out is None or config.overwrite:
        return False
    out = Path(named(str(config.out)))
    source = open_source(str(config.data), split=config.split)
    trust = trust_of(config)
    tokenisers = tokenisers_of((str(config.model),), max_length=config.max_length, trust=trust)
    if isinstance(config, EvaluateConfig):
        made = _origin(config, source, tokenisers, progress)["made_from"]
        if made_already(out / METRICS, made):
            return True
        refuse_results(out)
        return False
    data_hash, models = source.content_hash(), _models_of(config, progress)
    made = _made_from(config, source, data_hash, models, tokenisers)
    if isinstance(config, FinetuneConfig):
        if _adapter_there(out, made):
            return True
        check_out(out, overwrite=False)
        return False
    folder = RunFolder(str(config.out))
    inputs = _inputs_of(config, data_hash, models, tokenisers)
    check_same_inputs(folder, inputs, overwrite=False)
    return finished_run(folder, made) is not None


def score(
    config: ScoreConfig, *, progress: Progress | None = None, say: Say = silent
) -> dict[str, Any]:
    """Score every row of a file with one model; returns the manifest of ``config.out``.

    A folder that holds this very run, finished and whole, is left as it is; `say` is told.

    Of the processes that torchrun started, all but one help it, and return nothing ({}).

    Leaves ``scores/small/*.parquet`` (effort, loss, entropy, el2n, response_length) and,
    with `features`, the pooled hidden states in the same parts.
    """
    folder = RunFolder(str(config.out))
    with gathered(follow) as leads:
        if not leads:
            return {}
        with executing(config), folder.lock():
            folder.start(config, overwrite=config.overwrite)
            with tokens_of(folder.path):
                return _score(config, folder, progress, say)


def _score(
    config: ScoreConfig, folder: RunFolder, progress: Progress | None, say: Say
) -> dict[str, Any]:
    model = str(config.model)
    ledger = Ledger(folder.path, afresh=config.overwrite)
    result = manifests.begin("score", config.model_dump(mode="json"), seed=config.seed)
    source = open_source(str(config.data))
    with ledger.stage("check", remember=False):
        result["device"] = device_used(config)
        tokenisers = tokenisers_of((model,), max_length=config.max_length, trust=trust_of(config))
        result["models"] = facts = _models_of(config, progress)
        data_hash = source.content_hash()
        inputs = _inputs_of(config, data_hash, facts, tokenisers)
        check_same_inputs(folder, inputs, overwrite=config.overwrite)
        result["made_from"] = _made_from(config, source, data_hash, facts, tokenisers)
    if not config.overwrite and (finished := finished_run(folder, result["made_from"])):
        say(told(folder.path))
        return finished
    folder.check_writable()
    with ledger.stage("read", remember=False) as record:
        prepared, key = read_once(
            config,
            source,
            tokenisers,
            data_hash=data_hash,
            folder=folder.path,
            afresh=config.overwrite,
            progress=progress,
        )
        note_read(record, prepared)
    folder.begin_writing(config)  # until here an earlier run's files were left alone
    write_inputs(folder.path, inputs)
    keep_read(prepared, folder, key, tokens=folder.path)
    with ledger.stage("score") as record:
        table = scoring.score(
            config,
            prepared.stores[0],
            model=model,
            adapter=config.adapter,
            quantize=config.quantize,
            facts=facts["model"],
            out=folder.scores_small,
            name="score",
            record=record,
            progress=progress,
        )
    if found := not_finite_facts(prepared.ids, prepared.rows, table.columns):
        result["not_finite"] = {"model": found}
    result["data"] = data_facts(source, data_hash, prepared)
    result["stages"] = ledger.as_dicts()
    result["files"] = manifests.hash_outputs(folder.path, folder.outputs())
    manifests.write_manifest(folder.manifest, result)
    return result


def _models_of(
    config: ScoreConfig | FinetuneConfig | EvaluateConfig, progress: Progress | None
) -> dict[str, Any]:
    """Hashes of the model, and of the adapter it is read with; how its weights are kept."""
    model, trust = str(config.model), trust_of(config)
    if isinstance(config, FinetuneConfig):
        return model_facts(model=model, trust=trust, progress=progress)
    return model_facts(
        model=model,
        adapter=config.adapter,
        quantize=config.quantized,
        trust=trust,
        progress=progress,
    )


def _inputs_of(
    config: ScoreConfig, data_hash: str, models: Mapping[str, Any], tokenisers: Sequence[Tokeniser]
) -> dict[str, Any]:
    """What a folder of scores is tied to by content."""
    model = str(config.model)
    return input_facts(
        data=(config.data, data_hash), model=(model, models["model"]["hash"])
    ) | input_facts(tokenizer=(model, tokenisers[0].fingerprint))


def _made_from(
    config: ScoreConfig | FinetuneConfig | EvaluateConfig,
    source: Source,
    data_hash: str,
    models: Mapping[str, Any],
    tokenisers: Sequence[Tokeniser],
    **more: Any,
) -> str:
    """What a stage on its own is made from; the same again leaves what is there."""
    return made_from(
        config.command,
        config,
        data=(source.kind, data_hash),
        models=models,
        tokenizers=[tokeniser.fingerprint for tokeniser in tokenisers],
        dtype=device_used(config)["dtype"],
        quantised=quantised_facts(config.quantize),
        **more,
    )


def finetune(
    config: FinetuneConfig,
    *,
    progress: Progress | None = None,
    say: Say = silent,
    on_placed: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Fine-tune a model on a file and leave a LoRA adapter folder at ``config.out``.

    If that holds the adapter of this very fine-tuning, it is left as it is: `say` is told, and what
    was returned then is returned again.

    With ``config.overwrite`` the adapter in that folder is replaced once the new one is
    complete; nothing else there is touched. Rejected rows go beside it: ``OUT-rejected.jsonl``;
    tokens lie in ``.OUT.tokens`` until it is done, for the start after a kill.

    on_placed: told what is returned, before the checkpoints go; see `training.finetune`.

    Of the processes that torchrun started, all but one help it, and return nothing ({}).

    Raises:
        RunError: ``config.out`` holds files and ``config.overwrite`` is off, or another process
            writes to it.
    """
    with gathered(follow) as leads:
        return _finetune(config, progress, say, on_placed) if leads else {}


def _finetune(
    config: FinetuneConfig,
    progress: Progress | None,
    say: Say,
    on_placed: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    check_team(config)
    out, model = Path(named(str(config.out))), str(config.model)  # more is named after it
    stamp, beside = out / STAMP, _rejected_beside(out)
    check_out(out, overwrite=config.overwrite or may_be_made(stamp))  # before an hour of reading
    device_used(config)
    source = open_source(str(config.data))
    with hold_beside(out):
        data_hash = source.content_hash()
        tokenisers = tokenisers_of((model,), max_length=config.max_length, trust=trust_of(config))
        models = _models_of(config, progress)
        whole = _made_from(config, source, data_hash, models, tokenisers)
        if not config.overwrite and (known := _adapter_there(out, whole)):
            for left in (checkpoints_of(out), _tokens_of(out)):  # of a start killed just then
                shutil.rmtree(left, ignore_errors=True)
            say(told(out))
            return known
        check_out(out, overwrite=config.overwrite)
        with _tokens_beside(out) as scratch:
            prepared, key = read_once(
                config,
                source,
                tokenisers,
                data_hash=data_hash,
                folder=scratch,
                afresh=False,
                progress=progress,
            )
            keep(prepared, scratch / TOKENS, key)
            # Where there is no earlier adapter, a file of that name is somebody else's.
            ours = prepared.rejected or (out / "adapter_config.json").is_file()
            rejected = _keep_rejected(prepared, beside if ours else None)
            trained_from = {
                "tokens": prepared.stores[0].content_hash,
                "model": models["model"]["hash"],
                "dtype": device_used(config)["dtype"],
                **{name: getattr(config, name) for name in (*RECIPE, "max_steps", "seed")},
                **kernel_of(config),
                **quantised_facts(config.quantize),
            }

            def facts_of(result: FinetuneResult) -> dict[str, Any]:
                return {
                    "adapter": str(out),
                    **_trust(config),
                    "rows": result.rows,
                    **rejected,
                    "truncated": prepared.truncated,
                    "steps": result.steps,
                    "tokens": result.tokens,
                    "seconds": round(result.seconds, 1),
                    "tokens_per_second": round(result.tokens / max(result.seconds, 1e-9)),
                    "first_loss": round(result.losses[0][1], 4),
                    "last_loss": round(result.losses[-1][1], 4),
                }

            result = tuning.tune(
                config,
                prepared.stores[0],
                model_hash=trained_from["model"],
                out=out,
                made_from=fingerprint(trained_from),
                progress=progress,
                on_written=lambda folder, result: tuning.write_stamp(
                    folder, whole, facts=facts_of(result)
                ),
                on_placed=lambda result: on_placed(facts_of(result)),
            )
        return facts_of(result)


def _adapter_there(out: Path, whole: str) -> dict[str, Any]:
    """What was returned of the adapter at `out`, if it was made from the same; else nothing."""
    known: dict[str, Any] = (made_already(out / STAMP, whole) or {}).get("facts") or {}
    there = known and (_rejected_beside(out).is_file() or not known["rejected"])
    return known if there else {}


def _rejected_beside(out: Path) -> Path:
    return out.with_name(f"{out.name}-{REJECTED}")


def _tokens_of(out: Path) -> Path:
    """The hidden folder beside `out` for the tokens of its fine-tuning."""
    return out.with_name(f".{out.name}.tokens")


@contextmanager
def _tokens_beside(out: Path) -> Iterator[Path]:
    """Make sure of `_tokens_of`: after a kill they are there for the next start."""
    scratch = _tokens_of(out)
    refuse_link(scratch)
    try:
        with tokens_of(scratch):
            yield scratch
    except ProcessGoneError:
        raise
    except StaffError:  # perhaps nobody will start it again
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(scratch, ignore_errors=True)


def evaluate(
    config: EvaluateConfig, *, progress: Progress | None = None, say: Say = silent
) -> dict[str, Any]:
    """Measure a model on a test file: each metric with its 95 % interval over items.

    The value is the mean over items, but for bleu the corpus score, and its interval is that
    of the corpus score; None where it would hang on one item. With ``config.out``:
    ``items.parquet`` (id, each metric, prediction, reference), ``metrics.json`` and, if rows were
    rejected, ``rejected.jsonl`` in that folder. If it holds the results of this very evaluation,
    they are left as they are and returned; `say` is told.

    Raises:
        RunError: the folder holds other results and ``config.overwrite`` is off.
    """
    model = str(config.model)
    out = Path(config.out) if config.out else None
    device_used(config)  # refuses one that is not there
    source = open_source(str(config.data), split=config.split)
    tokenisers = tokenisers_of((model,), max_length=config.max_length, trust=trust_of(config))
    made: dict[str, Any] = {}
    if out:
        made = _origin(config, source, tokenisers, progress)
        if not config.overwrite:
            if earlier := made_already(out / METRICS, made["made_from"]):
                say(told(out))
                return {k: v for k, v in earlier.items() if k not in made and k != "files"}
            refuse_results(out)
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        prepared = reading.read(config, source, tokenisers, folder=Path(scratch), progress=progress)
        generates = set(config.metrics) != {"loss"}
        references = last_responses(source, prepared) if generates else None
        if out:
            source.check_unchanged(made["data"]["sha256"])
        found = measure(
            model=model,
            tokens=prepared.stores[0],
            adapter=config.adapter,
            metrics=config.metrics,
            references=references,
            max_new_tokens=config.max_new_tokens,
            batch_tokens=config.batch_tokens,
            dtype=config.dtype,
            device=config.device,
            quantize=config.quantize,
            spread=spread_of(config, model, config.adapter),
            trust=trust_of(config),
            progress=progress,
        )
        intervals = {name: _interval(found, name, seed=config.seed) for name in found.per_item}
        commit = source.commit()
        if out and not config.overwrite and not made_already(out / METRICS, made["made_from"]):
            refuse_results(out)  # of another process that was quicker
        # Not before: alone in a folder it would be taken for a run's, and refused the next time.
        rejected = _keep_rejected(prepared, out / REJECTED if out else None)
    facts: dict[str, Any] = {"rows": len(found.ids), **rejected, "truncated": prepared.truncated}
    facts |= _trust(config)
    if commit:
        facts["revision"] = commit
    for name, interval in intervals.items():
        facts[name] = {"value": found.summary[name], "interval": interval}
    if out:
        _write_items(out, found, {**made, **facts})
    return facts


def _origin(
    config: EvaluateConfig,
    source: Source,
    tokenisers: Sequence[Tokeniser],
    progress: Progress | None,
) -> dict[str, Any]:
    """Where the results of an evaluation are from, as a manifest says it."""
    made = manifests.begin("evaluate", config.model_dump(mode="json"), seed=config.seed)
    data_hash, models = source.content_hash(), _models_of(config, progress)
    models["model"]["tokenizer"] = tokenisers[0].fingerprint
    ends = end_tokens_hash(str(config.model), trust=trust_of(config))
    return {
        **made,
        "data": {"path": source.name, "sha256": data_hash},
        "models": models,
        "device": device_used(config),
        "made_from": _made_from(config, source, data_hash, models, tokenisers, generation=ends),
    }


def _write_items(out: Path, found: Evaluation, facts: dict[str, Any]) -> None:
    """items.parquet, then metrics.json with these facts and the hashes of the folder's files."""
    out.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"id": list(found.ids)}
    columns |= {name: pa.array(values) for name, values in found.per_item.items()}
    if found.predictions:
        columns |= {"prediction": list(found.predictions), "reference": list(found.references)}
    (out / METRICS).unlink(missing_ok=True)  # it would speak of other items
    write_atomic(out / ITEMS, lambda file: pq.write_table(pa.table(columns), file))
    written = [path for name in (ITEMS, REJECTED) if (path := out / name).is_file()]
    files = manifests.hash_outputs(out, written)
    manifests.write_manifest(out / METRICS, facts | {"files": files})


def _interval(found: Evaluation, metric: str, *, seed: int) -> list[float] | None:
    """Ends of the 95 % interval of a metric; None where they would hang on one item."""
    values = found.per_item[metric]
    if metric == "exact":
        _, *ends = share_interval(values)
        return ends
    if metric == "bleu":
        drawn = bleu_interval(found.predictions, found.references, seed=seed)
    else:
        drawn = mean_interval(values, seed=seed)
    return _widened(drawn, len(values), most=MOST.get(metric, inf))


def _widened(found: tuple[float, float, float], items: int, *, most: float) -> list[float] | None:
    """Ends of a bootstrap's interval, as far apart as so few items ask for; None of one item.

    found: the value and the ends as they were resampled. most: the largest the value can be; the
    smallest is 0.
    """
    if items < 2:
        return None
    value, low, high = found
    times = widening(items)
    return [max(0.0, value - times * (value - low)), min(most, value + times * (high - value))]


def _trust(config: FinetuneConfig | EvaluateConfig) -> dict[str, Any]:
    """A remark on what the model was allowed to do, where it was anything."""
    remarks = trust_remarks(config.model_dump())
    return {"trust": ", ".join(remarks)} if remarks else {}


def _keep_rejected(prepared: Prepared, path: Path | None) -> dict[str, Any]:
    """Save rejected rows from a folder that goes, and say how many there are and where.

    What an earlier call left at `path` is replaced, or removed where no row was rejected now.
    """
    facts: dict[str, Any] = {"rejected": prepared.rejected}
    if path:
        put_rejected(prepared, path)
    if prepared.rejected:
        facts["rejected_rows"] = str(path or "not kept (give --out to keep them)")
    return facts
