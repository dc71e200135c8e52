"""The whole comparison: this file determines the order of events.

For every seed: select by each method -> fine-tune the target on each coreset -> evaluate it.
Then the table. Test data is used only to measure and to look for leaks, never to choose.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from staff.compare.cells import Inputs, finished, run_cell
from staff.compare.files import write_results
from staff.compare.leaks import count_leaks
from staff.compare.own import check_sizes, hash_of_path, hashed
from staff.compare.results import Group, results
from staff.compare.selection import Chosen, check_usable, choose
from staff.data.files import Source, open_source
from staff.models.folder import generation_hash
from staff.progress import WARNING, Progress, Say, silent
from staff.reports.compared_html import write_compared
from staff.runs import manifest as manifests
from staff.runs.compare_cells import FULL, UNTUNED, Cell, cells_of
from staff.runs.compare_config import CompareConfig
from staff.runs.compare_folder import CompareFolder
from staff.runs.inputs import check_same_inputs, input_facts, model_inputs, write_inputs
from staff.runs.store import RunFolder
from staff.stages.facts import model_facts, tokenisers_of
from staff.stages.options import device_used, quantised_facts, record_options, trust_of
from staff.stages.reading import tokens_of


def compare(
    config: CompareConfig, *, progress: Progress | None = None, say: Say = silent
) -> dict[str, Any]:
    """Do what is missing of a comparison and write its results; returns compare.json.

    Raises `StaffError` children; finished cells and stages are kept for the next start.
    """
    folder, say = CompareFolder(config.folder), _warning_once(say)
    with folder.lock():
        folder.check_same_config(config)
        result = manifests.begin("compare", config.model_dump(mode="json"), seed=0)
        del result["seed"]  # there are several
        result |= _inputs(config, progress)
        check = partial(_check_unchanged, result)
        check()  # hashes and leaks are of the same contents
        if result["leaks"]["rows"]:
            leaks = result["leaks"]
            share = 100 * leaks["rows"] / leaks["of"]
            say(
                f"{WARNING}{leaks['rows']} of {leaks['of']} test prompts ({share:.3g} %) "
                f"{'occurs' if leaks['rows'] == 1 else 'occur'} in the training data"
            )
        inputs = input_facts(**{k: (result[k]["path"], result[k]["sha256"]) for k in config.inputs})
        inputs |= model_inputs(result["models"])
        check_same_inputs(RunFolder(folder.path), inputs, overwrite=config.overwrite)
        with tokens_of(folder.path):  # one reading for all seeds
            if config.own:
                sizes = partial(check_sizes, config, progress=progress)
                check_usable(config, folder, sizes, known=_known(result), progress=progress)
            folder.begin_writing(config)
            write_inputs(folder.path, inputs, overwrite=config.overwrite)
            cells, chosen = _cells(config, folder, result, check, progress, say)
        result["device"] = device_used(config)
        result["data"] |= next(iter(chosen.values())).read  # the same for every seed and method
        result["selection"] = [
            {"method": method, "seed": seed, "seconds": round(one.seconds, 3)}
            for (seed, method), one in chosen.items()
        ]
        result["cells"] = list(cells.values())
        result["results"] = results(_groups(config, folder, cells, chosen), config.metrics)
        check()
        written = write_results(folder.path, result)
        result["files"] = manifests.hash_outputs(folder.path, [folder.config, *written])
        write_compared(folder.report, manifests.plain(result))  # not hashed: it is of compare.json
        manifests.write_manifest(folder.manifest, result)
    return result


def _warning_once(say: Say) -> Say:
    """The same, which passes a warning on once only: every seed's selection gives it."""
    said: set[str] = set()

    def once(text: str) -> None:
        if text not in said:
            say(text)
        if text.startswith(WARNING):
            said.add(text)

    return once


def _inputs(config: CompareConfig, progress: Progress | None) -> dict[str, Any]:
    """Data, test data, models and the tokenizers that selections read with, and leaks."""
    options, trust = record_options(config.without_source()), trust_of(config)
    train, test = (
        open_source(str(getattr(config, name)), split=split)
        for name, split in config.inputs.items()
    )
    paths = {"target": str(config.target)} | ({"small": config.small} if config.small else {})
    models = model_facts(quantize=config.quantized, trust=trust, progress=progress, **paths)
    tokenisers = tokenisers_of([*paths.values()], max_length=config.max_length, trust=trust)
    for role, tokeniser in zip(paths, tokenisers, strict=True):
        models[role]["tokenizer"] = tokeniser.fingerprint
    own = hashed(config)
    leaked, of = count_leaks([train, *map(open_source, hash_of_path(own))], test, options)
    return {
        "data": {"path": config.data, **_contents(train)},
        "test": {"path": config.test, **_contents(test)},
        **({"own": own} if own else {}),
        "models": models,
        "leaks": {"rows": leaked, "of": of},
    }


