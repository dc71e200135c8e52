"""Every command that README.md and docs/ tell a reader to type is run, or says on its page why not.

What a page may count on, and how it marks a block: doc_commands.py.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_commands import PAGES, ROOT, Block, blocks, matches, staff_commands

import staff

PACKAGE = Path(staff.__file__).parent
BLOCKS = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}
ALL = [block for found in BLOCKS.values() for block in found]
# Pages that begin with an empty folder, since they say where their data come from.
FROM_NOTHING = ("docs/quickstart.md", "docs/tutorials/medical-qa.md")
# Pages that begin with the run of this command, which README.md does from the start, in their folder:
# what they do again of it is kept.
FIRST = "staff select train.jsonl --small SMALL --target TARGET --keep 0.2 --out runs/x"
FROM_A_RUN = (
    *("docs/export.md", "docs/proxy.md", "docs/how-to/resume.md", "docs/how-to/token-budget.md"),
    *("docs/gpu.md", "docs/plan.md"),
    *("docs/how-to/choose-settings.md", "docs/how-to/own-selection.md"),
)
# Whole tasks on more rows: by `make test-docs` only.
TUTORIALS = "docs/tutorials/"


def pages_with(*fates: str) -> list[str]:
    return [page for page, found in BLOCKS.items() if any(b.fate in fates for b in found)]


def placeholders(folder: Path) -> None:
    """What most pages speak of: train.jsonl, test.jsonl, and models SMALL, TARGET and MODEL."""
    for name, rows in (("train", 40), ("test", 4)):
        lines = (PACKAGE / "assets" / "e2e_nlg" / f"{name}.jsonl").read_text(encoding="utf-8")
        records = map(json.loads, lines.splitlines()[:rows])
        pairs = [{"prompt": record["mr"], "response": record["ref"]} for record in records]
        _write(folder / f"{name}.jsonl", pairs)
    for name, model in (("SMALL", "small"), ("TARGET", "target"), ("MODEL", "small")):
        (folder / name).symlink_to(PACKAGE / "assets" / "family" / model)


def dialogues(folder: Path, shared: Path) -> None:
    """DialogSum as the page gets it from the Hub: one reference a test row."""
    for split, summary in (("train", "summary"), ("test", "summary1")):
        records = map(json.loads, (shared / "data" / "dialogsum" / f"{split}.jsonl").open("rb"))
        kept = [
            {"id": r["fname"], "dialogue": r["dialogue"], "summary": r[summary]} for r in records
        ]
        _write(folder / f"{split}.jsonl", kept)


def translations(folder: Path, shared: Path) -> None:
    """Kazakh and English as the page makes them from NTREX and WMT."""
    for split in ("train", "test"):
        records = map(json.loads, (shared / "data" / "kk_en" / f"{split}.jsonl").open("rb"))
        _write(folder / f"{split}.jsonl", [{"kk": r["kk"], "en": r["en"]} for r in records])


SHORTEN = (  # the page's data, for commands with stand-ins
    "for f in train test; do n=60; [ $f = train ] || n=6; [ ! -f $f.jsonl ] || "
    "{ head -n $n $f.jsonl > part; mv part $f.jsonl; }; done"
)


# Data that may not be shipped.
UNSHIPPED = {
    "docs/tutorials/dialogue-summarisation.md": dialogues,
    "docs/tutorials/translation.md": translations,
}
# Commands that are parsed, since nothing runs them, or nothing without those data.
PARSED = [
    *(block for block in ALL if block.fate == "not run"),
    *(b for page in UNSHIPPED for b in BLOCKS[page] if b.fate in ("run", "slow", "stand-ins")),
]


def _write(file: Path, records: list[dict[str, str]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    file.write_text("".join(lines), encoding="utf-8")


def environment(programs: Path, **more: str) -> dict[str, str]:
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(PACKAGE.parent),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        **more,
    }


@pytest.fixture(scope="session")
def first_run(programs, tmp_path_factory):
    """A folder of placeholders with the run of FIRST in it."""
    folder = tmp_path_factory.mktemp("first")
    placeholders(folder)
    subprocess.run(
        shlex.split(FIRST), cwd=folder, env=environment(programs), check=True, capture_output=True
    )
    return folder


@pytest.fixture
def place(request, tmp_path):
    """A function from a page to its folder, with what the page may count on."""

    def prepare(page: str) -> Path:
        folder = tmp_path / "page"
        if page in FROM_A_RUN:
            shutil.copytree(request.getfixturevalue("first_run"), folder, symlinks=True)
            return folder
        folder.mkdir()
        if page in UNSHIPPED:
            UNSHIPPED[page](folder, request.getfixturevalue("shared"))
        elif page not in FROM_NOTHING:
            placeholders(folder)
        (folder / "docs").symlink_to(ROOT / "docs")  # a checkout's, with its data
        return folder

    return prepare


def run(
    found: list[Block], folder: Path, logs: Path, programs: Path, hub: Path | None = None
) -> None:
    """Run blocks in one shell, as a reader would; AssertionError for the first that fails."""
    logs.mkdir()
    large = next((block for block in found if block.fate == "stand-ins"), None)
    commands = [(block, command) for block in found for command in block.commands]
    script = ["set -eu -o pipefail"]
    for number, (block, command) in enumerate(commands):
        if block is large and command is block.commands[0]:
            script += [f"cd '{folder}'", SHORTEN]
        (logs / f"{number}.sh").write_text(command.text, encoding="utf-8")
        log = f"{logs}/{number}"
        call = f". '{log}.sh' > '{log}.out' 2> '{log}.err'"
        script += [f"cd '{folder}'", f"if {call}; then false; fi" if command.fails else call]
    shell = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        env=environment(programs, **({"HF_HUB_CACHE": str(hub)} if hub else {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    last = len(list(logs.glob("*.out"))) - 1
    if shell.returncode:
        block, command = commands[last]
        told = (logs / f"{last}.err").read_text(encoding="utf-8")[-3000:]
        raise AssertionError(f"{block.place}: {command.text}\n{told}{shell.stderr}")
    assert last == len(commands) - 1
    for number, (block, command) in enumerate(commands):
        if command.printed is not None:
            out = (logs / f"{number}.{'err' if command.fails else 'out'}").read_text("utf-8")
            out = out[out.find("error: ") :] if command.fails else out  # behind its progress
            assert matches(command.printed, out), (
                f"{block.place} shows\n{command.printed}\nnot\n{out}"
            )


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page.startswith(TUTORIALS) else page
        for page in pages_with("run")
    ],
)
def test_the_commands_of(page, place, tmp_path, programs, hub):
    found = [b for b in BLOCKS[page] if b.fate in ("run", "stand-ins")]
    run(found, place(page), tmp_path / "logs", programs, hub)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("slow"))
def test_all_commands_of(page, place, tmp_path, programs):
    found = [b for b in BLOCKS[page] if b.fate in ("run", "slow")]
    run(found, place(page), tmp_path / "logs", programs)


@pytest.mark.parametrize("block", PARSED, ids=[block.place for block in PARSED])
def test_what_may_not_be_run_could_be(block):
    text = "".join(command.text for command in block.commands)
    for arguments in staff_commands(text):
        check_parsed(arguments, whole="…" not in text)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][\w-]*)", text)) <= targets
    for script in re.findall(r"python (\w+/\S+\.py)", text):
        assert (ROOT / script).is_file(), script


def check_parsed(arguments: list[str], *, whole: bool) -> None:
    """Let the command line's own parser read it; whole: nothing of it is left out."""
    from staff.cli.main import build_app, main

    verb = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if not arguments or arguments == ["--help"]:
        return
    _, bound, _ = build_app().parse_args(arguments)
    if whole and "config" not in bound.arguments and "print_config" in _names(verb):
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = main([*arguments, "--print-config"])
        assert code == 0, f"staff {' '.join(arguments)}: {said.getvalue()}"


