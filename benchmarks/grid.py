"""The evidence: methods, their variants, tasks and seeds, in cells that are computed once.

    python benchmarks/grid.py run --data DIR --work DIR [--tasks cogs snips] [--seeds 0 1 2] …
    python benchmarks/grid.py report

A cell is one task, variant, fraction and seed: the target fine-tuned on the coreset that the
variant selects and evaluated on the task's test rows. Finished cells are written at once to --store
(by default benchmarks/results/grid, one Parquet and one JSON file per task and seed) and are not
computed again, whoever starts the script; what a killed process leaves in --work is reused, too.
Without --data the only task is `e2e_demo`, from the sample that staff ships.

Every method selects by the scores of the small model (as in `staff compare`), fine-tuned with
staff's defaults except the learning rate, which is the demo's: chosen on validation rows of
E2E NLG for the embedded family (benchmarks/family.py).
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grid_report import plot, report
from staff import pipeline
from staff.compare.cells import Inputs, run_cell
from staff.demo import EPOCHS, LEARNING_RATE, SMALL, TARGET
from staff.errors import RunError
from staff.hashing import fingerprint, hash_file
from staff.models.device import choose_device, choose_dtype
from staff.planning.shape import read_shape
from staff.runs.compare_cells import FULL, UNTUNED, Cell
from staff.runs.compare_config import CompareConfig
from staff.runs.config import SelectConfig
from staff.runs.lock import hold_beside
from staff.runs.manifest import read_manifest
from staff.runs.store import write_atomic
from staff.selectors.regions import REGIONS
from tasks import TASKS, write_task
from variants import CORE, QUICK, VARIANTS
from written import command_line

STORE = Path(__file__).parent / "results" / "grid"
KEEPS = (0.05, 0.1, 0.2, 0.5)
GENERATED_AT = ("0.1",)  # by default answers are generated for these, `full` and `untuned`
ITEM_METRICS = ("loss", "rougeL", "exact")
ROLES = ("small", "target")


@dataclass(frozen=True, slots=True)
class Models:
    """The two models' folders, their precision and learning rate; where models of others lie."""

    small: Path = SMALL
    target: Path = TARGET
    dtype: str = "float32"
    learning_rate: float = LEARNING_RATE
    others: Path = Path()

    def facts(self) -> dict[str, Any]:
        """What the report says of them."""
        sizes = {role: read_shape(str(getattr(self, role))).parameters for role in ROLES}
        return {"parameters": sizes, "learning_rate": self.learning_rate}

    def named(self, name: str) -> Path:
        """The folder of a variant's small model."""
        return self.target if name == "target" else self.others / name


