"""The settings of every verb, each declared once: type, default, limits, help text.

`staff.cli.flags` makes the command line from these classes, `staff.runs.config_file`
the YAML. Order of precedence: defaults < preset < YAML < flags.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ValidationError, model_validator

from staff.errors import ConfigError, RunError
from staff.runs import settings as s
from staff.runs.settings import (
    INPUT,
    OUTPUT,
    SCORING,
    SELECTION,
    TUNING,
    Fraction,
    Positive,
    about,
    coreset_name,
    flag,
    listed,
    named,
    number,
)
from staff.runs.shared_settings import (
    SPREADING,
    Allocates,
    Loads,
    Reads,
    Spreads,
    Tunes,
    preset_values,
)

# What a default folder's name leaves out of the data's; the dot of coreset-0.1 stays.
ENDING = re.compile(
    r"(\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|ipc|feather))?(\.(gz|bz2|xz|zst))?$"
)


DRAWN = ("last-value-lora", "adapter")  # phi that draws at random


class SelectConfig(Allocates, Tunes, Spreads, Loads, Reads):
    """`staff select`."""

    command = "select"

    data: s.Data = None
    small: s.Small = None
    target: Annotated[
        s.Location | None,
        about("Model to be fine-tuned on the coreset; scores only verified rows.", INPUT),
    ] = None
    scores: Annotated[
        s.Location | None,
        about(
            "Select again from the stored scores of this run folder; its method, seed, quotas and "
            "other settings of the selection hold unless others are given.",
            INPUT,
        ),
    ] = None
    keep: Annotated[
        tuple[Fraction, ...],
        BeforeValidator(listed),
        about("Fractions of the rows to keep, each in (0, 1]; one coreset for each.",
               SELECTION),
    ] = ()  # fmt: skip
    total: Annotated[
        tuple[Positive, ...],
        BeforeValidator(listed),
        about("Numbers of rows to keep, in addition to or instead of --keep.", SELECTION),
    ] = ()
    tokens: Annotated[
        tuple[Positive, ...],
        BeforeValidator(listed),
        about("Numbers of tokens to keep, counted with the target's tokenizer, in addition to or "
              "instead of --keep.", SELECTION),
    ] = ()  # fmt: skip
    keep_of: Annotated[
        Literal["rows", "tokens"],
        about("Whether --keep is a fraction of rows or tokens.", SELECTION),
    ] = "rows"
    method: Annotated[
        s.Method,
        about("Selection method; random needs no model, only staff needs the target.", SELECTION),
    ] = "staff"
    quota_column: Annotated[
        str | None,
        about(
            "Choose from each value of this column in proportion to its number of rows.", SELECTION
        ),
    ] = None
    include: Annotated[
        s.Location | None,
        about("File of ids to include in every coreset, one per line.", SELECTION),
    ] = None
    exclude: Annotated[
        s.Location | None, about("File of ids to exclude, one per line.", SELECTION)
    ] = None
    nested: Annotated[
        bool, about("Make every coreset a subset of the next larger one.", SELECTION)
    ] = False
    stability: Annotated[
        int | None,
        BeforeValidator(number),
        about(
            "Select with this many seeds and report how well the coresets agree.",
            SELECTION,
            ge=2,
            le=1000,
        ),
    ] = None
    seed: s.RandomSeed = 0
    skip_finetune: s.SkipFinetune = False
    finetune_on: s.FinetuneOn = 1.0
    adapter: Annotated[
        s.Location | None,
        about("Use this LoRA adapter instead of fine-tuning the small model.", TUNING),
    ] = None
    fsdp: s.Fsdp = False
    phi: s.Phi = "last-value"
    features: s.Features = False
    score_on: s.ScoreOn = 1.0
    batch_tokens: s.BatchTokens = 8192
    shard_rows: s.ShardRows = 2048
    executor: s.Executor = "local"
    workers: s.Workers = None
    padding_free: s.PaddingFree = False
    attention: s.Attention = "auto"
    dtype: s.Dtype = "auto"
    quantize: s.Quantize = "none"
    small_quantize: s.SmallQuantize = None
    out: Annotated[
        s.Location | None,
        about("Run folder; default with --scores: a name derived from it.", OUTPUT),
    ] = None
    format: Annotated[
        Literal["jsonl", "json", "csv", "parquet"], about("Format of the coreset files.", OUTPUT)
    ] = "jsonl"
    cache: s.CacheFolder = None
    overwrite: s.Overwrite = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.check_together()
        if not self.scores:
            self.require(out="--out runs/NAME")
        return self

    def check_together(self) -> None:
        """Raise `ConfigError` for settings that do not go together, or lack another, but `out`.

        Of a selection and of its plan: what the one refuses, the other refuses in the same words.
        """
        check_workers(self)
        self.check_spread()
        check_divided(self)
        if not self.scores:
            self.require(data=f"a training file, e.g. staff {self.command} train.jsonl …")
        names = self.coreset_names
        if not names:
            raise ConfigError("nothing to choose: give --keep FRACTION (0.1 is 10 %) or --total N")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ConfigError(f"the coreset {twice} is given twice in --keep or --total")
        if self.scores:
            self._refuse_fixed(k for k in self.model_fields_set - RESELECT if self.differs(k))
            return
        if self.method != "random":
            self.require(small="--small MODEL")
        if self.method == "staff":
            self.require(target="--target MODEL")
            self.check_cap()
        if self.counts_tokens and not self.counting_model:
            raise ConfigError("sizes in tokens need a tokenizer: give --target MODEL")
        self._check_score_on()
        if self.skip_finetune and self.adapter:
            raise ConfigError("--skip-finetune and --adapter cannot be combined: give one")

    def _refuse_fixed(self, names: Iterable[str]) -> None:
        """Raise `ConfigError` for the first of these settings, which stored scores depend on."""
        if fixed := sorted(names):
            raise ConfigError(
                f"{flag(fixed[0])} cannot be used with --scores: the stored scores of "
                f"{self.scores} have a fixed setting"
            )

    def _check_score_on(self) -> None:
        """Raise `ConfigError` if the others need more than a score, which is all that is told."""
        if self.score_on == 1:
            return
        needs = {
            "--method " + self.method: self.method not in ("staff", "grand"),
            "--within spread": self.method == "staff" and self.within == "spread",
            "--features": self.features,
        }
        for wish in (name for name, asked in needs.items() if asked):
            raise ConfigError(
                f"--score-on {self.score_on:g} works only with the methods staff and grand, which "
                f"choose by scores: {wish} needs the small model to process every row"
            )

    @property
    def scores_untuned(self) -> bool:
        """Whether verified rows are scored on the small model before fine-tuning, too."""
        tuned = self.adapter is not None or not self.skip_finetune
        return self.method == "staff" and self.verify_against == "untuned" and tuned

    @property
    def coreset_names(self) -> list[str]:
        """Names of the coresets, as asked for: ``0.1``, ``n400`` (rows), ``t9000`` (tokens)."""
        sizes = [f"n{rows}" for rows in self.total] + [f"t{tokens}" for tokens in self.tokens]
        return [coreset_name(k) for k in self.keep] + sizes

    @property
    def counts_tokens(self) -> bool:
        """Whether a size is in tokens."""
        return bool(self.tokens) or (bool(self.keep) and self.keep_of == "tokens")

    @property
    def scores_hang_on_seed(self) -> bool:
        """Whether scores with another seed differ: fine-tuning draws its order and weights."""
        tunes = self.adapter is None and not self.skip_finetune
        return tunes or self.phi in DRAWN

    @property
    def counting_model(self) -> str | None:
        """Whose tokenizer counts: the target's, which is to be trained on the coreset."""
        return self.target or self.small

    @property
    def folder(self) -> str:
        """Where the run goes: `out`, or with `scores` that folder's name and what differs."""
        if self.out:
            return self.out
        preset = preset_values(self.preset)
        parts = [
            name.replace("_", "-") + _text(getattr(self, name))
            for name in self.ordered()
            if name in self.model_fields_set & (RESELECT - UNNAMED)
            and self.differs(name)
            and preset.get(name) != getattr(self, name)
        ]
        return "-".join([named(str(self.scores)), *parts])

    def inherit(self, earlier: Mapping[str, Any]) -> "SelectConfig":
        """Fill what was not given beside `scores` from that run's settings.

        Sizes (`keep`, `total`, `tokens`) and the folder are this run's own; a preset given now
        replaces the earlier run's allocation, within and cut.

        Raises:
            ConfigError: a setting of the scores was given, and is another one in that run.
                RunError: a value in its manifest is none.
        """
        own = {name: getattr(self, name) for name in self.model_fields_set}
        # One may have been given as it is by default, and that run has another value.
        self._refuse_fixed(k for k in own.keys() - RESELECT if earlier.get(k, own[k]) != own[k])
        left = RESELECT - UNNAMED - {"keep", "total", "tokens"}
        if "preset" in own:
            left -= {"preset", "allocation", "within", "cut"}
        values = {name: earlier[name] for name in sorted(left & earlier.keys())}
        try:
            return SelectConfig(**{**values, **own, "out": self.folder})
        except ValidationError as error:
            name = ".".join(map(str, error.errors()[0]["loc"][:1]))
            raise RunError(
                f"{self.scores} is damaged: {name} in its manifest.json has an unexpected value. "
                "Run staff select again with the same settings."
            ) from None


