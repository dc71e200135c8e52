"""What settings are made of: the base class, and the fields several verbs share."""

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from staff.errors import ConfigError


def about(text: str, group: str, **limits: Any) -> FieldInfo:
    """A field's help text, its group in `--help`, and its limits."""
    return Field(description=text, json_schema_extra={"group": group}, **limits)


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
            raise ValueError(f"must be like gpu0=20GiB,cpu=40GiB, and {part!r} is not")
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
SELECTION, FORMAT, OUTPUT = "Selection", "Data format", "Output"

# Settings that several verbs share.
Data = Annotated[Location | None, about("Training data: a file, a folder or a Hub id.", INPUT)]
Small = Annotated[
    Location | None,
    about("Small model of the target's family, scores every row; auto: by staff families.", INPUT),
]
Model = Annotated[Location | None, about("Model folder or Hub id.", INPUT)]
Adapter = Annotated[Location | None, about("LoRA adapter folder to put on the model.", INPUT)]
Out = Annotated[Location | None, about("Folder to write to.", OUTPUT)]
CacheFolder = Annotated[
    Location | None,
    about("Keep scores and adapters here, too, and take from here what is there.", OUTPUT),
]
Overwrite = Annotated[bool, about("Start over in a folder that holds an earlier run.", OUTPUT)]
RandomSeed = Annotated[Seed, about("Seed of every random choice.", "Running")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    about("Precision; auto is bfloat16 where the hardware is fast at it.", SCORING),
]
Device = Annotated[str, about("auto, cpu, cuda, cuda:1, mps.", SCORING)]
Attention = Annotated[
    Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4"],
    about("How models attend, by transformers' names; auto: as the library chooses.", SCORING),
]
PaddingFree = Annotated[
    bool, about("Score a batch as one sequence, without padding; worth it with flash attention.",
                SCORING),
]  # fmt: skip
Quantize = Annotated[
    Literal["none", "nf4", "int8", "llm-int8"],
    about("Weights of linear layers in 4 bits (nf4) or 8; nf4 and llm-int8 need bitsandbytes, "
          "int8 torchao.", SCORING),
]  # fmt: skip
SmallQuantize = Annotated[
    Literal["none", "nf4", "int8", "llm-int8"] | None,
    about("The same for the small model; default: as --quantize.", SCORING),
]
DeviceMap = Annotated[
    Literal["none", "auto"],
    about("auto: spread a model to be scored over all GPUs, then host memory, then disk.", SCORING),
]
MaxMemory = Annotated[
    str | None,
    AfterValidator(room),
    about("With --device-map: most of a model that each may hold, e.g. gpu0=20GiB,cpu=40GiB.",
          SCORING),
]  # fmt: skip
OffloadFolder = Annotated[
    Location | None,
    about("With --device-map: for weights that cannot be read from the model's own files as they "
          "are needed.", SCORING),
]  # fmt: skip
AllowPickle = Annotated[
    bool, about("Take pickled weights where a model or adapter has no safetensors.", INPUT)
]
TrustRemoteCode = Annotated[bool, about("Run the Python code that a model folder brings.", INPUT)]
BatchTokens = Annotated[
    Positive, about("Padded tokens a batch may hold; halved when memory runs out.", SCORING)
]
ShardRows = Annotated[
    Positive, about("Rows scored between two writes: what a killed run can lose.", SCORING)
]
Executor = Annotated[
    Literal["local", "ray"],
    about("Score in this process, or on a Ray cluster: $RAY_ADDRESS, or one on this machine.",
          SCORING),
]  # fmt: skip
Workers = Annotated[
    Positive | None,
    about("With --executor ray: processes that score; default: one a GPU, else one a machine.",
          SCORING),
]  # fmt: skip
MaxLength = Annotated[
    Positive | None,
    about("Cut a sample after this many tokens; default: what both models allow.", FORMAT),
]
InputFormat = Annotated[
    str | None,
    about("prompt-response, alpaca, messages, sharegpt or text; default: detected.", FORMAT),
]
PromptColumn = Annotated[str | None, about("Column of the prompt.", FORMAT)]
ResponseColumn = Annotated[str | None, about("Column of the response.", FORMAT)]
PromptTemplate = Annotated[
    str | None, about('Prompt from several columns, e.g. "{instruction}\\n{input}".', FORMAT)
]
MessagesColumn = Annotated[str | None, about("Column of the chat messages.", FORMAT)]
TextColumn = Annotated[str | None, about("Column of plain text.", FORMAT)]
IdColumn = Annotated[str | None, about("Column of unique ids; default: content hash.", FORMAT)]
SourceColumn = Annotated[str | None, about("Column naming where a row is from.", FORMAT)]
OnBadRow = Annotated[
    Literal["error", "skip"],
    about("A row that cannot be used: stop, or set it aside in rejected.jsonl.", FORMAT),
]
Phi = Annotated[
    Literal["last-value", "last-value-lora", "adapter", "lm-head"],
    about("Whose gradient the effort score is the norm of.", SCORING),
]
Features = Annotated[bool, about("Also store mean hidden states.", SCORING)]
Epochs = Annotated[Positive, about("Passes over the data.", TUNING)]
BatchSize = Annotated[Positive, about("Samples a fine-tuning step.", TUNING)]
MicroBatchSize = Annotated[
    Positive | None,
    about("Samples computed at once in fine-tuning, gradients accumulated; default: all of a step.",
          TUNING),
]  # fmt: skip
ActivationCheckpointing = Annotated[
    bool, about("Fine-tune in less memory, computing activations again for the backward pass.",
                TUNING),
]  # fmt: skip
Fsdp = Annotated[
    bool, about("With torchrun: divide the weights of the model that is tuned among processes.",
                TUNING),
]  # fmt: skip
LearningRate = Annotated[
    float, BeforeValidator(number), about("Peak learning rate.", TUNING, gt=0, allow_inf_nan=False)
]
CheckpointSeconds = Annotated[
    float,
    BeforeValidator(number),
    about("Seconds between checkpoints of a fine-tuning; 0: after every step.", TUNING, ge=0,
          allow_inf_nan=False),
]  # fmt: skip
Metrics = Annotated[
    tuple[Literal["loss", "rougeL", "bleu", "exact"], ...],
    BeforeValidator(listed),
    about("Which of loss, rougeL, bleu, exact.", SCORING, min_length=1),
]
MaxNewTokens = Annotated[
    Positive | None,
    about("Longest answer to generate; default: half as long again as the longest reference.",
          SCORING),
]  # fmt: skip
Rank = Annotated[Positive, about("Rank of the LoRA adapter.", TUNING, le=4096)]
Alpha = Annotated[Positive, about("Scale of the LoRA adapter.", TUNING)]
FinetuneOn = Annotated[
    Fraction, about("Fraction of the rows, drawn at random, to fine-tune the small model on.",
                    TUNING),
]  # fmt: skip
ScoreOn = Annotated[
    Fraction, about("Fraction of the rows, drawn at random, to score; the others' scores are told "
                    "from their tokens.", SCORING),
]  # fmt: skip
SkipFinetune = Annotated[bool, about("Score with the small model as it is.", TUNING)]
Preset = Annotated[
    Literal["released", "paper"],
    about("Allocation, within and cut as in the released code or the paper.", SELECTION),
]
Allocation = Annotated[
    Literal["shares", "paper", "shrunk"],
    about("How budgets follow the ratios; shrunk: shares of ratios drawn together by their error.",
          SELECTION),
]  # fmt: skip
Within = Annotated[
    Literal["hardest", "random", "spread"],
    about("Which rows of a region are drawn; spread: over clusters of mean hidden states.",
          SELECTION),
]  # fmt: skip
Clusters = Annotated[Positive, about("Clusters that --within spread goes over.", SELECTION)]
Cut = Annotated[
    float,
    BeforeValidator(number),
    about("Fraction with the highest scores to set aside as noise (staff, ccs, d2).", SELECTION,
          ge=0, lt=1),
]  # fmt: skip
Regions = Annotated[Positive, about("Score regions, K (staff, ccs).", SELECTION, le=1_000_000)]
StratifyBy = Annotated[
    Literal["width", "count"],
    about("Regions of equal width in score (the paper), or of equally many rows (staff).",
          SELECTION),
]  # fmt: skip
VerifyPerRegion = Annotated[
    Positive | Literal["auto"],
    about("Rows a region scored on the target, b_v; auto: as many as stable budgets take.",
          SELECTION),
]  # fmt: skip
VerifyTolerance = Annotated[
    float,
    BeforeValidator(number),
    about("With auto: fraction of the budget that may lie in other regions than if every row were "
          "verified.", SELECTION, gt=0, lt=1),
]  # fmt: skip
VerifyCap = Annotated[
    Positive, about("With auto: most rows in all to be scored on the target.", SELECTION)
]
VerifyAgainst = Annotated[
    Literal["tuned", "untuned"],
    about("Divide the target's scores by the small model's after fine-tuning, or before it.",
          SELECTION),
]  # fmt: skip
Difficulty = Annotated[
    Literal["effort", "loss", "entropy", "el2n"],
    about("Score that ccs and d2 take for difficulty.", SELECTION),
]
Take = Annotated[
    Literal["highest", "middle", "lowest"],
    about("Which ranks grand, el2n, loss, perplexity, entropy and length take.", SELECTION),
]
Neighbours = Annotated[Positive, about("Neighbours a row in d2's graph.", SELECTION)]
Gamma = Annotated[
    float,
    BeforeValidator(number),
    about("How fast d2's reverse messages decay with distance.", SELECTION, ge=0,
          allow_inf_nan=False),
]  # fmt: skip


# Settings that say how a record is read: a coreset is read like its data.
READING = (
    *("input_format", "prompt_column", "response_column", "prompt_template"),
    *("messages_column", "text_column", "id_column", "source_column"),
)


# Settings that say what a model may do beyond being read.
TRUST = ("allow_pickle", "trust_remote_code")


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


def check_spread(config: Any) -> None:
    """Raise `ConfigError` for settings of a spread model that go with no such model."""
    for name in ("max_memory", "offload_folder"):
        if getattr(config, name) is not None and config.device_map == "none":
            raise ConfigError(f"{flag(name)} goes with --device-map auto: give both")
    if config.device_map != "none" and getattr(config, "phi", None) == "adapter":
        raise ConfigError(
            "--phi adapter goes backward through the whole model, which --device-map does not "
            "hold: give another phi"
        )


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
