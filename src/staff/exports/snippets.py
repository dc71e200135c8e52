"""Snippets as text: nothing that a path or a setting holds can be more than a value in them."""

from collections.abc import Mapping
from typing import Any

import yaml

from staff import __version__
from staff.exports.trainer import Job

EPOCHS, BATCH, ACCUMULATE, LEARNING_RATE, WARMUP = 3, 4, 2, 1e-4, 0.1
RANK, ALPHA = 8, 16
# Of models whose linear layers are not torch's, so that LLaMA-Factory and axolotl do not find them.
LAYERS = {"gpt2": ("c_attn", "c_proj", "c_fc")}


def settings_text(values: Mapping[str, Any], job: Job, *remarks: str) -> str:
    """Settings as YAML that any trainer's loader reads, in ASCII whatever the locale.

    remarks: lines of ours above them.
    """
    kept = {name: value for name, value in values.items() if value is not None}
    part = "" if job.rows == job.coreset.rows else f"{job.rows} of "  # some were left out
    about = f"staff {__version__}: coreset {job.coreset.name}, {part}{job.coreset.rows} rows"
    head = [about, *remarks, "Paths are relative to this folder; move it as a whole."]
    body = yaml.dump(kept, Dumper=_Texts, sort_keys=False, width=10_000)
    return "".join(f"# {line}\n" for line in head) + body


class _Texts(yaml.SafeDumper):
    """Texts stay texts, on one line: "{instruction}\\n", and "12e4567", a commit in short.

    The latter is a number to LLaMA-Factory's loader (OmegaConf), though not to PyYAML.
    """


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_Texts.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if "\n" in text or _is_number(text) else None
    ),
)
