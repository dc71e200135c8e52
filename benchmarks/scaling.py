"""What grows with the number of rows: peak memory and seconds, on real rows of real lengths.

    python benchmarks/scaling.py --data DIR [--full] [--write]

Selection: n rows (10^4, 10^5, 10^6), drawn with replacement from all training files under DIR and
numbered so that no two are the same, go from the file to the coresets with the small model's scores
given (looked up, not computed): read, tokenise, stratify, verify on the embedded target, choose,
write, report. Then `staff select --scores` selects again from that run.

Scoring: n such rows (10^3, 10^4, with --full 10^5) are scored by `staff score` with the embedded
small model. Exponents are the slopes of log seconds against log tokens.

Every cell is a fresh process, whose peak is reported by the kernel. Finished cells are kept in
results/scaling.json and not measured again (unless --again); measure on an idle machine.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from written import machine

ROOT = Path(__file__).parents[1]
FAMILY = ROOT / "src" / "staff" / "assets" / "family"
RESULTS = Path(__file__).parent / "results"
MEASURED, REPORT = RESULTS / "scaling.json", RESULTS / "scaling.md"
CHART = ROOT / "docs" / "scaling.svg"
# Set -> its columns of prompt and response.
SETS = {
    "clinc150": ("text", "intent"),
    "cmudict": ("word", "phonemes"),
    "cogs": ("sentence", "logical_form"),
    "dialogsum": ("dialogue", "summary"),
    "e2e_nlg": ("mr", "ref"),
    "gsm8k": ("question", "answer"),
    "kk_en": ("kk", "en"),
    "medquad": ("question", "answer"),
    "multi30k": ("en", "de"),
    "snips_full": ("text", "intent"),
    "t0_short": ("prompt", "completion"),
}
SELECTED = (10_000, 100_000, 1_000_000)
SCORED = (1_000, 10_000, 100_000)
ALLOWED_MB, ALLOWED_EXPONENT = 1500, 1.05
KEEP = ("0.1", "0.5")
REPEATS = 3  # of scoring fewer than the most rows, and the median of their seconds


def pool(data: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Prompt and response of every training row of these sets, of those that are there."""
    pairs = []
    for name in names:
        path, (prompt, response) = data / name / "train.jsonl", SETS[name]
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                rows = (json.loads(line) for line in file)
                pairs += [(str(r[prompt]), str(r[response])) for r in rows if r[response]]
    if not pairs:
        raise SystemExit(f"no training file of {', '.join(names)} under {data}: give --data DIR")
    return pairs


def write_rows(path: Path, pairs: Sequence[tuple[str, str]], n: int) -> None:
    """n rows drawn from the pool; their number at the end makes each of them unlike the others."""
    draw = random.Random(n)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            prompt, response = draw.choice(pairs)
            record = {"prompt": f"{prompt} ({i})", "response": response}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


class Given:
    """In the place of the small model: scores that are looked up, by the number of the row."""

    columns = ("effort", "loss", "entropy", "el2n", "response_length")

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Log-normal scores float64 [B]."""
        import numpy as np

        rows = batch.rows.numpy()
        length = (batch.labels >= 0).sum(dim=1).numpy().astype(np.float64)
        draws = [np.random.default_rng(row).standard_normal(4) for row in rows.tolist()]
        scores = np.exp(0.5 * np.array(draws))  # [B, 4]
        return dict(zip(self.columns, (*scores.T, length), strict=True))

    def release(self) -> None:
        """There is no model to let go of."""


def select_given(data: str, out: str) -> None:
    """In this process: a whole run in which only the small model's forward passes are left out."""
    from staff import pipeline
    from staff.runs.config import SelectConfig
    from staff.stages import scoring

    real, small = scoring.LazyScorer, str(FAMILY / "small")

    def scorer(config: Any, *, model: str, **what: Any) -> Any:
        return Given() if model == small else real(config, model=model, **what)

    scoring.LazyScorer = scorer
    config = SelectConfig(
        data=data,
        small=small,
        target=str(FAMILY / "target"),
        keep=tuple(map(float, KEEP)),
        skip_finetune=True,
        on_bad_row="skip",
        out=out,
    )
    pipeline.select(config)


