"""The whole job, in the paper's order: this file determines the order of events.

select:   read -> fine-tune small -> score small -> what the method makes of the scores (STAFF: cut,
          stratify, verify on the target, allocate, draw) -> write -> manifest (last: its
          existence means done). Only what the method needs is computed.
reselect: the same from the stored scores of an earlier run, without any model
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from staff.asked import check_asked, look_at_models, models_of, requested_sizes
from staff.data.files import open_source
from staff.data.prepare import Prepared
from staff.data.store import TokenStore
from staff.data.tokenise import Tokeniser
from staff.foreseen import too_many_regions, warnings_of
from staff.hashing import fingerprint
from staff.ledger import Ledger
from staff.methods import Inputs, Method, prepare, wanted_by
from staff.outputs import Run, finish
from staff.progress import WARNING, Progress, Say, silent
from staff.rng import keys_of_ids
from staff.runs import manifest as manifests
from staff.runs.again import finished_run, made_from, told
from staff.runs.config import RESELECT, SelectConfig
from staff.runs.facts import data_facts, not_finite_facts, stability_facts
from staff.runs.inputs import check_same_inputs, input_facts, model_inputs, write_inputs
from staff.runs.store import RunFolder, write_atomic
from staff.scores.interpolate import interpolate
from staff.scores.shards import read_features
from staff.selectors.agreement import rank_correlation
from staff.selectors.compose import Size, Wishes, check_wishes, choose_all
from staff.selectors.rounds import AUTO, not_verified
from staff.selectors.staff import Verify
from staff.stages import scoring
from staff.stages.draws import rows_to_score
from staff.stages.following import follow
from staff.stages.options import device_used, quantised_facts
from staff.stages.reading import keep_read, note_read, read_once, tokens_of
from staff.stages.scoring import Rounds, executing
from staff.stages.tuning import check_team, finetune_small
from staff.stored import check_source, read_stored, source_of
from staff.team import gathered
from staff.types import Bools, Floats, Ints, Rows, Selection
from staff.wishes import Lists, read_lists, read_wishes
from staff.words import counted


def select(
    config: SelectConfig,
    *,
    tokens: Path | None = None,
    progress: Progress | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """Choose coresets and write the run folder (docs/formats.md); return its manifest.

    tokens: the folder that rows and tokens lie in and stay in, for other runs of the same data;
    by default the run's own, until it is done.

    A folder that holds this very run, finished and whole, is left as it is. Raises `StaffError`
    children; whatever was finished is kept for the next start.

    Of the processes that torchrun started, all but one help it score, and return nothing ({}).
    """
    with gathered(follow) as leads:
        return _select_in(config, tokens, progress, say) if leads else {}


def _select_in(
    config: SelectConfig, tokens: Path | None, progress: Progress | None, say: Say
) -> dict[str, Any]:
    check_team(config)
    folder = RunFolder(config.folder)
    with executing(config), folder.lock():
        folder.start(config, overwrite=config.overwrite)
        run = _begun(config, folder, tokens or folder.path, progress, say)
        with nullcontext() if tokens else tokens_of(folder.path):
            return _select(run)


def _begun(
    config: SelectConfig, folder: RunFolder, tokens: Path, progress: Progress | None, say: Say
) -> Run:
    ledger = Ledger(folder.path, say, afresh=config.overwrite)
    result = manifests.begin("select", config.model_dump(mode="json"), seed=config.seed)
    source = open_source(str(config.data))
    return Run(config, folder, tokens, source, ledger, result, progress, say)


def is_finished(config: SelectConfig, *, progress: Progress | None = None) -> bool:
    """Whether `select` or `reselect` would leave the run in the folder as it is; writes nothing.

    Hashes what they would, and raises what they would where that has changed.
    """
    earlier = manifests.read_manifest(config.scores) if config.scores else None
    config = config if earlier is None else config.inherit(earlier["config"])
    folder = RunFolder(config.folder)
    if config.overwrite or not folder.finished:
        return False
    lists = read_lists(config)
    if earlier is None:
        run = _begun(config, folder, folder.path, progress, silent)
        tokenisers, data_hash = _check(run)
        made_from = _made_from(run, lists, data_hash, tokenisers)
    else:
        run = _begun_again(config, earlier, folder, progress, silent)
        made_from = _made_again_from(run, lists, earlier)
    return finished_run(folder, made_from) is not None


def _select(run: Run) -> dict[str, Any]:
    config, folder, result, wanted = run.config, run.folder, run.result, wanted_by(run.config)
    tokenisers, data_hash = _check(run)
    lists = read_lists(config)
    result["made_from"] = _made_from(run, lists, data_hash, tokenisers)
    if finished := _finished(run):
        return finished
    prepared, key = _read(run, tokenisers, data_hash)
    lengths = prepared.stores[-1].lengths if prepared.stores else None
    sizes = requested_sizes(config, prepared.usable, lengths)
    wishes = read_wishes(config, lists, run.source, prepared.ids, prepared.rows, result)
    check_asked(config, sizes, wishes, usable=prepared.usable)
    folder.begin_writing(config)  # until here an earlier run's files were left alone
    write_inputs(folder.path, _inputs(config, result["data"]["sha256"], result.get("models", {})))
    keep_read(prepared, folder, key, tokens=run.tokens)

    scores, interpolated, features = _score(run, prepared) if wanted else ({}, None, None)
    rows = Rows(
        ids=prepared.ids,
        rows=prepared.rows,
        sources=prepared.sources,
        lengths=lengths,
        scores=scores,
        target_scores=np.full(prepared.usable, np.nan),
        untuned_scores=np.full(prepared.usable, np.nan) if config.scores_untuned else None,
        interpolated=interpolated,
    )
    inputs = Inputs(keys_of_ids(rows.ids, config.seed), scores, features)
    wishes = _without_scoreless(run, rows, wishes)
    if "verify" in wanted:
        method = _verify(run, prepared, rows, inputs, wishes)
    else:
        method = prepare(config, inputs, free=wishes.free)
    selections = _choose(run, method, sizes, wishes, rows)
    return finish(run, method, selections, wishes, rows)


def _check(run: Run) -> tuple[list[Tokeniser], str]:
    """Hash data and models, note the models in the manifest, and refuse others than before.

    Returns the models' tokenisers and the data's SHA-256.
    """
    config, result = run.config, run.result
    models = models_of(config)
    with run.ledger.stage("check", remember=False):  # sooner here than after hours of fine-tuning
        if wanted_by(config):
            result["device"] = device_used(config)
        tokenisers, facts = look_at_models(config, progress=run.progress)
        if models:
            result["models"] = facts
        for role, tokeniser in zip(models, tokenisers, strict=False):
            result["models"][role]["tokenizer"] = tokeniser.fingerprint
        data_hash = run.source.content_hash()
        found = _inputs(config, data_hash, result.get("models", {}))
        check_same_inputs(run.folder, found, overwrite=config.overwrite)
    return tokenisers, data_hash


def _made_from(
    run: Run, lists: Lists, data_hash: str, tokenisers: Sequence[Tokeniser] = (), **more: Any
) -> str:
    """What a run's files are made from; the same again leaves them as they are."""
    config, result = run.config, run.result
    return made_from(
        "select",
        config,
        data=(run.source.kind, data_hash),  # the same bytes are other rows as CSV than as TSV
        models=result.get("models"),
        tokenizers=[tokeniser.fingerprint for tokeniser in tokenisers],
        dtype=result.get("device", {}).get("dtype"),
        quantised=[quantised_facts(config.quantized(role)) for role in ("small", "target")],
        lists=[found and found.ids for found in (lists.include, lists.exclude)],
        **more,
    )