class Block:
    """One task and seed: its data, selections and cells; what is finished, and where it lies."""

    def __init__(
        self, task: str, seed: int, *, data: Path, work: Path, store: Path, models: Models
    ) -> None:
        self.task, self.seed, self.data, self.models = task, seed, data, models
        self.facts = store / f"{task}-seed{seed}.json"
        self.items = self.facts.with_suffix(".parquet")
        self.made_from = fingerprint(
            {
                **{p.name: hash_file(p) for p in sorted(data.glob("*.jsonl"))},
                "small": hash_file(models.small / "model.safetensors"),
                "target": hash_file(models.target / "model.safetensors"),
                **({} if models.dtype == "float32" else {"dtype": models.dtype}),
                "learning_rate": models.learning_rate,
                "epochs": EPOCHS,
            }
        )
        # Not that of other data: a finished selection there is taken as it is.
        self.work = work / task / f"seed{seed}-{self.made_from[:12]}"
        self.found = self.read()

    def read(self) -> dict[str, Any]:
        """What is finished; SystemExit if it is of something else."""
        if self.facts.is_file():
            found = json.loads(self.facts.read_text())
            if found["made_from"] == self.made_from:
                return {"dtype": "float32", **found}  # which older files do not say
            raise SystemExit(
                f"{self.facts} holds cells of other data, models or precision: give another "
                "--store, or remove it"
            )
        facts = {"task": self.task, "seed": self.seed, "made_from": self.made_from, "cells": {}}
        return facts | {"dtype": self.models.dtype}

    def select(self, name: str) -> Path:
        """The folder of a finished selection."""
        out, variant = self.work / name, VARIANTS[name]
        if (out / "manifest.json").is_file():
            return out
        base = SelectConfig(
            data=str(self.data / "train.jsonl"),
            small=str(self.models.small),
            target=str(self.models.target),
            dtype=self.models.dtype,
            keep=KEEPS,
            regions=REGIONS,  # the paper's, however few rows --rows leaves
            seed=self.seed,
            epochs=EPOCHS,
            learning_rate=self.models.learning_rate,
            features=True,
            out=str(out),
        )
        if name == "staff":
            pipeline.select(base)
            return out
        method = variant.settings.get("method")
        if method and method != "ifd":  # what it needs is among the base run's scores
            scores = str(self.select("staff"))
            asked = SelectConfig(scores=scores, keep=KEEPS, out=str(out), **variant.settings)
            pipeline.reselect(asked)
            return out
        shared = ("config.yaml", ".stages.json", "adapter", "scores")
        if not variant.scored_anew and not out.exists():  # recognised by their fingerprints
            origin = self.select("staff")
            out.mkdir(parents=True)
            for part in shared:
                copy = shutil.copytree if (origin / part).is_dir() else shutil.copy
                copy(origin / part, out / part)
        settings = base.model_dump(exclude={"preset", "allocation", "within", "cut"})
        if "phi" in variant.settings:
            settings["adapter"] = str(self.select("staff") / "adapter")
        if "score_on" in variant.settings:
            settings["features"] = False
        settings |= variant.settings
        if "small" in variant.settings:
            settings["small"] = str(self.models.named(settings["small"]))
        pipeline.select(SelectConfig(**settings))
        return out

    def run(self, cell: Cell, *, generate: bool) -> None:
        """Do one cell unless it is in the store, and put it there."""
        metrics = ("loss", "rougeL", "bleu", "exact") if generate else ("loss",)
        done = self.found["cells"].get(cell.name)
        settings = dict(VARIANTS[cell.method].settings) if cell.keep else {}
        if done and done["settings"] == settings and set(metrics) <= set(done["metrics"]):
            return
        config = CompareConfig(
            data=str(self.data / "train.jsonl"),
            test=str(self.data / "test.jsonl"),
            target=str(self.models.target),
            dtype=self.models.dtype,
            methods=("random",),
            keep=KEEPS,
            epochs=EPOCHS,
            learning_rate=self.models.learning_rate,
            metrics=metrics,
            max_new_tokens=128,
            out=str(self.work),
        )
        file = self._file(cell)
        inputs = Inputs(
            target={"hash": self.made_from},
            test=hash_file(self.data / "test.jsonl"),
            file=file,
            sha256=file and hash_file(file),
        )
        place = self.work / "cells" / cell.name
        found = run_cell(cell, config, inputs, folder=place)
        kept = ("method", "keep", "seed", "metrics", "tuning", "test", "values")
        self.found["cells"][cell.name] = {name: found[name] for name in kept}
        # The hash tells whether a selection that is made again is the one this cell is of.
        self.found["cells"][cell.name] |= {"settings": settings, "coreset": inputs.sha256}
        if cell.keep:
            stages = read_manifest(self.work / cell.method)["stages"]
            self.found.setdefault("selection", {})[cell.method] = {
                stage["name"]: stage["seconds"] for stage in stages
            }
        if "models" not in self.found:
            self.found["models"] = self.models.facts()
        self.found["made_with"] = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{name: version(name) for name in ("torch", "transformers", "peft", "trl")},
        }
        self._keep(cell, pq.read_table(place / "items.parquet"))

    def _file(self, cell: Cell) -> Path | None:
        if cell.method == UNTUNED:
            return None
        if cell.keep is None:
            return self.data / "train.jsonl"
        return self.select(cell.method) / f"coreset-{cell.keep}.jsonl"

    def _keep(self, cell: Cell, table: pa.Table) -> None:
        """Add a cell to the store: its items first, so that a cell that is named has them."""
        columns = {"cell": pa.array([cell.name] * len(table)), "id": table["id"]}
        for name in ITEM_METRICS:
            values = table[name] if name in table.column_names else pa.nulls(len(table))
            columns[name] = values.cast(pa.float32())
        new = pa.table(columns)
        if self.items.is_file():
            old = pq.read_table(self.items)
            keep = [c != cell.name and c in self.found["cells"] for c in old["cell"].to_pylist()]
            new = pa.concat_tables([old.filter(pa.array(keep, pa.bool_())), new])
        self.items.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.items, lambda file: pq.write_table(new, file, compression="zstd"))
        write_atomic(self.facts, json.dumps(self.found, indent=1, sort_keys=True) + "\n")


