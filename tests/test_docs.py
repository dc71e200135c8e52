"""What the documents say of the tests is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def test_every_test_that_the_table_names_exists():
    file, named = "", []
    for path, test in re.findall(r"`([\w/]*\.py)?(?:::(\w+))?`", PAGE.read_text(encoding="utf-8")):
        file = path or file
        named.append((file, test))
    assert len(named) > 25
    for file, test in named:
        text = (TESTS / file).read_text(encoding="utf-8")
        assert f"def {test}(" in text or not test, f"{file}::{test}"
