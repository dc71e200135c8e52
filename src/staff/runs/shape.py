"""What a manifest must contain, and of which type, before it is used.

Edited or damaged manifests are detected here and nowhere else. Keys that are not named are not
checked; docs/formats.md describes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from staff.errors import RunError

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Stage(_Shape):
    name: str
    seconds: Annotated[float, Field(ge=0, le=1e12)]
    rows: Count
    tokens: Count
    reused: bool


class _Region(_Shape):
    lower: float
    upper: float
    size: Count
    verified: Count
    ratio: float | None
    interval: Annotated[list[float | None], Field(min_length=2, max_length=2)] | None
    flagged: bool
    budgets: dict[str, Count]


class _Trend(_Shape):
    rank: float
    slope: float


class _Told(_Shape):
    regions: Count
    of: Count


class _Proxy(_Shape):
    verdict: Literal["good", "weak", "do not trust"]
    because: str
    advice: str
    rows: Count
    compared: Literal["tuned", "untuned"]
    spearman: float | None
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    spearman_of_sample: float | None
    ratio_trend: _Trend | None
    ratios_told_apart: _Told
    budget_error: float
    budget_moved: dict[str, float | None]


class _Round(_Shape):
    rows: Count
    error: float


class _Verification(_Shape):
    stable: bool
    tolerance: float
    cap: Count
    rounds: Annotated[list[_Round], Field(min_length=1)]


class _Coreset(_Shape):
    name: str
    total: Count
    path: Text
    tokens: Count | None = None
    top_up: Count
    from_cut: Count = 0
    included: Count = 0


class _Cut(_Shape):
    rows: Count
    threshold: float


class _Spread(_Shape):
    lowest: float
    median: float
    highest: float


class _Score(_Shape):
    column: str
    all: _Spread
    chosen: dict[str, _Spread | None]


class _Listed(_Shape):
    path: str
    rows: Count


class _Quotas(_Shape):
    column: str
    rows: dict[str, Count]
    chosen: dict[str, dict[str, Count]] = {}


class _Stable(_Shape):
    seeds: Count
    jaccard: float
    chance: float


class _Named(_Shape):
    row: Count
    id: str


class _NotFinite(_Shape):
    rows: Count
    first: list[_Named]


class _Model(_Shape):
    path: str
    hash: str | None = None
    parameters: Count | None = None
    quantize: Literal["nf4", "int8", "llm-int8"] | None = None


class _Device(_Shape):
    name: str
    threads: Count
    dtype: str
    untested: list[str] = []


class _Reading(_Shape):
    """The fields of `data.records.RecordOptions`, which is made of it again, and no others."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["prompt-response", "alpaca", "messages", "sharegpt", "messages-pair", "text"]
    prompt_column: str | None = None
    response_column: str | None = None
    prompt_template: str | None = None
    id_column: str | None = None
    source_column: str | None = None
    messages_column: str | None = None
    text_column: str | None = None


class _Data(_Shape):
    path: Text
    format: str
    rows_read: Count
    rows_usable: Count
    sha256: str
    files: Count = 1
    rejected: Count = 0
    truncated: Count = 0
    duplicates: Count = 0
    reading: _Reading | None = None


class _Settings(_Shape):
    """Those that reports, `staff why` and `staff export` ask for."""

    method: str | None = None
    difficulty: Literal["effort", "loss", "entropy", "el2n"] | None = None
    regions: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] | None = None
    within: str | None = None
    allocation: str | None = None
    stratify_by: str | None = None
    verify_against: str | None = None
    verify_per_region: Count | Literal["auto"] | None = None
    quantize: Literal["none", "nf4", "int8", "llm-int8"] | None = None
    batch_size: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    micro_batch_size: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    scores: Text | None = None


