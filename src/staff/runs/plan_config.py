"""The settings of `staff plan`: those of the selection it is about, and a few of its own."""

from typing import Annotated, Self

from pydantic import model_validator

from staff.errors import ConfigError
from staff.runs.config import SelectConfig, check_cap, check_divided, check_workers
from staff.runs.settings import SCORING, Fraction, about, check_spread


class PlanConfig(SelectConfig):
    """`staff plan`. Takes every setting of `staff select`, so that one command line is the other's.

    device: of the table in `staff.planning.devices`; with `probe`, as elsewhere.
    """

    command = "plan"

    device: Annotated[
        str,
        about("h100-80gb, a100-40gb, l40s, rtx-4090, …; with --probe auto, cpu, cuda.", SCORING),
    ] = "auto"
    probe: Annotated[
        bool, about("Time a few real batches here instead of estimating; needs weights.", SCORING)
    ] = False
    utilisation: Annotated[
        Fraction, about("Fraction of a device's peak speed that is assumed to be reached.", SCORING)
    ] = 0.3

    @model_validator(mode="after")
    def _complete(self) -> Self:
        check_workers(self)
        check_spread(self)
        check_divided(self)
        self.require(
            data="a training file, e.g. staff plan train.jsonl …",
            small="--small MODEL",
            target="--target MODEL",
        )
        if self.scores:
            raise ConfigError("--scores needs no plan: no model runs, it takes seconds")
        if self.method == "random":
            raise ConfigError("--method random needs no plan: it costs nothing")
        if not self.coreset_names:
            raise ConfigError("nothing to weigh: give --keep FRACTION (0.1 is 10 %) or --total N")
        if self.method == "staff":
            check_cap(self.verify_per_region, self.verify_cap, self.regions)
        self._check_score_on()
        if self.skip_finetune and self.adapter:
            raise ConfigError("--skip-finetune and --adapter exclude each other: give one")
        return self
