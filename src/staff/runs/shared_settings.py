"""Settings that several verbs share: one class per topic."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from staff.errors import ConfigError
from staff.runs.settings import (
    FORMAT,
    INPUT,
    SCORING,
    SELECTION,
    TUNING,
    LearningRate,
    Location,
    Positive,
    Settings,
    about,
    flag,
    given,
    number,
    room,
)


class Reads(Settings):
    """How a record of the data is read, and of which split where a folder or Hub id has several."""

    split: ClassVar[str] = "train"

    max_length: Annotated[
        Positive | None,
        about("Truncate rows after this many tokens; default: what the models allow.", FORMAT),
    ] = None
    input_format: Annotated[
        str | None,
        about(
            "prompt-response, alpaca, messages, sharegpt, messages-pair or text; default: "
            "detected.",
            FORMAT,
        ),
    ] = None
    prompt_column: Annotated[str | None, about("Column of the prompt.", FORMAT)] = None
    response_column: Annotated[str | None, about("Column of the response.", FORMAT)] = None
    prompt_template: Annotated[
        str | None, about('Build the prompt from columns, e.g. "{instruction}\\n{input}".', FORMAT)
    ] = None
    messages_column: Annotated[str | None, about("Column of the chat messages.", FORMAT)] = None
    text_column: Annotated[str | None, about("Column of plain text.", FORMAT)] = None
    id_column: Annotated[
        str | None, about("Column of unique ids; default: a content hash.", FORMAT)
    ] = None
    source_column: Annotated[
        str | None, about("Column that names the source of a row.", FORMAT)
    ] = None
    on_bad_row: Annotated[
        Literal["error", "skip"],
        about("If a row cannot be used: stop, or skip it (to rejected.jsonl).", FORMAT),
    ] = "error"
    on_duplicate: Annotated[
        Literal["keep", "skip"],
        about("If a row has the contents of an earlier one: keep it, or skip it (to "
              "rejected.jsonl).", FORMAT),
    ] = "keep"  # fmt: skip


class Loads(Settings):
    """Where a model is loaded, and what it may do beyond being read."""

    device: Annotated[str, about("auto, cpu, cuda, cuda:1 or mps.", SCORING)] = "auto"
    allow_pickle: Annotated[
        bool, about("Load pickled weights if a model or adapter has no safetensors.", INPUT)
    ] = False
    trust_remote_code: Annotated[bool, about("Run Python code that comes with a model.", INPUT)] = (
        False
    )


class Spreads(Settings):
    """Over which devices a model that is scored or evaluated is spread."""

    device_map: Annotated[
        Literal["none", "auto"],
        about("auto: for scoring, spread a model over all GPUs, then host memory, then disk.",
              SCORING),
    ] = "none"  # fmt: skip
    max_memory: Annotated[
        str | None,
        AfterValidator(room),
        about("With --device-map: memory limit per device, e.g. gpu0=20GiB,cpu=40GiB.",
              SCORING),
    ] = None  # fmt: skip
    offload_folder: Annotated[
        Location | None,
        about("With --device-map: folder for weights that cannot be read on demand from the "
              "model's own files.", SCORING),
    ] = None  # fmt: skip

    def check_spread(self) -> None:
        """Raise `ConfigError` for settings of a spread model that go with no such model."""
        for name in ("max_memory", "offload_folder"):
            if getattr(self, name) is not None and self.device_map == "none":
                raise ConfigError(f"{flag(name)} needs --device-map auto: give both")
        if self.device_map != "none" and getattr(self, "phi", None) == "adapter":
            raise ConfigError(
                "--phi adapter needs a backward pass through the whole model, which --device-map "
                "does not support: give another --phi"
            )


class Tunes(Settings):
    """How a model is fine-tuned."""

    epochs: Annotated[Positive, about("Passes over the training rows.", TUNING)] = 3
    learning_rate: LearningRate = 1e-4
    batch_size: Annotated[Positive, about("Rows per optimiser step.", TUNING)] = 8
    micro_batch_size: Annotated[
        Positive | None,
        about("Rows computed at once, with gradient accumulation; default: all rows of a step.",
              TUNING),
    ] = None  # fmt: skip
    activation_checkpointing: Annotated[
        bool,
        about("Save memory in fine-tuning by recomputing activations in the backward pass.",
              TUNING),
    ] = False  # fmt: skip
    checkpoint_seconds: Annotated[
        float,
        BeforeValidator(number),
        about("Seconds between fine-tuning checkpoints; 0: after every step.", TUNING, ge=0,
              allow_inf_nan=False),
    ] = 60.0  # fmt: skip


class Allocates(Settings):
    """How rows are chosen by their scores: regions, verification, budgets and draws."""

    preset: Annotated[
        Literal["released", "paper"],
        about("Allocation, within and cut as in the released code or the paper.", SELECTION),
    ] = "released"
    allocation: Annotated[
        Literal["shares", "paper", "shrunk"],
        about("How budgets follow the ratios; shrunk: shares of ratios shrunk to their mean by "
              "sampling error.", SELECTION),
    ] = "shares"  # fmt: skip
    within: Annotated[
        Literal["hardest", "random", "spread"],
        about("Which rows of a region are chosen; spread: over clusters of mean hidden states.",
              SELECTION),
    ] = "hardest"  # fmt: skip
    clusters: Annotated[Positive, about("Clusters for --within spread.", SELECTION)] = 50
    cut: Annotated[
        float,
        BeforeValidator(number),
        about("Fraction with the highest scores to leave out as noise (staff, ccs, d2).", SELECTION,
              ge=0, lt=1),
    ] = 0.1  # fmt: skip
    regions: Annotated[
        Annotated[Positive, Field(le=1_000_000)] | Literal["auto"],
        about("Number of score regions, K (staff, ccs); auto: 50, or with staff on a small file "
              "one per 20 rows below the cut.", SELECTION),
    ] = "auto"  # fmt: skip
    stratify_by: Annotated[
        Literal["width", "count"],
        about("Regions of equal width in score (the paper), or with equally many rows (staff).",
              SELECTION),
    ] = "width"  # fmt: skip
    verify_per_region: Annotated[
        Positive | Literal["auto"],
        about("Rows per region that the target scores, b_v; auto: until budgets are stable.",
              SELECTION),
    ] = 10  # fmt: skip
    verify_tolerance: Annotated[
        float,
        BeforeValidator(number),
        about("With auto: fraction of the budget that may be in other regions than if every row "
              "were verified.", SELECTION, gt=0, lt=1),
    ] = 0.05  # fmt: skip
    verify_cap: Annotated[
        Positive, about("With auto: total number of rows that the target may score.", SELECTION)
    ] = 2000
    verify_against: Annotated[
        Literal["tuned", "untuned"],
        about("Divide the target's scores by those of the small model after fine-tuning, or "
              "before it.", SELECTION),
    ] = "tuned"  # fmt: skip
    difficulty: Annotated[
        Literal["effort", "loss", "entropy", "el2n"],
        about("Score that ccs and d2 use as difficulty.", SELECTION),
    ] = "effort"
    take: Annotated[
        Literal["highest", "middle", "lowest"],
        about("Which scores grand, el2n, loss, perplexity, entropy and length take.", SELECTION),
    ] = "highest"
    neighbours: Annotated[Positive, about("Neighbours per row in d2's graph.", SELECTION)] = 10
    gamma: Annotated[
        float,
        BeforeValidator(number),
        about("How fast d2's reverse messages decay with distance.", SELECTION, ge=0,
              allow_inf_nan=False),
    ] = 1.0  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        """Fill allocation, within and cut from the preset unless they were given."""
        explicit = given(values)
        if "scores" in explicit and "preset" not in explicit:
            return explicit  # what is not given comes from that run: see `SelectConfig.inherit`
        return {**preset_values(str(explicit.get("preset", "released"))), **explicit}

    def check_cap(self, rows: int = 0) -> None:
        """Raise `ConfigError` if ``--verify-per-region auto`` could not do its first round.

        rows: that are to be divided into regions. Before they are counted, the fewest regions are
        assumed that there may be.
        """
        if self.verify_per_region == "auto":
            # NumPy: not needed for --help
            from staff.selectors.regions import below_cut, regions_for
            from staff.selectors.rounds import START, too_few

            regions = regions_for(self.regions, below_cut(rows, self.cut))
            if self.verify_cap < START * regions:
                raise ConfigError(f"--verify-cap {self.verify_cap}: {too_few(regions)}")


# What says how a record is read, wherever it ends: a coreset is read like its data.
READING = tuple(
    name for name in Reads.ordered() if name not in ("max_length", "on_bad_row", "on_duplicate")
)
# What says over which devices a model is spread.
SPREADING = tuple(Spreads.ordered())
# What the adapter of a fine-tuning depends on, beside rows, model, seed and a limit on its steps.
RECIPE = ("epochs", "learning_rate", "batch_size", "rank", "alpha")
# What says how far a model is trusted.
TRUST = ("allow_pickle", "trust_remote_code")


def preset_values(name: str) -> dict[str, Any]:
    """Allocation, within and cut of a named setting; empty for an unknown name."""
    from staff.selectors.staff import PRESETS  # NumPy: not needed for --help

    preset = PRESETS.get(name, {})
    return {key: preset[key] for key in ("allocation", "within", "cut") if key in preset}
