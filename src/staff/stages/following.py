"""What the processes of a team do that do not lead it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from staff.stages import scoring, tuning
from staff.stages.lazy_scorer import LazyScorer
from staff.team import Team


def follow(team: Team) -> None:
    """Do what the leader wants done, until that is all."""
    team.follow(partial(obey, team, kept={}))


def obey(team: Team, order: Mapping[str, Any], *, kept: dict[str, LazyScorer]) -> int:
    """Do this process's share of an order; of its rows, how many were scored.

    kept: models that more rounds of rows are to be scored on, by where the scores go.
    """
    if order["act"] == "fine-tune":
        return tuning.take_part(order)
    scorer = kept.pop(order["out"], None)
    if order["more"]:
        scorer = kept[order["out"]] = scorer or scoring.scorer_of(order)
    return scoring.take_part(team, order, scorer=scorer)
