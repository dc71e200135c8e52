"""The settings of `staff compare`."""

import re
import reprlib
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, model_validator

from staff.errors import ConfigError
from staff.runs import settings as s
from staff.runs.config import FREE
from staff.runs.settings import (
    FORMAT,
    INPUT,
    RUNNING,
    SELECTION,
    TUNING,
    Fraction,
    Positive,
    about,
    coreset_name,
    listed,
    pairs,
)
from staff.runs.shared_settings import Allocates, Loads, Reads, Spreads, Tunes

# Names a cell's folder, and stands in charts, which have so much room.
OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,19}")
TAKEN = {*get_args(s.Method), "full", "untuned"}  # names of other cells


class CompareConfig(Allocates, Tunes, Spreads, Loads, Reads):
    """`staff compare`. Settings of tuning are the target's unless they begin with `small`."""

    command = "compare"
    inputs: ClassVar = {"data": "train", "test": "test"}  # and their splits, of places with several

    data: s.Data = None
    test: Annotated[
        s.Location | None,
        about("Test data, in the format of the training data; not used to select.", INPUT),
    ] = None
    small: s.Small = None
    target: Annotated[
        s.Location | None, about("Model that is fine-tuned on every coreset.", INPUT)
    ] = None
    methods: Annotated[
        tuple[s.Method, ...],
        BeforeValidator(listed),
        about("Methods to compare.", SELECTION, min_length=1),
    ] = ("staff", "random")
    own: Annotated[
        dict[str, s.Location],
        BeforeValidator(pairs),
        about(
            "Coresets of your own, compared like a method: training files under a name each; "
            "{keep} and {seed} in a file's name stand for the size (0.1) and the seed (0, 1, …).",
            SELECTION,
        ),
    ] = {}  # noqa: RUF012 - pydantic copies it
    on_duplicate: Annotated[
        Literal["keep", "skip"],
        about("If a row of the training data has the contents of an earlier one: keep it, or skip "
              "it; test data and coresets of your own keep every row.", FORMAT),
    ] = "keep"  # fmt: skip
    keep: Annotated[
        tuple[Fraction, ...],
        BeforeValidator(listed),
        about("Fractions of the rows to keep, each in (0, 1].", SELECTION),
    ] = ()
    seeds: Annotated[
        Positive,
        about("Number of repetitions of selection and fine-tuning, with seeds 0, 1, …",
              RUNNING, le=1000),
    ] = 3  # fmt: skip
    full: Annotated[
        bool, about("Also fine-tune on all rows; needed for the cost ratio of selection.", TUNING)
    ] = True
    same: Annotated[
        Literal["epochs", "steps"],
        about("Fine-tune every coreset for the same number of epochs, or for as many steps as "
              "--epochs over all rows takes.", TUNING),
    ] = "epochs"  # fmt: skip
    rank: s.Rank = 8
    alpha: s.Alpha = 16
    small_epochs: Annotated[
        Positive | None, about("Epochs of the small model; default: same as the target.", TUNING)
    ] = None
    small_learning_rate: Annotated[
        s.LearningRate | None,
        about("Peak rate of the small model; default: same as the target.", TUNING),
    ] = None
    skip_finetune: s.SkipFinetune = False
    finetune_on: s.FinetuneOn = 1.0
    phi: s.Phi = "last-value"
    metrics: s.Metrics = ("loss", "rougeL", "bleu", "exact")
    max_new_tokens: s.MaxNewTokens = None
    batch_tokens: s.BatchTokens = 8192
    shard_rows: s.ShardRows = 2048
    attention: s.Attention = "auto"
    dtype: s.Dtype = "auto"
    quantize: s.Quantize = "none"
    small_quantize: s.SmallQuantize = None
    out: s.Out = None
    cache: s.CacheFolder = None
    overwrite: s.Overwrite = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.check_spread()
        self.require(
            data="a training file, e.g. staff compare train.jsonl …",
            test="--test FILE",
            target="--target MODEL",
            out="--out FOLDER",
        )
        if not self.keep:
            raise ConfigError("nothing to choose: give --keep FRACTION (0.1 is 10 %)")
        lists = {"keep": self.keep_names, "methods": self.methods, "metrics": self.metrics}
        for name, values in lists.items():
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ConfigError(f"{twice} is given twice in --{name}")
        self._check_own()
        if set(self.methods) != {"random"}:
            self.require(small="--small MODEL")
        if "staff" in self.methods:
            self.check_cap()
        return self

    def _check_own(self) -> None:
        taken = set(TAKEN)
        for name, file in self.own.items():
            if not OWN_NAME.fullmatch(name):
                raise ConfigError(
                    f"--own {reprlib.repr(name)}: a name is at most 20 letters, digits, -, _ "
                    "and ., and begins with a letter or digit"
                )
            if name.lower() in taken:  # not every file system tells a and A apart
                raise ConfigError(f"--own {name}: the name is taken, give another one")
            taken.add(name.lower())
            if len(self.keep) > 1 and "{keep}" not in file:
                raise ConfigError(
                    f"--own {name}={file} is one file for {len(self.keep)} sizes: give one --keep, "
                    "or one file per size, with {keep} in its name"
                )

    @property
    def folder(self) -> str:
        """Where the comparison goes."""
        return str(self.out)

    @property
    def entrants(self) -> tuple[str, ...]:
        """All that is compared at each size: methods, then coresets of the user's own."""
        return (*self.methods, *self.own)

    def own_files(self) -> dict[tuple[str, str, int], str]:
        """The files of `own`, by name, size (as in `keep_names`) and seed."""
        return {
            (name, keep, seed): file.replace("{keep}", keep).replace("{seed}", str(seed))
            for name, file in self.own.items()
            for keep in self.keep_names
            for seed in range(self.seeds)
        }

    def without_source(self) -> Self:
        """The settings to read test data and coresets with: every row, and no column of sources."""
        return self.model_copy(update={"source_column": None, "on_duplicate": "keep"})

    @property
    def keep_names(self) -> tuple[str, ...]:
        """The fractions as they are written in file names."""
        return tuple(coreset_name(keep) for keep in self.keep)


OF_SMALL = {  # settings that say nothing without a small model
    *("small", "small_epochs", "small_learning_rate", "small_quantize"),
    *("skip_finetune", "finetune_on", "phi"),
}
# May change in a folder that holds results: they say which cells there are, not what is in them.
FREE_HERE = FREE | {"methods", "own", "keep", "seeds", "full", "metrics"}
