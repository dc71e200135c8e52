"""Which cells a comparison has: method x keep x seed, and two without a size.

A coreset of the user's own (``--own``) is a method here.
"""

from dataclasses import dataclass

from staff.runs.compare_config import CompareConfig

FULL, UNTUNED = "full", "untuned"
DONE = "cell.json"  # written last in a cell's folder


@dataclass(frozen=True, slots=True)
class Cell:
    """One tuning and evaluation. `full` has no size, `untuned` has no seed either."""

    method: str
    keep: str | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder.

        >>> Cell("staff", "0.1", 2).name, Cell("full", seed=0).name, Cell("untuned").name
        ('staff-0.1-seed2', 'full-seed0', 'untuned')
        """
        seed = None if self.seed is None else f"seed{self.seed}"
        return "-".join(part for part in (self.method, self.keep, seed) if part is not None)


def cells_of(config: CompareConfig) -> list[Cell]:
    """Every cell, seed by seed, so that what is done early is a comparison of fewer seeds."""
    cells = [Cell(UNTUNED)]
    for seed in range(config.seeds):
        cells += [Cell(FULL, seed=seed)] * config.full
        cells += [Cell(m, keep, seed) for keep in config.keep_names for m in config.entrants]
    return cells
