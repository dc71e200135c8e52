"""What LLaMA-Factory makes of an export: its own parser and loader, no code of ours.

Usage, in the folder of an export, with the Python that has LLaMA-Factory:
python load_by_llama_factory.py
Prints JSON: `rows`, each as [messages, system, tools], how many were `trained` on, and the
settings that are `unknown` to it.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import yaml
from llamafactory.data.loader import _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.processor import PretrainDatasetProcessor, SupervisedDatasetProcessor
from llamafactory.data.template import get_template_and_fix_tokenizer
from llamafactory.hparams import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
    TrainingArguments,
)
from transformers import AutoTokenizer

settings = yaml.safe_load(Path("train.yaml").read_text())
kinds = (ModelArguments, FinetuningArguments, GeneratingArguments, TrainingArguments, DataArguments)
known = {name for kind in kinds for name in kind.__dataclass_fields__}
named = DataArguments.__dataclass_fields__
data = DataArguments(**{name: value for name, value in settings.items() if name in named})
model = SimpleNamespace(cache_dir="cache", hf_hub_token=None)
training = SimpleNamespace(local_process_index=0, seed=0)
[attributes] = get_dataset_list(data.dataset, data.dataset_dir)
rows = _load_single_dataset(attributes, model, data, training)
tokenizer = AutoTokenizer.from_pretrained(settings["model_name_or_path"])
template = get_template_and_fix_tokenizer(tokenizer, data)
kind = PretrainDatasetProcessor if settings["stage"] == "pt" else SupervisedDatasetProcessor
processor = kind(template=template, tokenizer=tokenizer, processor=None, data_args=data)
tokens = rows.map(processor.preprocess_dataset, batched=True, remove_columns=rows.column_names)
found = [[row["_prompt"] + row["_response"], row["_system"], row["_tools"]] for row in rows]
unknown = sorted(set(settings) - known)
json.dump({"rows": found, "trained": len(tokens), "unknown": unknown}, sys.stdout)
