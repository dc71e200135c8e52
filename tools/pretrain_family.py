"""Pretrain the embedded two-size Llama family (`make family DATA=dir`), and sizes for benchmarks.

One byte-level BPE tokenizer, one packed token stream, models that read the
same tokens in the same order. `--size large` and `--size tiny` make one above and one below them.
DATA holds `medquad/train.jsonl`, `gsm8k/train.jsonl` and `clinc150/train.jsonl`; where they
come from, their licences and the SHA-256 of what was read go into the model card. The demo's
task (e2e_nlg) and the benchmark tasks are deliberately not among them.

Where the CPU computes bf16 (AVX-512 or AMX), it does, with a float32 master copy: bf16 alone
loses small updates, and float32 is two to three times slower there. Elsewhere bf16 would be
emulated, so float32 it is. Saved weights are bf16, and held-out losses are those of the
saved weights.
"""

import argparse
import hashlib
import itertools
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CREDITS = {
    "medquad": ("question", "answer", "MedQuAD, Ben Abacha & Demner-Fushman 2019, CC BY 4.0"),
    "gsm8k": ("question", "answer", "GSM8K, Cobbe et al. 2021, MIT"),
    "clinc150": ("text", "intent", "CLINC150, Larson et al. 2019, CC BY 3.0"),
}
SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1},
    "small": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3,
              "num_attention_heads": 4, "num_key_value_heads": 2},
    "target": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
               "num_attention_heads": 4, "num_key_value_heads": 2},
    "large": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 5,
              "num_attention_heads": 8, "num_key_value_heads": 4},
}  # fmt: skip
EMBEDDED = ("small", "target")
PEAK_LR = {"tiny": 3e-3, "small": 3e-3, "target": 2e-3, "large": 1e-3}
REPORT = "pretraining.json"
SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY, SEQUENCE, BATCH, WARMUP = 4096, 512, 8, 200
ABOUT_EMBEDDED = (
    "# The embedded family",
    "",
    "Two Llama models with one byte-level BPE tokenizer (4,096 pieces), pretrained from",
    "scratch by `tools/pretrain_family.py` (`make family DATA=dir`). They exist so that",
    "the demo and the tests can run the whole job offline in minutes; they know consumer",
    "health questions, grade-school arithmetic and short assistant requests, and little else.",
)
ABOUT_OTHERS = (
    "# Siblings of the embedded family",
    "",
    "Made by `tools/pretrain_family.py --size` for benchmarks: the embedded family's",
    "tokenizer, text and training.",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>\n' }}"
    "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def read_documents(data: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Return (training documents, held-out documents, SHA-256 by file)."""
    train: list[str] = []
    held_out: list[str] = []
    hashes = {}
    for name, (prompt_field, response_field, _) in CREDITS.items():
        raw = (data / name / "train.jsonl").read_bytes()
        hashes[f"{name}/train.jsonl"] = hashlib.sha256(raw).hexdigest()
        # Not splitlines(): the text holds U+2028, which JSON allows inside a string.
        for line in raw.decode().rstrip("\n").split("\n"):
            row = json.loads(line)
            # MedQuAD keeps its web pages' runs of blanks; a language model need not learn them.
            prompt, response = (
                "\n".join(" ".join(part.split()) for part in row[f].splitlines() if part.strip())
                for f in (prompt_field, response_field)
            )
            digest = hashlib.sha256(f"{prompt}\0{response}".encode()).digest()
            # A quarter in chat form, so that the chat tokens are trained as well.
            text = (
                f"<|bos|><|user|>\n{prompt}\n<|assistant|>\n{response}<|eos|>"
                if digest[1] % 4 == 0
                else f"<|bos|>{prompt}\n{response}<|eos|>"
            )
            (held_out if digest[0] < 6 else train).append(text)  # 6/256 = 2.3 % held out
    return train, held_out, hashes


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: no character is ever out of vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", SPECIAL.index("<|bos|>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        model_max_length=SEQUENCE,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def pack(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> np.ndarray:
    """Concatenate documents into rows of int64 [rows, SEQUENCE]."""
    encoded = tokenizer(documents, add_special_tokens=False)["input_ids"]
    stream = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in encoded])
    return stream[: len(stream) // SEQUENCE * SEQUENCE].reshape(-1, SEQUENCE)


def held_out_loss(model: LlamaForCausalLM, rows: np.ndarray) -> float:
    """Mean negative log-likelihood in nats per token, of the weights as they are saved."""
    compute = model.dtype
    model.to(torch.bfloat16).to(compute)
    model.eval()
    with torch.no_grad():
        losses = [
            model(input_ids=(x := torch.from_numpy(rows[i : i + 32])), labels=x).loss.item()
            * len(x)
            for i in range(0, len(rows), 32)
        ]
    model.train()
    return sum(losses) / len(rows)


def save_checkpoint(path: Path, master: list, optimiser: torch.optim.Optimizer, facts: dict):
    """Weights, optimiser state and counters as safetensors, whole or not at all."""
    tensors = {}
    for i, parameter in enumerate(master):
        tensors[f"{i}.master"] = parameter.detach()
        for name in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"{i}.{name}"] = optimiser.state[parameter][name]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={name: str(value) for name, value in facts.items()})
    part.replace(path)


def load_checkpoint(path: Path, master: list, optimiser: torch.optim.Optimizer) -> dict[str, float]:
    """Put a checkpoint's state back; return its facts (step, running loss, seconds)."""
    with safe_open(path, "pt") as stored:
        for i, parameter in enumerate(master):
            parameter.data.copy_(stored.get_tensor(f"{i}.master"))
            optimiser.state[parameter] = {
                name: stored.get_tensor(f"{i}.{name}") for name in ("step", "exp_avg", "exp_avg_sq")
            }
        return {name: float(value) for name, value in stored.metadata().items()}


def compute_dtype() -> torch.dtype:
    """bfloat16 where this CPU computes it."""
    able = torch.cpu.get_capabilities()
    bf16 = able.get("avx512_bf16") or able.get("amx_bf16")
    return torch.bfloat16 if bf16 else torch.float32


def pretrain(
    size: str,
    train: np.ndarray,
    held_out: np.ndarray,
    *,
    tokens: int,
    seed: int,
    checkpoint: Path,
    minutes: float,
):
    """Train one size; return (model, report). Both sizes see the same batches.

    Goes on from `checkpoint` (written every 250 steps) if it is there; stops after `minutes`
    at the latest, the schedule unfinished, to go on another time.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **SIZES[size],
    )
    compute = compute_dtype()
    model = LlamaForCausalLM(config).to(compute)
    master = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimiser = torch.optim.AdamW(
        master, lr=PEAK_LR[size], betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    steps = math.ceil(tokens / (BATCH * SEQUENCE))
    facts: dict[str, float] = {"step": 0, "running": 0.0, "seconds": 0.0}
    if checkpoint.is_file():
        facts = load_checkpoint(checkpoint, master, optimiser)
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), master)
        print(f"{size}: going on from step {facts['step']:.0f}", flush=True)
    # Measured at 2 threads: compiling gains a third for the small model in bf16 (16k tokens/s) and
    # 6 % for the target in float32 (4.2k), but at 512 tokens a row the target in bf16 runs five
    # times slower compiled than eager (6.5k).
    slower = size in ("target", "large") and compute == torch.bfloat16
    forward = model if slower else torch.compile(model)
    order = np.random.default_rng(seed)
    queue = np.empty(0, dtype=np.int64)
    first, running = int(facts["step"]), facts["running"]
    start, done, earlier = time.monotonic(), first, facts["seconds"]
    for step in range(steps):
        if len(queue) < BATCH:
            queue = np.concatenate([queue, order.permutation(len(train))])
        rows, queue = queue[:BATCH], queue[BATCH:]
        if step < first:
            continue  # seen before the checkpoint
        batch = torch.from_numpy(train[rows])
        progress = max(0.0, (step - WARMUP) / max(1, steps - WARMUP))
        scale = min(1.0, (step + 1) / WARMUP) * (0.55 + 0.45 * math.cos(math.pi * progress))
        optimiser.param_groups[0]["lr"] = PEAK_LR[size] * scale
        loss = forward(input_ids=batch, labels=batch).loss
        loss.backward()
        for copy, parameter in zip(master, model.parameters(), strict=True):
            copy.grad = parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(master, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), master)
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        done = step + 1
        seconds = time.monotonic() - start
        late = seconds > 60 * minutes
        if step % 100 == 0 or done == steps:
            rate = (done - first) * BATCH * SEQUENCE / seconds
            print(f"{size} step {done}/{steps} loss {running:.3f} {rate:.0f} tokens/s", flush=True)
        if done % 250 == 0 or done == steps or late:
            facts = {"step": done, "running": running, "seconds": earlier + seconds}
            save_checkpoint(checkpoint, master, optimiser, facts)
        if late:
            break
    return model, {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": done * BATCH * SEQUENCE,
        "planned_tokens": steps * BATCH * SEQUENCE,
        "held_out_loss": held_out_loss(model, held_out),
        "held_out_tokens": int(held_out.size),
        "seconds": round(facts["seconds"]),
        "compute": str(compute).removeprefix("torch."),
    }


def write_card(out: Path, results: dict, hashes: dict[str, str], unique_tokens: int, seed: int):
    """Model card: what it is, what it read, how good it is."""
    lines = [
        *(ABOUT_EMBEDDED if set(results) <= set(EMBEDDED) else ABOUT_OTHERS),
        "",
        "| model | parameters | training tokens | held-out loss (nats/token) | seconds | dtype |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {size} | {r['parameters']:,} | {r['tokens']:,} | {r['held_out_loss']:.4f} "
        f"| {r['seconds']} | {r['compute']} |"
        for size, r in results.items()
    ]
    for size, r in results.items():
        if r["tokens"] < r["planned_tokens"]:
            lines += [
                "",
                f"**Unfinished**: the {size} model has seen {r['tokens']:,} of the "
                f"{r['planned_tokens']:,} tokens its schedule",
                "is made for, so its learning rate is still high; `make family` goes on from the",
                "last checkpoint.",
            ]
    for smaller, size in itertools.pairwise(results):
        gap = 1 - results[size]["held_out_loss"] / results[smaller]["held_out_loss"]
        where = f"{gap:.1%} below" if gap > 0 else f"{-gap:.1%} above"
        lines += ["", f"Held-out loss of the {size} is {where} the {smaller}'s."]
    lines += [
        "",
        f"Packed rows of {SEQUENCE} tokens, {BATCH} a batch, AdamW, cosine to a tenth,",
        f"seed {seed};",
        f"{unique_tokens:,} unique training tokens; 2.3 % of the documents (by hash) held out.",
        "A quarter of the documents is in the tokenizer's chat form, the rest is",
        "`<|bos|>prompt\\nresponse<|eos|>`. Weights are bf16 safetensors.",
        f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__},",
        f"Python {platform.python_version()}.",
        "",
        "## Training text, with credit",
        "",
        *(f"- {credit}" for *_, credit in CREDITS.values()),
        "",
        "Runs of white space were collapsed; nothing else was changed. SHA-256 of what was read:",
        "",
        *(f"- `{name}` {digest}" for name, digest in hashes.items()),
        "",
        "The weights are released under Apache-2.0 like the rest of the project.",
        "",
    ]
    (out / "README.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the three sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=20e6, help="training tokens a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop and keep the state")
    parser.add_argument("--checkpoints", type=Path, default=Path("runs/pretraining"))
    parser.add_argument("--size", choices=SIZES, action="append", help="default: those embedded")
    args = parser.parse_args()
    train_text, held_out_text, hashes = read_documents(args.data)
    tokenizer = train_tokenizer(train_text)
    train, held_out = pack(tokenizer, train_text), pack(tokenizer, held_out_text)
    print(f"{train.size:,} training and {held_out.size:,} held-out tokens", flush=True)
    for size in args.size or EMBEDDED:
        model, report = pretrain(
            size,
            train,
            held_out,
            tokens=int(args.tokens),
            seed=args.seed,
            checkpoint=args.checkpoints / f"{size}.safetensors",
            minutes=args.minutes,
        )
        model.to(torch.bfloat16).save_pretrained(args.out / size)
        tokenizer.save_pretrained(args.out / size)
        (args.out / size / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    reports = {
        size: json.loads((args.out / size / REPORT).read_text())
        for size in SIZES
        if (args.out / size / REPORT).is_file()
    }
    write_card(args.out, reports, hashes, int(train.size), args.seed)


if __name__ == "__main__":
    main()
