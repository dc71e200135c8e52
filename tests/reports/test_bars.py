import io

import pytest
from rich.console import Console

from staff.reports.bars import TerminalProgress


@pytest.mark.parametrize("total", [10, None])
def test_a_bar_shows_name_count_and_notes(total):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=90)
    with TerminalProgress(console).stage("score [small]", total=total) as stage:
        stage.note("[batch] halved")
        stage.advance(10)
    assert "score [small]: [batch] halved" in stream.getvalue()
    assert ("10/10 rows" if total else "10 rows") in stream.getvalue()
