"""One stage on its own: score a file, fine-tune on it, evaluate on it."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from staff import stages
from staff.data.files import open_source
from staff.progress import Progress
from staff.runs import manifest as manifests
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig
from staff.runs.facts import data_facts
from staff.runs.store import RunFolder, write_atomic
from staff.stages import Ledger


def score(config: ScoreConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Score every row of a file with one model; returns the manifest of ``config.out``.

    Leaves ``scores/small/*.parquet`` (effort, loss, entropy, el2n, response_length) and,
    with `features`, safetensors shards beside them.
    """
    model, folder = str(config.model), RunFolder(str(config.out))
    keys = tuple(name for name in type(config).model_fields if name not in ("device", "overwrite"))
    with folder.lock():
        folder.start(
            config,
            overwrite=config.overwrite,
            keys=keys,
            replay=f"staff score --config {folder.config}",
        )
        ledger = Ledger(folder.path)
        result = manifests.begin("score", config.model_dump(mode="json"), seed=config.seed)
        result["models"] = facts = stages.model_facts(model=model)
        source = open_source(str(config.data))
        with ledger.stage("read") as record:
            data_hash = source.content_hash()
            prepared = stages.read(config, source, (model,), folder=folder.path, progress=progress)
            record.rows, record.tokens = prepared.rows_read, prepared.tokens[0]
        with ledger.stage("score") as record:
            stages.score(
                config,
                prepared.stores[0],
                model=model,
                adapter=config.adapter,
                facts=facts["model"],
                out=folder.scores_small,
                name="score",
                record=record,
                progress=progress,
            )
        shutil.rmtree(folder.path / "tokens", ignore_errors=True)
        result["data"] = data_facts(str(config.data), data_hash, prepared)
        result["device"] = stages.device_used(config)
        result["stages"] = ledger.as_dicts()
        result["files"] = manifests.hash_outputs(folder.path, [folder.scores_small])
        manifests.write_manifest(folder.manifest, result)
    return result


def finetune(config: FinetuneConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Fine-tune a model on a file and leave a LoRA adapter folder at ``config.out``."""
    from staff.training.finetune import finetune as train

    out, model = Path(str(config.out)), str(config.model)
    if config.overwrite and (out / "adapter_config.json").is_file():
        shutil.rmtree(out)
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        prepared = stages.read(
            config, open_source(str(config.data)), (model,), folder=Path(scratch), progress=progress
        )
        result = train(
            model=model,
            tokens=prepared.stores[0],
            out=out,
            pad_id=stages.pad_id(model),
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            rank=config.rank,
            alpha=config.alpha,
            max_steps=config.max_steps,
            seed=config.seed,
            dtype=config.dtype,
            device=config.device,
            progress=progress,
        )
    return {
        "adapter": str(out),
        "rows": result.rows,
        "rejected": prepared.rejected,
        "truncated": prepared.truncated,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 1),
        "tokens_per_second": round(result.tokens / max(result.seconds, 1e-9)),
        "first_loss": round(result.losses[0][1], 4),
        "last_loss": round(result.losses[-1][1], 4),
    }


def evaluate(config: EvaluateConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Measure a model on a test file: each metric's mean with its 95 % interval over items.

    With ``config.out``: ``items.parquet`` (id, each metric, prediction, reference) and
    ``metrics.json`` in that folder.
    """
    from staff.training.evaluate import evaluate as measure
    from staff.training.statistics import mean_interval

    model = str(config.model)
    with tempfile.TemporaryDirectory(prefix="staff-") as scratch:
        prepared = stages.read(
            config, open_source(str(config.data)), (model,), folder=Path(scratch), progress=progress
        )
        found = measure(
            model=model,
            tokens=prepared.stores[0],
            adapter=config.adapter,
            metrics=config.metrics,
            max_new_tokens=config.max_new_tokens,
            batch_tokens=config.batch_tokens,
            dtype=config.dtype,
            device=config.device,
            progress=progress,
        )
    facts: dict[str, Any] = {"rows": len(found.ids), "rejected": prepared.rejected}
    for name, values in found.per_item.items():
        interval = mean_interval(values, seed=config.seed)
        facts[name] = {"value": found.summary[name], "interval": [interval.low, interval.high]}
    if config.out:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        columns: dict[str, Any] = {"id": list(found.ids)}
        columns |= {name: pa.array(values) for name, values in found.per_item.items()}
        if found.predictions:
            columns |= {
                "prediction": list(found.predictions),
                "reference": list(found.references),
            }
        write_atomic(out / "items.parquet", lambda file: pq.write_table(pa.table(columns), file))
        manifests.write_manifest(
            out / "metrics.json", {"config": config.model_dump(mode="json"), **facts}
        )
    return facts
