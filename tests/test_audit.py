"""`make audit`, with stand-ins for the two programs that it calls."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "audit.py"
FLAW = {"id": "PYSEC-1", "fix_versions": ["9.9"], "aliases": [], "description": "bad"}
# Answers for the packages it is asked about; notes how many those were.
PIP_AUDIT = """#!{python}
import json, sys
names = [line.split("==")[0] for line in open(sys.argv[sys.argv.index("--requirement") + 1])]
open({notes!r}, "a").write(f"{{len(names)}} ")
answer = json.loads({answer!r})
print(json.dumps({{"dependencies": [{{"name": n, "version": "1"}} | answer.get(n, answer["*"]) for n in names]}}))
"""
PIP_LICENSES = """#!{python}
import json, sys
names = sys.argv[sys.argv.index("--packages") + 1:]
print(json.dumps([{{"Name": n, "Version": "1", "License": "MIT | a\\nlong text"}} for n in names]))
"""


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """Run the script; gives its exit code, what it wrote, and how many packages it asked about."""

    def run(**answer):
        notes, out = tmp_path / "notes", tmp_path / "audit.md"
        texts = {"pip-audit": PIP_AUDIT, "pip-licenses": PIP_LICENSES}
        for name, text in texts.items():
            answers = json.dumps({"*" if k == "others" else k: v for k, v in answer.items()})
            script = text.format(python=sys.executable, notes=str(notes), answer=answers)
            (tmp_path / name).write_text(script)
            (tmp_path / name).chmod(0o755)
        monkeypatch.setattr(sys, "argv", ["audit", "--tools", str(tmp_path), "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code, out.read_text(), [int(n) for n in notes.read_text().split()]

    return run


def test_nothing_known(audit):
    code, text, asked = audit(others={"vulns": []})
    assert code == 0
    assert asked[0] == 1
    assert asked[1] > 20
    assert f"{asked[1]} packages were looked up with pip-audit; 0 known vulnerabilities." in text
    assert "| torch | 1 | MIT \\| a |" in text
    assert "| pytest |" not in text  # of what it needs to run, no more


def test_a_known_vulnerability_ends_in_a_failure(audit):
    code, text, _ = audit(others={"vulns": []}, torch={"vulns": [FLAW]})
    assert code == 1
    assert "1 known vulnerabilities." in text
    assert "| torch | 1 | PYSEC-1 | 9.9 |" in text


def test_where_nothing_can_be_looked_up_it_says_so_and_asks_no_further(audit):
    code, text, asked = audit(others={"skip_reason": "no such service"})
    assert code == 1
    assert asked == [1]
    assert (
        "**Not looked up.** pip-audit got no answer where this was written (no such service)"
        in text
    )
    assert "known vulnerabilities." not in text
    assert "| torch | 1 |" in text
