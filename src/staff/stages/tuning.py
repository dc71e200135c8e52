"""Fine-tuning: step 1 of the paper for the small model, and `staff finetune`.

A finished adapter is recognised by the fingerprint of everything it depends on (contents, never
names or lengths) and is not made again.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from staff.data.store import TokenStore
from staff.errors import ConfigError
from staff.hashing import fingerprint, versions_of
from staff.ledger import StageRecord
from staff.models.folder import adapter_fault
from staff.models.memory import release_memory
from staff.notes import read_object
from staff.progress import Progress, SilentProgress
from staff.runs.config import FinetuneConfig
from staff.runs.store import write_atomic
from staff.stages import draws, orders
from staff.stages.elsewhere import everywhere
from staff.stages.options import cache_of, device_used, kernel_of, quantised_facts, trust_of
from staff.team import current
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
    stamp = read_object(out / STAMP)
    if stamp.get("made_from") == made_from:
        if not adapter_fault(out) and has_files(out, stamp.get("files")):
            shutil.rmtree(checkpoints_of(out), ignore_errors=True)  # of a start killed before that
            record.reused = True
            return str(out)
        with (progress or SilentProgress()).stage("fine-tune small") as stage:
            stage.note(
                "the adapter of an earlier run is damaged or changed, and will be made again"
            )
    cache, fetched = cache_of(config), out.with_name(f".{out.name}.cached.partial")
    if cache and cache.fetch_adapter(made_from, fetched, ADAPTER_FILES):
        write_stamp(fetched, made_from)
        place_adapter(fetched, out)
        shutil.rmtree(fetched, ignore_errors=True)
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
        on_written=lambda folder, _: write_stamp(folder, made_from),
    )
    record.rows, record.tokens = result.rows, result.tokens
    if cache and not cache.keep_adapter(made_from, out, ADAPTER_FILES):
        with (progress or SilentProgress()).stage("fine-tune small") as stage:
            stage.note("no permission to write to the cache: it lacks the adapter")
    return str(out)


def check_team(config: Any) -> None:
    """Raise `ConfigError` for ``--fsdp`` in a process that is alone."""
    if config.fsdp and current() is None:
        raise ConfigError(
            "--fsdp shards a model over several processes: start it with torchrun "
            f"--nproc-per-node N -m staff {config.command} …"
        )


def tune(
    config: Any, store: TokenStore, *, model_hash: str, out: Path, made_from: str, **how: Any
) -> FinetuneResult:
    """Fine-tune as `staff select` does its small model, or `staff finetune`; alone or as a team.

    model_hash: of the model, for processes on other machines.
    how: `name`, `progress`, `on_log`, `on_written` and `on_placed` of `training.finetune.finetune`.
    """
    results: list[FinetuneResult] = []

    def work(_: Mapping[str, Any]) -> int:
        results.append(_tune(config, store, out, made_from, **how))
        return 0

    if team := current():
        model = everywhere(_tuned(config), trust=trust_of(config))
        order = orders.order(
            "fine-tune",
            config.model_copy(update={_role(config): model}),
            store,
            out,
            model=model,
            model_hash=model_hash,
            quantize=config.quantized("small"),
        )
        team.lead(order | {"together": True, "made_from": made_from}, work)
    else:
        work({})
    return results[0]


def take_part(order: Mapping[str, Any]) -> int:
    """In a process that does not lead: this process's part of a fine-tuning; no row is scored."""
    config, store, out = orders.opened(order)
    _tune(config, store, out, order["made_from"], progress=None)
    return 0


def _tuned(config: Any) -> str:
    """The model that is fine-tuned."""
    return str(getattr(config, _role(config)))


def _role(config: Any) -> str:
    """The setting that names it."""
    return "model" if isinstance(config, FinetuneConfig) else "small"


def _tune(config: Any, store: TokenStore, out: Path, made_from: str, **how: Any) -> FinetuneResult:
    """This process's part of it."""
    team = current()
    # A checkpoint of so many processes is not one of another number; an adapter is.
    checkpoint = fingerprint([made_from, team.size]) if team else made_from
    alone = isinstance(config, FinetuneConfig)
    own = {name: getattr(config, name) for name in ("rank", "alpha", "max_steps") if alone}
    result = finetune(
        model=_tuned(config),
        tokens=store if alone else draws.sample(store, config.finetune_on, seed=config.seed),
        out=out,
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


def write_stamp(adapter: Path, made_from: str, **more: Any) -> None:
    """Note beside an adapter what it was made from, and the hashes of its files."""
    stamp = {"made_from": made_from, "files": file_hashes(adapter), **more}
    write_atomic(adapter / STAMP, json.dumps(stamp) + "\n")
