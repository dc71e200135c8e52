"""Install a wheel outside the tree and run the demo from it (`make dist`)."""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="staff-wheel-") as folder:
        outside = Path(folder)
        venv.create(outside / "venv", with_pip=True)
        bin_folder = outside / "venv" / "bin"
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        for command in (
            [bin_folder / "pip", "install", "--quiet", "--disable-pip-version-check",
             "-c", ROOT / "constraints.txt", wheel],
            [bin_folder / "staff", "--version"],
            [bin_folder / "staff", "demo", "--out", "runs/demo"],
            [bin_folder / "staff", "why", "runs/demo", "--row", "1"],
        ):  # fmt: skip
            print("$", Path(command[0]).name, *command[1:], flush=True)
            subprocess.run(
                [str(part) for part in command], cwd=outside, env=environment, check=True
            )
    print(f"{wheel.name}: installed outside the tree, the demo ran from it")


if __name__ == "__main__":
    main()
