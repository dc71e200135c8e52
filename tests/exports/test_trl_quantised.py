"""TRL trains by an export in 4 and 8 bits; needs bitsandbytes (make test-quant)."""

import os
import subprocess
import sys

import pytest
from export_records import RECORDS, pairs

from staff.exports.export import export

pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: make test-quant")

SHOW = """
import sys
import train
trainer = train.prepare(sys.argv[1:])
kinds = {type(module).__name__ for module in trainer.model.modules()}
config = trainer.model.config.quantization_config
print(sorted(kinds & {"Linear4bit", "Linear8bitLt"}), config.bnb_4bit_quant_type,
      config.bnb_4bit_use_double_quant, config.bnb_4bit_compute_dtype)
trainer.train()
trainer.save_model(trainer.args.output_dir)
"""
SHORT = ["--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true"]


@pytest.fixture
def shown(make_run, change_manifest, family):
    """Trains two steps by the script of an export; what it is made of, and the folder."""

    def run(quantize, *flags):
        folder = make_run(pairs(), **RECORDS["pairs"][1])
        change_manifest(folder, quantize=quantize, batch_size=4, micro_batch_size=2)
        export(folder, to="trl", model=family[1])
        out = folder / "coreset-0.5-trl"
        done = subprocess.run(
            [sys.executable, "-c", SHOW, *SHORT, *flags],
            capture_output=True, text=True, cwd=out, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout, out

    return run


@pytest.mark.parametrize(
    ("quantize", "flags", "told"),
    [
        ("nf4", [], "['Linear4bit'] nf4 True torch.bfloat16"),
        ("int8", [], "['Linear8bitLt']"),
        ("none", ["--load_in_4bit", "true"], "['Linear4bit'] nf4 False torch.float32"),
    ],
)
def test_the_script_trains_in_few_bits(shown, quantize, flags, told):
    printed, out = shown(quantize, *flags)
    assert told in printed
    assert (out / "tuned" / "adapter_model.safetensors").is_file()
