"""The base class of settings, and the fields that several verbs share."""

import os
import re
import reprlib
from collections.abc import Mapping
from decimal import Decimal
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from staff.errors import ConfigError


def about(text: str, group: str, **limits: Any) -> FieldInfo:
    """A field's help text, its group in `--help`, and its limits."""
    return Field(description=text, json_schema_extra={"group": group}, **limits)


def panel_of(field: FieldInfo) -> str:
    """The panel of `--help` that a setting stands in."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return str(extra["group"])


def listed(value: Any) -> Any:
    """Let one value stand for a list of one, and a NumPy array for a list."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if isinstance(value, list | tuple) else [value]


def number(value: Any) -> Any:
    """Refuse true and false where a number is wanted (YAML's `yes` is not 1)."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def place(value: Any) -> Any:
    """Text of a path; a leading ~, which no shell sees in a YAML file or in quotes, is written out.

    Raises ValueError for an empty text: a shell variable without a value, as in `--out "$RUN"`.
    """
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str) and not value.strip():
        raise ValueError("must not be empty")
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111 - text


def named(folder: str) -> str:
    """A folder's path ending in its name, for what is called after it: `.` and `..` are none.

    >>> named("runs/x/."), named("/runs/x/..")
    ('runs/x', '/runs')
    """
    path = Path(folder)
    return str(path.resolve() if path.name in ("", "..") else path)


def pairs(value: Any) -> Any:
    """NAME=FILE texts, as flags are, as a mapping, which in a YAML file is one already.

    >>> pairs(["mine=a.jsonl", "dedup=b=c.jsonl"])
    {'mine': 'a.jsonl', 'dedup': 'b=c.jsonl'}

    Raises ValueError for another text, or a name that is given twice.
    """
    if isinstance(value, Mapping):
        return value
    found: dict[str, str] = {}
    for text in listed(value):
        name, equals, file = text.partition("=") if isinstance(text, str) else ("", "", "")
        if not (name and equals):
            raise ValueError(f"must look like NAME=FILE, and {reprlib.repr(text)} does not")
        if name in found:
            raise ValueError(f"gives {name} twice")
        found[name] = file
    return found


ROOM = re.compile(r"(cpu|gpu\d+)=(\d+(?:\.\d+)?)([KMGT]i?B)?")
UNITS = {
    f"{prefix}{end}": (1024 if end == "iB" else 1000) ** power
    for power, prefix in enumerate("KMGT", start=1)
    for end in ("B", "iB")
}


def parse_room(text: str) -> dict[int | str, int]:
    """Bytes by ``cpu`` or a GPU's number, of a text like gpu0=20GiB,cpu=40GiB.

    >>> parse_room("gpu0=20GiB, cpu=1.5GB")
    {0: 21474836480, 'cpu': 1500000000}

    Raises ValueError for another text, or a device that is named twice.
    """
    room: dict[int | str, int] = {}
    for part in text.replace(" ", "").split(","):
        found = ROOM.fullmatch(part)
        if not found:
            raise ValueError(f"must look like gpu0=20GiB,cpu=40GiB, and {part!r} does not")
        device, number, unit = found.groups()
        name = device if device == "cpu" else int(device.removeprefix("gpu"))
        if name in room:
            raise ValueError(f"names {device} twice")
        room[name] = int(Decimal(number) * UNITS.get(unit, 1))
    return room


def room(value: str | None) -> str | None:
    """Refuse a text that `parse_room` cannot read."""
    if value is not None:
        parse_room(value)
    return value


Location = Annotated[str, BeforeValidator(place)]  # a path, or where one may stand
# The selectors (staff.selectors.SELECTORS; a test holds the two together): --help needs no NumPy.
Method = Literal[
    "staff", "random", "ccs", "d2", "el2n", "entropy", "grand", "ifd", "k-centre", "length",
    "loss", "moderate", "perplexity",
]  # fmt: skip
Fraction = Annotated[float, BeforeValidator(number), Field(gt=0, le=1)]
# Above their upper limits numbers are mistakes, and some would fill the memory or overflow.
Positive = Annotated[int, BeforeValidator(number), Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, BeforeValidator(number), Field(ge=-(2**63), le=2**63 - 1)]

INPUT, TUNING, SCORING = "Input and models", "Fine-tuning", "Scoring"
SELECTION, FORMAT, OUTPUT, RUNNING = "Selection", "Data format", "Output", "Running"
PANELS = (INPUT, SELECTION, TUNING, SCORING, FORMAT, OUTPUT, RUNNING)  # of --help, in their order

# Settings that several verbs share.
Data = Annotated[
    Location | None, about("Training data: a file, a folder, a quoted pattern or a Hub id.", INPUT)
]
Small = Annotated[
    Location | None,
    about(
        "Small model that scores every row, of the target's family; auto: see staff families.",
        INPUT,
    ),
]
Model = Annotated[Location | None, about("Model folder or Hub id.", INPUT)]
Adapter = Annotated[
    Location | None, about("Folder of a LoRA adapter to apply to the model.", INPUT)
]
Out = Annotated[Location | None, about("Folder to write to.", OUTPUT)]
CacheFolder = Annotated[
    Location | None,
    about("Folder in which to keep scores and adapters for reuse by other runs.", OUTPUT),
]
Overwrite = Annotated[bool, about("Replace an earlier run in the folder and start over.", OUTPUT)]
RandomSeed = Annotated[Seed, about("Random seed.", RUNNING)]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    about("Precision; auto: bfloat16 if the hardware is fast at it.", SCORING),
]
Attention = Annotated[
    Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4"],
    about("Attention kernel, by transformers' names; auto: transformers' choice.", SCORING),
]
PaddingFree = Annotated[
    bool, about("Score a batch as one packed sequence, without padding; use with flash attention.",
                SCORING),
]  # fmt: skip
Quantize = Annotated[
    Literal["none", "nf4", "int8", "llm-int8"],
    about("Quantise linear layers to 4 bits (nf4) or 8; nf4 and llm-int8 need bitsandbytes, int8 "
          "torchao.", SCORING),
]  # fmt: skip
SmallQuantize = Annotated[
    Literal["none", "nf4", "int8", "llm-int8"] | None,
    about("--quantize for the small model; default: same as --quantize.", SCORING),
]
BatchTokens = Annotated[
    Positive, about("Padded tokens per batch, at most; halved if memory runs out.", SCORING)
]
ShardRows = Annotated[
    Positive, about("Rows per shard of scores: what a killed run can lose.", SCORING)
]
Executor = Annotated[
    Literal["local", "ray"],
    about("Score in this process, or on a Ray cluster ($RAY_ADDRESS, else a local one).",
          SCORING),
]  # fmt: skip
Workers = Annotated[
    Positive | None,
    about("With --executor ray: scoring processes; default: one per GPU, else one per machine.",
          SCORING),
]  # fmt: skip
Phi = Annotated[
    Literal["last-value", "last-value-lora", "adapter", "lm-head"],
    about("Weights whose gradient norm is the effort score.", SCORING),
]
Features = Annotated[
    bool, about("Also store mean hidden states, used by d2, moderate and k-centre.", SCORING)
]
Fsdp = Annotated[
    bool, about("With torchrun: shard the weights of the model to be fine-tuned (FSDP2).",
                TUNING),
]  # fmt: skip
LearningRate = Annotated[
    float, BeforeValidator(number), about("Peak learning rate.", TUNING, gt=0, allow_inf_nan=False)
]
Metrics = Annotated[
    tuple[Literal["loss", "rougeL", "bleu", "exact"], ...],
    BeforeValidator(listed),
    about("Metrics to compute.", SCORING, min_length=1),
]
MaxNewTokens = Annotated[
    Positive | None,
    about("Longest answer to generate, in tokens; default: 1.5 times the longest reference plus "
          "8, at most 512.", SCORING),
]  # fmt: skip
Rank = Annotated[Positive, about("LoRA rank.", TUNING, le=4096)]
Alpha = Annotated[Positive, about("LoRA alpha (scaling).", TUNING)]
FinetuneOn = Annotated[
    Fraction, about("Fraction of the rows, drawn at random, to fine-tune the small model on.",
                    TUNING),
]  # fmt: skip
ScoreOn = Annotated[
    Fraction, about("Fraction of the rows, drawn at random, to score; the other scores are "
                    "predicted from the rows' tokens.", SCORING),
]  # fmt: skip
SkipFinetune = Annotated[
    bool, about("Score with the small model as it is, without fine-tuning it.", TUNING)
]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are None, which means: not given."""
    return {name: value for name, value in values.items() if value is not None}