TECHNICAL = frozenset(
    {
        *("batch_tokens", "device", "checkpoint_seconds", "shard_rows", "cache", "padding_free"),
        *("micro_batch_size", "activation_checkpointing", "fsdp", "executor", "workers"),
        *SPREADING,
    }
)  # change the speed, not the result
RESELECT = TECHNICAL | {
    *("scores", "keep", "total", "tokens", "keep_of", "method", "preset", "allocation", "within"),
    *("clusters", "cut", "regions", "stratify_by", "verify_per_region", "verify_against"),
    *("verify_tolerance", "verify_cap"),
    *("difficulty", "take", "neighbours", "gamma"),
    *("quota_column", "include", "exclude", "nested", "stability", "seed", "out", "format"),
    "overwrite",
}
UNNAMED = TECHNICAL | {"scores", "out", "overwrite"}  # not part of a default folder's name
# May change in a folder that holds results: which rows they are of is in their fingerprints.
FREE = TECHNICAL | {"on_bad_row", "out", "overwrite"}
# What stored scores depend on: a run folder keeps one value of each.
SCORE_KEYS = tuple(
    name for name in SelectConfig.ordered() if name not in (RESELECT | FREE) - {"scores", "seed"}
)


class ScoreConfig(Spreads, Loads, Reads):
    """`staff score`."""

    command = "score"

    data: s.Data = None
    model: s.Model = None
    adapter: s.Adapter = None
    out: s.Out = None
    phi: s.Phi = "last-value"
    features: s.Features = False
    batch_tokens: s.BatchTokens = 8192
    shard_rows: s.ShardRows = 2048
    executor: s.Executor = "local"
    workers: s.Workers = None
    padding_free: s.PaddingFree = False
    attention: s.Attention = "auto"
    dtype: s.Dtype = "auto"
    quantize: s.Quantize = "none"
    seed: s.RandomSeed = 0
    cache: s.CacheFolder = None
    overwrite: s.Overwrite = False

    @property
    def scores_hang_on_seed(self) -> bool:
        """Whether scores with another seed differ."""
        return self.phi in DRAWN

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.check_spread()
        self.require(data="a data file", model="--model MODEL", out="--out FOLDER")
        check_workers(self)
        return self


