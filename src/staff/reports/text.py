"""A manifest as plain text: what was chosen, why, what it cost, and what to type next."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from staff.reports.columns import Column, layout, wrap
from staff.reports.numbers import duration, millions, significant
from staff.reports.proxy import (
    findings,
    headline,
    interpolated_text,
    region_texts,
    rounds_text,
)
from staff.runs.facts import duplicates_fate, trust_remarks
from staff.runs.scored import by_features, score_of
from staff.runs.shared_settings import READING
from staff.runs.unheeded import heeded_by
from staff.selectors import SCORE
from staff.visible import one_line
from staff.words import count, counted, rows_of

Manifest = Mapping[str, Any]
INDENT = " " * 10
QUOTAS = 10  # values of a quota column that are listed
SHOWN = ("allocation", "within", "difficulty", "cut", "neighbours", "gamma", "take")


def render(manifest: Manifest, *, folder: str, width: int = 80) -> str:
    """The whole summary of one run, at most `width` columns wide wherever words allow.

    folder: the run folder, for the paths. The text has no colour and no control characters.
    """
    blocks = [
        data_block(manifest, width),
        not_finite_block(manifest, width),
        interpolated_block(manifest, width),
        method_block(manifest, width),
        score_block(manifest, width),
        regions_block(manifest, width),
        proxy_block(manifest, width),
        coresets_block(manifest, folder, width),
        stages_block(manifest, width),
        models_block(manifest),
        files_block(manifest, folder),
        next_block(manifest, folder),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def data_block(manifest: Manifest, width: int) -> list[str]:
    """Rows read, usable, set aside."""
    data = manifest.get("data")
    if not data:
        return []
    files = f"{counted(data['files'], 'file')}, " if data.get("files") else ""
    lines = [f"Data      {data['path']} ({files}{data['format']})"]
    facts = [f"{counted(data['rows_usable'], 'usable row')} of {count(data['rows_read'])}"]
    for key, words in (
        ("rejected", "skipped (see rejected.jsonl)"),
        ("truncated", "truncated to the maximum length"),
    ):
        if data.get(key):
            facts.append(f"{count(data[key])} {words}")
    if repeated := data.get("duplicates"):
        facts.append(f"{counted(repeated, 'duplicate')} ({duplicates_fate(manifest['config'])})")
    return [*lines, *_wrapped([", ".join(facts)], width)]


def not_finite_block(manifest: Manifest, width: int) -> list[str]:
    """The rows without a finite score, the first of them by name."""
    lines = []
    for role, found in (manifest.get("not_finite") or {}).items():
        first = ", ".join(f"{one['row']} (id {one['id']})" for one in found["first"][:3])
        more = ", …" * (found["rows"] > 3)
        said = f"no finite score ({role}): {rows_of(found['rows'])}, {first}{more}"
        lines.append(said)
    return _wrapped(lines, width, label="Rejected")


def interpolated_block(manifest: Manifest, width: int) -> list[str]:
    """How many rows were scored, if the others' scores are predicted from theirs."""
    interpolation = manifest.get("interpolation")
    if not interpolation:
        return []
    return _wrapped([interpolated_text(interpolation)], width, label="Scores")


def method_block(manifest: Manifest, width: int) -> list[str]:
    """The method with the settings it uses, and the constraints besides the size."""
    config = manifest.get("config") or {}
    method = config.get("method")
    if manifest.get("command") != "select" or method is None:
        return []
    heeded = [name for name in SHOWN if name in heeded_by(method)]
    facts = [f"{name.replace('_', ' ')} {config[name]}" for name in heeded if name in config]
    if method == "staff" and config.get("verify_against") == "untuned":
        facts.append("verify against untuned")
    if by_features(config):
        facts.append("by features (mean hidden states of the small model), not by a score")
    facts += constraints(manifest)
    return _wrapped([method + (": " if facts else "") + ", ".join(facts)], width, label="Method")


def score_block(manifest: Manifest, width: int) -> list[str]:
    """The score that a method without regions goes by: over all rows and over each coreset."""
    score, facts = score_of(manifest.get("config") or {}), manifest.get("score")
    if manifest.get("regions") or not score or not facts:  # the table of regions has scores
        return []
    named = {"all rows": facts["all"]}
    named |= {f"coreset {name}": spread for name, spread in facts["chosen"].items() if spread}
    told = [
        f"{name}: {significant(one['median'])} ({_span(one['lowest'], one['highest'], ' to ')})"
        for name, one in named.items()
    ]
    return _wrapped([f"{score.title}, median (lowest to highest)", *told], width, label="Score")


