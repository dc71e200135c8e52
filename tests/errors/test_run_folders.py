"""Run folders that do not fit what is asked of them: foreign, unfinished, damaged, in use."""

import fcntl
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changes import apply, json_values

GROUP = "Run folders"
SELECT = "staff select train.jsonl --method random --keep 0.5 --out"
AGAIN = "staff select --scores run --keep 0.25 --out out"
RUN = {"run": Path("run")}
held = []


def run(**changes):
    """The finished run with changes: a file's new contents, or None where it goes."""

    return RUN | {"changed": lambda path: apply(path.parent / "run", changes)}


def manifest(**values):
    return run(manifest__json=json_values(values))


def table(change):
    def rewrite(file):
        pq.write_table(change(pq.read_table(file)), file)

    return run(selection__parquet=rewrite)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-100])


def lock(path):
    path.parent.mkdir()
    held.append(path.open("w"))
    fcntl.flock(held[-1], fcntl.LOCK_EX)


def texts(found):
    column = pa.array(["high"] * len(found))
    return found.set_column(found.column_names.index("score_small"), "score_small", column)


def infinite(found):
    column = pa.array(np.full(len(found), np.inf))
    return found.set_column(found.column_names.index("score_small"), "score_small", column)


CASES = [
    ("a file", {"out": "x"}, f"{SELECT} out", 5, 'out is a file: --out takes a folder'),
    ("a place inside a file", {"out": "x"}, f"{SELECT} out/run", 5, 'out/run cannot be created: PATH/out is a file'),
    ("a folder of other files", {"out/notes.md": "mine"}, f"{SELECT} out", 5, 'out contains files but no staff run: choose another folder for --out'),
    ("the folder that the data are in", {"out/a.jsonl": '{"text": "a"}\n', "out/config.yaml": ""}, "staff select out/a.jsonl --method random --keep 1 --out out", 5, 'data out/a.jsonl is in the folder this run writes to, out: choose another --out'),
    ("a run that another process is using", {"out/.lock": lock}, f"{SELECT} out", 5, 'another staff process is running in out; wait until it has ended, or choose another --out'),
    ("a run with another maximum length", RUN, "staff select train.jsonl --small small --target target --keep 0.5 --skip-finetune --max-length 64 --out run", 5, 'run was made with max_length = (not set), now it is 64: choose another --out, or add --overwrite'),
    ("a folder of scores", {"scored": Path("scored")}, f"{SELECT} scored", 5, 'scored was made by staff score: choose another --out, or add --overwrite'),
    ("a run whose config.yaml is damaged", run(config__yaml="keep: ["), "staff select train.jsonl --small small --target target --keep 0.5 --skip-finetune --out run", 5, "run/config.yaml, line 1: not valid YAML (expected the node content, but found '<stream end>'); choose another --out, or add --overwrite"),
    ("a run that does not exist", {}, "staff why run --row 0", 5, 'there is no run folder run'),
    ("a folder that is not a run", {"run/notes.md": "mine"}, "staff report run", 5, 'run is not a staff run: it has no manifest.json'),
    ("a run that is not finished", {"run/config.yaml": "# staff 0.1.0; again: staff select --config run/config.yaml\nkeep: 0.5\n"}, "staff report run", 5, 'the run in run is not finished: resume with staff select --config run/config.yaml'),
    ("a manifest cut short", run(manifest__json=cut_short), "staff why run --row 0", 5, 'run/manifest.json is damaged: resume with staff select --config run/config.yaml'),
    ("a manifest that is a list", run(manifest__json="[]"), "staff report run", 5, 'run/manifest.json is not a staff manifest'),
    ("a manifest of another program", run(manifest__json='{"name": "x"}'), "staff report run", 5, 'run/manifest.json is not a staff manifest'),
    ("a manifest of a newer version", manifest(format=99), "staff report run", 5, 'run/manifest.json was written by a newer version of staff; this is 0.1.0'),
    ("a manifest without settings", manifest(config="gone"), "staff why run --row 0", 5, 'run/manifest.json is damaged: config is missing. Run the command that made it again.'),
    ("a manifest without data, to report", manifest(data="gone"), "staff report run", 5, 'run/manifest.json is damaged: data is missing. Run the command that made it again.'),
    ("a manifest without data, to select from", manifest(data="gone"), AGAIN, 5, 'run/manifest.json is damaged: data is missing. Run the command that made it again.'),
    ("a manifest whose regions are text", manifest(regions="many"), "staff why run --row 0", 5, 'run/manifest.json is damaged: regions has an unexpected value. Run the command that made it again.'),
    ("a manifest whose regions are numbers", manifest(regions=[1, 2]), "staff report run", 5, 'run/manifest.json is damaged: regions.0 has an unexpected value. Run the command that made it again.'),
    ("a manifest whose settings are wrong", manifest(config={"regions": "many"}), AGAIN, 5, 'run/manifest.json is damaged: config.regions has an unexpected value. Run the command that made it again.'),
    ("a run that was selected from itself", manifest(config={"scores": "run", "method": "staff", "regions": 2}), f"{AGAIN} --method k-centre", 5, 'run says that its scores are from run, which leads back to itself: its manifest.json was edited'),
    ("a manifest whose coresets are numbers", manifest(coresets=[1]), "staff report run", 5, 'run/manifest.json is damaged: coresets.0 has an unexpected value. Run the command that made it again.'),
    ("a run without selection.parquet", run(selection__parquet=None), "staff why run --row 0", 5, 'run/selection.parquet is missing: put it back, or run staff select again with the same settings'),
    ("a selection.parquet cut short", run(selection__parquet=cut_short), "staff why run --row 0", 5, 'run/selection.parquet is damaged or from another run: it is not the file listed in manifest.json. Run staff select again with the same settings.'),
    ("a selection.parquet that is text", run(selection__parquet="hello"), AGAIN, 5, 'run/selection.parquet is damaged or from another run: it is not the file listed in manifest.json. Run staff select again with the same settings.'),
    ("a selection.parquet without scores", table(lambda found: found.drop_columns(["score_small"])), AGAIN, 5, 'run/selection.parquet is damaged or from another run: it is not the file listed in manifest.json. Run staff select again with the same settings.'),
    ("a selection.parquet without reasons", table(lambda found: found.drop_columns(["reason@0.5"])), "staff why run --row 0", 5, 'run/selection.parquet is damaged or from another run: it is not the file listed in manifest.json. Run staff select again with the same settings.'),
    ("a selection.parquet whose scores are text", table(texts), AGAIN, 5, 'run/selection.parquet is damaged or from another run: it is not the file listed in manifest.json. Run staff select again with the same settings.'),
    ("a selection.parquet with infinite scores", table(infinite), AGAIN, 5, 'run/selection.parquet is damaged or from another run: it is not the file listed in manifest.json. Run staff select again with the same settings.'),
    ("a selection.parquet of other rows", table(lambda found: found.slice(0, 3)), "staff report run", 5, 'run/selection.parquet is damaged or from another run: it is not the file listed in manifest.json. Run staff select again with the same settings.'),
    ("scores of data that have changed", RUN | {"train.jsonl": '{"text": "a"}\n'}, AGAIN, 3, 'train.jsonl has changed since run scored it: run staff select on it with the models, in a new folder'),
    ("scores of data that no longer exist", RUN | {"train.jsonl": Path.unlink}, AGAIN, 3, 'no such file: train.jsonl; did you mean test.jsonl? The run names it from the folder that it was started in: run this command there.'),
    ("scores of one model, to select from", {"run": Path("scored")}, AGAIN, 5, 'run was made by staff score: --scores takes the folder of a finished staff select'),
    ("a run without scores, to select from", {"run": Path("plain")}, f"{AGAIN} --method staff", 5, 'run has no scores: it was made by the method random.\nRun the method staff with the models instead of --scores. If run was made with models, this computes only what is missing and replaces its coresets: staff select --config run/config.yaml --method staff'),
    ("a run without token counts, to select from", {"run": Path("plain")}, "staff select --scores run --tokens 9 --out out", 5, 'run has no token counts: no tokenizer read its rows. Give sizes in rows, or run staff select on its data with --target MODEL instead of --scores'),
    ("a comparison, to select from", {"run/seed-0/select": Path("run"), "run/compare.json": "{}", "run/config.yaml": "# staff 0.1.0; again: staff compare --config run/config.yaml\n"}, AGAIN, 5, 'run is a comparison, which has a run for each seed and method: give the folder of one, e.g. run/seed-0/select'),
    ("a run without features, to select from", RUN, f"{AGAIN} --method k-centre", 5, 'run has no features: it was made by the method staff.\nRun the method k-centre with the models instead of --scores. If run was made with models, this computes only what is missing and replaces its coresets: staff select --config run/config.yaml --method k-centre'),
    ("a row of scores", {"scored": Path("scored")}, "staff why scored --row 0", 5, 'scored was made by staff score, which chooses nothing: give the folder of a finished staff select'),
    ("a row that the data do not have", RUN, "staff why run --row 99", 2, 'train.jsonl has no row 99: rows go from 0 to 7'),
    ("an id that no row has", RUN, "staff why run --id nobody", 2, "no row of run has the id 'nobody': ids are in selection.parquet"),
    ("a list of rejected rows that is damaged", run(rejected__jsonl='{"row":'), "staff why run --row 99", 5, 'run/rejected.jsonl is damaged: run staff select again'),
    ("a comparison that is not finished", {"out/config.yaml": "# staff 0.1.0; again: staff compare --config out/config.yaml\ndata: train.jsonl\ntest: test.jsonl\ntarget: target\nmethods: [random]\nkeep: [0.5]\nseeds: 1\nout: out\n"}, "staff report out", 5, 'the comparison in out is not finished: 3 of 3 cells are missing: untuned, full-seed0, random-0.5-seed0; resume with staff compare --config out/config.yaml'),
    ("a comparison whose compare.json is damaged", {"out/compare.json": "{"}, "staff report out", 5, 'out/compare.json is damaged: run the command that made it again'),
    ("a comparison without results", {"out/compare.json": '{"format": 1}'}, "staff report out", 5, 'out/compare.json is not a manifest of a command of this version'),
    ("an export of a folder that does not exist", {}, "staff export run --to trl", 5, 'there is no run folder run'),
    ("an export of scores", {"scored": Path("scored")}, "staff export scored --to trl", 5, 'scored was made by staff score, which chooses nothing: give the folder of a finished staff select'),
    ("an export of a comparison", {"out/seed-0/select": Path("run")}, "staff export out --to trl", 5, 'out is a comparison, which has a run for each seed and method: give the folder of one, e.g. out/seed-0/select'),
    ("an export of a coreset that the run does not have", RUN, "staff export run --to trl --keep 0.1", 2, "run has no coreset '0.1'; --keep takes one of 0.5 (others: staff select --scores run --keep …)"),
    ("an export of one of several coresets", manifest(coresets=[{"name": k, "total": 4, "top_up": 0, "path": f"coreset-{k}.jsonl"} for k in ("0.5", "0.25")]), "staff export run --to trl", 2, 'run has several coresets: say which with --keep, one of 0.5, 0.25'),
    ("an export of a coreset that no longer exists", run(**{"coreset-0.5.jsonl": None}), "staff export run --to trl", 5, 'run/coreset-0.5.jsonl is missing: put it back, or run staff select again with the same settings'),
    ("an export of a coreset that was changed", run(**{"coreset-0.5.jsonl": "{}\n"}), "staff export run --to trl", 5, 'run/coreset-0.5.jsonl is not the file that manifest.json names: it was changed, or is of another run. Run staff select again with the same settings.'),
    ("an export of a run whose manifest has no hashes", manifest(files={}), "staff export run --to trl", 5, 'run/manifest.json does not say what coreset-0.5.jsonl holds: run staff select again with the same settings'),
    ("an export of a coreset with another number of rows than in the manifest", manifest(coresets=[{"name": "0.5", "total": 3, "top_up": 0, "path": "coreset-0.5.jsonl"}]), "staff export run --to trl", 5, 'run/coreset-0.5.jsonl has 4 rows where manifest.json says 3: run staff select again with the same settings'),
    ("an export of a run without a target", {"plain": Path("plain")}, "staff export plain --to trl", 2, 'the run was given no target: say which model to tune, --model MODEL'),
    ("an export where the folder of the run's target is not to be found", manifest(models={"target": {"path": "models/gone", "hash": "0"}}), "staff export run --to trl", 2, "the run's target was the folder models/gone, which is not here: run staff export where the run was made, or say where the model lies, --model MODEL"),
    ("an export of a model that does not exist", {"plain": Path("plain")}, "staff export plain --to trl --model ./none", 4, 'model folder ./none does not exist; give a folder with config.json, tokenizer and safetensors weights, or a Hub id'),
    ("an export into a folder of other files", RUN | {"out/mine.txt": "x"}, "staff export run --to trl --out out", 5, 'out holds files but no export of staff: choose another --out'),
    ("an export where there is one", RUN | {"out/export.json": '{"files": {}}'}, "staff export run --to trl --out out", 5, 'out holds an export: choose another --out, or add --overwrite'),
    ("an export where there is a damaged one", RUN | {"out/export.json": "{"}, "staff export run --to trl --out out --overwrite", 5, 'out/export.json is damaged: choose another --out, or remove out'),
    ("an export to a file", RUN | {"out": "x"}, "staff export run --to trl --out out", 5, 'out is a file: --out takes a folder'),
    ("results of an evaluation", {"out/metrics.json": "{}"}, "staff evaluate test.jsonl --model small --out out", 5, 'out contains the results of another evaluation (metrics.json): choose another --out, or add --overwrite'),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
