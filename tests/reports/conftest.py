"""A finished run in a folder, made without a model."""

import json

import numpy as np
import pytest

from staff.data.files import open_source
from staff.rng import keys_of_ids
from staff.runs.facts import coreset_facts, cut_facts, region_facts
from staff.runs.manifest import begin, plain, write_manifest
from staff.runs.proxy import proxy_facts
from staff.runs.selection_file import write_selection
from staff.runs.store import RunFolder
from staff.selectors import select_random, select_ranked, select_staff

READING = {"format": "prompt-response", "prompt_column": "prompt", "response_column": "response"}
STAGES = [
    {"name": "score small", "seconds": 75.25, "tokens": 30_100, "rows": 300, "reused": True},
    {"name": "verify on target", "seconds": 12.0, "tokens": 6_000, "rows": 60, "reused": False},
]


@pytest.fixture
def records():
    """Short prompts, and responses of 1 to 50 characters."""
    return [{"prompt": f"prompt {i}", "response": "x" * (1 + i % 50)} for i in range(300)]


@pytest.fixture
def make_run(tmp_path):
    """(folder, manifest) of a run over these records; scores grow with the row, roughly."""

    def make(
        records,
        *,
        keep=(0.1, 0.3),
        regions=12,
        sources=None,
        method="staff",
        reading=READING,
        proxy=True,
    ):
        n = len(records)
        data = tmp_path / "train.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        rng = np.random.default_rng(0)
        scores, target = 1 + np.arange(n) / n, (2 + np.arange(n) / n) * rng.uniform(0.9, 1.1, n)
        ids, totals = [f"id-{i}" for i in range(n)], [round(k * n) for k in keep]
        manifest = begin("select", {"method": method, "regions": regions}, seed=3)
        common = {"keys": keys_of_ids(ids, 3), "seed": 3}
        known: dict = {"scores": {}, "score_target": None, "regions": None, "verified": None}
        if method == "random":
            selections = [select_random(total=total, **common) for total in totals]
        elif method != "staff":  # whatever its rule is, these are its columns
            selections = [
                select_ranked(scores=scores, total=t, keys=common["keys"]) for t in totals
            ]
        else:
            selections = select_staff(
                scores=scores, total=totals, verify=lambda rows: target[rows], regions=regions,
                verify_per_region=5, **common,
            )  # fmt: skip
            known["verified"] = verified = np.zeros(n, bool)
            verified[selections[0].verification.rows] = True
            known["score_target"] = np.where(verified, target, np.nan)
            known["regions"] = selections[0].regions.of_row
        if method != "random":
            lengths = np.array([len(str(record.get("response", ""))) for record in records], float)
            known["scores"] = {"effort": scores, "response_length": lengths, "loss": scores / 2}
        named = {f"{k:g}": s for k, s in zip(keep, selections, strict=True)}
        if method == "staff":
            manifest["cut"] = cut_facts(selections[0], scores, 0.1)
            manifest["regions"] = region_facts(named)
            if proxy:
                manifest["proxy"] = proxy_facts(
                    named,
                    small=scores,
                    target=target,
                    untuned=None,
                    tuned=True,
                    verify_per_region=10,
                    seed=3,
                )
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir(exist_ok=True)
        write_selection(
            folder.selection, ids=ids, rows=np.arange(n), selections=named, sources=sources, **known
        )
        manifest |= {
            "data": {"path": str(data), "sha256": open_source(data).content_hash(),
                     "rows_read": n + 2, "rows_usable": n, "rejected": 2, "reading": reading},
            "models": {"small": {"path": "models/small", "parameters": 1_234_567, "hash": "5e4f"}},
            "stages": STAGES,
            "target_rows_scored": 60,
            "coresets": coreset_facts(dict(zip(named, keep, strict=True)), named, "jsonl"),
        }  # fmt: skip
        write_manifest(folder.manifest, manifest)
        return folder, plain(manifest)

    return make


@pytest.fixture
def make_compared():
    """compare.json of a comparison that was not made: the first method is best, the last worst."""

    def make(
        methods=("staff", "random", "ccs"), keep=(0.1, 0.3), metrics=("loss", "rougeL"), seeds=3,
        full=True, **changes,
    ):  # fmt: skip
        rows = []
        for metric in metrics:
            sign = -1 if metric == "loss" else 1
            for method, size in [("untuned", None), *([("full", None)] if full else []),
                                 *((method, size) for size in keep for method in methods)]:  # fmt: skip
                rank = methods.index(method) if size else 0
                value = {"untuned": 2.0, "full": 2.0 + sign}.get(
                    method, 2 + sign * (0.9 - rank / 20)
                )
                row = {
                    "metric": metric, "method": method, "keep": size, "rows": int(400 * (size or 1)),
                    "seeds": seeds, "items": 90, "value": value, "low": value - 0.2,
                    "high": value + 0.2, "best": None,
                    "selection_seconds": 10.0 * rank if size else None,
                    "tuning_seconds": None if method == "untuned" else 90.0 * (size or 1),
                    "selection_to_tuning": rank / 9 if size and full else None,
                }  # fmt: skip
                for name in ("random", "best"):
                    row |= dict.fromkeys(f"{name}_{p}" for p in ("difference", "low", "high", "verdict"))  # fmt: skip
                if size and method != "random" and "random" in methods:
                    apart = sign * (methods.index("random") - rank) / 20
                    verdict = "tie" if abs(apart) > 0.15 else "win" if apart * sign > 0 else "loss"
                    row |= {"random_difference": apart, "random_low": apart - 0.04,
                            "random_high": apart + 0.04, "random_verdict": verdict}  # fmt: skip
                if method == "staff" and "ccs" in methods:
                    row |= {"best": "ccs", "best_difference": sign * 0.1, "best_low": -0.1,
                            "best_high": 0.2, "best_verdict": "tie"}  # fmt: skip
                rows.append(row)
        config = {"methods": list(methods), "keep": list(keep), "seeds": seeds, "full": full,
                  "metrics": list(metrics), "data": "train.jsonl", "test": "test.jsonl"}  # fmt: skip
        result = {
            **begin("compare", config, seed=0),
            "results": rows,
            "leaks": {"rows": 0, "of": 90},
        }
        result |= {
            "data": {"path": "data/train.jsonl", "sha256": "da7a"},
            "test": {"path": "data/test.jsonl", "sha256": "7e57"},
            "models": {
                "target": {"path": "models/target", "parameters": 4_000_000, "hash": "7a46"}
            },
            "cells": [{"test": {"rows": 90, "rejected": 0, "truncated": 2}}],
            "device": {"type": "cpu", "name": "processor", "threads": 1, "dtype": "float32"},
        }
        return plain(result | changes)

    return make
