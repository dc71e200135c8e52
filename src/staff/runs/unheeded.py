"""Settings of a selection that its method does not use: what is said of them."""

from collections.abc import Collection
from inspect import get_annotations
from typing import Any

from staff.errors import StaffError
from staff.runs.compare_config import CompareConfig
from staff.runs.config import SelectConfig
from staff.runs.manifest import read_manifest
from staff.runs.settings import Settings, flag
from staff.runs.shared_settings import Allocates, preset_values

HEEDED: dict[str, tuple[str, ...]] = {  # settings by method; the others rank rows by one score
    "staff": (
        *("preset", "allocation", "within", "clusters", "cut", "regions", "stratify_by"),
        *("verify_per_region", "verify_tolerance", "verify_cap", "verify_against"),
    ),
    "ccs": ("preset", "difficulty", "cut", "regions"),
    "d2": ("preset", "difficulty", "cut", "neighbours", "gamma"),
    **dict.fromkeys(("random", "ifd", "moderate", "k-centre"), ()),
    "ranking": ("take",),
}
NEEDS = {  # of the method that heeds them: settings that another one switches on
    "clusters": ("within", "spread"),
    "verify_tolerance": ("verify_per_region", "auto"),
    "verify_cap": ("verify_per_region", "auto"),
}
OF_MODELS = ("adapter", "finetune_on", "features")  # nothing is made with a model for random


def heeded_by(method: str) -> tuple[str, ...]:
    """The settings of how rows are chosen that a method uses."""
    return HEEDED.get(method, HEEDED["ranking"])


def unheeded(config: Settings, typed: Collection[str]) -> list[str]:
    """What to say of settings that have no effect, in sentences; usually none.

    typed: names of those that were given on the command line. Of the others, which a file of
    settings holds, those with their default need no word: a run's own config.yaml lists all.
    """
    if not isinstance(config, SelectConfig | CompareConfig):
        return []
    given = [name for name in get_annotations(Allocates) if _is_meant(config, name, typed)]
    found: Any = config
    if isinstance(config, SelectConfig) and config.scores:
        try:
            found = config.inherit(read_manifest(config.scores)["config"])
        except StaffError:
            return []  # the selection says what is wrong there
    methods = found.methods if isinstance(found, CompareConfig) else (found.method,)
    heeded = {name for method in methods for name in heeded_by(method)}
    idle = [flag(name) for name in given if name not in heeded]
    idle += [flag(name) for name in OF_MODELS if methods == ("random",) and config.differs(name)]
    named = "--methods" if isinstance(config, CompareConfig) else "--method"
    said = [f"{_have(idle)} no effect with {named} {' '.join(methods)}"] if idle else []
    for switch in dict.fromkeys(NEEDS.values()):
        name, value = switch
        needy = [one for one in given if one in heeded and NEEDS.get(one) == switch]
        if needy and getattr(found, name) != value:
            said.append(f"{_have([flag(one) for one in needy])} no effect without "
                        f"{flag(name)} {value}")  # fmt: skip
    if isinstance(config, SelectConfig):
        tuned_by = "adapter" if config.adapter else "skip_finetune"
        if methods != ("random",) and getattr(config, tuned_by) and config.differs("finetune_on"):
            said.append(f"--finetune-on has no effect with {flag(tuned_by)}")
        if config.differs("keep_of") and not config.keep:
            said.append("--keep-of has no effect without --keep")
    return said


def _is_meant(config: SelectConfig | CompareConfig, name: str, typed: Collection[str]) -> bool:
    if name in typed:
        return True
    value = getattr(config, name)
    usual = (type(config).model_fields[name].default, preset_values(config.preset).get(name))
    return name in config.model_fields_set and value not in usual


def _have(flags: list[str]) -> str:
    return f"{', '.join(flags)} {'has' if len(flags) == 1 else 'have'}"
