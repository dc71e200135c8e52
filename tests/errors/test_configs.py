"""YAML settings that cannot be used."""

import pytest

GROUP = "Configs"
RUN = "staff select train.jsonl --out out --config run.yaml"
BASE = "method: random\nkeep: 0.5\n"
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"


def yaml(text):
    return {"run.yaml": BASE + text}


def laughs():
    """Ten lists of ten, nine deep: a thousand million numbers once written out."""
    lines = ["method: random", "out: x", "keep: &a0 [0.5]"]
    lines[-1] = "keep:"
    lines += [f"- &a{n} [{', '.join([f'*a{n - 1}' if n else '0.5'] * 10)}]" for n in range(9)]
    return "\n".join(lines) + "\n"


CASES = [
    ("a file that is not there", {}, RUN, 0, "?"),
    ("a folder", {"run.yaml/x": ""}, RUN, 0, "?"),
    ("bytes that are no text", {"run.yaml": b"\xff\xfe\x00keep"}, RUN, 0, "?"),
    ("no settings in it and none beside it", {"run.yaml": "# nothing\n"}, "staff select --config run.yaml", 0, "?"),
    ("a list", {"run.yaml": "- keep\n- 0.5\n"}, RUN, 0, "?"),
    ("a text", {"run.yaml": "keep 0.5\n"}, RUN, 0, "?"),
    ("a bracket that never closes", yaml("total: [1, 2\n"), RUN, 0, "?"),
    ("a tab for indentation", yaml("total:\n\t- 1\n"), RUN, 0, "?"),
    ("two documents", yaml("---\nkeep: 0.1\n"), RUN, 0, "?"),
    ("a mistyped setting", yaml("regoins: 5\n"), RUN, 0, "?"),
    ("a setting of another command", {"run.yaml": BASE + "methods: [staff, random]\n"}, RUN, 0, "?"),
    ("a setting like none there is", yaml("xyzzy: 5\n"), RUN, 0, "?"),
    ("a setting twice", yaml("seed: 1\nseed: 2\n"), RUN, 0, "?"),
    ("a setting twice, with - and _", yaml("max-length: 10\nmax_length: 20\n"), RUN, 0, "?"),
    ("a setting without a name", yaml("? [a, b]\n: 1\n"), RUN, 0, "?"),
    ("a number for a name", yaml("1: 2\n"), RUN, 0, "?"),
    ("a Python object", yaml("seed: !!python/object/apply:os.system [ls]\n"), RUN, 0, "?"),
    ("text where a number belongs", yaml("seed: many\n"), RUN, 0, "?"),
    ("half a number", yaml("seed: 1.5\n"), RUN, 0, "?"),
    ("yes where a number belongs", yaml("seed: yes\n"), RUN, 0, "?"),
    ("a date where a number belongs", yaml("seed: 2024-01-01\n"), RUN, 0, "?"),
    ("a number where text belongs", yaml("prompt_column: 3\n"), RUN, 0, "?"),
    ("a mapping where a number belongs", yaml("seed: {a: 1}\n"), RUN, 0, "?"),
    ("a fraction above 1", {"run.yaml": "method: random\nkeep: [0.5, 10]\n"}, RUN, 0, "?"),
    ("an empty list of fractions", {"run.yaml": "method: random\nkeep: []\n"}, RUN, 0, "?"),
    ("a fraction that is no number", {"run.yaml": "method: random\nkeep: .nan\n"}, RUN, 0, "?"),
    ("a learning rate without end", yaml("learning_rate: .inf\n"), RUN, 0, "?"),
    ("an unknown method", {"run.yaml": "method: craig\nkeep: 0.5\n"}, RUN, 0, "?"),
    ("a mistyped choice", yaml("within: rando\n"), RUN, 0, "?"),
    ("an empty path", yaml("include: ''\n"), RUN, 0, "?"),
    ("a NUL in a path", yaml('include: "a\\0b"\n'), RUN, 0, "?"),
    ("half of a surrogate pair in a path", yaml('include: "a\\ud800"\n'), RUN, 0, "?"),
    ("a number of 5,000 digits", yaml(f"seed: {'9' * 5000}\n"), RUN, 0, "?"),
    ("a number of 400 digits", yaml(f"epochs: {'9' * 400}\n"), RUN, 0, "?"),
    ("a tag that does not fit its value", yaml("seed: !!int many\n"), RUN, 0, "?"),
    ("lists that name each other, a thousand million numbers", {"run.yaml": laughs()}, RUN, 0, "?"),
    ("10,000 brackets, one in the other", {"run.yaml": "keep: " + "[" * 10_000 + "\n"}, RUN, 0, "?"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
