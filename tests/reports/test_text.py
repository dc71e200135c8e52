import pytest

from staff.reports.text import render


def manifest(regions=3, names=("0.1", "0.2"), **more):
    """What a run of 4,000 rows could have written."""
    return {
        "format": 1,
        "command": "select",
        "data": {"path": "train.jsonl", "format": "alpaca", "rows_read": 4005, "rows_usable": 4000,
                 "rejected": 5, "truncated": 12, "duplicates": 0},
        "models": {"small": {"path": "models/small", "parameters": 1_234_567},
                   "target": {"path": "models/a target", "parameters": 7_000_000_000}},
        "device": {"type": "cpu", "name": "AMD EPYC", "threads": 2, "dtype": "bfloat16"},
        "seed": 0,
        "stages": [
            {"name": "fine-tune small", "seconds": 75.2, "tokens": 900_123, "rows": 12_000, "reused": False},
            {"name": "score small", "seconds": 12.0, "tokens": 300_000, "rows": 4000, "reused": True},
        ],
        "target_rows_scored": 470,
        "cut": {"fraction": 0.1, "rows": 400, "threshold": 1.17},
        "regions": [
            {"lower": i / 3, "upper": (i + 1) / 3, "size": 1200 + i, "verified": 10, "ratio": 1.02,
             "interval": [0.8, 1.24], "flagged": False, "budgets": dict.fromkeys(names, 130 + i)}
            for i in range(regions)
        ],
        "coresets": [
            {"name": name, "keep": float(name), "total": int(4000 * float(name)), "top_up": 12 * (name == "0.1"),
             "path": f"coreset-{name}.jsonl"}
            for name in names
        ],
        "files": {"selection.parquet": "1", "scores/small/part-00000.parquet": "2",
                  "scores/small/part-00001.parquet": "3"},
        **more,
    }  # fmt: skip


def test_wide_tables_show_the_interval_and_narrow_ones_its_half():
    wide = render(manifest(), folder="runs/x", width=200)
    assert (
        "  1  1,200      0–0.333        10  1.02 [0.800, 1.24]       130  130" in wide.splitlines()
    )
    narrow = render(manifest(), folder="runs/x", width=60)
    assert "  1  1,200      0–0.333        10  1.02 ± 0.22" in narrow.splitlines()
    assert "  1       130  130" in narrow.splitlines()  # the budgets moved to a table of their own


def test_an_interval_that_stops_at_zero_is_not_shown_half_as_wide():
    regions = manifest()["regions"]
    regions[0] |= {"ratio": 1.0, "interval": [0.0, 4.0]}  # 1 ± 3: a ratio is not negative
    narrow = render(manifest(regions=0) | {"regions": regions}, folder="runs/x", width=60)
    assert "1.00 ± 3.0" in narrow
    for high, words in ((13.4, "1.00 ± 12\n"), (151.0, "1.00 ± 150\n"), (1.2, "1.00 ± 0.20\n")):
        regions[0]["interval"] = [0.0, high]
        narrow = render(manifest(regions=0) | {"regions": regions}, folder="runs/x", width=60)
        assert words in narrow


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_tables_keep_to_the_width_and_lose_nothing(width, count):
    names = [f"0.{i + 1}" for i in range(count)]
    text = render(manifest(50, names), folder="runs/x", width=width)
    tables = [line for line in text.splitlines() if line.startswith("  ") and "staff " not in line]
    assert max(map(len, tables)) <= width
    assert sum(line.split()[0] == "50" for line in tables) in (1, 2, 3)
    for i in range(50):
        assert f"  {1200 + i:,}  " in text
    assert "\x1b" not in text


def test_what_a_user_asks_of_a_run_is_there():
    text = render(manifest(), folder="runs/x", width=100)
    for words in (
        "4,000 usable rows of 4,005, 5 skipped (see rejected.jsonl), 12 truncated to the maximum\n"
        "          length",
        "3 of equal width in score; 400 rows above 1.17 cut",
        "runs/x/coreset-0.1.jsonl: 400 rows (10 %), 12 of them drawn at random (top-up)\n",
        "          Top-up: places left over by full regions and rounding, for rows of any region.\n",
        "          V: the target's scores divided by the small model's, over the verified rows of a region.",
        "fine-tune small  1 min 15 s  12,000    900,123    11,970",
        "The target scored 470 of 4,000 rows.",
        "models/small (1.23M parameters)",
        "models/a target (7B parameters)",
        "scores/small/ (2 files)\n          report.html\n          manifest.json",
        "staff finetune runs/x/coreset-0.1.jsonl --model 'models/a target' --out runs/x-tuned-0.1",
    ):
        assert words in text
    assert "duplicates" not in text