def measured(command: Sequence[str]) -> dict[str, float]:
    """Run a command; its peak resident memory in MB, its seconds on the clock and of the CPUs.

    The kernel counts the memory of the process that started it, too: this one stays small.
    """
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {
        "peak_mb": usage.ru_maxrss / unit,
        "seconds": time.monotonic() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def of_run(out: Path) -> dict[str, Any]:
    """What a finished run says of itself: usable rows, tokens, seconds of every stage."""
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    stages = {stage["name"]: stage for stage in manifest["stages"]}
    return {
        "usable": manifest["data"]["rows_usable"],
        "tokens": stages["read"].get("tokens", 0),
        "dtype": manifest["device"]["dtype"],
        "stages": {name: stage["seconds"] for name, stage in stages.items()},
    }


def selection(n: int, data: Path, scratch: Path) -> dict[str, Any]:
    """The cell of n rows selected: the whole run, and the same chosen again from its scores."""
    rows, out, again = scratch / f"{n}.jsonl", scratch / f"run-{n}", scratch / f"again-{n}"
    measured([__file__, "--rows", str(rows), str(n), str(data), *SETS])
    whole = measured([__file__, "--select", str(rows), str(out)])
    command = ["-m", "staff", "select", "--scores", str(out), "--keep", *KEEP, "--out", str(again)]
    command += ["--regions", "100"]
    found = {**whole, **of_run(out), "again": measured(command)}
    rows.unlink()
    return found


def scoring(n: int, data: Path, scratch: Path) -> dict[str, Any]:
    """The cell of n rows scored: the median run of several; of the most rows, one run."""
    rows = scratch / f"score-{n}.jsonl"
    measured([__file__, "--rows", str(rows), str(n), str(data), *SETS])
    runs = []
    for k in range(REPEATS if n < max(SCORED) else 1):
        out = scratch / f"scored-{n}-{k}"
        command = ["-m", "staff", "score", str(rows), "--model", str(FAMILY / "small")]
        command += ["--on-bad-row", "skip"]
        runs.append({**measured([*command, "--out", str(out)]), **of_run(out)})
    return sorted(runs, key=lambda run: run["stages"]["score"])[len(runs) // 2]


CELLS: dict[str, Callable[[int, Path, Path], dict[str, Any]]] = {
    "selection": selection,
    "scoring": scoring,
}


def slopes(tokens: Sequence[float], seconds: Sequence[float]) -> tuple[float, list[float]]:
    """Exponent fitted through all sizes by least squares, and that from each size to the next."""
    import numpy as np

    x, y = np.log(tokens), np.log(seconds)
    return float(np.polyfit(x, y, 1)[0]), (np.diff(y) / np.diff(x)).tolist()


def report(found: dict[str, Any]) -> Iterator[str]:
    """The lines of the tables and of the verdicts under them."""
    yield "# Memory and time by number of rows"
    yield ""
    full = " --full" if str(SCORED[-1]) in found["cells"].get("scoring", {}) else ""
    yield f"`python benchmarks/scaling.py --data DIR{full} --write`, {found['machine']}"
    yield ""
    chosen = _sizes(found, "selection")
    yield f"Real rows of {', '.join(SETS)}; scores given; coresets of {' and '.join(KEEP)}."
    yield ""
    yield "| rows | usable | tokens | seconds | reading | peak MB | again: seconds | peak MB |"
    yield "| --- " * 8 + "|"
    for n, cell in chosen:
        yield (
            f"| {n:,} | {cell['usable']:,} | {cell['tokens']:,} | {cell['seconds']:.0f} "
            f"| {cell['stages']['read']:.1f} | {cell['peak_mb']:.0f} "
            f"| {cell['again']['seconds']:.0f} | {cell['again']['peak_mb']:.0f} |"
        )
    yield from _growth(chosen, lambda cell: cell["peak_mb"], "the whole run")
    yield from _growth(chosen, lambda cell: cell["again"]["peak_mb"], "selecting again")
    yield from _exponents(chosen, "read", "reading and tokenising")
    scored = _sizes(found, "scoring")
    yield ""
    size = (FAMILY / "small" / "model.safetensors").stat().st_size / (1 << 20)
    dtypes = sorted({cell["dtype"] for _, cell in scored if "dtype" in cell})  # not in older ones
    told = ", ".join([f"{size:.1f} MB", *dtypes])
    yield (
        f"The same kind of rows, scored by the embedded small model ({told}): of {REPEATS} runs "
        f"the median one, of {max(SCORED):,} rows one run. Selections are one run each."
    )
    yield ""
    yield "| rows | tokens | seconds of scoring | tokens/s | peak MB |"
    yield "| --- " * 5 + "|"
    for n, cell in scored:
        seconds = cell["stages"]["score"]
        yield (
            f"| {n:,} | {cell['tokens']:,} | {seconds:.1f} | {cell['tokens'] / seconds:,.0f} "
            f"| {cell['peak_mb']:.0f} |"
        )
    yield from _growth(scored, lambda cell: cell["peak_mb"], "scoring")
    yield from _exponents(scored, "score", "scoring, with loading the model,")


def _sizes(found: dict[str, Any], kind: str) -> list[tuple[int, dict[str, Any]]]:
    return sorted((int(n), cell) for n, cell in found["cells"].get(kind, {}).items())


def _growth(cells: list[Any], peak: Callable[[Any], float], what: str) -> Iterator[str]:
    """Where memory ends, and how many bytes each further row takes."""
    if len(cells) < 2:
        return
    (few, first), (many, last) = cells[0], cells[-1]
    a_row = (peak(last) - peak(first)) * (1 << 20) / (many - few)
    verdict = "met" if peak(last) <= ALLOWED_MB else "not met"
    yield ""
    yield (
        f"Peak of {what}: {peak(last):.0f} MB at {many:,} rows, {a_row:.0f} bytes per row from "
        f"{few:,} on (at most {ALLOWED_MB} MB: {verdict})."
    )


def _exponents(cells: list[Any], stage: str, what: str) -> Iterator[str]:
    if len(cells) < 2:
        return
    tokens = [cell["tokens"] for _, cell in cells]
    whole, parts = slopes(tokens, [cell["stages"][stage] for _, cell in cells])
    verdict = "met" if whole <= ALLOWED_EXPONENT else "not met"
    steps = ", ".join(f"{part:.2f}" for part in parts)
    yield ""
    yield (
        f"Seconds of {what} grow with the tokens to the power of {whole:.2f} (from size to size: "
        f"{steps}; at most {ALLOWED_EXPONENT}: {verdict})."
    )


def plot(found: dict[str, Any]) -> str:
    """SVG: the seconds and the peak memory of the tables, by number of rows."""
    import vl_convert

    points = []
    for n, cell in _sizes(found, "selection"):
        again = cell["again"]
        points += [
            {"rows": n, "of": "a run, scores given", "s": cell["seconds"], "mb": cell["peak_mb"]},
            {"rows": n, "of": "reading in it", "s": cell["stages"]["read"]},
            {"rows": n, "of": "selecting again", "s": again["seconds"], "mb": again["peak_mb"]},
        ]
    for n, cell in _sizes(found, "scoring"):
        points.append(
            {"rows": n, "of": "scoring", "s": cell["stages"]["score"], "mb": cell["peak_mb"]}
        )
    ticks = {"values": [10**power for power in range(3, 7)], "format": "~s"}
    x = {"field": "rows", "type": "quantitative", "scale": {"type": "log"}, "axis": ticks}
    order = ["scoring", "a run, scores given", "reading in it", "selecting again"]
    colours = {"domain": order, "range": ["#e69f00", "#0072b2", "#56b4e9", "#009e73"]}
    colour = {"field": "of", "type": "nominal", "title": None, "scale": colours}

    def panel(field: str, title: str, scale: str, limit: float | None = None) -> dict[str, Any]:
        y = {"field": field, "type": "quantitative", "title": title, "scale": {"type": scale}}
        there = {"filter": f"isValid(datum.{field})"}
        lines = {"mark": {"type": "line", "point": True}, "transform": [there]}
        layers = [{**lines, "encoding": {"x": x, "y": y, "color": colour}}]
        if limit is not None:
            rule = {"y": {"datum": limit, "type": "quantitative"}}
            layers.append({"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": rule})
        return {"width": 300, "height": 220, "layer": layers}

    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "white",
        "data": {"values": points},
        "hconcat": [panel("s", "seconds", "log"), panel("mb", "peak MB", "linear", ALLOWED_MB)],
    }
    return str(vl_convert.vegalite_to_svg(spec))


def known(about: str, *, again: bool) -> dict[str, Any]:
    """The cells that were finished on this machine with these versions; none of another's.

    about: the machine, as the page says it.
    """
    if MEASURED.is_file() and not again:
        found: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
        if found.get("machine") == about:
            return found
    return {"machine": about, "cells": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--full", action="store_true", help="score 10^5 rows, too")
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--write", action="store_true", help="keep cells; write table and chart")
    parser.add_argument("--only", choices=sorted(CELLS), nargs="+", default=list(CELLS))
    parser.add_argument("--select", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rows", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", help="other numbers of rows, to try it out")
    parser.add_argument("--scratch", type=Path, help="folder for the rows and runs (1 GB)")
    arguments = parser.parse_args()
    if arguments.select:
        select_given(*arguments.select)
        return
    if arguments.rows:
        path, n, data, *names = arguments.rows
        write_rows(Path(path), pool(Path(data), names), int(n))
        return
    found = known(machine(also=("tokenizers", "numpy")), again=arguments.again)
    scored = SCORED if arguments.full else SCORED[:-1]
    sizes = {"selection": arguments.sizes or SELECTED, "scoring": arguments.sizes or scored}
    jobs = [(kind, n) for kind in arguments.only for n in sizes[kind]]
    for kind, n in jobs:
        if str(n) in found["cells"].get(kind, {}):
            continue
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            cell = CELLS[kind](n, arguments.data, Path(scratch))
        found["cells"].setdefault(kind, {})[str(n)] = cell
        print(kind, f"{n:,}", json.dumps(cell), flush=True)
        if arguments.write:
            MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(report(found)) + "\n"
    print(text)
    if arguments.write:
        REPORT.write_text(text, encoding="utf-8")
        CHART.write_text(plot(found), encoding="utf-8")


if __name__ == "__main__":
    main()
