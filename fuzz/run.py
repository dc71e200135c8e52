"""Fuzz one target guided by coverage: python fuzz/run.py TARGET (all of them: `make fuzz`).

Ends at the first input that lets anything but StaffError out, takes more than a second of
processor time, hangs for ten, or makes the process larger than 500 MB; libFuzzer writes that input
to fuzz/found/. What it learnt stays in fuzz/corpus/ for the next time.
"""

import argparse
import sys
import time
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

with atheris.instrument_imports(include=["staff", "yaml"]):
    import targets

    from staff.reports import plots

MOST_SECONDS, MOST_MEGABYTES = 1.0, 500
GOOD = b'{"prompt": "a", "response": "b", "id": 1}\n{"prompt": "c", "response": "d", "id": 2}\n'
SEEDS = {
    "records": [
        bytes([0, 0, 0, 0, 0, 0, 0]) + GOOD,
        bytes([1, 0, 0, 0, 0, 0, 0]) + b"[" + GOOD.replace(b"\n", b",", 1) + b"]",
        bytes([2, 0, 0, 0, 0, 0, 0]) + b'prompt,response\na,"b\nc"\n',
        bytes([0, 0, 1, 3, 0, 0, 0, *range(60)]),
    ],
    "configs": [bytes([0, 0]) + b"data: a\nmethod: random\nkeep: [0.1, 0.2]\nout: o\n", b"\0\1"],
    "run_folders": [bytes([0, 1]), bytes([2, 1])],
    "reports": [bytes(range(20))],
}


def main() -> None:
    """Set libFuzzer up and let it run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=0, help="0: without end")
    parser.add_argument("--runs", type=int, default=-1, help="-1: without end")
    args = parser.parse_args()
    name, target = args.target, targets.TARGETS[args.target]
    if name == "reports":  # drawing is another program's work, and 50 times slower than the rest
        plots.vl_convert.vegalite_to_svg = lambda _: "<svg></svg>"
    for folder in ("corpus", "found"):
        (HERE / folder / name).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (HERE / "corpus" / name / f"seed-{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        start = time.process_time()
        target(data)
        spent = time.process_time() - start
        assert spent < MOST_SECONDS, f"took {spent:.1f} s"

    target(b"")  # imports and the finished run are not part of any input
    options = [
        f"-max_total_time={args.seconds}",
        f"-runs={args.runs}",
        "-print_final_stats=1",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        "-timeout=10",
        "-max_len=2000",
        f"-artifact_prefix={HERE / 'found' / name}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(HERE / "corpus" / name)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
