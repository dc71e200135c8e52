"""report.html in a real browser: data stay text, the script works. Skipped where there is none."""

import re
import shutil
import subprocess

import pytest

from staff.compare.files import write_results
from staff.reports.compared_html import render_comparison_page, write_compared
from staff.reports.html import data_of, render_run, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOSTILE = [
    "<script>document.title = 'broken'</script>",
    "</td></tr></table></main><img src=x onerror=\"document.title='broken'\" id=broken>",
    "</script><script>document.title = 'broken'</script><!--",
    "\"'><svg onload=document.title='broken' id=broken>{{ 7 * 7 }}{% raw %}",
    "nul \x00 escape \x1b[31m bell \x07 next line \x85",
    "right to left: עברית \u202e esrever \u2066",
    "one\n\n  two\ttabs",
    "z" * 1_000_000,
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Open a page and return (its elements as HTML, what the browser complained of)."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")

    def browse(path, width=1000):
        # A profile each: one whose last user is not quite gone keeps the next one waiting.
        profile = tmp_path_factory.mktemp("profile")
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-extensions", "--disable-background-networking",
            f"--user-data-dir={profile}", f"--window-size={width},900", "--enable-logging=stderr",
            "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, timeout=300, check=True)
        said = done.stderr.decode("utf-8", "replace").splitlines()
        return done.stdout.decode("utf-8"), [line for line in said if "CONSOLE" in line]

    return browse


def hostile(make_run):
    rows = [{"prompt": HOSTILE[i % len(HOSTILE)], "response": HOSTILE[(i + 3) % len(HOSTILE)]}
            for i in range(48)]  # fmt: skip
    folder, manifest = make_run(rows, regions=3, sources=[HOSTILE[i % 6] for i in range(48)])
    manifest["models"]["small"]["path"] = HOSTILE[1]
    manifest["config"]["prompt_template"] = HOSTILE[0]
    write_report(folder, manifest, data_of(manifest))
    return folder


def check_hostile_is_text(dom, complaints):
    """What a browser made of a page that quotes `HOSTILE`: its markup did nothing."""
    assert 'id="broken"' not in dom
    assert not complaints  # no error of the script, and nothing the policy had to stop
    assert dom.count("<script") == 1
    assert dom.count("</main>") == 1
    assert "nul ␀ escape ␛[31m bell ␇ next line �" in dom
    assert "עברית \u202e esrever" in dom
    assert "{{ 7 * 7 }}" in dom


def test_in_a_browser_hostile_data_stay_text(make_run, browser):
    dom, complaints = browser(hostile(make_run).report)
    assert "<title>Coreset of train.jsonl</title>" in dom
    check_hostile_is_text(dom, complaints)
    assert "onerror=&quot;" in dom or 'onerror="document' in dom  # as text
    assert "[…, 1,000,000 characters]" in dom
    assert "48 of 48 shown" in dom  # the script ran


def test_in_a_browser_one_chooses_searches_and_scrolls_one_way(
    make_run, records, browser, tmp_path
):
    """The page's own script, driven by another one, in a copy without the policy."""
    folder, manifest = make_run(records, sources=["web", "forum", "books"] * 100)
    driver = """
      const set = (id, value) => {
        const field = document.getElementById(id);
        field.value = value;
        field.dispatchEvent(new Event("input", { bubbles: true }));
        return document.getElementById("found").textContent;
      };
      const said = [set("search", "forum web"), set("search", "prompt FORUM")];
      said.push(set("search", ""), set("fate", "yes"));
      document.querySelector("input[value='0.3']").click();
      said.push(document.getElementById("found").textContent);
      said.push(document.querySelectorAll("figure[data-coreset='0.3'][hidden]").length);
      said.push(document.querySelectorAll("figure[data-coreset='0.1'][hidden]").length);
      said.push(document.documentElement.scrollWidth - innerWidth);
      document.title = said.join("|");
    """
    page = re.sub(r"<meta http-equiv[^>]*>", "", render_run(folder, manifest, data_of(manifest)))
    copy = tmp_path / "copy.html"
    copy.write_text(page.replace("</body>", f"<script>{driver}</script></body>"), encoding="utf-8")
    dom, complaints = browser(copy, width=500)
    assert not complaints
    none, forum, everything, some, more, shown, hidden, overflow = (
        re.search("<title>(.*?)</title>", dom)[1].split("|")
    )  # fmt: skip
    rows = page.count("<tr data-region=")
    found = page.count("<bdi>forum</bdi></small>")
    assert 0 < found < rows
    assert [none, forum, everything] == [f"{i} of {rows} shown" for i in (0, found, rows)]
    assert 0 < int(some.split()[0]) < int(more.split()[0]) < rows
    assert (shown, hidden) == ("0", "2")
    assert int(overflow) <= 0