class FinetuneConfig(Tunes, Loads, Reads):
    """`staff finetune`."""

    command = "finetune"

    data: s.Data = None
    model: s.Model = None
    out: Annotated[
        s.Location | None,
        about("Adapter folder; default: the name of the data plus -tuned.", OUTPUT),
    ] = None
    fsdp: s.Fsdp = False
    rank: s.Rank = 8
    alpha: s.Alpha = 16
    max_steps: Annotated[Positive | None, about("Stop after this many steps.", TUNING)] = None
    attention: s.Attention = "auto"
    dtype: s.Dtype = "auto"
    quantize: s.Quantize = "none"
    seed: s.RandomSeed = 0
    overwrite: s.Overwrite = False

    @model_validator(mode="before")
    @classmethod
    def _name_folder(cls, values: Any) -> Any:
        """`runs/x/coreset-0.1.jsonl` is tuned on into `runs/x/coreset-0.1-tuned`.

        Of a pattern it is named after the folder and lies beside it: rejected rows go there, too,
        and would be among the files that match the next time.
        """
        data = values.get("data")
        if values.get("out") is not None or not isinstance(data, str) or not data:
            return values
        whole = ENDING.sub("", named(data))
        start, *pattern = re.split(r"[*?[]", whole)
        if pattern and not Path(data).exists():
            folder = start.rpartition("/")[0]
            whole = folder.rstrip("/.") or ("data" if folder else named("."))
        return {**values, "out": f"{whole}-tuned"}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        check_divided(self)
        self.require(data="a data file", model="--model MODEL")
        return self


