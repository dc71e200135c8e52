"""How fast effort scoring is, compared with a plain implementation and with the released way.

Five ways on one random Llama (about 60M parameters, 32k vocabulary, 8 layers, hidden 512) and
the same rows (70-310 tokens, 10-60 of them response), each repeated in turn within one run:

  staff fp32      effort scores and signals of every row
  plain fp32      batched Hugging Face forward + loss under no_grad: the same batches, no scores
  maskless fp32   the same without a padding mask, which makes attention faster; `staff` also omits
                  the mask if padding is on the right (a causal model never looks there)
  released fp32   one row at a time, all logits, two backward passes, a fresh LoRA (r = 81)
  staff bf16      the first one in bfloat16, if the CPU computes it (elsewhere it is emulated)

Same threads, same attention kernel (PyTorch's SDPA), same batches. The figures are medians.

  python benchmarks/scoring.py            # prints the ratios
  python benchmarks/scoring.py --write    # also writes benchmarks/results/scoring.md
  python benchmarks/scoring.py --rows 8 --layers 2 --hidden 64 --repeats 1   # a quick look
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from staff.data.batches import Batch, collate, token_budget_batches
from staff.models.device import choose_dtype
from staff.scores.effort import Scorer
from staff.types import IGNORE, TokenisedExample
from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "scoring.md"


def make_model(layers: int, hidden: int, vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def make_rows(n: int, vocabulary: int) -> list[TokenisedExample]:
    generator = np.random.default_rng(0)
    rows = []
    for i in range(n):
        length = int(generator.integers(70, 311))
        response = int(generator.integers(10, 61))
        ids = generator.integers(3, vocabulary, length)
        labels = ids.copy()
        labels[: length - response] = IGNORE
        rows.append(TokenisedExample(id=str(i), input_ids=ids, labels=labels))
    return rows


def staff_way(model: LlamaForCausalLM, batches: list[Batch]) -> Callable[[], None]:
    scorer = Scorer(model)

    def run() -> None:
        for batch in batches:
            scorer(batch)

    return run


def plain_way(
    model: LlamaForCausalLM, batches: list[Batch], *, masked: bool = True
) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        for batch in batches:
            float(
                model(
                    input_ids=batch.input_ids.to(model.device),
                    attention_mask=batch.attention_mask.to(model.device) if masked else None,
                    labels=batch.labels.to(model.device),
                    use_cache=False,
                ).loss
            )

    return run


def released_way(model: LlamaForCausalLM, rows: list[TokenisedExample]) -> Callable[[], None]:
    from peft import LoraConfig, get_peft_model

    last = model.config.num_hidden_layers - 1
    config = LoraConfig(r=81, lora_alpha=16, target_modules=["v_proj"], layers_to_transform=[last])
    model = get_peft_model(model, config).eval()
    lora_b = [p for name, p in model.named_parameters() if "lora_B" in name]

    def run() -> None:
        for row in rows:
            ids = torch.tensor(row.input_ids, device=model.device)[None]
            labels = torch.tensor(row.labels, device=model.device)[None]
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward(retain_graph=True)
            loss.backward()
            sum(float(p.grad.norm()) for p in lora_b)
            model.zero_grad()

    return run


def seconds(run: Callable[[], object]) -> float:
    """What it takes; on a GPU, until the GPU is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def threads() -> str:
    return f"{torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/scoring.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # PEFT and transformers about each other

    rows = make_rows(args.rows, args.vocabulary)
    lengths = np.array([len(row.input_ids) for row in rows])
    plan = token_budget_batches(lengths, batch_tokens=args.batch_tokens)
    batches = [collate([rows[i] for i in part]) for part in plan]
    shape = (args.layers, args.hidden, args.vocabulary)
    ways = {
        "staff fp32": staff_way(make_model(*shape), batches),
        "plain fp32": plain_way(make_model(*shape), batches),
        "maskless fp32": plain_way(make_model(*shape), batches, masked=False),
        "released fp32": released_way(make_model(*shape), rows),
    }
    bf16 = choose_dtype("auto", torch.device("cpu")) == torch.bfloat16
    if bf16:
        ways["staff bf16"] = staff_way(make_model(*shape).bfloat16(), batches)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(args.repeats + 1):  # the first round warms up
        for name, run in ways.items():
            taken = seconds(run)
            if repeat:
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}

    ours = medians["staff fp32"]
    tokens = int(lengths.sum())
    lines = [
        "| | seconds | tokens/s |",
        "| --- | --- | --- |",
        *(f"| {name} | {value:.2f} | {tokens / value:.0f} |" for name, value in medians.items()),
        "",
        "| ratio | figure | wanted |",
        "| --- | --- | --- |",
        f"| time against a plain forward + loss | {ours / medians['plain fp32']:.2f} | ≤ 0.85 |",
        f"| the same without its padding mask | {ours / medians['maskless fp32']:.2f} | |",
        f"| speed against the released way | {medians['released fp32'] / ours:.2f} | ≥ 2.3 |",
    ]
    lines += [
        f"| bf16 speed against fp32 | {ours / medians['staff bf16']:.2f} | ≥ 2 |"
        if bf16
        else "| bf16 speed against fp32 | not measured: this CPU does not compute bf16 | ≥ 2 |"
    ]
    parameters = sum(p.numel() for p in make_model(*shape).parameters()) / 1e6
    setting = (
        f"{args.rows} rows, {tokens} tokens, {len(batches)} batches of at most {args.batch_tokens} "
        f"padded tokens; {parameters:.0f}M parameters, a vocabulary of {args.vocabulary:,}; "
        f"medians of {args.repeats}"
    )
    text = "\n".join([setting, machine(threads()), "", *lines, ""])
    sys.stdout.write(text)
    if args.write:
        command = command_line(__file__)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(
            f"# Speed of effort scoring\n\n`{command}`, {date.today()}\n\n{text}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
