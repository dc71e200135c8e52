"""report.html in a real browser: data stay text, the script works. Skipped where there is none."""

import re
import shutil
import subprocess

import pytest
from chromium import driven

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
def command():
    """How a browser is started, without a profile: each has its own, for one whose last user is
    not quite gone keeps the next one waiting."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-extensions", "--disable-background-networking",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def browser(command, tmp_path_factory):
    """Open a page and return (its elements as HTML, what the browser complained of)."""

    def browse(path):
        profile = tmp_path_factory.mktemp("profile")
        how = [
            f"--user-data-dir={profile}", "--window-size=1000,900", "--enable-logging=stderr",
            "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run([*command, *how], capture_output=True, timeout=300, check=True)
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


# What has the focus, and whether one can see that: of a hidden radio button, its label has the ring.
FOCUS = """(() => {
  const part = document.activeElement;
  const shown = getComputedStyle(part.type === "radio" ? part.nextElementSibling : part);
  const ring = shown.outlineStyle !== "none" && parseFloat(shown.outlineWidth) >= 2;
  return [part.id || part.name || part.tagName, ring];
})()"""

# The least contrast of any text with what is behind it, as WCAG 2 has it, and the page's colour.
CONTRAST = """(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (part) => {
    for (; part; part = part.parentElement) {
      const [r, g, b, a = 1] = parts(getComputedStyle(part).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  let least = 21;
  for (const part of document.querySelectorAll("body *:not(script)")) {
    const says = [...part.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!says || !part.getClientRects().length) continue;
    const style = getComputedStyle(part);
    const color = part instanceof SVGElement ? style.fill : style.color;
    const [low, high] = [light(parts(color)), light(behind(part))].sort((a, b) => a - b);
    least = Math.min(least, (high + 0.05) / (low + 0.05));
  }
  return [least, getComputedStyle(document.body).backgroundColor];
})()"""


def test_in_a_browser_one_reads_a_run_on_a_phone_with_the_keyboard_and_in_the_dark(
    make_run, records, command, tmp_path
):
    folder, manifest = make_run(records, sources=["web", "forum", "books"] * 100)
    write_report(folder, manifest, data_of(manifest))
    html = folder.report.read_text(encoding="utf-8")
    rows, forum = html.count("<tr data-region="), html.count("<bdi>forum</bdi></small>")
    assert 0 < forum < rows
    with driven(
        [*command, f"--user-data-dir={tmp_path / 'profile'}"], folder.report.as_uri()
    ) as page:

        def found():
            return page.run("document.getElementById('found').textContent")

        def hidden(coreset):
            return page.run(f"document.querySelectorAll(\"figure[data-coreset='{coreset}'][hidden]\").length")  # fmt: skip

        def to(name):
            """Press Tab until a part has the focus; what was on the way."""
            passed = []
            while not passed or passed[-1][0] != name:
                page.press("Tab")
                passed.append(page.run(FOCUS))
                assert len(passed) < 20, passed
            return passed

        page.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1,
                  mobile=False)  # fmt: skip
        assert (
            page.run("document.body.parentNode.scrollWidth - document.body.parentNode.clientWidth")
            <= 0
        )
        stops = to("coreset")
        assert (hidden("0.1"), hidden("0.3")) == (0, 2)
        page.press("ArrowRight")
        assert (hidden("0.1"), hidden("0.3")) == (2, 0)
        stops += to("SUMMARY")
        page.press("Enter")
        assert page.run("document.querySelectorAll('details[open] .scroll').length") == 1
        stops += to("search")
        page.write("prompt FORUM")
        assert found() == f"{forum} of {rows} shown"
        page.write(" web")
        assert found() == f"0 of {rows} shown"
        page.run("document.getElementById('search').select()")
        page.write(" ")
        stops += to("region")
        page.press("ArrowDown")
        region = int(found().split()[0])
        assert 0 < region < rows
        stops += to("fate")
        page.press("ArrowDown")
        assert 0 < int(found().split()[0]) < region
        assert [name for name, _ in stops if name != "DIV"] == [
            "A", "coreset", "SUMMARY", "search", "region", "fate",
        ]  # fmt: skip  # and the tables that scroll
        assert all(ring for _, ring in stops), stops
        page.press("ArrowUp")

        colors = {}
        for media in ("screen", "print"):
            for scheme in ("light", "dark"):
                features = [{"name": "prefers-color-scheme", "value": scheme}]
                page.send("Emulation.setEmulatedMedia", media=media, features=features)
                contrast, colors[media, scheme] = page.run(CONTRAST)
                assert contrast >= 4.5, (media, scheme)
        dark = colors.pop(("screen", "dark"))
        assert sum(map(int, re.findall(r"\d+", dark))) < 120
        assert set(colors.values()) == {"rgb(255, 255, 255)"}
        assert not page.complaints


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
