import re

import numpy as np

from staff.reports.plots import axis, draw, marks, panel, staircase, steps


def test_a_chart_is_plain_svg_in_two_widths_and_in_the_colours_of_the_page():
    points = steps(np.array([0.0, 1 / 3, 2 / 3]), np.array([1, 2]))
    assert points == [{"x": 0.0, "y": 1}, {"x": 1 / 3, "y": 2}, {"x": 2 / 3, "y": 0.0}]
    x, y = axis("x", "across", domain=(0, 1)), axis("y", "0.12345")
    drawn = draw([panel(50, staircase(points, "all", x, y)),
                  panel(50, marks("point", points, "target", x, y, filled=True))],
                 'what "it" shows')  # fmt: skip
    assert drawn.count("<svg ") == 2
    assert drawn.count('role="img" aria-label="what &#34;it&#34; shows"') == 2
    assert 'class="wide"' in drawn
    assert 'class="narrow"' in drawn
    assert {"var(--all)", "var(--target)"} <= set(re.findall(r'fill="([^"]*)"', drawn))
    assert ">0.12345<" in drawn  # coordinates are rounded, text is not
    assert not re.search(r'(?:d|transform)="[^"]*\d\.\d{3}', drawn)
    # Ids would be those of another chart in the page, and inline styles against its policy.
    assert not re.search(r'\s(id|style|clip-path)="|<(script|style|image|foreignObject)', drawn)
    assert draw([panel(50, staircase(points, "all", x, y))], "a") == draw(
        [panel(50, staircase(points, "all", x, y))], "a"
    )
