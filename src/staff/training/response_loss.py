"""The loss of response tokens, with logits computed nowhere else."""

from typing import TYPE_CHECKING, Any

from staff.errors import ModelError
from staff.types import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


def response_losses(
    model: Any, *, input_ids: "Tensor", attention_mask: "Tensor", labels: "Tensor"
) -> tuple["Tensor", "Tensor"]:
    """Negative log-likelihood of every response token, in float32 with its graph.

    A response token is one whose label is not -100 and that has a token before it.
    Prompt positions never reach the output head: with a large vocabulary that is
    most of the work a plain forward pass of a small model would do.

    Args:
        model: a causal LM of transformers, or a PEFT model around one.
        input_ids, attention_mask, labels: int64 [B, T].

    Returns:
        losses float32 [N] and rows int64 [N], the row of the batch each belongs to.

    Raises:
        ModelError: the model has no output embeddings.
    """
    import torch
    from torch.nn.functional import cross_entropy

    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output head; a causal LM is needed")
    predicts = torch.zeros_like(labels, dtype=torch.bool)  # [B, T]; t predicts the token at t + 1
    predicts[:, :-1] = labels[:, 1:] != IGNORE
    targets = labels[:, 1:][predicts[:, :-1]]  # [N], row by row like the gathered positions

    def keep_positions(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]  # [B, T, D]
        return (hidden[predicts.to(hidden.device)].unsqueeze(0), *args[1:])  # [1, N, D]

    hook = head.register_forward_pre_hook(keep_positions)
    try:
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    finally:
        hook.remove()
    logits = output.logits[0].float()  # [N, V]
    losses = cross_entropy(logits, targets.to(logits.device), reduction="none")
    return losses, predicts.nonzero()[:, 0]
