"""The settings of `staff export`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from staff.runs import settings as s
from staff.runs.settings import INPUT, OUTPUT, SELECTION, Settings, about, coreset_name


def _named(value: Any) -> Any:
    """A number as coresets of a fraction are called: YAML's 0.1 is no text."""
    return coreset_name(value) if type(value) in (int, float) else value


class ExportConfig(Settings):
    """`staff export`."""

    command = "export"

    run: Annotated[s.Location | None, about("Folder of a finished staff select run.", INPUT)] = None
    to: Annotated[
        Literal["trl", "llama-factory", "axolotl", "hf-dataset"] | None,
        about("Trainer; hf-dataset: a folder of the datasets library.", OUTPUT),
    ] = None
    keep: Annotated[
        str | None,
        BeforeValidator(_named),
        about("Which coreset, by its size: 0.1, n500 (rows), t2000 (tokens); default: the only "
              "one.", SELECTION),
    ] = None  # fmt: skip
    model: Annotated[
        s.Location | None, about("Model to fine-tune; default: the run's target.", INPUT)
    ] = None
    on_bad_row: Annotated[
        Literal["error", "skip"],
        about("If the trainer would not take a row: stop, or skip it (to rejected.jsonl).",
              OUTPUT),
    ] = "error"  # fmt: skip
    out: Annotated[
        s.Location | None,
        about("Folder to write to; default: next to the coreset, named after it and the trainer.",
              OUTPUT),
    ] = None  # fmt: skip
    overwrite: Annotated[bool, about("Replace an existing export in the folder.", OUTPUT)] = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.require(
            run="the folder of a run, e.g. staff export runs/x --to trl",
            to="--to trl, llama-factory, axolotl or hf-dataset",
        )
        return self
