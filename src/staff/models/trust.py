"""What a model folder may do beyond being read, and which code it contains."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff.errors import ModelError
from staff.notes import read_object

CONFIGS = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Trust:
    """What the user allows a model to do: nothing by default.

    pickle: weights may be pickled. They are still opened by torch's unpickler that makes
    tensors and runs nothing.
    code: the folder's own Python code is run where it brings some.
    """

    pickle: bool = False
    code: bool = False


NO_TRUST = Trust()


def own_code(folder: Path) -> list[str]:
    """The classes of code that a folder's configs name (their ``auto_map``), sorted.

    ``modeling_x.XForCausalLM`` lies in the folder, ``owner/name--modeling_x.X`` on the Hub.
    """
    named: set[str] = set()
    for name in CONFIGS:
        found = read_object(folder / name).get("auto_map")
        if isinstance(found, dict):
            named |= set(_texts(list(found.values())))
    return sorted(named)


def code_files(folder: Path) -> list[Path]:
    """The Python files of a folder, sorted."""
    return sorted(folder.rglob("*.py"))


def check_own_code(folder: Path) -> None:
    """Raise `ModelError` for code that lies elsewhere: its contents would be anybody's."""
    for name in own_code(folder):
        repository, mark, _ = name.partition("--")
        if mark:
            raise ModelError(
                f"{folder} runs code of another repository ({repository}): copy those files into "
                "the folder, and give them in its auto_map without the repository"
            )


def check_kernels(folder: Path, config: Any) -> None:
    """Raise `ModelError` where a config, or a part of it, names attention kernels on the Hub.

    transformers would download and run their code, with its first releases whoever wrote it.
    """
    for name in _kernels(config):
        raise ModelError(
            f"{folder / 'config.json'} names an attention kernel on the Hub ({name}), whose code "
            "is not run: remove that line"
        )


def _kernels(value: Any, *, named: bool = False) -> Iterator[str]:
    """Names of kernels in a config. named: the value is that of a key that says which to take."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _kernels(inner, named=named or "attn_implementation" in key)
    elif isinstance(value, list):
        for inner in value:
            yield from _kernels(inner, named=named)
    elif named and isinstance(value, str) and "/" in value:
        yield value


def needs_code(error: Exception, folder: Path, trust: Trust) -> bool:
    """Whether transformers failed since the folder's own code may not be run."""
    return not trust.code and "trust_remote_code" in str(error) and bool(own_code(folder))


def code_not_run(path: str, folder: Path) -> ModelError:
    """The refusal of a model that cannot be loaded without its own code."""
    files = sorted({name.partition(".")[0] + ".py" for name in own_code(folder)})
    return ModelError(
        f"{path} needs its own code ({', '.join(files)}), which is not run: add "
        "--trust-remote-code if you have read it and trust it"
    )


def _texts(value: Any) -> list[str]:
    """The texts in nested lists; a tokenizer's entry is a pair, one of it often null."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []
