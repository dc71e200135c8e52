"""What only a GPU can show: scores in bfloat16, speed, memory. One command: benchmarks/gpu.sh.

1. Every family of tests/data/families.json, tiny and random, on the device in bfloat16: the fast
   path and the oracle, both compared with the oracle in float32 on the same weights.
2. A random Llama of about 1B parameters in bfloat16, with a vocabulary of 32k and of 256k, rows as
   in benchmarks/scoring.py: `staff` against a plain forward pass with loss, the released
   one-example way, and bergson's and torch.func's norms for the same layer; padded against
   padding-free. Tokens per second, utilisation (NVML), peak memory beyond the weights.

  bash benchmarks/gpu.sh                          # installs beside your torch, measures, writes
  python benchmarks/gpu.py --device cuda:1 --rows 1024 --name a100
  python benchmarks/gpu.py --device cpu --tiny    # whether the script works; prints only

Writes benchmarks/results/gpu-NAME.json (all figures) and .md, again after every part. Where
something does not fit into memory or is not installed, the page says so instead of a figure.
"""

import argparse
import copy
import inspect
import json
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import ways
from peers import unpadded
from scoring import make_model, make_rows, plain_way, released_way, seconds, staff_way, threads
from staff.data.batches import Batch, collate, token_budget_batches
from staff.models.by_row import attending
from staff.models.device import choose_device
from staff.scores.check import hold_against_oracle
from staff.scores.effort import Scorer
from staff.scores.oracle import oracle_effort
from staff.types import IGNORE, Floats, TokenisedExample
from written import command_line, machine

RESULTS = Path(__file__).parent / "results"
FAMILIES = Path(__file__).parents[1] / "tests" / "data" / "families.json"
PACKAGES = ("peft", "bergson", "flash-attn")
OURS, NORMS = "staff", "staff (norms only)"
PLAIN, MASKLESS = "plain forward + loss", "plain forward + loss without a padding mask"
RELEASED = "the released way, one row at a time"
FREE = "staff (padding-free"
FLASH = "flash_attention_2"
WANTED_PLAIN, WANTED_RELEASED = 0.8, 10  # at most of the time; at least times as fast
ACCURATE = 2  # at most times as far from float32 as the oracle in bfloat16

Results = dict[str, Any]


def families(names: list[str], device: torch.device, *, rows: int) -> list[Results]:
    """One entry a family: how far bfloat16 is from the oracle in float32, by both paths."""
    described = json.loads(FAMILIES.read_text(encoding="utf-8"))
    examples = short_rows(rows, vocabulary=described["common"]["vocab_size"])
    found = []
    for name in names or described["families"]:
        config = {**described["common"], **described["families"][name]}
        try:
            measured = distances(config, examples, device)
        except Exception as error:  # what cannot be done here is a result
            measured = {"why": reason(error)}
        found.append({"family": name, **measured})
    return found


def distances(
    described: dict[str, Any], examples: list[TokenisedExample], device: torch.device
) -> Results:
    """The same of one family, whose config is described."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**described)
    model = AutoModelForCausalLM.from_config(config).eval().to(device).bfloat16()
    exact = copy.deepcopy(model).float()
    truth = np.array([oracle_effort(exact, row) for row in examples])
    checked = hold_against_oracle(model, examples)
    return {
        "kernel": checked.kernel,
        "oracle": apart(checked.truth, truth),
        "staff": {how: apart(norms, truth) for how, norms in checked.norms.items()},
    }


def short_rows(n: int, *, vocabulary: int) -> list[TokenisedExample]:
    """Rows of 6-39 tokens, the response a random tail of each."""
    generator = np.random.default_rng(1)
    found = []
    for i in range(n):
        ids = generator.integers(3, vocabulary, int(generator.integers(6, 40)))
        labels = ids.copy()
        labels[: len(ids) - int(generator.integers(1, len(ids) - 1))] = IGNORE
        found.append(TokenisedExample(str(i), ids, labels))
    return found


def apart(norms: Floats, truth: Floats) -> dict[str, float]:
    """Relative differences: their median and the largest."""
    differences = np.abs(norms / truth - 1)
    return {"median": float(np.median(differences)), "largest": float(differences.max())}


def speed(args: argparse.Namespace, device: torch.device, vocabulary: int) -> Results:
    """All ways for a model of one vocabulary; those on the untouched model in turn."""
    with torch.device(device):
        model = make_model(args.layers, args.hidden, vocabulary).bfloat16()
    rows = make_rows(args.rows, vocabulary)
    lengths = np.array([len(row.input_ids) for row in rows])
    plan = token_budget_batches(lengths, batch_tokens=args.batch_tokens)
    batches = [collate([rows[i] for i in part]) for part in plan]
    padded = sum(batch.input_ids.numel() for batch in batches)
    found: Results = {
        "vocabulary": vocabulary,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": len(rows),
        "tokens": int(lengths.sum()),
        "padding": 1 - float(lengths.sum()) / padded,
        "batches": len(batches),
    }
    some = unpadded(batches[:1])[:16]
    truth = np.array([oracle_effort(model, row) for row in some])
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        OURS: partial(staff_way, model, batches),
        PLAIN: partial(plain_way, model, batches),
        MASKLESS: partial(plain_way, model, batches, masked=False),
        **padding_free_ways(model, batches),
        NORMS: partial(ways.staff_way, model, batches),
        "bergson": partial(ways.bergson_way, model, batches),
        "bergson (its own set-up)": partial(ways.bergson_own_way, model, batches),
        "torch.func": partial(ways.torch_func_way, model, batches),
        "torch.func (last block)": partial(ways.torch_func_last_block_way, model, batches),
    }
    found["ways"] = in_turn(makers, device, repeats=args.repeats, truth=truth)
    # It puts a LoRA into the model, so it comes last.
    last = {RELEASED: partial(released_way, model, unpadded(batches))}
    found["ways"] |= in_turn(last, device, repeats=args.repeats, truth=truth)
    return found


def padding_free_ways(
    model: Any, batches: list[Batch]
) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Scoring without padding, where this `staff` has it; with flash attention, where installed."""
    if "padding_free" not in inspect.signature(Scorer.__init__).parameters:
        return {}
    kernels = [model.config._attn_implementation]
    if model.device.type == "cuda" and find_spec("flash_attn"):
        kernels.append(FLASH)
    return {
        f"{FREE}, {kernel})": partial(padding_free_way, model, batches, kernel)
        for kernel in kernels
    }


def padding_free_way(model: Any, batches: list[Batch], kernel: str) -> Callable[[], Any]:
    with attending(model, kernel):
        scorer = Scorer(model, padding_free=True)

    def run() -> Floats:
        with attending(model, kernel):
            return np.concatenate([scorer(batch)["effort"] for batch in batches])

    return run


def in_turn(
    makers: dict[str, Callable[[], Callable[[], Any]]],
    device: torch.device,
    *,
    repeats: int,
    truth: Floats,
) -> dict[str, Results]:
    """Every way once to warm up and then in turn, `repeats` times.

    truth: the first rows' norms by the oracle; what a way returns is held against it.
    """
    found: dict[str, Results] = {}
    runs = {}
    for name, make in makers.items():
        found[name] = {"seconds": [], "utilisation": [], "beyond_weights": None}
        try:
            runs[name] = make()
            norms = runs[name]()
            if norms is not None:
                found[name]["apart"] = apart(norms[: len(truth)], truth)
        except Exception as error:  # what cannot be done here is a result
            runs.pop(name, None)
            found[name]["why"] = reason(error)
        free(device)
    for _ in range(repeats):
        for name, run in runs.items():
            with watched(device) as seen:
                found[name]["seconds"].append(seconds(run))
            if seen["utilisation"] is not None:
                found[name]["utilisation"].append(seen["utilisation"])
            found[name]["beyond_weights"] = seen["beyond"]
        print(f"{len(runs)} ways once more", file=sys.stderr, flush=True)
    return found


def reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{error.name} is not installed"
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def watched(device: torch.device) -> Iterator[dict[str, Any]]:
    """Mean utilisation in % and peak bytes beyond what was held; None where there is no telling."""
    seen: dict[str, Any] = {"utilisation": None, "beyond": None}
    if device.type != "cuda":
        yield seen
        return
    samples: list[int] = []
    done = threading.Event()
    watcher = threading.Thread(target=_sample, args=(device, samples, done), daemon=True)
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen["beyond"] = torch.cuda.max_memory_allocated(device) - held
        seen["utilisation"] = statistics.fmean(samples) if samples else None


def _sample(device: torch.device, samples: list[int], done: threading.Event) -> None:
    while not done.wait(0.02):
        try:
            samples.append(torch.cuda.utilization(device))
        except Exception:  # no NVML, or one that does not know this device
            return


def describe(device: torch.device) -> Results:
    """The machine: processor, versions, and of a GPU its name, memory and driver."""
    found: Results = {
        "host": machine(threads()),
        "device": device.type.upper(),
        "date": str(date.today()),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {
            "device": about.name,
            "memory_gb": round(about.total_memory / 1e9, 1),
            "capability": f"{about.major}.{about.minor}",
            "cuda": torch.version.cuda,
            "driver": driver(),
        }
    return found


def driver() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # neither NVML nor its bindings need be there
        return "not known: nvidia-ml-py is not installed or finds no driver"


def render(results: Results) -> str:
    about = results["machine"]
    lines = [
        f"# On {about['device']}",
        "",
        f"`{results['command']}`, {about['date']}",
        "",
        *(
            ["A trial of the script at tiny sizes: these figures say nothing about speed.", ""]
            if results["trial"]
            else []
        ),
        ", ".join(f"{key} {value}" for key, value in about.items() if key not in ("date", "host"))
        + f"; {about['host']}",
        *families_table(results.get("families", [])),
    ]
    for found in results.get("speed", []):
        lines += speed_table(found)
    return "\n".join([*lines, ""])


def families_table(found: list[Results]) -> list[str]:
    if not found:
        return []
    lines = [
        "",
        "## Every family in bfloat16",
        "",
        "Relative differences from the oracle in float32 on the same weights: median over rows "
        "(largest). `staff`: the largest of one row at a time, batches of 8 padded on either "
        f"side, and the other kernels. Goal: a median at most {ACCURATE} times the oracle's.",
        "",
        "| family | kernel | oracle in bfloat16 | staff in bfloat16 | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in found:
        if "why" in one:
            lines.append(f"| {one['family']} | not measured: {one['why']} | | | |")
            continue
        worst = max(one["staff"].values(), key=lambda difference: difference["median"])
        near = worst["median"] <= ACCURATE * one["oracle"]["median"]
        lines.append(
            f"| {one['family']} | {one['kernel']} | {shown(one['oracle'])} | {shown(worst)} "
            f"| {'reached' if near else 'not reached'} |"
        )
    return lines


def shown(difference: dict[str, float]) -> str:
    return f"{difference['median']:.0e} ({difference['largest']:.0e})"


def speed_table(found: Results) -> list[str]:
    if "why" in found:
        return [
            "",
            f"## A vocabulary of {found['vocabulary']}",
            "",
            f"Not measured: {found['why']}.",
        ]
    lines = [
        "",
        f"## {found['parameters'] / 1e6:.0f}M parameters, vocabulary of {found['vocabulary']}",
        "",
        f"bfloat16, {found['rows']} rows, {found['tokens']} tokens in {found['batches']} batches, "
        f"{found['padding']:.1%} padding; medians. Norms: median difference from the oracle in "
        "bfloat16, relative (largest), over the first rows.",
        "",
        "| | seconds | tokens/s | utilisation | peak beyond the weights | norms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    medians = {}
    for name, way in found["ways"].items():
        if not way["seconds"]:
            lines.append(f"| {name} | not measured: {way['why']} | | | | |")
            continue
        medians[name] = statistics.median(way["seconds"])
        busy, beyond = way["utilisation"], way["beyond_weights"]
        lines.append(
            f"| {name} | {medians[name]:.3f} | {found['tokens'] / medians[name]:.0f} "
            f"| {f'{statistics.median(busy):.0f} %' if busy else 'not measured'} "
            f"| {'not measured' if beyond is None else f'{beyond / 1e9:.2f} GB'} "
            f"| {shown(way['apart']) if 'apart' in way else ''} |"
        )
    lines += ["", "| ratio | figure | wanted |", "| --- | --- | --- |"]
    lines += ratios(medians)
    return lines


def ratios(medians: dict[str, float]) -> list[str]:
    """Against the others, like with like: norms only where they compute nothing else.

    What did not fit into memory is in no ratio, be it ours.
    """
    lines = []
    for name, theirs in medians.items():
        alike = OURS if name in (PLAIN, MASKLESS, RELEASED) or name.startswith(FREE) else NORMS
        if name in (OURS, NORMS) or alike not in medians:
            continue
        ours = medians[alike]
        if name == PLAIN:
            line = f"time against a {name} | {ours / theirs:.2f} | ≤ {WANTED_PLAIN}"
        elif name == MASKLESS:
            line = f"time against a {name} | {ours / theirs:.2f} |"
        elif name == RELEASED:
            line = f"speed against {name} | {theirs / ours:.1f} | ≥ {WANTED_RELEASED}"
        elif name.startswith(FREE):
            line = f"speed of {name} against padded | {ours / theirs:.2f} |"
        else:
            line = f"speed of {NORMS} against {name} | {theirs / ours:.1f} |"
        lines.append(f"| {line} |")
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", help="of the results' files; the device's if not given")
    parser.add_argument("--families", nargs="*", default=[], help="all if none is named")
    parser.add_argument("--vocabularies", nargs="*", type=int, default=[32_000, 256_000])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="whether it works: no measurement")
    parser.add_argument("--out", type=Path, help="folder of the results (with --tiny: none)")
    args = parser.parse_args()
    if args.tiny:
        args.vocabularies = [300, 500]
        args.rows, args.layers, args.hidden, args.batch_tokens, args.repeats = 6, 2, 64, 1024, 1
    elif args.out is None:
        args.out = RESULTS
    return args


def main() -> None:
    args = arguments()
    device = choose_device(args.device)
    if args.device == "auto" and device.type != "cuda":
        sys.exit("there is no CUDA GPU here; --device cpu --tiny tries the script without one")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # the one that timing waits for
    warnings.simplefilter("ignore")  # PyTorch's and the peers' about each other
    transformers.logging.set_verbosity_error()  # which kernels a family lacks stands in the table
    results: Results = {
        "command": command_line(__file__),
        "trial": args.tiny,
        "machine": describe(device),
    }
    start = time.monotonic()
    results["families"] = families(args.families, device, rows=4 if args.tiny else 32)
    write(results, args)
    results["speed"] = []
    for vocabulary in args.vocabularies:
        try:
            found = speed(args, device, vocabulary)
        except torch.OutOfMemoryError as error:  # the model itself, or the oracle
            found = {"vocabulary": vocabulary, "why": reason(error)}
        results["speed"].append(found)
        free(device)
        write(results, args)
    results["minutes"] = round((time.monotonic() - start) / 60, 1)
    write(results, args)
    sys.stdout.write(render(results))


def write(results: Results, args: argparse.Namespace) -> None:
    if args.out is None:
        return
    name = args.name or "-".join(results["machine"]["device"].lower().replace("_", "-").split())
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"gpu-{name}"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    main()
