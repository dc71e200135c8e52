"""What a comparison would do, for ``--dry-run``: cells and tokens. Loads no weights."""

from collections.abc import Sequence
from typing import Any

from staff import planning
from staff.compare.own import check_sizes, hash_of_path, hashed
from staff.compare.selection import main_method, scored_first, scoring_config
from staff.data.files import open_source
from staff.notes import read_object
from staff.planning.counts import tokenised
from staff.progress import Progress
from staff.runs.compare_cells import DONE, Cell, cells_of
from staff.runs.compare_config import CompareConfig
from staff.runs.compare_folder import RESULTS, CompareFolder
from staff.selectors import total_of


def plan(config: CompareConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and tokenise the data, and count; nothing stays on disk.

    Tokens of a coreset are estimated from the mean length; of evaluation, those of one pass
    over the test data a cell, without the answers that are generated.
    """
    folder, times = CompareFolder(config.folder), config.seeds
    main = main_method(config.methods, within=config.within)
    selection = planning.plan(scoring_config(config, folder, 0, main), progress=progress)
    work = {stage["name"]: (times, stage) for stage in selection["stages"]}
    warnings = dict.fromkeys(selection["warnings"])  # in this order, each once
    if "tokens" in (read := work["read"][1]):
        work["read"] = 1, read  # tokens serve all seeds
    for method in scored_first(config.methods, main, within=config.within):
        first = planning.plan(scoring_config(config, folder, 0, method), progress=progress)
        work = {stage["name"]: (times, stage) for stage in first["stages"]} | work
        warnings |= dict.fromkeys(first["warnings"])
    usable = selection["usable rows"]
    check_sizes(config, usable, progress=progress)
    tokens, test_rows, test_tokens = _count(config, progress)

    def tuning(rows: int) -> dict[str, int]:
        passes = config.epochs * (usable / rows if config.same == "steps" else 1)
        return {"rows": rows, "tokens": round(passes * rows * tokens / usable)}

    if config.full:
        work["tune on all rows"] = times, tuning(usable)
    for name in config.keep_names:
        work[f"tune, keep {name}"] = times * len(config.entrants), tuning(total_of(name, usable))
    cells = cells_of(config)
    work["evaluate"] = len(cells), {"rows": test_rows, "tokens": test_tokens}
    there = _count_done(config, folder, cells)
    return {
        "usable rows": usable,
        "cells": len(cells),
        "cells already done": 0 if config.overwrite else there,
        "total tokens": sum(times * stage.get("tokens", 0) for times, stage in work.values()),
        "stages": [
            {**stage, "name": f"{times} x {name}", "reused": False}
            for name, (times, stage) in work.items()
        ],
        "files": [str(folder.path / name) for name in ("config.yaml", "seed-*/", "cells/*/")]
        + [str(folder.path / name) for name in sorted(RESULTS)],
        "warnings": list(warnings),
    }


def _count_done(config: CompareConfig, folder: CompareFolder, cells: Sequence[Cell]) -> int:
    """How many cells are done; of the user's own coresets, of their files as they are now.

    A cell without one of the metrics is evaluated again, so it is not done.
    """
    own, hashes = config.own_files(), hash_of_path(hashed(config))
    done = 0
    for cell in cells:
        found = read_object(folder.cell(cell.name) / DONE)
        there = set(config.metrics) <= set(found.get("metrics", ()))
        if cell.method in config.own:
            file = own[cell.method, cell.keep or "", cell.seed or 0]
            there = there and found.get("tuned_on") == hashes[file]
        done += there
    return done


def _count(config: CompareConfig, progress: Progress | None) -> tuple[int, int, int]:
    """The target's tokens of all rows, and rows and tokens of the test data."""
    found = []
    for name, split in config.inputs.items():
        source = open_source(str(getattr(config, name)), split=split)
        how = config if name == "data" else config.without_source()
        read = tokenised(how, source, (str(config.target),), progress)
        with read as prepared:
            found.append((prepared.usable, prepared.tokens[0]))
    return found[0][1], *found[1]
