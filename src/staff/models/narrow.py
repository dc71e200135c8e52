"""Compute the last block's feed-forward part at response positions only.

Nothing attends after the last block, so its output elsewhere never reaches the loss: those rows of
its feed-forward part, two thirds of a block's work, would be computed forward and backward for
nothing. The layers that may be narrowed are found in the module tree and compared with the full
computation by `staff.scores.effort.Scorer` and `staff.training.packed` before they are used.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from staff.errors import ModelError
from staff.models.response_logits import take_rows
from staff.models.value_projection import find_blocks


def token_wise_parts(model: nn.Module) -> tuple[nn.Module, ...]:
    """Children of the very last block that hold weights and no attention; () where unknown."""
    try:
        _, blocks, attending = find_blocks(model)
    except ModelError:
        return ()
    if attending != len(blocks) - 1:
        return ()
    return tuple(
        child
        for child_name, child in blocks[-1].named_children()
        if "attn" not in child_name.lower()
        and "attention" not in child_name.lower()
        and any(p.dim() >= 2 for p in child.parameters())
    )


def that_keep_tokens_apart(
    parts: Sequence[nn.Module], run: Callable[[], object]
) -> tuple[nn.Module, ...]:
    """Parts whose output at a token depends on no other token, in a call of the model by `run`.

    By its gradients, which are exactly zero then: what a state space beside attention carries over
    (Falcon-H1) may be too little to show in the scores of short rows.
    """
    mixing: list[nn.Module] = []
    with ExitStack() as stack, torch.enable_grad():
        for part in parts:
            watching = _Watching(mixing)
            before = part.register_forward_pre_hook(watching.cut, prepend=True, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(part.register_forward_hook(watching.look).remove)
        run()
    return tuple(part for part in parts if part not in mixing)


class _Watching:
    def __init__(self, mixing: list[nn.Module]) -> None:
        self.mixing, self.leaves = mixing, list[Tensor]()

    def _leaf(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() != 3 or not value.is_floating_point():
            return value
        self.leaves.append(value.detach().requires_grad_())
        return self.leaves[-1].clone()  # a part may write over it

    def cut(self, _module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        self.leaves.clear()
        taken = tuple(self._leaf(value) for value in args)
        return taken, {name: self._leaf(value) for name, value in kwargs.items()}

    def look(self, module: nn.Module, _args: tuple, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if not self.leaves or found.dim() != 3:  # not narrowed, or refused for its shape
            return
        last = found[:, -1].float().square().sum()
        gradients = torch.autograd.grad(last, self.leaves, allow_unused=True, retain_graph=True)
        if any(g is not None and bool(g[:, :-1].any()) for g in gradients):
            self.mixing.append(module)


@contextmanager
def narrowed(
    modules: Sequence[nn.Module], *, shape: tuple[int, int], rows: Tensor
) -> Iterator[None]:
    """Run each module on the tokens `rows` int64 [N] of the B·T only; zeros come out elsewhere.

    shape: (B, T) of the batch. A call whose inputs are not [B, T, D] is left alone.
    """
    with ExitStack() as stack:
        for module in modules:
            narrowing = _Narrowing(shape, rows)
            before = module.register_forward_pre_hook(
                narrowing.take, prepend=True, with_kwargs=True
            )
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(narrowing.put_back).remove)
        yield


class _Narrowing:
    def __init__(self, shape: tuple[int, int], rows: Tensor) -> None:
        self.shape, self.rows, self.applied = shape, rows, False

    def _is_batch(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == self.shape

    def take(self, _module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        self.applied = any(self._is_batch(v) for v in (*args, *kwargs.values()))
        if not self.applied:
            return None
        taken = tuple(take_rows(v, self.rows) if self._is_batch(v) else v for v in args)
        return taken, {
            k: take_rows(v, self.rows) if self._is_batch(v) else v for k, v in kwargs.items()
        }

    def put_back(self, _module: nn.Module, _args: tuple, output: Any) -> Any:
        if not self.applied:
            return None
        if isinstance(output, tuple):
            return tuple(self._spread(part) for part in output)
        return self._spread(output)

    def _spread(self, part: Any) -> Any:
        if not isinstance(part, Tensor) or part.shape[:2] != (1, len(self.rows)):
            return part
        batch, length = self.shape
        spread = part.new_zeros(batch * length, part.shape[2])
        return torch.index_copy(spread, 0, self.rows.to(part.device), part[0]).unflatten(
            0, (batch, length)
        )
