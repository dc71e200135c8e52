"""What the documents say of the tests is there."""

import re
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

from staff.selectors.regions import below_cut, regions_for

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
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    links = 0
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            place, _, section = link.partition("#")
            if "://" in place or place.startswith("mailto:"):
                continue
            links += 1
            target = page.parent / place if place else page
            assert target.exists(), f"{page.name}: {link}"
            if section and target.suffix == ".md":
                assert section in sections(target), f"{page.name}: {link}"
    assert links > 100


def sections(page):
    """Names of a page's headings in links, as GitHub makes them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    titles = [b.content for a, b in pairwise(tokens) if a.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_regions_that_a_page_tells_are_those_of_a_run():
    text = (ROOT / "docs" / "how-to" / "choose-settings.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (?:from )?([\d,]+)(?: on)? \| (\d+) \|$", text, re.MULTILINE)
    assert len(table) == 4
    for rows, regions in table:
        n = int(rows.replace(",", ""))
        assert regions_for("auto", below_cut(n, 0.1)) == int(regions), rows


def test_the_results_in_the_readme_are_those_of_the_grid():
    """Lines of a method and a fraction; a test that runs the grid again would take hours."""
    line = re.compile(r"^\| \w+ \| 0\.\d \|.*\|$", re.MULTILINE)
    shown = line.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    page = (ROOT / "benchmarks" / "results" / "grid.md").read_text(encoding="utf-8")
    _, _, found = page.partition("\n## Test loss over random's, %\n")
    found, _, _ = found.partition("\n## ")
    assert len(shown) == 10
    assert set(shown) <= set(line.findall(found))


def test_the_peers_ratios_in_the_readme_are_those_that_were_measured():
    page = (ROOT / "benchmarks" / "results" / "peers.md").read_text(encoding="utf-8")
    measured = []
    for part in page.split("\n## ")[1:]:
        ratio = dict(re.findall(r"^\| ([^|]+) \| [\d.]+ \| ([\d.]+) \(", part, re.MULTILINE))
        times = {way: f"{float(found):.1f}" for way, found in ratio.items()}
        bergson = f"{times['bergson']}; {times['bergson (its own set-up)']}"
        func = f"{times['torch.func (last block)']}; {times['torch.func']}"
        alone = times["one row at a time"], times["the released way"]
        measured.append((times["opacus (ghost norms)"], bergson, func, *alone))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, table = readme.partition("| model, rows | opacus |")
    table, _, _ = table.partition("\n\n")
    shown = [tuple(line.strip("|").split("|")[1:]) for line in table.splitlines()[2:]]
    assert len(measured) == 5
    assert [tuple(map(str.strip, line)) for line in shown] == measured
