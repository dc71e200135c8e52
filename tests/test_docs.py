"""What the documents say of the tests is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"


def test_every_test_that_the_tables_name_exists():
    file, named = "", []
    text = PAGE.read_text(encoding="utf-8")
    for path, test in re.findall(r"`(tests/[\w/]*\.py)?(?:::(\w+))?`", text):
        file = path or file
        named.append((file, test))
    assert len(named) > 40
    for file, test in named:
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test
        assert (ROOT / file).is_file(), file


def test_every_link_within_the_project_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    links = 0
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            place = link.partition("#")[0]
            if place and "://" not in place and not place.startswith("mailto:"):
                links += 1
                assert (page.parent / place).exists(), f"{page.name}: {link}"
    assert links > 50