def _finished(run: Run) -> dict[str, Any] | None:
    """The manifest of the run that is in the folder, if this one would be the same.

    Raises `StaffError` if it would not, and nothing can be written there.
    """
    made_from = run.result["made_from"]
    found = None if run.config.overwrite else finished_run(run.folder, made_from)
    if found:
        run.say(told(run.folder.path))
    else:
        run.folder.check_writable()
    return found


def _read(run: Run, tokenisers: Sequence[Tokeniser], data_hash: str) -> tuple[Prepared, str]:
    """Read and tokenise the usable rows; note them in the manifest.

    Beside them what they are to be kept as, see `keep_read`.
    """
    config, result = run.config, run.result
    with run.ledger.stage("read", remember=False) as record:
        prepared, key = read_once(
            config,
            run.source,
            tokenisers,
            data_hash=data_hash,
            folder=run.tokens,
            afresh=config.overwrite,
            progress=run.progress,
        )
        note_read(record, prepared)
    result["data"] = data_facts(run.source, data_hash, prepared)
    roles = models_of(config)
    by_role = {role: t.tokenizer for role, t in zip(roles, tokenisers, strict=False)}
    for text in warnings_of(config, prepared, by_role):  # now, before hours of fine-tuning
        run.say(f"{WARNING}{text}")
    return prepared, key


