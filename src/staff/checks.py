"""What can be found wrong before torch is imported: files, columns, model folders."""

from pathlib import Path

from staff.errors import ModelError
from staff.runs.config import EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig
from staff.runs.manifest import read_manifest
from staff.runs.store import RunFolder

AnyConfig = SelectConfig | ScoreConfig | FinetuneConfig | EvaluateConfig


def check_inputs(config: AnyConfig) -> None:
    """Raise the `StaffError` that this command would run into, at once and without torch.

    Covers: data file missing, empty, of an unknown kind or without usable columns; model
    folder missing or not a causal LM with a tokenizer; --out taken by another
    configuration; --scores without a finished run.
    """
    models: tuple[str | None, ...] = ()
    if isinstance(config, SelectConfig):
        if config.scores:
            config = config.inherit(read_manifest(config.scores)["config"])
        RunFolder(config.folder).check_same_config(config, overwrite=config.overwrite)
        if config.method == "staff":
            models = (config.small, config.target)
    else:
        models = (config.model,)
    if config.data is not None:
        check_data(config)
    for model in models:
        if model is not None:
            from staff.models.folder import check_model_folder

            check_model_folder(model)
    if not isinstance(config, FinetuneConfig) and config.adapter is not None:
        check_adapter(config.adapter)


def check_data(config: AnyConfig) -> None:
    """Raise `DataError` or `ConfigError` if the file or its columns cannot be used."""
    from staff.data.files import open_source
    from staff.data.prepare import check_columns
    from staff.stages import record_options

    source = open_source(str(config.data))
    if source.kind == "hub":
        return  # only the pipeline may wait for a network
    check_columns(source, record_options(config))


def check_adapter(adapter: str) -> None:
    """Raise `ModelError` if a folder is given that holds no LoRA adapter."""
    path = Path(adapter).expanduser()
    local = path.exists() or adapter.count("/") != 1 or adapter.startswith((".", "~"))
    if local and not (path / "adapter_config.json").is_file():
        what = "has no adapter_config.json" if path.is_dir() else "does not exist"
        raise ModelError(f"adapter {adapter} {what}: give the folder of a LoRA adapter")