def constraints(manifest: Manifest) -> list[str]:
    """What was asked of every coreset besides its size, in words."""
    facts = ["nested"] if (manifest.get("config") or {}).get("nested") else []
    for name in ("include", "exclude"):
        if listed := manifest.get(name):
            facts.append(f"{rows_of(listed['rows'])} to {name} from {listed['path']}")
    if quotas := manifest.get("quotas"):
        facts.append(f"quotas by {quotas['column']} ({counted(len(quotas['rows']), 'value')})")
    return facts


def regions_block(manifest: Manifest, width: int) -> list[str]:
    """One line a region: size, scores, verified rows, V_i with its interval, budgets.

    What does not fit into `width` is shortened (the interval becomes ±) and then
    moved to a second table (the budgets).
    """
    regions = manifest.get("regions")
    if not regions:
        return []
    names = [coreset["name"] for coreset in manifest["coresets"]]
    cut = manifest.get("cut") or {}
    config = manifest.get("config") or {}  # CCS ignores its `stratify_by`
    by_count = config.get("method") == "staff" and config.get("stratify_by") == "count"
    equal = "number of rows" if by_count else "width in score"
    title = f"Regions   {len(regions)} of equal {equal}"
    if cut.get("rows"):
        title += f"; {rows_of(cut['rows'])} above {significant(cut['threshold'])} cut"
    number = Column("#", [str(i + 1) for i in range(len(regions))])
    fixed = [
        number,
        Column("rows", [count(r["size"]) for r in regions]),
        Column("scores", [_span(r["lower"], r["upper"], "–") for r in regions]),
        Column("verified", [count(r["verified"]) if r["verified"] else "" for r in regions]),
    ]
    budgets = [
        Column(
            "keep " + name if i == 0 else name,
            [count((r.get("budgets") or {}).get(name, 0)) for r in regions],
        )
        for i, name in enumerate(names)
    ]
    told = _wrapped(region_texts(regions, config), width)
    if not any(r.get("verified") for r in regions):  # CCS, or regions too small to be verified
        tables = layout([*fixed[:3], *budgets], width)
        if tables:
            return [title, *tables, *told]
    wide = Column("V [95 %]", [_ratio(r, wide=True) for r in regions])
    narrow = Column("V ± 95 %", [_ratio(r, wide=False) for r in regions])
    notes = ["* ratio set to 1: the verified scores have no finite, positive sum"]
    flagged = any(region.get("flagged") for region in regions)
    notes = [*(notes if flagged else []), *_legend(config, width), *told]
    for ratio in (wide, narrow):
        if lines := layout([*fixed, ratio, *budgets], width):
            return [title, *lines, *notes]
    tables = layout([*fixed, narrow], width, force=True)
    return [title, *tables, "", "Budgets", *_chunks(number, budgets, width), *notes]


def _legend(config: Mapping[str, Any], width: int) -> list[str]:
    """What V is: the heading of its column has no room for that."""
    untuned = config.get("verify_against") == "untuned"
    before = " before fine-tuning" if untuned else ""
    text = (
        f"V: the target's scores divided by the small model's{before}, over the verified rows of a "
        "region. The higher V, the harder the target finds the region compared with the small "
        "model, and the more of the budget it gets."
    )
    return _wrapped([text], width)


def proxy_block(manifest: Manifest, width: int) -> list[str]:
    """Whether the small model is a good proxy of the target, why, and what to do."""
    proxy, verification = manifest.get("proxy"), manifest.get("verification")
    if not proxy:
        return []
    told = [headline(proxy), *(f"{fact}." for fact in findings(proxy))]
    told += [f"Advice: {proxy['advice']}."] if proxy["advice"] else []
    told += [f"{rounds_text(verification)}."] if verification else []
    return _wrapped(told, width, label="Proxy")


def coresets_block(manifest: Manifest, folder: str, width: int) -> list[str]:
    """Each coreset's size and top-up."""
    lines: list[str] = []
    usable = (manifest.get("data") or {}).get("rows_usable")
    for coreset in manifest.get("coresets", ()):
        share = f" ({100 * coreset['total'] / usable:.3g} %)" if usable else ""
        filled = "".join(f", {words}" for words in filled_up(coreset))
        tokens = f", {count(coreset['tokens'])} tokens" if coreset.get("tokens") else ""
        name = f"Coreset   {folder}/{coreset['path']}:"
        facts = f"{rows_of(coreset['total'])}{share}{tokens}{filled}"
        beside = len(name) + len(" 400 rows") <= width  # a path is never broken
        lines += [] if beside else [name]
        lines += wrap(
            facts,
            max(30, width),
            initial_indent=f"{name} " if beside else INDENT,
            subsequent_indent=INDENT,
        )
        if quotas := quota_text(manifest, coreset["name"]):
            lines += _wrapped([quotas], width)
        if stable := (manifest.get("stability") or {}).get(coreset["name"]):
            agreed = (
                f"agreement over {stable['seeds']} seeds: Jaccard index "
                f"{stable['jaccard']:.2f} ({stable['chance']:.2f} by chance)"
            )
            lines += _wrapped([agreed], width)
    if any(at_random(coreset) for coreset in manifest.get("coresets", ())):
        text = "Top-up: places left over by full regions and rounding, for rows of any region."
        lines += _wrapped([text], width)
    return lines


