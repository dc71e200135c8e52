"""What `staff demo` printed, kept with its command and machine for the README.

python benchmarks/demo.py --write   # writes benchmarks/results/demo.md; a few minutes
"""

import argparse
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from staff.demo import ASSETS
from written import command_line, machine

RESULTS = Path(__file__).parent / "results" / "demo.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="staff-demo-") as folder:
        command = [sys.executable, "-m", "staff", "demo", "--out", "demo"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    page = (
        "# The demo\n\n"
        f"`{command_line(__file__)}` (`staff demo`), {date.today()}, {machine()}. E2E NLG, 4,000\n"
        "rows; the embedded family; seed 0.\n\n"
        f"```\n{done.stdout.strip().replace(f'{ASSETS}/', '')}\n```\n"
    )
    print(page)
    if arguments.write:
        RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