class Settings(BaseModel):
    """Validated settings of one verb, `command`. A value of None means: not given."""

    command: ClassVar[str]
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_missing(cls, values: Any) -> Any:
        return given(values)

    @classmethod
    def ordered(cls) -> list[str]:
        """Names of the settings, panel by panel as in ``--help``; its own before shared ones."""
        named = (name for kind in cls.__mro__ for name in get_annotations(kind))
        names = [name for name in dict.fromkeys(named) if name in cls.model_fields]
        return sorted(names, key=lambda name: PANELS.index(panel_of(cls.model_fields[name])))

    def quantized(self, role: str) -> str:
        """How the weights of a model are kept; role: ``small`` or any other."""
        small = getattr(self, "small_quantize", None) if role == "small" else None
        return str(small or getattr(self, "quantize", "none"))

    def quantizing_flag(self, role: str) -> str:
        """The flag that says how the weights of that model are kept."""
        small = role == "small" and getattr(self, "small_quantize", None)
        return "--small-quantize" if small else "--quantize"

    def differs(self, name: str) -> bool:
        """Whether a setting that these have is not as it is by default."""
        field = type(self).model_fields.get(name)
        return field is not None and bool(getattr(self, name) != field.default)

    @property
    def scores_hang_on_seed(self) -> bool:
        """Whether what is computed with another seed differs."""
        return True

    def require(self, **flags: str) -> None:
        """Raise `ConfigError` for the first of these settings that is missing.

        Values are how to give it, e.g. ``small="--small MODEL"``.
        """
        for name, how in flags.items():
            if getattr(self, name) is None:
                raise ConfigError(f"{name} is missing: give {how}")


def flag(name: str) -> str:
    """The command-line spelling of a setting.

    >>> flag("max_length")
    '--max-length'
    """
    return "--" + name.replace("_", "-")


def coreset_name(keep: float) -> str:
    """How a fraction is written in file and column names.

    >>> coreset_name(0.1), coreset_name(1.0), coreset_name(1e-5)
    ('0.1', '1', '0.00001')
    """
    return format(Decimal(repr(float(keep))).normalize(), "f")
