"""Which small model of its family a target has: the table behind `--small auto`.

The table (assets/families.csv) names models by their Hub ids, with the sizes in their published
configurations. A local folder must match a model in both name and sizes: two models of one size
may need different small models, so nothing is guessed.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from staff.errors import ConfigError, ModelError
from staff.models.folder import read_config

TABLE = Path(__file__).parents[1] / "assets" / "families.csv"
# Column of the table -> the name in a model's config.json. The first four must be there.
SIZES = {
    "model_type": "model_type",
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
}
REQUIRED = 4
HOW = (
    "give --small MODEL: one by the same makers, with the same tokenizer and at most a fifth of "
    "the target's parameters (staff families lists those in the table)"
)


@dataclass(frozen=True, slots=True)
class Member:
    """A row of the table.

    target: Hub id. small: that of its sibling, None where it has none. same_tokenizer: whether
    the two turn a text into the same ids. parameters: of the language model, tied weights once.
    sizes: as in its config. sources: the pages that were looked at for the sizes and for the
    tokenizer. unconfirmed: columns of the table that none of them says (`sizes`: none at all).
    """

    family: str
    target: str
    small: str | None
    same_tokenizer: bool
    parameters: int
    sizes: dict[str, Any]
    sources: tuple[str, ...]
    unconfirmed: tuple[str, ...]

    @property
    def name(self) -> str:
        """The id without its owner."""
        return self.target.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Sibling:
    """What `--small auto` came to: a Hub id or a folder beside the target's, and its row."""

    location: str
    target: Member
    small: Member

    def say(self) -> str:
        """A line for the user."""
        text = f"--small auto: {self.location}, of {self.target.family}"
        if not self.target.same_tokenizer:
            text += (
                "; its vocabulary differs from the target's, so the two models score different "
                "tokens"
            )
        elif "tokenizer" in self.target.unconfirmed:
            text += "; it is not confirmed that it has the target's vocabulary"
        return text


@cache
def members() -> dict[str, Member]:
    """Hub id -> its row, in the order of the table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row["target"]: _member(row) for row in csv.DictReader(file)}


def _member(row: dict[str, str]) -> Member:
    return Member(
        family=row["family"],
        target=row["target"],
        small=row["small"] or None,
        same_tokenizer=row["tokenizer"] == "same",
        parameters=int(row["parameters"]),
        sizes={n: row[n] if n == "model_type" else int(row[n]) for n in (*SIZES, "tied")},
        sources=tuple(dict.fromkeys(f"{row['source']} {row['tokenizer_source']}".split())),
        unconfirmed=tuple(row["unconfirmed"].split()),
    )


def pairs(word: str = "") -> list[dict[str, Any]]:
    """Every target with a sibling as plain values, those with a word in family or id."""
    return [
        {
            "family": member.family,
            "target": member.target,
            "parameters": member.parameters,
            "small": member.small,
            "small_parameters": members()[member.small].parameters,
            "same_tokenizer": member.same_tokenizer,
            "sources": list(dict.fromkeys([*member.sources, *members()[member.small].sources])),
            "unconfirmed": list(member.unconfirmed),
            "small_unconfirmed": list(members()[member.small].unconfirmed),
        }
        for member in members().values()
        if member.small and word.lower() in f"{member.family} {member.target}".lower()
    ]


def sibling_of(target: str) -> Sibling:
    """The small model for a target: a Hub id (with or without @revision) or a local folder.

    A folder of the small model's name and sizes beside the target's is taken before the Hub's.

    Raises:
        ConfigError: the target is not in the table, not surely one of it, or has no sibling.
    """
    folder = Path(target) if Path(target).is_dir() else None
    found = _of_id(target) if folder is None else _of_folder(folder)
    if found.small is None:
        raise ConfigError(f"--small auto: {found.target} has no smaller model in the table; {HOW}")
    small = members()[found.small]
    beside = folder.resolve().parent / small.name if folder else None
    here = beside is not None and beside.is_dir() and _fits(small, beside)
    return Sibling(str(beside) if here else small.target, found, small)


def _of_id(name: str) -> Member:
    found = members().get(name.partition("@")[0])
    if found is None:
        raise ConfigError(f"--small auto: {name} is not in the table of families; {HOW}")
    return found


def _of_folder(folder: Path) -> Member:
    fitting = [member for member in members().values() if _fits(member, folder)]
    names = _names(folder)
    named = [member for member in fitting if member.name in names]
    if len(named) == 1:
        return named[0]
    if not fitting:
        raise ConfigError(
            f"--small auto: no model in the table of families has the sizes of {folder}; {HOW}"
        )
    could = ", ".join(member.target for member in named or fitting)
    raise ConfigError(
        f"--small auto: {folder} has the sizes of {could}, and its name does not say which; {HOW}"
    )


def _fits(member: Member, folder: Path) -> bool:
    """Whether a folder's config has a member's sizes; those it leaves out are defaults."""
    try:
        config = read_config(folder)
    except ModelError:
        return False
    config = config.get("text_config") or config
    found = {column: config.get(key) for column, key in SIZES.items()}
    if any(found[column] is None for column in list(SIZES)[:REQUIRED]):
        return False
    return all(value is None or value == member.sizes[c] for c, value in found.items())


def _names(folder: Path) -> Sequence[str]:
    """What a folder may be called: its own name, or that of the repository in the Hub's cache."""
    path = folder.resolve()
    cached = [part for part in path.parts if part.startswith("models--")]
    return [path.name, *(part.rpartition("--")[2] for part in cached)]
