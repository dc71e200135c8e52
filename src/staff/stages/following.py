"""What the processes of a team do that do not lead it."""

from collections.abc import Mapping
from typing import Any

from staff.stages import scoring, tuning
from staff.team import Team


def follow(team: Team) -> None:
    """Do what the leader wants done, until that is all."""
    team.follow(lambda order: obey(team, order))


def obey(team: Team, order: Mapping[str, Any]) -> int:
    """Do this process's share of an order; of its rows, how many were scored."""
    if order["act"] == "fine-tune":
        return tuning.take_part(order)
    return scoring.take_part(team, order)
