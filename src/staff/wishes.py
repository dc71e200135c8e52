"""Include and exclude lists and quotas of a run: read, checked, and recorded in its manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from staff.data.files import Source
from staff.data.lists import IdList, group_by_column, read_ids
from staff.errors import ConfigError
from staff.runs.config import SelectConfig
from staff.selectors.compose import Wishes
from staff.types import Ints
from staff.visible import shortened


@dataclass(frozen=True, slots=True)
class Lists:
    """The include and the exclude list of a run, as they were read; None where there is none."""

    include: IdList | None
    exclude: IdList | None


def read_lists(config: SelectConfig) -> Lists:
    """Read them once: what is chosen, and what a run says it was made from, is of the same bytes.

    Raises `DataError` for one that cannot be read.
    """
    include, exclude = [
        None if path is None else read_ids(path) for path in (config.include, config.exclude)
    ]
    return Lists(include, exclude)


def read_wishes(
    config: SelectConfig,
    lists: Lists,
    source: Source,
    ids: Sequence[str],
    rows: Ints,
    result: dict[str, Any],
) -> Wishes:
    """The wishes of a run over its n usable rows; what they came to goes into ``result``.

    An id to exclude may be of another file (a list of test items, say) and then excludes
    nothing here; one to include must be here.

    Raises:
        ConfigError: an id to include is not here, or is to be excluded too. DataError: a quota
            column that is not there.
    """
    place = {name: n for n, name in enumerate(ids)} if config.include or config.exclude else {}
    include, exclude = [
        [] if found is None else found.ids for found in (lists.include, lists.exclude)
    ]
    for name in include:
        if name not in place:
            named = shortened(repr(name))  # a line of what may be another file
            raise ConfigError(f"--include {config.include}: no usable row has the id {named}")
    if both := sorted(set(include) & set(exclude)):
        raise ConfigError(f"{shortened(repr(both[0]))} is in both --include and --exclude")
    known = [name for name in exclude if name in place]
    if lists.include:
        result["include"] = _facts(config.include, lists.include, len(include))
    if lists.exclude:
        unknown = {"unknown": len(exclude) - len(known)}
        result["exclude"] = _facts(config.exclude, lists.exclude, len(known)) | unknown
    group = None
    if config.quota_column is not None:
        group, values = group_by_column(source, config.quota_column, rows)
        counts = np.bincount(group, minlength=len(values)).tolist()
        result["quotas"] = {
            "column": config.quota_column,
            "rows": dict(zip(values, counts, strict=True)),
        }
    return Wishes(
        n=len(ids),
        include=np.sort(np.array([place[name] for name in include], np.int64)),
        exclude=np.sort(np.array([place[name] for name in known], np.int64)),
        group=group,
    )


def _facts(path: str | None, found: IdList, rows: int) -> dict[str, Any]:
    return {"path": path, "sha256": found.sha256, "rows": rows}