class _Scored(_Shape):
    """Of `staff score`, and what a selection has as well."""

    staff_version: str
    created: str
    config: _Settings
    seed: int | None = None
    data: _Data | None = None
    stages: list[_Stage] = []
    models: dict[str, _Model | None] = {}
    device: _Device | None = None
    versions: dict[str, str] = {}
    files: dict[str, str] = {}
    target_rows_scored: Count | None = None
    not_finite: dict[str, _NotFinite] = {}


class _Interpolation(_Shape):
    rows_scored: Count
    spearman: float | None
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None


class _Selected(_Scored):
    """Of `staff select`."""

    seed: int
    data: _Data
    coresets: list[_Coreset]
    regions: list[_Region] | None = None
    score: _Score | None = None
    cut: _Cut | None = None
    proxy: _Proxy | None = None
    verification: _Verification | None = None
    interpolation: _Interpolation | None = None
    include: _Listed | None = None
    exclude: _Listed | None = None
    quotas: _Quotas | None = None
    stability: dict[str, _Stable] = {}


class _Row(_Shape):
    metric: Literal["loss", "rougeL", "bleu", "exact"]
    method: str
    keep: Annotated[float, Field(gt=0, le=1)] | None
    rows: Count
    seeds: Count
    items: Count
    value: float
    low: float
    high: float
    random_difference: float | None
    random_low: float | None
    random_high: float | None
    random_verdict: Literal["win", "loss", "tie"] | None
    best: str | None
    best_difference: float | None
    best_low: float | None
    best_high: float | None
    best_verdict: Literal["win", "loss", "tie"] | None
    selection_seconds: float | None
    tuning_seconds: float | None
    selection_to_tuning: float | None


class _Place(_Shape):
    path: str
    sha256: str | None = None


class _Tested(_Shape):
    rejected: Count = 0
    truncated: Count = 0


class _Cell(_Shape):
    test: _Tested


class _Leaks(_Shape):
    rows: Count
    of: Count


class _ComparedSettings(_Shape):
    seeds: Annotated[int, Field(ge=1)]
    full: bool
    own: dict[str, str] = {}


class _Trained(_Place):
    rejected: Count = 0
    truncated: Count = 0
    duplicates: Count = 0


class _Compared(_Shape):
    """Of `staff compare`."""

    staff_version: str
    created: str
    config: _ComparedSettings
    results: Annotated[list[_Row], Field(min_length=1)]
    data: _Trained
    test: _Place | None = None
    own: dict[str, list[_Place]] = {}
    leaks: _Leaks | None = None
    cells: list[_Cell] = []
    models: dict[str, _Model] = {}
    device: _Device | None = None
    versions: dict[str, str] = {}
    files: dict[str, str] = {}


SHAPES: dict[str, type[_Shape]] = {"select": _Selected, "score": _Scored, "compare": _Compared}


def check_shape(manifest: Mapping[str, Any], path: Path) -> None:
    """Raise `RunError` naming the first key that is missing or holds something else."""
    shape = SHAPES.get(str(manifest.get("command")))
    try:
        if shape is None:
            raise RunError(f"{path} is not a manifest of a command of this version")
        found = shape.model_validate(manifest)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        place = list(_place(manifest, mistake["loc"]))
        what = "has an unexpected value"
        if mistake["type"] == "missing":
            place, what = [*place, str(mistake["loc"][-1])], "is missing"
        raise _damaged(path, f"{'.'.join(place)} {what}") from None
    if isinstance(found, _Selected) and found.regions:
        for where, value in (("cut", found.cut), ("config.regions", found.config.regions)):
            if value is None:
                raise _damaged(path, f"{where} is missing")


def _place(manifest: Any, names: Sequence[int | str]) -> Iterator[str]:
    """The keys there are to a mistake; pydantic's names may end with one of several types."""
    value = manifest
    for name in names:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            return
        yield str(name)


def _damaged(path: Path, what: str) -> RunError:
    return RunError(f"{path} is damaged: {what}. Run the command that made it again.")
