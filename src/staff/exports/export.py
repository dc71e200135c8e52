"""From a coreset of a run to a folder that a trainer takes: survey, write, export.json last."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from staff import __version__
from staff.data.prepare import REJECTED
from staff.data.writers import replacing
from staff.errors import ConfigError, RunError, unknown_name
from staff.exports.axolotl import AXOLOTL
from staff.exports.coreset import find_coreset
from staff.exports.hf_dataset import HF_DATASET
from staff.exports.llama_factory import LLAMA_FACTORY
from staff.exports.model import all_fit, row_length, trained_model
from staff.exports.run_settings import bits_of, step_of
from staff.exports.survey import Survey, shaped, survey
from staff.exports.table import write_table
from staff.exports.trainer import Job, Model, Trainer
from staff.exports.trl import TRL
from staff.hashing import hash_file
from staff.notes import read_note
from staff.progress import Progress, Say, SilentProgress, silent
from staff.runs.again import made_already, made_from, may_be_made, told
from staff.runs.store import check_place, write_atomic

TRAINERS: dict[str, Trainer] = {
    "trl": TRL,
    "llama-factory": LLAMA_FACTORY,
    "axolotl": AXOLOTL,
    "hf-dataset": HF_DATASET,
}
MANIFEST, UNFINISHED = "export.json", ".export.json"
# Every file that an export can have; a changed export.json has no other removed.
NAMES = re.compile(
    r"coreset-[\w.]+\.parquet|train\.(py|yaml)|dataset_info\.json|state\.json|rejected\.jsonl|"
    r"data-\d{5}-of-\d{5}\.arrow"
)


def export(
    run: str | Path,
    *,
    to: str,
    keep: str | None = None,
    model: str | None = None,
    out: str | Path | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """Write a coreset of a finished run for a trainer; returns what was written, and what is next.

    to: a name in TRAINERS. keep: the coreset, as a fraction or by its name; may be left out where
    the run has one. model: the one to be tuned, by default the run's target. out: the folder, by
    default beside the coreset and named after it and the trainer. overwrite: replace an export
    there. dry_run: look at all rows, write nothing; ``files`` of the result is None, unless the
    export is there already. Beside what export.json says, the result has ``folder``, ``next`` (a
    command), ``all_fit``: whether it is certain that no row is truncated, and ``not_given``:
    columns of what chat templates got for the scores and do not get from this trainer.

    If `out` holds this very export, it is left as it is, and `say` is told.

    Every row of the coreset is in it or, with ``on_bad_row="skip"``, in its rejected.jsonl. Nothing
    is written before all rows were looked at.

    Raises:
        ConfigError: no such trainer or coreset, no model. RunError: the run is not finished, its
            coreset is not the one it made, or `out` holds something else. DataError: rows that
            the trainer would not take.
    """
    if to not in TRAINERS:
        raise ConfigError(unknown_name("trainer", to, TRAINERS))
    trainer, coreset = TRAINERS[to], find_coreset(run, keep)
    tuned = trained_model(coreset, model) if trainer.files else Model("")
    folder = Path(out) if out is not None else Path(run) / f"coreset-{coreset.name}-{to}"
    check_out(folder, overwrite=overwrite or may_be_made(folder / MANIFEST))
    found = survey(coreset, trainer, on_bad_row=on_bad_row)
    rows_at_once, steps = step_of(coreset.manifest)
    job = Job(
        coreset=coreset,
        data=f"coreset-{coreset.name}.parquet",
        rows=found.rows,
        kind=found.kind,
        model=tuned,
        length=row_length(coreset, tuned, wraps=trainer.wraps),
        given=found.given,
        rich=found.rich,
        bits=bits_of(coreset.manifest),
        rows_at_once=rows_at_once,
        steps=steps,
    )
    facts = {
        "format": 1,
        "staff_version": __version__,
        "trainer": to,
        "coreset": {"name": coreset.name, "sha256": coreset.sha256, "rows": coreset.rows},
        "model": tuned.name or None,
        "length": job.length,
        "bits": job.bits if trainer.files else None,
        "rows": found.rows,
        "rejected": len(found.rejected),
        "turns_cut": found.cut,
        "left_out": sorted(found.columns.left_out),
    }
    facts |= {"made_from": made_from("export", facts, **_inputs(job)), "files": None}
    again = overwrite or (folder / UNFINISHED).is_file()
    same = None if again else made_already(folder / MANIFEST, str(facts["made_from"]))
    if same:
        say(told(folder))
        facts["files"] = same["files"]
    else:
        check_out(folder, overwrite=overwrite)
        if not dry_run:
            facts["files"] = _write(folder, job, trainer, found, progress or SilentProgress())
            write_atomic(folder / MANIFEST, json.dumps(facts, indent=1) + "\n")
            (folder / UNFINISHED).unlink(missing_ok=True)
    return {
        **facts,
        "folder": str(folder),
        "next": trainer.command(str(folder)),
        "not_given": list(found.not_given),
        "all_fit": all_fit(coreset, tuned, job.length, wraps=trainer.wraps),
    }


def _inputs(job: Job) -> dict[str, Any]:
    """What the files are written from, wherever the run lies; of its manifest no more is used."""
    found = asdict(job)
    del found["coreset"]["manifest"], found["coreset"]["path"]
    return found


def check_out(folder: Path, *, overwrite: bool) -> None:
    """Raise `RunError` if an export may not go to a folder."""
    check_place(folder)
    if not folder.is_dir() or (folder / UNFINISHED).is_file():
        return
    if (folder / MANIFEST).is_file():
        if not overwrite:
            raise RunError(f"{folder} holds an export: choose another --out, or add --overwrite")
        _named(folder / MANIFEST)
    elif any(folder.iterdir()):
        raise RunError(f"{folder} holds files but no export of staff: choose another --out")


def _begin(folder: Path, names: set[str]) -> set[str]:
    """Mark the folder as unfinished; gives the files of an earlier export that may be there.

    names: those that are to be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished, unfinished = folder / MANIFEST, folder / UNFINISHED
    before = set[str]().union(*(_named(file) for file in (finished, unfinished) if file.is_file()))
    write_atomic(unfinished, json.dumps({"files": sorted(before | names)}) + "\n")
    finished.unlink(missing_ok=True)
    return before