class EvaluateConfig(Spreads, Loads, Reads):
    """`staff evaluate`."""

    command = "evaluate"
    split = "test"

    data: Annotated[
        s.Location | None,
        about("Test data: a file, a folder, a quoted pattern or a Hub id.", INPUT),
    ] = None
    model: s.Model = None
    adapter: s.Adapter = None
    metrics: s.Metrics = ("loss", "rougeL", "bleu", "exact")
    max_new_tokens: s.MaxNewTokens = None
    batch_tokens: s.BatchTokens = 8192
    dtype: s.Dtype = "auto"
    quantize: s.Quantize = "none"
    seed: s.RandomSeed = 0
    out: Annotated[
        s.Location | None, about("Folder for per-item results and generated answers.", OUTPUT)
    ] = None
    overwrite: s.Overwrite = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.check_spread()
        self.require(data="a test file", model="--model MODEL")
        return self


class CheckModelConfig(Loads, Reads):
    """`staff check-model`. The comparison is in float32, whatever a run's --dtype is."""

    command = "check-model"

    model: s.Model = None
    data: Annotated[
        s.Location | None,
        about("Rows to check it on: a file, a folder, a quoted pattern or a Hub id.", INPUT),
    ] = None
    adapter: s.Adapter = None
    rows: Annotated[Positive, about("Rows to check, drawn at random from the data.", SCORING)] = 16
    tolerance: Annotated[
        float,
        BeforeValidator(number),
        about("Largest accepted relative difference between two norms in float32.", SCORING,
              gt=0, allow_inf_nan=False),
    ] = 1e-3  # fmt: skip
    phi: s.Phi = "last-value"
    quantize: Annotated[
        Literal["none", "nf4", "int8"],
        about("Quantise the model to 4 bits (nf4) or 8 and check that; llm-int8 also rounds "
              "activations, so there is no exact gradient to compare with.", SCORING),
    ] = "none"  # fmt: skip
    seed: s.RandomSeed = 0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.require(model="a model folder, e.g. staff check-model MODEL …", data="--data FILE")
        return self


def _text(value: Any) -> str:
    """A value as it follows its name in a folder's; of a path the last part."""
    if value is True:
        return ""
    if isinstance(value, tuple):
        return "".join(_text(item) for item in value)
    return "-" + (coreset_name(value) if isinstance(value, float) else Path(str(value)).name)


def check_divided(config: "SelectConfig | FinetuneConfig") -> None:
    """Raise `ConfigError` if a quantised model is to be divided among processes."""
    if config.fsdp and config.quantized("small") != "none":
        given = config.quantizing_flag("small")
        raise ConfigError(f"--fsdp cannot shard quantised weights: leave out {given} or --fsdp")


def check_workers(config: "SelectConfig | ScoreConfig") -> None:
    """Raise `ConfigError` for a number of workers where there are none."""
    if config.workers is not None and config.executor != "ray":
        raise ConfigError(f"--workers {config.workers} needs --executor ray")