def _inputs(
    config: SelectConfig, data_hash: str, models: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """What scores and adapter depend on, by content."""
    return input_facts(data=(config.data, data_hash)) | model_inputs(models)


def _score(run: Run, prepared: Prepared) -> tuple[dict[str, Floats], Bools | None, Any]:
    """Steps 1 and 2: fine-tune the small model, score the rows.

    Returns its columns, which rows' are predicted (`_interpolate`), and features.
    """
    config, folder, ledger = run.config, run.folder, run.ledger
    wanted, tokens = wanted_by(config), prepared.stores[0]
    model, facts = str(config.small), run.result["models"]["small"]
    adapter = config.adapter
    if adapter is None and not config.skip_finetune:
        with ledger.stage("fine-tune small") as record:
            adapter = finetune_small(
                config,
                tokens,
                model_hash=facts["hash"],
                out=folder.adapter,
                record=record,
                progress=run.progress,
            )
    score = partial(
        scoring.score,
        config,
        tokens,
        model=model,
        adapter=adapter,
        quantize=config.quantized("small"),
        facts=facts,
        progress=run.progress,
    )
    features = bool(wanted & {"features", "connect"})
    scored = rows_to_score(tokens, config.score_on, seed=config.seed)
    whole = len(scored) == len(tokens)
    with ledger.stage("score small") as record:
        columns = dict(
            score(
                out=folder.scores_small,
                name="score small",
                record=record,
                features=features,
                positions=None if whole else scored,
            ).columns
        )
    if "unconditioned" in wanted:
        name = "score responses alone"
        with ledger.stage(name) as record:
            columns |= score(out=folder.scores_alone, name=name, record=record, alone=True).columns
    interpolated = None
    if config.score_on < 1:  # of the other columns only one stays, which needs no model
        lengths = tokens.response_lengths.astype(np.float64)
        columns = {"effort": columns["effort"], "response_length": lengths}
    if not whole:
        columns["effort"], interpolated = _interpolate(run, tokens, scored, columns["effort"])
    return columns, interpolated, read_features(folder.scores_small) if features else None


def _interpolate(
    run: Run, tokens: TokenStore, scored: Ints, effort: Floats
) -> tuple[Floats, Bools]:
    """Scores of all rows from those of the rows at `scored`; bool [n], whose are predicted.

    How well it predicts the scored rows goes into the manifest.
    """
    with run.ledger.stage("interpolate", remember=False) as record:
        found = interpolate(tokens, scored, effort[scored], seed=run.config.seed)
        record.rows = len(tokens) - len(scored)
    agreed = rank_correlation(found.observed, found.predicted)
    run.result["interpolation"] = {
        "rows_scored": len(scored),
        "spearman": None if agreed is None else agreed.value,
        "interval": None if agreed is None else agreed.interval,
    }
    predicted = np.ones(len(tokens), np.bool_)
    predicted[scored] = False
    return found.scores, predicted


def _without_scoreless(run: Run, rows: Rows, wishes: Wishes) -> Wishes:
    """The wishes without the rows whose score is not finite; those are told of."""
    if not (found := not_finite_facts(rows.ids, rows.rows, rows.scores)):
        return wishes
    run.result["not_finite"] = {"small": found}
    those = counted(found["rows"], "row has", "rows have")
    run.say(f"{WARNING}{those} no finite score and cannot be chosen")
    scoreless = np.any([np.isnan(values) for values in rows.scores.values()], axis=0)
    listed = np.concatenate([wishes.include, wishes.exclude])
    return replace(wishes, rejected=np.setdiff1d(np.flatnonzero(scoreless), listed))


def _verify(run: Run, prepared: Prepared, rows: Rows, inputs: Inputs, wishes: Wishes) -> Method:
    """Steps 3 to 5: cut, stratify, and score a few rows of each region on the target.

    Those rows, and only those, are scored on the target as it is; on the small model before
    fine-tuning, too, where the target's scores are to be divided by those. With
    ``--verify-per-region auto`` they come in rounds, each asked for when the last is known.
    """
    run.result["target_rows_scored"] = 0
    several = run.config.verify_per_region == AUTO
    made: list[Rounds] = []

    def scorer(name: str, role: str, store: int, out: Path, into: Floats) -> Verify:
        rounds = Rounds(
            run.config,
            prepared.stores[store],
            model=str(getattr(run.config, role)),
            facts=run.result["models"][role],
            out=out,
            name=name,
            quantize=run.config.quantized(role),
            progress=run.progress,
        )
        made.append(rounds)

        def scored(chosen: Ints) -> Floats:
            with run.ledger.stage(name) as record:
                table = rounds.score(chosen, record, more=several)
            into[chosen] = table.columns["effort"][chosen]
            asked = np.concatenate(rounds.rows)
            found = not_finite_facts(rows.ids, rows.rows, {"effort": into}, asked)
            if found:
                run.result.setdefault("not_finite", {})[name] = found
            run.result["target_rows_scored"] = len(asked)
            return into[chosen]

        return scored

    folder, untuned = run.folder, rows.untuned_scores
    verify = scorer("verify on target", "target", -1, folder.scores_target, rows.target_scores)
    against = None
    if untuned is not None:
        against = scorer("score small untuned", "small", 0, folder.scores_untuned, untuned)
    else:
        shutil.rmtree(folder.scores_untuned, ignore_errors=True)
    asked = replace(inputs, verify=verify, against=against)
    method = prepare(run.config, asked, free=wishes.free)
    for rounds in made if several else ():
        rounds.finish()
    if not run.result["target_rows_scored"]:  # no region is large enough
        with run.ledger.stage("verify on target"):  # nothing of an earlier start counts
            shutil.rmtree(folder.scores_target, ignore_errors=True)
            shutil.rmtree(folder.scores_untuned, ignore_errors=True)
    return method


def _choose(
    run: Run, method: Method, sizes: Mapping[str, Size], wishes: Wishes, rows: Rows
) -> dict[str, Selection]:
    """Steps 6 to 8, or what another method does: every coreset, and its stability if asked."""
    config = run.config

    def with_seed(seed: int) -> dict[str, Selection]:
        return choose_all(
            method.choose,
            sizes,
            wishes,
            seed=seed,
            lengths=rows.lengths,
            nested=config.nested,
        )

    with run.ledger.stage("select", remember=False) as record:
        selections = with_seed(config.seed)
        record.rows = len(rows.ids)
        if config.stability is not None:
            seeds = range(config.seed + 1, config.seed + config.stability)
            others = [with_seed(seed) if method.seeded else selections for seed in seeds]
            run.result["stability"] = stability_facts([selections, *others], wishes)
    return {name: method.complete(selection) for name, selection in selections.items()}


def reselect(
    config: SelectConfig, *, progress: Progress | None = None, say: Say = silent
) -> dict[str, Any]:
    """Choose again from the scores stored in the run ``config.scores``; no model is loaded.

    The target's scores of the rows that run verified serve again; a region in which it
    verified none counts as unverified.

    Raises:
        RunError: no finished run there, or it lacks what the method needs. DataError: its
            data file changed since.
    """
    with gathered(follow) as leads:  # there is nothing to help with, but its end to wait for
        return _reselect(config, progress, say) if leads else {}


def _reselect(config: SelectConfig, progress: Progress | None, say: Say) -> dict[str, Any]:
    earlier = manifests.read_manifest(str(config.scores))
    origin = RunFolder(str(config.scores))
    config = config.inherit(earlier["config"])
    folder = RunFolder(config.folder)
    with folder.lock():
        folder.start(config, overwrite=config.overwrite)
        run = _begun_again(config, earlier, folder, progress, say)
        source, result = run.source, run.result
        with run.ledger.stage("read", remember=False) as record:
            lists = read_lists(config)
            result["made_from"] = _made_again_from(run, lists, earlier)
            rows, features = read_stored(config)
            record.rows = len(rows.ids)
        for text in too_many_regions(config, len(rows.ids)):
            say(f"{WARNING}{text}")
        sizes = requested_sizes(config, len(rows.ids), rows.lengths)
        wishes = read_wishes(config, lists, source, rows.ids, rows.rows, result)
        wishes = _without_scoreless(run, rows, wishes)
        check_wishes(sizes, wishes)
        untuned = rows.untuned_scores
        inputs = Inputs(
            keys_of_ids(rows.ids, config.seed),
            rows.scores,
            features,
            verify=lambda chosen: rows.target_scores[chosen],
            against=None if untuned is None else lambda chosen: untuned[chosen],
            candidates=~np.isnan(rows.target_scores),
        )
        if finished := _finished(run):
            return finished
        method = prepare(config, inputs, free=wishes.free)
        _say_unverified(run, method)
        folder.begin_writing(config)
        if origin.rejected.is_file():
            write_atomic(folder.rejected, origin.rejected.read_bytes())
        if "verify" in wanted_by(config):  # others do not ask the target, whoever scored
            result["target_rows_scored"] = 0
        selections = _choose(run, method, sizes, wishes, rows)
        return finish(run, method, selections, wishes, rows)


def _begun_again(
    config: SelectConfig,
    earlier: Mapping[str, Any],
    folder: RunFolder,
    progress: Progress | None,
    say: Say,
) -> Run:
    """A selection from the scores of the run whose manifest `earlier` is; its data are found."""
    settings = {**config.model_dump(mode="json"), **_of_the_scores(earlier["config"], config)}
    result = manifests.begin("select", settings, seed=config.seed)
    kept = ("data", "models", "device", "interpolation")
    result |= {name: earlier[name] for name in kept if name in earlier}
    source = source_of(earlier)
    return Run(config, folder, folder.path, source, Ledger(folder.path), result, progress, say)


def _made_again_from(run: Run, lists: Lists, earlier: Mapping[str, Any]) -> str:
    """What a selection from the scores of an earlier run is made from.

    Raises DataError if the data have changed since.
    """
    sha256 = check_source(run.source, earlier, run.config.scores)
    scores = fingerprint(earlier)  # its manifest, which has the hashes of its files
    return _made_from(run, lists, sha256, scores=scores)


def _of_the_scores(earlier: Mapping[str, Any], config: SelectConfig) -> dict[str, Any]:
    """The settings of a run that hold for its scores: none of them can be given beside those.

    Its micro-batch, too, where none is given: an export takes it from the manifest.
    """
    names = SelectConfig.model_fields.keys() - RESELECT - {"data", "small", "target"}
    if config.micro_batch_size is None:
        names |= {"micro_batch_size"}
    return {name: earlier[name] for name in sorted(names) if earlier.get(name) is not None}


def _say_unverified(run: Run, method: Method) -> None:
    """Tell of regions large enough to be verified in which no row was."""
    if method.regions is None or method.verification is None or run.config.method != "staff":
        return
    large = method.regions.sizes > not_verified(run.config.verify_per_region)
    unknown = int(np.count_nonzero(np.isnan(method.verification.ratio) & large))
    if unknown:
        said = "regions have no row verified in {}: they get equal shares"
        if unknown == 1:
            said = "region has no row verified in {}: it gets an equal share"
        run.say(f"{unknown} {said.format(run.config.scores)}")