def _names(verb: str) -> set[str]:
    from staff.cli.main import build_app

    collection = build_app()[verb].assemble_argument_collection()
    return {argument.field_info.names[0] for argument in collection}


def test_the_run_that_pages_begin_with_is_the_readmes():
    first = next(c.text for b in BLOCKS["README.md"] if b.fate == "run" for c in b.commands)
    assert first.startswith(f"{FIRST} ")


def test_every_command_is_run_or_says_why_not():
    assert len(ALL) > 40
    fates = {block.fate for block in ALL}
    assert fates <= {"run", "slow", "stand-ins", "not run", "elsewhere"}
    for block in ALL:
        if block.fate in ("slow", "stand-ins", "not run"):
            assert len(block.reason) > 5, block.place
        if block.fate == "elsewhere":
            assert (ROOT / block.reason).exists(), block.place
    shares = {fate: sum(block.fate == fate for block in ALL) for fate in fates}
    assert shares["run"] + shares["slow"] > shares["not run"]


def test_marks_are_heeded():
    page = ROOT / "README.md"
    text = (
        "<!-- not run: needs a GPU -->\n\n    staff select x.jsonl …\n\nWords.\n\n"
        "```sh\nstaff demo\n```\n\n<!-- slow: an hour -->\n```console\n$ staff why \\\n  --row 1\nRow …\n```\n\n"
        "```\nno command\n```\n\n    make test\n"
    )
    found = blocks(page, text)
    assert [block.fate for block in found] == ["not run", "run", "slow", "run"]
    assert [block.line for block in found] == [3, 7, 12, 22]
    assert found[2].commands[0].text == "staff why \\\n  --row 1\n"
    assert found[2].commands[0].printed == "Row …"
    everywhere = blocks(page, "<!-- run by tests/errors -->\n\n" + text)
    assert {(block.fate, block.reason) for block in everywhere} == {("elsewhere", "tests/errors")}


def test_what_is_not_run_is_still_parsed():
    assert staff_commands("srun torchrun -m staff select a.jsonl … \\\n --keep 0.1 # more\n") == [
        ["select", "a.jsonl", "--keep", "0.1"]
    ]
    assert staff_commands("cd x && staff demo | head; python staff.py") == [["demo"]]
    with pytest.raises(Exception, match="--kep"):
        check_parsed(["select", "a.jsonl", "--kep", "0.1"], whole=False)
    with pytest.raises(AssertionError, match="target is missing"):
        check_parsed(["select", "a.jsonl", "--small", "S", "--keep", "0.1"], whole=True)
    check_parsed(["select", "a.jsonl", "--small", "S", "--keep", "0.1"], whole=False)


def test_a_command_that_fails_and_output_that_differs_are_noticed(tmp_path, programs):
    page = ROOT / "README.md"
    (tmp_path / "page").mkdir()
    failing = blocks(page, "```sh\necho fine\nstaff select nowhere.jsonl\n```\n")
    with pytest.raises(AssertionError, match=r"(?s)README.md:1.*nothing to choose") as told:
        run(failing, tmp_path / "page", tmp_path / "a", programs)
    assert "staff select nowhere.jsonl" in str(told.value)
    other = blocks(page, "```console\n$ staff --version\n9.9.9\n```\n")
    with pytest.raises(AssertionError, match=r"(?s)9\.9\.9.*0\.1\.0"):
        run(other, tmp_path / "page", tmp_path / "b", programs)
