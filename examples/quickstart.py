"""Choose a tenth of a small real file with the embedded models: python examples/quickstart.py

Takes seconds: 400 rows, one epoch, no network.
"""

import tempfile
from pathlib import Path

import numpy as np

import staff
from staff.selectors import select_staff

ASSETS = Path(staff.__file__).parent / "assets"


def whole_job(folder: Path) -> staff.Run:
    """From a file and two models to a coreset, as `staff select` does it."""
    lines = (ASSETS / "e2e_nlg" / "train.jsonl").read_text(encoding="utf-8").split("\n")[:400]
    data = folder / "train.jsonl"
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return staff.select_coreset(
        data,
        small=ASSETS / "family" / "small",
        target=ASSETS / "family" / "target",
        keep=0.1,
        out=folder / "run",
        prompt_column="mr",
        response_column="ref",
        epochs=1,
        regions=10,
    )


def own_scores() -> np.ndarray:
    """With scores of one's own: NumPy only; `verify` is asked for few rows."""
    rng = np.random.default_rng(0)
    small = rng.gamma(2.0, size=10_000)
    target = small * rng.uniform(0.5, 2.0, size=len(small))
    coreset = select_staff(scores=small, total=1_000, verify=lambda rows: target[rows], seed=0)
    return coreset.rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        run = whole_job(Path(scratch))
        chosen = run.coresets["0.1"].read_text(encoding="utf-8").splitlines()
        print(f"{len(chosen)} of {run.manifest['data']['rows_usable']} rows, for example:")
        print(chosen[0])
        print(f"the target scored {run.manifest['target_rows_scored']} rows")
    print(f"{len(own_scores())} rows chosen from scores of one's own")
