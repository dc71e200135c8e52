from staff.reports.facts import render_facts, render_plan


def test_a_plan_shows_rows_stages_and_files():
    plan = {
        "rows": 4000,
        "stages": [
            {"name": "read", "rows": 4000, "tokens": 1_234_567, "reused": True},
            {"name": "verify on target", "rows": 500, "tokens": 0},
        ],
        "files": ["runs/x/manifest.json"],
    }
    assert render_plan(plan, width=80).splitlines() == [
        "Nothing was run. It would run:",
        "  stage              rows     tokens",
        "  read              4,000  1,234,567  reused",
        "  verify on target    500",
        "Rows  4,000",
        "It would write:",
        "  runs/x/manifest.json",
    ]


def test_facts_are_aligned_nested_and_rounded():
    facts = {
        "rows": 1000,
        "loss": {"mean": 1.23456, "interval": [1.2, 1.3]},
        "out": None,
        "ok": True,
    }
    assert render_facts(facts).splitlines() == [
        "rows  1,000",
        "ok    yes",
        "loss",
        "  mean           1.235",
        "  95 % interval  [1.2, 1.3]",
    ]