def test_what_came_from_a_cache_cost_more_than_is_told():
    kept = "reused: from an earlier run, with its cost then"
    assert f"{kept}.\n" in render(manifest(), folder="runs/x", width=100)
    cached = render(manifest(config={"cache": "c"}), folder="runs/x", width=100)
    assert f"{kept}; from --cache, with the cost of copying it.\n" in cached


def test_a_run_on_a_device_that_no_test_has_seen_says_so():
    run = manifest()
    assert "Untested" not in render(run, folder="runs/x", width=100)
    run["device"]["untested"] = ["cuda", "--padding-free"]
    assert "Untested  by this project: cuda, --padding-free\n" in render(
        run, folder="runs/x", width=100
    )


def test_the_next_command_reads_the_coreset_like_the_data():
    config = {
        "prompt_template": "{a} {b}", "response_column": "ref", "prompt_column": None,
        "on_bad_row": "skip", "max_length": 9,
    }  # fmt: skip
    text = render(manifest(config=config), folder="runs/x", width=100)
    flags = "--response-column ref --prompt-template '{a} {b}'"
    assert f"--model 'models/a target' {flags} --out runs/x-tuned-0.1" in text
    assert "on-bad-row" not in text
    assert "None" not in text


def test_the_score_of_a_method_without_regions_is_told():
    spread = {"lowest": 0.5, "median": 1.25, "highest": 2000.0}
    score = {
        "column": "loss",
        "all": spread,
        "chosen": {"0.1": spread | {"lowest": 1.0}, "0.2": None},
    }
    run = manifest(regions=0, config={"method": "loss", "take": "highest"}, score=score)
    text = render(run, folder="x", width=80)
    assert (
        "Method    loss: take highest\n\n"
        "Score     loss on the small model, median (lowest to highest)\n"
        "          all rows: 1.25 (0.500 to 2,000)\n"
        "          coreset 0.1: 1.25 (1.00 to 2,000)\n\n"
    ) in text
    assert "Score  " not in render(run | {"regions": manifest()["regions"]}, folder="x", width=80)
    by_features = render(manifest(regions=0, config={"method": "moderate"}), folder="x", width=99)
    assert (
        "Method    moderate: by features (mean hidden states of the small model), not by a score\n"
        in by_features
    )


def test_unverified_and_flagged_regions():
    regions = manifest()["regions"]
    regions[0] |= {"verified": 0, "ratio": None, "interval": None}
    regions[1] |= {"ratio": 1.0, "interval": [None, None], "flagged": True}
    lines = render(manifest(regions=0) | {"regions": regions}, folder="x", width=120).splitlines()
    assert lines[lines.index("Regions   3 of equal width in score; 400 rows above 1.17 cut") + 2].split() == [
        "1", "1,200", "0–0.333", "130", "130",
    ]  # fmt: skip
    assert any("1.00* " in line for line in lines)
    assert any(line.startswith("* ratio set to 1") for line in lines)


def test_a_random_selection_has_no_regions_to_show():
    text = render(
        manifest(regions=0, models={}, cut=None, target_rows_scored=0), folder="runs/x", width=80
    )
    assert "Regions" not in text
    assert "staff why" not in text
    assert "--to trl --model MODEL  #" in text  # an export needs it, then
    named = render(manifest(models={}, config={"target": "t"}), folder="runs/x", width=80)
    assert "--model t --out" in named
    assert "--to trl  #" in named


@pytest.mark.parametrize(
    ("config", "sizes", "told"),
    [
        ({"method": "staff", "regions": 5}, [9, 9, 9], "The other 2 of 5 are empty and not listed."),
        ({"method": "staff", "regions": 3}, [9, 9, 9], ""),
        ({"method": "staff", "regions": "auto"}, [40, 40],
         "--regions auto asked for 4 instead of 50: one per 20 of the 80 rows below the cut. The "
         "other 2 of 4 are empty and not listed."),
        ({"method": "staff", "regions": "auto"}, [40, 40, 1],
         "The other 1 of 4 is empty and not listed."),
        ({"method": "ccs", "regions": "auto"}, [40, 40],
         "The other 48 of 50 are empty and not listed."),
    ],
)  # fmt: skip
def test_fewer_regions_than_asked_for_are_told(config, sizes, told):
    regions = [manifest()["regions"][0] | {"size": size} for size in sizes]
    text = render(manifest(config=config) | {"regions": regions}, folder="runs/x", width=100)
    assert told in " ".join(text.split())
    assert told or "empty" not in text


