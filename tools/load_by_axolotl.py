"""What axolotl makes of an export: its own schema, loader and strategies, no code of ours.

Usage, in the folder of an export, with the Python that has axolotl: python load_by_axolotl.py
Prints JSON: `rows`, each with input_ids and labels, and the settings that are `unknown` to it.
"""

import json
import sys
from pathlib import Path

import yaml
from axolotl.utils.data.shared import load_dataset_with_config
from axolotl.utils.data.wrappers import get_dataset_wrapper
from axolotl.utils.dict import DictDefault
from axolotl.utils.schemas.config import AxolotlInputConfig
from transformers import AutoTokenizer

settings = yaml.safe_load(Path("train.yaml").read_text())
checked = AxolotlInputConfig(**settings)
unknown = sorted(set(settings) - set(AxolotlInputConfig.model_fields))
config = DictDefault(checked.model_dump(exclude_none=True))
[dataset] = config.datasets
tokenizer = AutoTokenizer.from_pretrained(config.base_model)
rows = load_dataset_with_config(dataset, False)
kind = dataset.type if isinstance(dataset.type, str) else None
wrapped, _ = get_dataset_wrapper(
    dataset_config=dataset,
    tokenizer=tokenizer,
    cfg=config,
    dataset_base_type=kind,
    dataset=rows,
    dataset_prompt_style=None,
)
tokens = [{name: row[name] for name in ("input_ids", "labels")} for row in wrapped]
json.dump({"rows": tokens, "unknown": unknown}, sys.stdout)
