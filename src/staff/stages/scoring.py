"""Scoring: step 2 of the paper, verification on the target, and `staff score`.

Finished shards are recognised by the fingerprint of everything their scores depend on (contents,
never names or lengths) and are not scored again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from staff.data.store import TokenStore
from staff.errors import ConfigError, RunError
from staff.hashing import versions_of
from staff.ledger import StageRecord
from staff.models.quantised import NONE
from staff.progress import Progress, Stage
from staff.runs.config import DRAWN
from staff.scores.run import Elsewhere, ScoreRun, few_rows_shard, score_rows
from staff.stages import orders
from staff.stages.elsewhere import check_same, everywhere, pinned
from staff.stages.lazy_scorer import LazyScorer
from staff.stages.options import (
    cache_of,
    device_used,
    kernel_of,
    quantised_facts,
    trust_of,
)
from staff.team import Team, current, in_team
from staff.types import Bools, Ints, ScoreTable


def check_executor() -> None:
    """Raise `ConfigError` if Ray, which is asked for, cannot be had."""
    from staff.scores.ray_cluster import check_installed

    if in_team() or current():
        raise ConfigError("--executor ray uses its own workers: start staff without torchrun")
    check_installed()


@contextmanager
def executing(config: Any) -> Iterator[None]:
    """A run, and the cluster that it scores on where that is not this process."""
    if config.executor == "local":
        yield
        return
    from staff.scores.ray_cluster import session

    check_executor()
    with session():
        yield


def score(
    config: Any,
    store: TokenStore,
    *,
    out: Path,
    record: StageRecord,
    positions: Ints | None = None,
    earlier: Sequence[Ints] = (),
    more: bool = False,
    scorer: LazyScorer | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> ScoreTable:
    """Step 2: effort scores (and signals) of the rows at `positions`, of all by default.

    what: model, facts (the model's entry in the manifest; its hash goes into the fingerprint),
    name of the stage; adapter; quantize; features: pooled hidden states too; alone: only the loss
    of responses without their prompts (for IFD); shard_rows, if not the setting. What was scored
    goes into `record`.
    earlier, more: rows that come in rounds, see `score_rows`; scorer: of an earlier round, whose
    model is loaded.

    The processes of a team score the shards between them; then all are read here.
    """
    done, team, elsewhere = 0, current(), None
    what = settled(config, store, out=out, **what)
    if team:
        model = everywhere(what["model"], trust=trust_of(config))
        adapter = what["adapter"] and str(Path(what["adapter"]).absolute())
        order = orders.order(
            "score",
            config,
            store,
            out,
            model=model,
            adapter=adapter,
            model_hash=what["made_from"]["model_hash"],
            quantize=what["quantize"],
        )
        order |= {"what": what | {"model": model, "adapter": adapter}, "more": more}
        order["positions"] = None if positions is None else positions.tolist()
        order["earlier"] = [rows.tolist() for rows in earlier]
        done = team.lead(order, partial(take_part, team, scorer=scorer, progress=progress))
        progress, elsewhere = None, partial(_refuse_lost, out)  # what is done now is reading
    scored = _score(
        config,
        store,
        out=out,
        positions=positions,
        earlier=earlier,
        more=more,
        scorer=scorer,
        elsewhere=elsewhere,
        progress=progress,
        **what,
    )
    record.rows = scored.rows + scored.reused
    record.tokens = _tokens(store, scored.table.known, alone=what["start"] is not None)
    record.reused = scored.rows + done == 0
    return scored.table


def settled(
    config: Any,
    store: TokenStore,
    *,
    out: Path,
    model: str,
    facts: dict[str, Any],
    name: str,
    adapter: str | None = None,
    quantize: str = NONE,
    features: bool = False,
    alone: bool = False,
    shard_rows: int | None = None,
) -> dict[str, Any]:
    """What `score` is told, and what the scores are made from: for all processes of a team.

    A folder that holds features keeps them. One process alone looks: while others of a team replace
    and remove parts of an earlier start, they may not find the same.
    """
    from staff.models.folder import model_hash
    from staff.models.load import load_tokenizer
    from staff.scores.alone import start_token
    from staff.scores.shards import has_features

    trust = trust_of(config)
    start = start_token(load_tokenizer(model, trust=trust), model=model) if alone else None
    features = features or config.features or has_features(out)
    made_from = {
        "scorer": config.phi if start is None else f"response after {start}",
        "model_hash": facts["hash"] if adapter is None else model_hash(model, adapter, trust=trust),
        "data_hash": store.content_hash,
        "dtype": device_used(config)["dtype"],
        "features": features,
        "seed": config.seed if config.phi in DRAWN else None,
        **kernel_of(config),
        **quantised_facts(quantize),
        "versions": versions_of("staff-coreset", "torch", "transformers", "peft"),
    }
    return {
        "model": model,
        "revision": facts.get("revision"),
        "name": name,
        "adapter": adapter,
        "quantize": quantize,
        "features": features,
        "start": start,
        "shard_rows": shard_rows or config.shard_rows,
        "made_from": made_from,
    }


def _tokens(store: TokenStore, known: Bools, *, alone: bool) -> int:
    """Tokens of the scored rows; of responses alone with a start token each."""
    if alone:
        return int(store.response_lengths[known].sum() + np.count_nonzero(known))
    return int(store.lengths[known].sum())


def _refuse_lost(out: Path, missing: Mapping[int, Ints], _: Stage) -> Iterator[Any]:
    """Raise `RunError` for shards that a team has scored and this process, its first, lacks.

    Else it would score them all again, alone.
    """
    if missing:
        raise RunError(
            f"{out} lacks {len(missing)} of the shards that the processes have just scored: it "
            "must be on a file system that all machines share"
        )
    return iter(())


def scorer_of(order: Mapping[str, Any]) -> LazyScorer:
    """What scores the rows of an order, and of those that are to follow it."""
    config, _, _ = orders.opened(order)
    names = ("model", "adapter", "quantize", "features", "start")
    return LazyScorer(config, **{name: order["what"][name] for name in names})


def take_part(
    team: Team,
    order: Mapping[str, Any],
    *,
    scorer: LazyScorer | None = None,
    progress: Progress | None = None,
) -> int:
    """Score this process's share of an order's rows; how many were scored.

    scorer: of an earlier round, whose model is loaded.
    """
    config, store, out = orders.opened(order)
    device_used(config)  # refuses what cannot work here
    positions = order["positions"]
    return _score(
        config,
        store,
        out=out,
        positions=None if positions is None else np.array(positions, np.int64),
        earlier=[np.array(rows, np.int64) for rows in order["earlier"]],
        more=order["more"],
        scorer=scorer,
        progress=progress,
        share=(team.rank, team.size),
        **order["what"],
    ).rows


def _score(
    config: Any,
    store: TokenStore,
    *,
    model: str,
    revision: str | None,
    out: Path,
    name: str,
    adapter: str | None,
    quantize: str,
    features: bool,
    start: int | None,
    shard_rows: int,
    made_from: Mapping[str, Any],
    positions: Ints | None = None,
    scorer: LazyScorer | None = None,
    earlier: Sequence[Ints] = (),
    more: bool = False,
    share: tuple[int, int] = (0, 1),
    elsewhere: Elsewhere | None = None,
    progress: Progress | None = None,
) -> ScoreRun:
    """What `score` says, in this process, as `settled` has it."""
    loading: dict[str, Any] = {"model": model, "adapter": adapter, "quantize": quantize}
    if config.executor == "ray":
        if revision:
            loading["model"] = pinned(model, revision)
        elsewhere = _on_ray(
            config, store, **loading, features=features, start=start,
            made_from=made_from,
            rows=len(store) if positions is None else len(positions) + sum(map(len, earlier)),
        )  # fmt: skip
    return score_rows(
        scorer or LazyScorer(config, **loading, features=features, start=start),
        store,
        positions,
        batch_tokens=config.batch_tokens,
        shard_rows=shard_rows,
        cache=cache_of(config),
        out=out,
        fingerprint=made_from,
        elsewhere=elsewhere,
        earlier=earlier,
        more=more,
        share=share,
        name=name,
        progress=progress,
    )


def _on_ray(
    config: Any,
    store: TokenStore,
    *,
    model: str,
    adapter: str | None,
    quantize: str,
    features: bool,
    start: int | None,
    made_from: Mapping[str, Any],
    rows: int,
) -> Elsewhere:
    """What scores parts on Ray's workers as this process would, and as precisely."""
    from staff.scores import ray

    # Ray gives each worker a GPU of its own, which is the first that it sees there.
    device = config.device.partition(":")[0]
    settings = config.model_copy(update={"dtype": made_from["dtype"], "device": device})
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    adapter = None if adapter is None else str(Path(adapter).absolute())
    job = ray.Job(
        scorer=LazyScorer(
            settings,
            model=model,
            adapter=adapter,
            quantize=quantize,
            features=features,
            start=start,
        ),
        tokens=store.path.absolute(),
        data_hash=store.content_hash,
        batch_tokens=config.batch_tokens,
        rows=rows,
        check=partial(check_same, made_from, model=model, adapter=adapter, trust=trust_of(config)),
    )
    return partial(ray.score_parts, job, workers=config.workers, device=config.device)


class Rounds:
    """Scores rows round by round, on a model that is loaded once; each round has its own parts.

    model, facts, out, name, quantize: as of `score`.
    """

    def __init__(
        self,
        config: Any,
        store: TokenStore,
        *,
        model: str,
        facts: dict[str, Any],
        out: Path,
        name: str,
        quantize: str = NONE,
        progress: Progress | None = None,
    ) -> None:
        from staff.scores.shards import has_features

        self.out = out
        self.shard_rows = few_rows_shard(store.lengths, shard_rows=config.shard_rows)
        self.rows: list[Ints] = []
        features = config.features or has_features(out)
        self._scorer = LazyScorer(
            config, model=model, adapter=None, quantize=quantize, features=features
        )
        self._score = partial(
            score,
            config,
            store,
            model=model,
            facts=facts,
            out=out,
            name=name,
            quantize=quantize,
            features=features,
            shard_rows=self.shard_rows,
            scorer=self._scorer,
            progress=progress,
        )

    def score(self, rows: Ints, record: StageRecord, *, more: bool) -> ScoreTable:
        """Scores of these rows and of those of all rounds before; more: others may follow."""
        table = self._score(positions=rows, earlier=tuple(self.rows), more=more, record=record)
        self.rows.append(rows)
        if not more:
            self._scorer.release()
        return table

    def finish(self) -> None:
        """No round follows: remove the parts of other rows, and let go of the model."""
        from staff.scores.run import forget_others, plan_parts

        self._scorer.release()
        forget_others(self.out, plan_parts(self.rows, self.shard_rows))