def _wrapped(texts: Iterable[str], width: int, *, label: str = "") -> list[str]:
    """Texts beside a label, each on lines of its own."""
    lines = [line for text in texts for line in wrap(text, max(20, width - len(INDENT)))]
    return [(f"{label:<10}" if n == 0 else INDENT) + line for n, line in enumerate(lines)]


def quota_text(manifest: Manifest, name: str) -> str:
    """How many rows of each value of the quota column a coreset has; empty without quotas."""
    quotas = manifest.get("quotas") or {}
    chosen = (quotas.get("chosen") or {}).get(name)
    if chosen is None:  # none, or of an earlier version
        return ""
    values = sorted(quotas["rows"].items(), key=lambda item: (-item[1], item[0]))
    shown = values if len(values) <= QUOTAS else values[: QUOTAS - 1]
    told = [
        f"{_short(value)} {count(chosen.get(value, 0))} of {count(rows)}" for value, rows in shown
    ]
    if rest := values[len(shown) :]:
        told.append(f"{counted(len(rest), 'more value')}")
    return f"by {one_line(quotas['column'])}: {', '.join(told)}"


def _short(value: str) -> str:
    """A value of the data on a line; of a row without one, that."""
    text = one_line(value) or "(none)"
    return text if len(text) <= 30 else text[:29] + "…"


def filled_up(coreset: Mapping[str, Any]) -> list[str]:
    """How many rows of a coreset its method would not have taken for themselves, and why."""
    found = (
        (at_random(coreset), "drawn at random (top-up)"),
        (coreset.get("from_cut") or 0, "cut rows, to fill it up"),
    )
    return [f"{count(rows)} of them {words}" for rows, words in found if rows]


def at_random(coreset: Mapping[str, Any]) -> int:
    """Rows of a coreset that its top-up drew."""
    return max(0, (coreset.get("top_up") or 0) - (coreset.get("from_cut") or 0))


def stages_block(manifest: Manifest, width: int) -> list[str]:
    """Seconds, rows and tokens of every stage, and the rows the target had to score."""
    stages = manifest.get("stages")
    if not stages:
        return []
    columns = [
        Column("stage", [s["name"] for s in stages] + ["total"], left=True),
        Column("time", [duration(s["seconds"]) for s in stages]
               + [duration(_sum("seconds", stages))]),
        Column("rows", [count(s["rows"]) if s.get("rows") else "" for s in stages] + [""]),
        Column("tokens", [count(s["tokens"]) if s.get("tokens") else "" for s in stages]
               + [count(_sum("tokens", stages))]),
        Column("tokens/s", [_speed(s) for s in stages] + [""]),
        Column("", ["reused" if s.get("reused") else "" for s in stages] + [""], left=True),
    ]  # fmt: skip
    without_speed = [column for column in columns if column.title != "tokens/s"]
    table = layout(columns, width) or layout(without_speed, width, force=True)
    lines = ["Cost", *table]
    if (scored := manifest.get("target_rows_scored")) is not None:
        usable = (manifest.get("data") or {}).get("rows_usable")
        of = f" of {count(usable)}" if usable else ""
        lines.append(f"  The target scored {count(scored)}{of} rows.")
    if any(stage.get("reused") for stage in stages):
        cached = (manifest.get("config") or {}).get("cache")
        copied = "; from --cache, with the cost of copying it" if cached else ""
        lines.append(f"  reused: from an earlier run, with its cost then{copied}.")
    return lines