def test_quotas_are_told_value_by_value_and_many_shortened():
    rows = {"": 10, "a": 30, "b": 20}
    quotas = {"column": "part", "rows": rows, "chosen": {"0.1": {"": 1, "a": 3, "b": 2}}}
    text = render(manifest(names=("0.1",), quotas=quotas), folder="runs/x", width=100)
    assert "\n          by part: a 3 of 30, b 2 of 20, (none) 1 of 10\n" in text
    many = {f"v{i:02}": 100 - i for i in range(25)} | {"long " * 9: 200}
    quotas = {"column": "part", "rows": many, "chosen": {"0.1": dict.fromkeys(many, 3)}}
    text = render(manifest(names=("0.1",), quotas=quotas), folder="runs/x", width=200)
    assert "by part: long long long long long long… 3 of 200, v00 3 of 100, " in text
    assert "v07 3 of 93, 17 more values\n" in text
    del quotas["chosen"]  # a run of an earlier version
    assert "by part:" not in render(manifest(names=("0.1",), quotas=quotas), folder="runs/x")


@pytest.mark.parametrize("method", ["el2n", "ifd", "moderate"])
def test_a_method_that_goes_by_a_score_can_say_why(method):
    text = render(manifest(regions=0, config={"method": method}), folder="runs/x", width=80)
    assert ("staff why runs/x --row 0" in text) == (method != "moderate")


def test_a_long_run_name_keeps_to_the_width():
    folder = "runs/" + "x" * 40
    stable = {"0.1": {"seeds": 3, "jaccard": 0.5, "chance": 0.1}}
    lines = render(manifest(stability=stable), folder=folder, width=60).splitlines()
    start = lines.index(f"Coreset   {folder}/coreset-0.1.jsonl:")
    block = [line for line in lines[start + 1 : lines.index("", start)] if folder not in line]
    assert max(map(len, block)) <= 60
    told = " ".join(" ".join(block).split())
    assert told.startswith(
        "400 rows (10 %), 12 of them drawn at random (top-up) agreement over 3 seeds"
    )


def test_a_scoring_run_shows_cost_and_files_only():
    text = render(
        {
            "format": 1,
            "command": "score",
            "seed": 0,
            "stages": manifest()["stages"],
            "files": {"scores/a": "1"},
        },
        folder="scores/x",
        width=80,
    )
    assert "Cost" in text
    assert "Coreset" not in text
    assert "Next" not in text


@pytest.mark.parametrize(
    ("method", "words"), [("staff", "3 of equal number of rows;"), ("ccs", "3 of equal width in")]
)
def test_regions_are_of_equal_count_only_where_the_method_heeds_it(method, words):
    run = manifest()
    run["config"] = {"method": method, "stratify_by": "count"}
    assert words in render(run, folder="runs/x", width=100)


PROXY = {
    "verdict": "do not trust", "because": "inverse ratios", "advice": "run again with --verify-against untuned",
    "rows": 470, "compared": "tuned", "spearman": 0.81234, "interval": [0.76, 0.85], "spearman_of_sample": 0.85,
    "ratio_trend": {"rank": -0.97, "slope": -0.9}, "ratios_told_apart": {"regions": 31, "of": 46},
    "budget_error": 0.041, "budget_moved": {"0.1": 0.32, "0.2": 0.271},
}  # fmt: skip


def test_the_verdict_on_the_small_model_with_reason_and_advice():
    text = " ".join(render(manifest(proxy=PROXY), folder="runs/x", width=100).split())
    for words in (
        "Proxy do not trust: the ratios are little more than the inverse of the small model's scores",
        "with the small model's: 0.81 (95 % interval 0.76 to 0.85), from 470 rows weighted to "
        "represent all rows",
        "the ratios fall (rank correlation with the score -0.97; when the score doubles, they "
        "change by a factor of 0.54)",
        "31 of 46 ratios have a 95 % interval that excludes their mean (about 2 would by chance",
        "moved 27 to 32 % of the budget compared with equal shares; about 4.1 % would move again",
        "Advice: run again with --verify-against untuned.",
    ):
        assert words in text
    assert "Proxy" not in render(manifest(), folder="runs/x", width=100)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_verdict_keeps_to_the_width(width):
    lines = render(manifest(proxy=PROXY), folder="runs/x", width=width).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Proxy"))
    block = lines[start : lines.index("", start)]
    assert len(block) > 5
    assert max(map(len, block)) <= width


