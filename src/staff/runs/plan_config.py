"""The settings of `staff plan`: those of the selection, and a few of its own."""

from typing import Annotated, Self

from pydantic import model_validator

from staff.errors import ConfigError
from staff.runs.config import SelectConfig
from staff.runs.settings import SCORING, Fraction, Positive, about


class PlanConfig(SelectConfig):
    """`staff plan`. Takes every setting of `staff select`, so that one command line is the other's.

    device: of the table in `staff.planning.devices`; with `probe`, as elsewhere.
    processes: that a run under torchrun would have; a plan itself is made by one.
    """

    command = "plan"

    device: Annotated[
        str,
        about(
            "h100-80gb, a100-40gb, l40s, rtx-4090, …; this machine: auto, cpu, cuda (hours only "
            "with --probe).",
            SCORING,
        ),
    ] = "auto"
    probe: Annotated[
        bool, about("Time a few real batches on this machine; needs weights.", SCORING)
    ] = False
    utilisation: Annotated[
        Fraction, about("Assumed fraction of a device's peak speed.", SCORING)
    ] = 0.3
    processes: Annotated[
        Positive, about("Number of torchrun processes to plan for, each with its own device.",
                        SCORING),
    ] = 1  # fmt: skip

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.scores:
            raise ConfigError("--scores needs no plan: it runs no model and takes seconds")
        if self.method == "random":
            raise ConfigError("--method random needs no plan: it costs nothing")
        self.check_together()
        self.require(target="--target MODEL")
        if self.processes > 1:
            if self.executor == "ray":
                raise ConfigError("--executor ray uses its own workers: leave out --processes")
            if self.probe:
                raise ConfigError("--probe times one process here: leave out --processes")
        return self
