"""The folder of a comparison: where each file is, and the refusal of other settings."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from staff.errors import RunError
from staff.runs.compare_cells import DONE, cells_of
from staff.runs.compare_config import FREE_HERE, OF_SMALL, CompareConfig
from staff.runs.config_file import build, dump_yaml, written_by
from staff.runs.store import (
    RunFolder,
    check_inputs_outside,
    refuse_other_settings,
    write_atomic,
)

RESULTS = ("compare.json", "results.parquet", "results.csv", "results.md", "report.html")

NAMED = 8  # missing cells that are named


class CompareFolder:
    """The files of one comparison (schemas in docs/formats.md). Making one touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.report = self.path / "report.html"
        self.manifest = self.path / "compare.json"

    def scored(self, seed: int) -> RunFolder:
        """The run that computes, with one seed, what the methods need together."""
        return RunFolder(self.path / f"seed-{seed}" / "select")

    def chosen(self, seed: int, method: str) -> RunFolder:
        """The run of another method, from the stored scores of `scored`."""
        return RunFolder(self.path / f"seed-{seed}" / method)

    def cell(self, name: str) -> Path:
        """Folder of one cell, e.g. ``cells/staff-0.1-seed0``."""
        return self.path / "cells" / name

    @property
    def is_comparison(self) -> bool:
        """Whether `staff compare` made this folder, finished or not."""
        return self.manifest.is_file() or written_by(self.config) == "compare"

    def check_finished(self) -> None:
        """Raise `RunError` if compare.json is not there; it says which cells are missing."""
        if self.manifest.is_file():
            return
        cells = cells_of(build(CompareConfig, file=self.config))
        missing = [cell.name for cell in cells if not (self.cell(cell.name) / DONE).is_file()]
        more = [f"and {len(missing) - NAMED} more"] if len(missing) > NAMED else []
        are = "is" if len(missing) == 1 else "are"
        raise RunError(
            f"the comparison in {self.path} is not finished: {len(missing)} of {len(cells)} cells "
            f"{are} missing{': ' if missing else ''}{', '.join([*missing[:NAMED], *more])}; resume "
            f"with staff compare --config {shlex.quote(str(self.config))}"
        )

    def check_same_config(self, config: CompareConfig) -> None:
        """Raise `RunError` if this folder cannot take `config`; changes nothing.

        Methods, sizes, seeds and metrics may be added to what is here; another value of any
        other setting is refused, unless ``config.overwrite``.
        """
        folder = RunFolder(self.path)
        folder.check_usable()
        check_inputs_outside(config, self.path)
        if config.overwrite or not folder.has_results:
            return
        command = written_by(self.config)
        if command not in (None, "compare"):
            raise RunError(
                f"{self.path} was made by staff {command}: choose another --out, or add --overwrite"
            )
        before, now = (
            c.model_dump(mode="json") for c in (build(CompareConfig, file=self.config), config)
        )
        free = FREE_HERE | (set() if before["small"] else OF_SMALL)  # nothing is made with it yet
        refuse_other_settings(
            self.path, before, now, [key for key in config.ordered() if key not in free]
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out while the block runs; `RunError` if one is at work."""
        with RunFolder(self.path).lock():
            yield

    def begin_writing(self, config: CompareConfig) -> None:
        """Begin to change files: compare.json goes first, since from here on it is unfinished.

        With ``config.overwrite`` nothing of an earlier comparison counts any more.
        """
        for name in RESULTS:
            (self.path / name).unlink(missing_ok=True)
        RunFolder(self.path).sweep()
        if config.overwrite:
            self._forget()
        again = f"staff compare --config {shlex.quote(str(self.config))}"
        write_atomic(self.config, dump_yaml(config, replay=again))

    def _forget(self) -> None:
        """Remove what says that cells are done, and what the runs left; other files stay.

        Last what all of that was made from: from here on the folder may be of other contents.
        """
        for path in [*self.path.glob("cells/*/cell.json"), *self.path.glob("cells/*/tuning.json")]:
            path.unlink()
        for path in sorted(self.path.glob("seed-*/*/config.yaml")):
            RunFolder(path.parent).clear()
        (self.path / ".inputs.json").unlink(missing_ok=True)