def test_what_little_is_known_is_told():
    bare = PROXY | {"because": "no spread", "spearman": None, "interval": None, "ratio_trend": None,
                    "ratios_told_apart": {"regions": 0, "of": 0}, "budget_moved": {"0.1": None},
                    "advice": "", "verdict": "do not trust"}  # fmt: skip
    text = render(manifest(proxy=bare), folder="runs/x", width=100)
    assert (
        "Proxy     do not trust: all verified rows have the same score on one of the models\n"
        "          470 rows verified.\n" in text
    )
    untuned = PROXY | {"compared": "untuned", "interval": None, "budget_moved": {"0.1": 0.27}}
    text = " ".join(render(manifest(proxy=untuned), folder="runs/x", width=100).split())
    assert "with the small model's before fine-tuning: 0.81, from 470 rows" in text
    assert "moved 27 % of the budget" in text


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"stable": True, "error": 0.0412}, "612 rows verified in 2 rounds: the budgets are stable (error 0.041, tolerance 0.05)"),
        ({"stable": False, "error": 0.07, "cap": 612}, "2 rounds; stopped at the cap of 612 rows (error 0.070, tolerance 0.05)"),
        ({"stable": False, "error": 0.07, "cap": 2000}, "2 rounds; no more rows to verify (error 0.070"),
    ],
)  # fmt: skip
def test_what_verification_in_rounds_spent(found, words):
    rounds = [{"rows": 230, "error": 0.09}, {"rows": 612, "error": found["error"]}]
    verification = {
        "stable": found["stable"],
        "tolerance": 0.05,
        "cap": found.get("cap", 2000),
        "rounds": rounds,
    }
    run = manifest(proxy=PROXY, verification=verification)
    assert words in " ".join(render(run, folder="runs/x", width=100).split())


@pytest.mark.parametrize(
    ("sizes", "verified", "more", "told"),
    [
        ([100, 50], [10, 10], {}, ""),
        ([100, 10], [10, 0], {},
         "1 of 2 regions, with 10 of 110 rows, is not verified because it has 10 rows "
         "or fewer. It gets an equal share."),
        ([30, 10, 9], [10, 0, 0], {},
         "2 of 3 regions, with 19 of 49 rows, are not verified because they have 10 rows "
         "or fewer. They get equal shares. Advice: run the same command with fewer --regions (about 2) "
         "to verify more of the rows; the small model's scores are reused."),
        ([30, 8, 7, 6], [10, 0, 0, 0], {"stratify_by": "width"},
         "3 of 4 regions, with 21 of 51 rows, are not verified because they have 10 rows "
         "or fewer. They get equal shares. Advice: run the same command with fewer --regions (about 2) "
         "to verify more of the rows; the small model's scores are reused."),
        ([16, 7], [10, 0], {"stratify_by": "width"},
         "1 of 2 regions, with 7 of 23 rows, is not verified because it has 10 rows "
         "or fewer. It gets an equal share. Advice: run the same command with --stratify-by "
         "count (regions with equally many rows) to verify more of the rows; the small model's "
         "scores are reused."),
        ([16, 7], [10, 0], {"stratify_by": "count"},
         "1 of 2 regions, with 7 of 23 rows, is not verified because it has 10 rows "
         "or fewer. It gets an equal share."),
        ([13, 7], [10, 0], {"stratify_by": "width"},  # no two regions would be verified
         "1 of 2 regions, with 7 of 20 rows, is not verified because it has 10 rows "
         "or fewer. It gets an equal share."),
        ([6, 9], [5, 0], {"verify_per_region": "auto"},
         "1 of 2 regions, with 9 of 15 rows, is not verified. It gets an equal share."),
        ([4, 9], [0, 0], {"scores": "runs/x"},
         "2 of 2 regions, with 13 of 13 rows, are not verified because they have 10 rows "
         "or fewer. They get equal shares."),
        ([9, 9, 4], [0, 0, 0], {"scores": "runs/x"},
         "3 of 3 regions, with 22 of 22 rows, are not verified because they have 10 rows "
         "or fewer. They get equal shares. Advice: run the same command with fewer --regions (about 2) "
         "to use more of the target's stored scores."),
        ([30, 20], [10, 0], {"scores": "runs/x"},
         "1 of 2 regions, with 20 of 50 rows, is not verified. It gets an equal share. Advice: "
         "--scores never runs the target; to verify these regions, repeat the command of that run "
         "with these settings."),
        ([4, 9], [0, 0], {"method": "ccs"}, ""),
    ],
)  # fmt: skip
def test_regions_that_the_target_had_no_say_in_are_told(sizes, verified, more, told):
    regions = [
        manifest()["regions"][0] | {"size": size, "verified": rows, "ratio": 1.0 if rows else None}
        for size, rows in zip(sizes, verified, strict=True)
    ]
    config = {"method": "staff", "verify_per_region": 10, **more}
    text = render(manifest(regions=0, config=config) | {"regions": regions}, folder="x")
    said = " ".join(text.split())
    assert told in said
    assert told or "not verified" not in said