def test_in_a_browser_hostile_paths_of_a_comparison_stay_text(make_compared, browser, tmp_path):
    result = make_compared(leaks={"rows": 2, "of": 90})
    result["data"]["path"], result["test"]["path"] = HOSTILE[3], HOSTILE[4]
    result["models"] = {
        "small": {"path": HOSTILE[1], "hash": HOSTILE[2]},
        "target": {"path": HOSTILE[5], "parameters": 4_000_000},
    }
    result["config"] |= {"data": HOSTILE[0], "prompt_template": HOSTILE[7], "out": "half \ud800"}
    result["device"]["name"] = HOSTILE[2]
    write_compared(tmp_path / "report.html", result)
    dom, complaints = browser(tmp_path / "report.html")
    assert "<title>Comparison on " in dom
    assert "broken</title>" not in dom
    check_hostile_is_text(dom, complaints)
    assert "half �" in dom
    assert len(dom) < 1_000_000


@pytest.mark.parametrize("keep", [(0.1,), (0.05, 0.1, 0.2)])
def test_in_a_browser_a_comparison_fits_a_phone_and_prints_its_settings(
    make_compared, browser, tmp_path, keep
):
    """In a copy without the policy, driven by another script."""
    driver = """
      const boxes = (part) => [...part.querySelectorAll("text")]
        .map((text) => text.getBoundingClientRect()).filter((box) => box.width);
      const wide = [...document.querySelectorAll(".narrow svg")]
        .filter((chart) => boxes(chart).some((box) => box.right > innerWidth || box.left < 0));
      dispatchEvent(new Event("beforeprint"));
      const said = [
        document.documentElement.scrollWidth - innerWidth, wide.length,
        document.querySelectorAll(".narrow svg").length,
        document.querySelectorAll("details:not([open])").length,
        document.querySelectorAll("main a").length,
        [...document.querySelectorAll("main a")].filter((a) => !document.querySelector(a.hash)).length,
      ];
      parent.postMessage(said.join("|"), "*");
    """
    methods = ("staff", "random", "ccs", "perplexity", "moderate")
    page = render_comparison_page(make_compared(methods=methods, keep=keep))
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)
    copy, frame = tmp_path / "copy.html", tmp_path / "frame.html"
    copy.write_text(page.replace("</body>", f"<script>{driver}</script></body>"), encoding="utf-8")
    # A window is never as narrow as a phone; a frame is.
    listen = "onmessage = (said) => { document.title = said.data; };"
    inside = f"<iframe width=390 height=800 src='{copy.as_uri()}'></iframe>"
    frame.write_text(f"<script>{listen}</script>{inside}", encoding="utf-8")
    dom, complaints = browser(frame)
    assert not complaints
    overflow, outside, charts, closed, links, dead = map(
        int, re.search("<title>(.*?)</title>", dom)[1].split("|")
    )
    assert overflow <= 0
    assert outside == 0
    assert charts == 6
    assert closed == 0
    assert (links, dead) == (2, 0)


PLANTED = (
    "<script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\">"
)


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_in_a_browser_the_policy_stops_what_got_in_all_the_same(
    make_run, make_compared, records, browser, tmp_path, kind
):
    if kind == "run":
        folder, manifest = make_run(records)
        page = render_run(folder, manifest, data_of(manifest))
    else:
        page = render_comparison_page(make_compared())
    planted = page.replace("</main>", f"{PLANTED}</main>")
    for name, text in (
        ("kept", planted),
        ("without", re.sub(r"<meta http-equiv[^>]*>", "", planted)),
    ):
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
    dom, complaints = browser(tmp_path / "kept.html")
    assert "<title>broken</title>" not in dom
    assert any("Content Security Policy" in line for line in complaints)
    dom, _ = browser(tmp_path / "without.html")
    assert "<title>broken</title>" in dom  # so this test would have seen it


def as_page(text):
    """What a renderer of Markdown that lets HTML through makes of a text."""
    from markdown_it import MarkdownIt

    return f"<title>fine</title>{MarkdownIt('commonmark', {'html': True}).enable('table').render(text)}"


def test_in_a_browser_hostile_paths_stay_text_in_markdown(make_compared, browser, tmp_path):
    hostile = [
        *HOSTILE[:4],
        "![x](x) [click](javascript:alert) `code` **bold** | cell |",
        "https://example.com/x www.example.com <https://example.com>",
        "line\n# heading\n\n| a | b |\n| --- | --- |",
        "nul \x00 escape \x1b[31m bell \x07",
    ]
    for number, text in enumerate(hostile):
        result = make_compared()
        result["config"] |= {"data": text, "test": "test.jsonl", "small": None, "target": None}
        write_results(tmp_path, result)
        written = (tmp_path / "results.md").read_text(encoding="utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", written)
        page = tmp_path / f"{number}.html"
        page.write_text(as_page(written), encoding="utf-8")
        dom, complaints = browser(page)
        assert not complaints
        assert "<title>fine</title>" in dom
        for mark in ('id="broken"', "<script", "<img", "<svg", "<a ", "<code", "<strong", "<em"):
            assert mark not in dom, text
        assert dom.count("<h1") == 1
        assert dom.count("<table") == page.read_text(encoding="utf-8").count("<table") > 0
        if "http" in text:  # renderers that make links of bare addresses find none
            assert "https://" not in written
            assert "www.example" not in written
    (tmp_path / "raw.html").write_text(as_page(f"- data: {HOSTILE[0]}\n"), encoding="utf-8")
    assert "<title>broken</title>" in browser(tmp_path / "raw.html")[0]