def models_block(manifest: Manifest) -> list[str]:
    """Models, device and seed, and what the models were allowed to do."""
    lines = [
        f"{name.capitalize():<10}{model['path']}"
        + (f" ({millions(model['parameters'])} parameters)" if model.get("parameters") else "")
        + (f", linear layers in {model['quantize']}" if model.get("quantize") else "")
        for name, model in (manifest.get("models") or {}).items()
        if model
    ]
    device = manifest.get("device")
    if device:
        threads = counted(device["threads"], "thread")
        each = f"{device['processes']} processes, " if device.get("processes") else ""
        where = f"{device['name']}, {each}{threads}, {device['dtype']}"
        lines.append(f"Device    {where}, seed {manifest.get('seed')}")
        if names := device.get("untested"):
            lines.append(f"Untested  by this project: {', '.join(names)}")
    lines += [f"Trust     {remark}" for remark in trust_remarks(manifest.get("config") or {})]
    return lines


def files_block(manifest: Manifest, folder: str) -> list[str]:
    """Where the files are; score shards counted, not listed."""
    names = sorted(manifest.get("files") or {})
    if not names:
        return []
    single = [name for name in names if "/" not in name]
    folders: dict[str, int] = {}
    for name in names:
        if "/" in name:
            parent = name.rpartition("/")[0]
            folders[parent] = folders.get(parent, 0) + 1
    many = [f"{name}/ ({counted(files, 'file')})" for name, files in folders.items()]
    page = ["report.html"] if manifest.get("coresets") else []  # not hashed, so not listed
    shown = [*single, *many, *page, "manifest.json"]
    return [f"Files     in {folder}/", *(INDENT + name for name in shown)]


def next_block(manifest: Manifest, folder: str) -> list[str]:
    """What to type next."""
    coresets = manifest.get("coresets")
    if manifest.get("command") != "select" or not coresets:
        return []
    path = shlex.quote(f"{folder}/{coresets[0]['path']}")
    config = manifest.get("config") or {}
    # Of a method that scores with no model the facts name none.
    facts = (manifest.get("models") or {}).get("target") or {}
    named = facts.get("path") or config.get("target")
    target = shlex.quote(str(named or "MODEL"))
    out = shlex.quote(_beside(folder, f"-tuned-{coresets[0]['name']}"))
    reading = "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(config[name]))}"
        for name in READING
        if config.get(name) is not None
    )
    if (quantize := config.get("quantize") or "none") != "none":
        reading += f" --quantize {shlex.quote(str(quantize))}"
    lines = ["Next", f"  staff finetune {path} --model {target}{reading} --out {out}"]
    keep = shlex.quote(coresets[0]["name"])
    model = "" if named else " --model MODEL"  # needed, then
    lines += [
        f"  staff export {shlex.quote(folder)} --keep {keep} --to trl{model}"
        "  # see --help for others"
    ]
    if manifest.get("regions") or config.get("method") in SCORE:  # else there is little to tell
        lines.append(f"  staff why {shlex.quote(folder)} --row 0")
    return lines


def _beside(folder: str, ending: str) -> str:
    """A folder next to a run's, of its name and an ending, also where the run's is ``.``.

    >>> _beside("runs/x", "-tuned")
    'runs/x-tuned'
    """
    if PurePath(folder).name not in ("", ".."):
        return folder + ending
    return os.path.normpath(f"{folder}/../{Path(folder).resolve().name}{ending}")


def _chunks(number: Column, budgets: Sequence[Column], width: int) -> list[str]:
    """The budgets in as many tables as the width asks for."""
    lines: list[str] = []
    left = list(budgets)
    while left:
        fits = next((c for c in range(len(left), 1, -1) if layout([number, *left[:c]], width)), 1)
        lines += layout([number, *left[:fits]], width, force=True)
        left = left[fits:]
    return lines


def _ratio(region: Mapping[str, Any], *, wide: bool) -> str:
    if region.get("ratio") is None:
        return ""
    star = "*" if region.get("flagged") else ""
    text = significant(region["ratio"]) + star
    low, high = region.get("interval") or (None, None)
    if low is None or high is None:
        return text
    if wide:
        return f"{text} [{_span(low, high, ', ')}]"
    # The lower end stops at zero, so half the interval may say too little.
    return f"{text} ± {_two_digits(high - region['ratio'])}"


def _two_digits(value: float) -> str:
    """Two significant digits, whole numbers from 10 on.

    >>> _two_digits(0.2), _two_digits(9.96), _two_digits(123.4)
    ('0.20', '10', '123')
    """
    return f"{value:,.0f}" if value >= 9.95 else f"{value:#.2g}"


def _sum(name: str, stages: Sequence[Mapping[str, Any]]) -> Any:
    return sum(stage.get(name) or 0 for stage in stages)


def _speed(stage: Mapping[str, Any]) -> str:
    if not stage.get("tokens") or not stage.get("seconds"):
        return ""
    return count(round(stage["tokens"] / stage["seconds"]))


def _span(low: float, high: float, between: str) -> str:
    return significant(low) + between + significant(high)