def run(args: argparse.Namespace) -> None:
    """Do the cells that are asked for and not in the store."""
    models = Models(args.small, args.target, args.dtype, args.learning_rate, args.others)
    blocks = []
    for task in args.tasks:
        folder = "data" if args.rows is None else f"data-{args.rows}"
        data = write_task(task, args.data, args.work / task / folder, rows=args.rows)
        places = {"data": data, "work": args.work, "store": args.store}
        blocks += [Block(task, seed, models=models, **places) for seed in args.seeds]
    blocks.sort(key=lambda block: block.seed)  # one seed everywhere before the next
    for block in blocks:
        cells = [Cell(name, keep, block.seed) for keep in args.keep for name in args.variants]
        if args.full:
            cells = [Cell(UNTUNED), *cells, Cell(FULL, seed=block.seed)]
        with hold_beside(block.facts):  # two processes would write over each other's cells
            block.found = block.read()
            for cell in cells:
                print(f"{block.task}: {cell.name}", file=sys.stderr, flush=True)
                block.run(cell, generate=args.generate and cell.keep in (None, *args.generate_at))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=STORE)
    verbs = parser.add_subparsers(dest="verb", required=True)
    doing = verbs.add_parser("run", help="do cells")
    doing.add_argument("--data", type=Path, help="folder of the data sets: see tasks.py")
    doing.add_argument("--work", type=Path, help="scratch folder; default: a temporary one")
    doing.add_argument("--tasks", nargs="+", choices=TASKS, default=["e2e_demo"])
    doing.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    doing.add_argument("--keep", nargs="+", choices=[f"{k:g}" for k in KEEPS], default=["0.1"])
    doing.add_argument("--variants", nargs="+", choices=VARIANTS, default=CORE)
    doing.add_argument("--rows", type=int, help="training rows a task; default: the task's")
    doing.add_argument("--small", type=Path, default=SMALL, help="of another family: its folder")
    doing.add_argument("--target", type=Path, default=TARGET)
    doing.add_argument(
        "--others", type=Path, default=Path(), help="folder of the models that variants name"
    )
    doing.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    doing.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    doing.add_argument("--full", action=argparse.BooleanOptionalAction, default=True)
    doing.add_argument("--generate", action=argparse.BooleanOptionalAction, default=True)
    doing.add_argument(
        "--generate-at",
        nargs="+",
        choices=[f"{k:g}" for k in KEEPS],
        default=GENERATED_AT,
        help="fractions whose cells answer the test prompts, too; default: 0.1",
    )
    quick = verbs.add_parser("quick", help="a small version, on what staff ships, and its table")
    quick.add_argument("--rows", type=int, default=1500)
    showing = verbs.add_parser("report", help="tables of what is in the store")
    showing.add_argument(
        "--write", action="store_true", help=f"also write them beside it: {STORE.name}.md"
    )
    args = parser.parse_args()
    if args.verb == "report":
        text = "\n".join(report(args.store)) + "\n"
        print(text)
        if args.write:
            head = f"# Methods against random\n\n`{command_line(__file__)}`\n\n"
            args.store.with_name(f"{args.store.name}.md").write_text(head + text)
            methods = [name for name in CORE if name != "random"]
            args.store.with_name(f"{args.store.name}.svg").write_text(plot(args.store, methods))
        return
    with tempfile.TemporaryDirectory() as scratch:
        if args.verb == "quick":
            dtype = str(choose_dtype("auto", choose_device())).removeprefix("torch.")
            args = argparse.Namespace(
                **{"data": None, "work": Path(scratch), "store": Path(scratch) / "store"},
                **{"tasks": ["e2e_demo"], "seeds": [0, 1], "keep": ["0.1"], "variants": QUICK},
                **{"rows": args.rows, "full": True, "generate": False, "generate_at": ()},
                **{"small": SMALL, "target": TARGET, "dtype": dtype, "others": Path()},
                learning_rate=LEARNING_RATE,
            )
            run(args)
            print("\n".join(report(args.store)))
            return
        args.work = (args.work or Path(scratch)).resolve()
        run(args)


if __name__ == "__main__":
    try:
        main()
    except RunError as error:  # another process is at work on a task and seed
        raise SystemExit(str(error).replace("--out", "--store")) from None
