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
    ("a file that does not exist", {}, RUN, 2, 'cannot read run.yaml: No such file or directory'),
    ("a folder", {"run.yaml/x": ""}, RUN, 2, 'cannot read run.yaml: Is a directory'),
    ("bytes that are not text", {"run.yaml": b"\xff\xfe\x00keep"}, RUN, 2, 'run.yaml is not a text file: --config takes YAML'),
    ("no settings in the file and none as flags", {"run.yaml": "# nothing\n"}, "staff select --config run.yaml", 2, 'data is missing: give a training file, e.g. staff select train.jsonl …'),
    ("a list", {"run.yaml": "- keep\n- 0.5\n"}, RUN, 2, 'run.yaml: settings are lines like `keep: [0.1, 0.2]`'),
    ("a text", {"run.yaml": "keep 0.5\n"}, RUN, 2, 'run.yaml: settings are lines like `keep: [0.1, 0.2]`'),
    ("a bracket that never closes", yaml("total: [1, 2\n"), RUN, 2, "run.yaml, line 4: not valid YAML (expected ',' or ']', but got '<stream end>')"),
    ("a tab for indentation", yaml("total:\n\t- 1\n"), RUN, 2, "run.yaml, line 4: not valid YAML (found character '\\t' that cannot start any token)"),
    ("two documents", yaml("---\nkeep: 0.1\n"), RUN, 2, 'run.yaml, line 3: not valid YAML (but found another document)'),
    ("a mistyped setting", yaml("regoins: 5\n"), RUN, 2, "run.yaml, line 3: unknown setting 'regoins'; did you mean 'regions'?"),
    ("a setting of another command", {"run.yaml": BASE + "methods: [staff, random]\n"}, RUN, 2, "run.yaml, line 3: unknown setting 'methods'; did you mean 'method'?"),
    ("an unknown setting", yaml("xyzzy: 5\n"), RUN, 2, "run.yaml, line 3: unknown setting 'xyzzy'; staff select --help lists all, as flags"),
    ("a setting twice", yaml("seed: 1\nseed: 2\n"), RUN, 2, 'run.yaml: seed is set twice, in line 3 and line 4'),
    ("a setting twice, with - and _", yaml("max-length: 10\nmax_length: 20\n"), RUN, 2, 'run.yaml: max_length is set twice, in line 3 and line 4'),
    ("a setting without a name", yaml("? [a, b]\n: 1\n"), RUN, 2, 'run.yaml, line 3: not valid YAML (found unhashable key)'),
    ("a number for a name", yaml("1: 2\n"), RUN, 2, "run.yaml, line 3: unknown setting '1'; staff select --help lists all, as flags"),
    ("a Python object", yaml("seed: !!python/object/apply:os.system [ls]\n"), RUN, 2, "run.yaml, line 3: not valid YAML (could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system')"),
    ("text where a number belongs", yaml("seed: many\n"), RUN, 2, "run.yaml: seed must be a whole number, not 'many'"),
    ("half a number", yaml("seed: 1.5\n"), RUN, 2, 'run.yaml: seed must be a whole number, not 1.5'),
    ("yes where a number belongs", yaml("seed: yes\n"), RUN, 2, 'run.yaml: seed must be a number, not true or false'),
    ("a date where a number belongs", yaml("seed: 2024-01-01\n"), RUN, 2, 'run.yaml: seed must be a whole number, not 2024-01-01'),
    ("a number where text belongs", yaml("prompt_column: 3\n"), RUN, 2, 'run.yaml: prompt_column must be text (put it in quotes), not 3'),
    ("a mapping where a number belongs", yaml("seed: {a: 1}\n"), RUN, 2, "run.yaml: seed must be a whole number, not {'a': 1}"),
    ("a fraction above 1", {"run.yaml": "method: random\nkeep: [0.5, 10]\n"}, RUN, 2, 'run.yaml: keep 10 must be above 0 and at most 1: it is a fraction (0.1 keeps 10 %); for a number of rows use --total'),
    ("an empty list of fractions", {"run.yaml": "method: random\nkeep: []\n"}, RUN, 2, 'nothing to choose: give --keep FRACTION (0.1 is 10 %) or --total N'),
    ("a fraction that is not a number", {"run.yaml": "method: random\nkeep: .nan\n"}, RUN, 2, 'run.yaml: keep nan must be above 0 and at most 1: it is a fraction (0.1 keeps 10 %); for a number of rows use --total'),
    ("an infinite learning rate", yaml("learning_rate: .inf\n"), RUN, 2, 'run.yaml: learning_rate must be a finite number, not inf'),
    ("an unknown method", {"run.yaml": "method: craig\nkeep: 0.5\n"}, RUN, 2, "run.yaml: method must be 'staff', 'random', 'ccs', 'd2', 'el2n', 'entropy', 'grand', 'ifd', 'k-centre', 'length', 'loss', 'moderate' or 'perplexity', not 'craig'"),
    ("a mistyped choice", yaml("within: rando\n"), RUN, 2, "run.yaml: within must be 'hardest', 'random' or 'spread', not 'rando'; did you mean 'random'?"),
    ("an empty path", yaml("include: ''\n"), RUN, 2, 'run.yaml: include must not be empty'),
    ("a NUL in a path", yaml('include: "a\\0b"\n'), RUN, 2, "run.yaml: include 'a\\x00b' contains a NUL character"),
    ("half of a surrogate pair in a path", yaml('include: "a\\ud800"\n'), RUN, 2, "run.yaml: include 'a\\ud800' is not UTF-8 text: rename the file or folder"),
    ("a number of 5,000 digits", yaml(f"seed: {'9' * 5000}\n"), RUN, 2, 'run.yaml: not valid YAML (Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits)'),
    ("a number of 400 digits", yaml(f"epochs: {'9' * 400}\n"), RUN, 2, 'run.yaml: epochs must be at most 2147483647, not 99999999999999999999999999999999999999999999999999999999999…'),
    ("a tag that does not fit its value", yaml("seed: !!int many\n"), RUN, 2, "run.yaml: not valid YAML (invalid literal for int() with base 10: 'many')"),
    ("lists that refer to each other, a thousand million numbers", {"run.yaml": laughs()}, RUN, 2, 'run.yaml: too many values for settings, with aliases written out'),
    ("10,000 nested brackets", {"run.yaml": "keep: " + "[" * 10_000 + "\n"}, RUN, 2, 'run.yaml: too long or too deeply nested for settings'),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
