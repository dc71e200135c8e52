"""Known vulnerabilities and licences of what staff depends on: `make audit` writes docs/audit.md.

pip-audit asks PyPI about every package by its version; pip-licenses reads what is installed. Both
come from an environment of their own, so that they are no dependencies of ours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "staff-coreset"


def dependencies(root: str) -> dict[str, str]:
    """Name -> version of all that a package needs to run, and that is installed; itself aside."""
    found: dict[str, str] = {}
    left = [(root, frozenset[str]())]
    seen = set(left)
    while left:
        name, extras = left.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        found[canonicalize_name(name)] = package.version
        for text in package.requires or ():
            wanted = Requirement(text)
            asked = [{"extra": extra} for extra in (*extras, "")]
            if wanted.marker is None or any(wanted.marker.evaluate(case) for case in asked):
                entry = canonicalize_name(wanted.name), frozenset(wanted.extras)
                if entry not in seen:
                    seen.add(entry)
                    left.append(entry)
    return {name: found[name] for name in sorted(found) if name != root}


def look_up(tools: Path, packages: dict[str, str]) -> list[dict[str, Any]]:
    """What pip-audit says of each package: ``vulns``, or ``skip_reason``."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        # The part after + names a build of the same release.
        pins = (f"{name}=={version.partition('+')[0]}\n" for name, version in packages.items())
        wanted.write_text("".join(pins))
        command = [str(tools / "pip-audit"), "--requirement", str(wanted), "--no-deps"]
        command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return [{"name": name, "skip_reason": reason} for name in packages]


def audit(tools: Path, packages: dict[str, str]) -> list[dict[str, Any]]:
    """The same of all packages, if one of them can be looked up at all."""
    first = dict([next(iter(packages.items()))])
    answer = look_up(tools, first)
    if "skip_reason" not in answer[0]:
        return look_up(tools, packages)
    return [{"name": name, "skip_reason": answer[0]["skip_reason"]} for name in packages]


def licences(tools: Path, packages: Sequence[str]) -> list[dict[str, str]]:
    """Name, Version and License of each package."""
    command = [str(tools / "pip-licenses"), "--python", sys.executable, "--format", "json"]
    command.append("--with-system")  # setuptools, which torch needs
    done = subprocess.run(
        [*command, "--packages", *packages], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def in_cell(text: str) -> str:
    """A text in a cell of a Markdown table; of a whole licence its first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else "not said"
    return (line if len(line) <= 80 else f"{line[:80]}…").replace("|", "\\|")


def render(looked_up: Sequence[dict[str, Any]], licensed: Sequence[dict[str, str]]) -> str:
    """docs/audit.md."""
    lines = ["# Audit of the dependencies", ""]
    lines += [f"Written by `make audit` on {datetime.now(UTC):%Y-%m-%d}, with Python "
              f"{sys.version.split()[0]} on {sys.platform}: the {len(licensed)} packages that "
              f"{ROOT} needs to run, as they were installed.", ""]  # fmt: skip
    lines += ["## Known vulnerabilities", ""]
    skipped = [one for one in looked_up if "skip_reason" in one]
    known = [(one, flaw) for one in looked_up for flaw in one.get("vulns", ())]
    asked = len(looked_up) - len(skipped)
    if asked == 0:
        reason = in_cell(skipped[0]["skip_reason"])
        lines.append(f"**Not looked up.** pip-audit got no answer where this was written ({reason})"
                     ": run `make audit` where pypi.org can be reached.")  # fmt: skip
    else:
        lines.append(f"{asked} packages were looked up with pip-audit; {len(known)} known "
                     "vulnerabilities.")  # fmt: skip
    if asked and skipped:
        names = ", ".join(one["name"] for one in skipped)
        lines += ["", f"Not looked up: {names}."]
    if known:
        lines += ["", "| package | version | vulnerability | mended in |"]
        lines += ["| --- | --- | --- | --- |"]
        for one, flaw in known:
            mended = ", ".join(flaw["fix_versions"])
            lines.append(f"| {one['name']} | {one['version']} | {flaw['id']} | {mended} |")
    lines += ["", "## Licences", "", "| package | version | licence |", "| --- | --- | --- |"]
    lines += [
        f"| {one['Name']} | {one['Version']} | {in_cell(one['License'])} |"
        for one in sorted(licensed, key=lambda one: one["Name"].lower())
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="bin/ of pip-audit, pip-licenses")
    parser.add_argument("--out", type=Path, default=Path("docs/audit.md"))
    given = parser.parse_args()
    packages = dependencies(ROOT)
    looked_up = audit(given.tools, packages)
    given.out.write_text(render(looked_up, licences(given.tools, list(packages))))
    known = sum(len(one.get("vulns", ())) for one in looked_up)
    skipped = sum("skip_reason" in one for one in looked_up)
    if skipped == len(packages):
        print(f"{given.out}: licences; vulnerabilities could not be looked up here")
    else:
        print(f"{given.out}: {known} known vulnerabilities; {skipped} packages not looked up")
    return 1 if known or skipped else 0


if __name__ == "__main__":
    sys.exit(main())
