"""Callbacks of the trainer: the losses of a run, and when to write a checkpoint."""

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from transformers import TrainerCallback

from staff.errors import StaffError


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One line of loss.jsonl: the mean loss over a batch's response tokens."""

    step: int
    epoch: float
    loss: float
    learning_rate: float


class LossCurve(TrainerCallback):
    """Keeps the loss of every step, and stops at the first that is not finite."""

    def __init__(self, on_point: Callable[[LossPoint], None]):
        self.points: list[LossPoint] = []
        self.on_point = on_point

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take one step's loss from what the trainer logs."""
        if "learning_rate" not in logs:  # the summary after the last step
            return
        if not math.isfinite(logs["loss"]):
            raise StaffError(
                f"the training loss became {logs['loss']} at step {state.global_step}. Likely "
                "causes: too high a learning rate, float16 overflow (use bfloat16 or float32), "
                "or damaged weights"
            )
        point = LossPoint(
            step=state.global_step,
            epoch=round(state.epoch, 6),
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
        )
        self.points.append(point)
        state.log_history.clear()  # the same again, and written into every checkpoint
        self.on_point(point)


class SaveEvery(TrainerCallback):
    """Asks for a checkpoint once so many seconds have passed since the last, or the start."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decide after a step; the last one needs none."""
        if time.monotonic() - self.last >= self.seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count anew."""
        self.last = time.monotonic()


class StopAfterStep(TrainerCallback):
    """Inside its block a signal to stop takes effect after the step, once a checkpoint is written.

    What the signal does then is up to the handler that was there before: training goes on if that
    returns. One that no Python code handles acts as ever. A second signal takes effect at once: a
    step may be long. Only in the main thread, which alone may set handlers; elsewhere nothing
    changes.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[..., Any]] = {}
        self._asked: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None:
            self._pass_on()

    def _ask(self, number: int, frame: object) -> None:
        if self._asked is not None:
            self._handlers[number](number, frame)
        self._asked = number

    def _pass_on(self) -> None:
        if (number := self._asked) is not None:
            self._asked = None
            self._handlers[number](number, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint."""
        if self._asked is not None:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do what the signal asks for, now that the checkpoint is there."""
        self._pass_on()
