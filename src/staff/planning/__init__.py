"""What a run would do (counts: `--dry-run`), cost and save (estimate: `staff plan`)."""

from staff.planning.counts import plan, plan_one_stage

__all__ = ["plan", "plan_one_stage"]
