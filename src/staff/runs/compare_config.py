"""The settings of `staff compare`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from staff.errors import ConfigError
from staff.runs import settings as s
from staff.runs.config import FREE, check_cap, preset_values
from staff.runs.settings import (
    INPUT,
    SELECTION,
    TUNING,
    Fraction,
    Positive,
    Settings,
    about,
    check_spread,
    coreset_name,
    given,
    listed,
)


class CompareConfig(Settings):
    """`staff compare`. Settings of tuning are the target's unless they begin with `small`."""

    command = "compare"

    data: s.Data = None
    test: Annotated[
        s.Location | None, about("Test data, read like the training data; chooses nothing.", INPUT)
    ] = None
    small: s.Small = None
    target: Annotated[
        s.Location | None, about("Model that is fine-tuned on every coreset.", INPUT)
    ] = None
    methods: Annotated[
        tuple[s.Method, ...],
        BeforeValidator(listed),
        about("Methods to hold against each other.", SELECTION, min_length=1),
    ] = ("staff", "random")
    keep: Annotated[
        tuple[Fraction, ...],
        BeforeValidator(listed),
        about("Fractions of the rows to keep, each in (0, 1].", SELECTION),
    ] = ()
    seeds: Annotated[
        Positive,
        about("How often everything is done, selection and tuning, with seeds 0, 1, …",
              "Running", le=1000),
    ] = 3  # fmt: skip
    full: Annotated[
        bool, about("Also tune on all rows; the selection-to-tuning ratio needs it.", TUNING)
    ] = True
    same: Annotated[
        Literal["epochs", "steps"],
        about("What tunings have in common: passes over their rows, or the number of steps that "
              "--epochs over all rows takes.", TUNING),
    ] = "epochs"  # fmt: skip
    epochs: s.Epochs = 3
    learning_rate: s.LearningRate = 1e-4
    batch_size: s.BatchSize = 8
    micro_batch_size: s.MicroBatchSize = None
    activation_checkpointing: s.ActivationCheckpointing = False
    rank: s.Rank = 8
    alpha: s.Alpha = 16
    small_epochs: Annotated[
        Positive | None, about("Passes of the small model; default: as the target.", TUNING)
    ] = None
    small_learning_rate: Annotated[
        s.LearningRate | None, about("Of the small model; default: as the target.", TUNING)
    ] = None
    skip_finetune: s.SkipFinetune = False
    finetune_on: s.FinetuneOn = 1.0
    preset: s.Preset = "released"
    allocation: s.Allocation = "shares"
    within: s.Within = "hardest"
    clusters: s.Clusters = 50
    cut: s.Cut = 0.1
    regions: s.Regions = 50
    stratify_by: s.StratifyBy = "width"
    verify_per_region: s.VerifyPerRegion = 10
    verify_tolerance: s.VerifyTolerance = 0.05
    verify_cap: s.VerifyCap = 2000
    verify_against: s.VerifyAgainst = "tuned"
    difficulty: s.Difficulty = "effort"
    take: s.Take = "highest"
    neighbours: s.Neighbours = 10
    gamma: s.Gamma = 1.0
    checkpoint_seconds: s.CheckpointSeconds = 60.0
    phi: s.Phi = "last-value"
    metrics: s.Metrics = ("loss", "rougeL", "bleu", "exact")
    max_new_tokens: s.MaxNewTokens = None
    batch_tokens: s.BatchTokens = 8192
    shard_rows: s.ShardRows = 2048
    attention: s.Attention = "auto"
    dtype: s.Dtype = "auto"
    device: s.Device = "auto"
    quantize: s.Quantize = "none"
    small_quantize: s.SmallQuantize = None
    device_map: s.DeviceMap = "none"
    max_memory: s.MaxMemory = None
    offload_folder: s.OffloadFolder = None
    allow_pickle: s.AllowPickle = False
    trust_remote_code: s.TrustRemoteCode = False
    max_length: s.MaxLength = None
    input_format: s.InputFormat = None
    prompt_column: s.PromptColumn = None
    response_column: s.ResponseColumn = None
    prompt_template: s.PromptTemplate = None
    messages_column: s.MessagesColumn = None
    text_column: s.TextColumn = None
    id_column: s.IdColumn = None
    source_column: s.SourceColumn = None
    on_bad_row: s.OnBadRow = "error"
    out: s.Out = None
    cache: s.CacheFolder = None
    overwrite: s.Overwrite = False

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        """Fill allocation, within and cut from the preset unless they were given."""
        explicit = given(values)
        return {**preset_values(str(explicit.get("preset", "released"))), **explicit}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        check_spread(self)
        self.require(
            data="a training file, e.g. staff compare train.jsonl …",
            test="--test FILE",
            target="--target MODEL",
            out="--out FOLDER",
        )
        if not self.keep:
            raise ConfigError("nothing to choose: give --keep FRACTION (0.1 is 10 %)")
        for name, values in (("keep", self.keep_names), ("methods", self.methods)):
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ConfigError(f"{twice} is asked for twice in --{name}")
        if set(self.methods) != {"random"}:
            self.require(small="--small MODEL")
        if "staff" in self.methods:
            check_cap(self.verify_per_region, self.verify_cap, self.regions)
        return self

    def quantized(self, role: str) -> str:
        """How the weights of ``small`` or ``target`` are kept."""
        return (self.small_quantize or self.quantize) if role == "small" else self.quantize

    @property
    def keep_names(self) -> tuple[str, ...]:
        """The fractions as they are written in file names."""
        return tuple(coreset_name(keep) for keep in self.keep)


# May change in a folder that holds results: they say which cells there are, not what is in them.
FREE_HERE = FREE | {"methods", "keep", "seeds", "full", "metrics"}