def _check_unchanged(found: Mapping[str, Any]) -> None:
    """Raise `DataError` if what was hashed at the start is not that any more.

    Data of the Hub are of one commit as long as a process lasts, and are not read again for this.
    """
    read = [
        (open_source(str(found[name]["path"]), split=split), found[name]["sha256"])
        for name, split in CompareConfig.inputs.items()
    ]
    own = hash_of_path(found.get("own", {}))
    read += [(open_source(path), sha256) for path, sha256 in own.items()]
    for source, sha256 in read:
        if source.files:
            source.check_unchanged(sha256)


def _known(found: Mapping[str, Any]) -> dict[str, Any]:
    """What selections are made from, as `choose` takes it."""
    return {"data": found["data"]["sha256"], "models": found["models"]}


def _contents(source: Source) -> dict[str, str]:
    """SHA-256 of data, and the commit of what comes from the Hub."""
    commit = source.commit()
    return {"sha256": source.content_hash()} | ({"revision": commit} if commit else {})


def _cells(
    config: CompareConfig,
    folder: CompareFolder,
    found: Mapping[str, Any],
    check: Callable[[], None],
    progress: Progress | None,
    say: Say,
) -> tuple[dict[Cell, dict[str, Any]], dict[tuple[int, str], Chosen]]:
    """Every cell's cell.json, and what was chosen by (seed, method).

    check: raises if something that was read is not what `found` says any more.
    """
    known = _known(found)
    own = hash_of_path(found.get("own", {}))
    [tokeniser] = tokenisers_of(
        (str(config.target),), max_length=config.max_length, trust=trust_of(config)
    )
    target = {
        "hash": found["models"]["target"]["hash"],
        "tokenizer": tokeniser.fingerprint,
        "dtype": device_used(config)["dtype"],
        **quantised_facts(config.quantize),
    }
    generation = generation_hash(str(config.target), trust=trust_of(config))
    done: dict[Cell, dict[str, Any]] = {}
    chosen: dict[tuple[int, str], Chosen] = {}
    cells = cells_of(config)
    for n, cell in enumerate(cells, start=1):
        inputs = Inputs(target=target, generation=generation, test=found["test"]["sha256"])
        if cell.seed is not None:
            if (cell.seed, config.methods[0]) not in chosen:
                say(f"seed {cell.seed}: selection")
                by_method = choose(
                    config, folder, cell.seed, known=known, progress=progress, say=say
                )
                chosen |= {(cell.seed, method): one for method, one in by_method.items()}
            inputs = _tuned_on(cell, config, inputs, chosen, data=known["data"], own=own)
        place = folder.cell(cell.name)
        kept = finished(cell, config, inputs, folder=place)
        say(f"cell {n} of {len(cells)}: {cell.name}{', reused' if kept else ''}")
        done[cell] = kept or run_cell(
            cell, config, inputs, folder=place, check=check, progress=progress
        )
    return done, chosen


def _tuned_on(
    cell: Cell,
    config: CompareConfig,
    inputs: Inputs,
    chosen: Mapping[tuple[int, str], Chosen],
    *,
    data: str,
    own: Mapping[str, str],
) -> Inputs:
    """The file a cell is tuned on, and for how many steps. own: SHA-256 by path."""
    assert cell.seed is not None
    if cell.keep is None:
        file, sha256 = Path(str(config.data)), data
    elif cell.method in config.own:
        path = config.own_files()[cell.method, cell.keep, cell.seed]
        file, sha256 = Path(path), own[path]
    else:
        one = chosen[cell.seed, cell.method]
        file, sha256 = one.files[cell.keep], one.sha256[cell.keep]
    usable = chosen[cell.seed, config.methods[0]].read["rows_usable"]
    steps = config.epochs * -(-usable // config.batch_size) if config.same == "steps" else None
    return replace(inputs, file=file, sha256=sha256, max_steps=steps)


def _groups(
    config: CompareConfig,
    folder: CompareFolder,
    cells: Mapping[Cell, Mapping[str, Any]],
    chosen: Mapping[tuple[int, str], Chosen],
) -> list[Group]:
    """Cells by method and size: untuned, full, then each size's methods."""
    seeds = range(config.seeds)

    def group(named: Sequence[Cell]) -> Group:
        found = [chosen.get((cell.seed, cell.method)) for cell in named if cell.seed is not None]
        spent = [one.seconds for one in found if one]
        return Group(
            method=named[0].method,
            keep=named[0].keep,
            cells=[cells[cell] for cell in named],
            folders=[folder.cell(cell.name) for cell in named],
            selection_seconds=fmean(spent) if spent else None,
        )

    groups = [group([Cell(UNTUNED)])]
    if config.full:
        groups.append(group([Cell(FULL, seed=seed) for seed in seeds]))
    for keep in config.keep_names:
        groups += [group([Cell(m, keep, seed) for seed in seeds]) for m in config.entrants]
    return groups