def _named(manifest: Path) -> set[str]:
    """The files that an export.json names, those apart that no export can have."""
    try:
        files = read_note(manifest)["files"]
        return {str(name) for name in files if NAMES.fullmatch(str(name))}
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{manifest} is damaged: choose another --out, or remove {manifest.parent}"
        ) from None


def _write(
    folder: Path, job: Job, trainer: Trainer, found: Survey, progress: Progress
) -> dict[str, str]:
    """Write all files but export.json; their names and SHA-256."""
    texts = dict(trainer.files(job)) if trainer.files else {}
    if found.rejected:
        texts[REJECTED] = "".join(found.rejected)
    before = _begin(folder, {job.data, *texts})
    with progress.stage(f"export {job.coreset.name}", total=found.rows) as stage:

        def noted() -> Iterator[Mapping[str, Any]]:
            for row in shaped(job.coreset, trainer, found):
                yield row
                stage.advance()

        names = _write_data(folder, job, trainer, noted(), found)
    for name, text in texts.items():
        write_atomic(folder / name, text)
        names.append(name)
    for name in before - set(names):
        (folder / name).unlink(missing_ok=True)
    return {name: hash_file(folder / name) for name in sorted(names)}


def _write_data(
    folder: Path, job: Job, trainer: Trainer, rows: Iterator[Mapping[str, Any]], found: Survey
) -> list[str]:
    """Write the data; returns the names of its files."""
    chat = job.kind in ("chat", "single")
    types = found.columns.types
    if trainer.save is None:
        write_table(folder / job.data, rows, types, chat=chat, rich=found.rich)
        return [job.data]
    # Not below `folder`: libraries of remote files read more than a path into some names.
    with TemporaryDirectory(prefix="staff-") as scratch:
        table, made = Path(scratch) / job.data, Path(scratch) / "made"
        write_table(table, rows, types, chat=chat, rich=found.rich)
        trainer.save(table, made)
        names = sorted(path.name for path in made.iterdir())
        for name in names:
            with replacing(folder / name) as part:
                shutil.copyfile(made / name, part)
    return names
