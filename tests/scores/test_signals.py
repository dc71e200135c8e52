import math

import numpy as np
import pytest
import torch

from staff.data.batches import collate
from staff.scores import signals
from staff.scores.effort import Scorer
from staff.scores.oracle import oracle_signals
from staff.scores.signals import find_response, token_signals
from staff.types import IGNORE


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "mixtral", "bloom"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_agree_with_their_definitions(tiny, rows, family, side):
    model = tiny(family)
    ours = Scorer(model)(collate(rows, side=side))
    for i, row in enumerate(rows):
        for name, value in oracle_signals(model, row).items():
            assert ours[name][i] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_two_words_by_hand():
    # p = (3/4, 1/4), the token is the second: loss ln 4; entropy ln 4 − 3/4 ln 3;
    # EL2N ‖(3/4, −3/4)‖ = 3/4·√2; ∂loss/∂logits = (3/4, −3/4).
    logits = torch.tensor([[math.log(3.0), 0.0]])
    tokens, slope = token_signals(logits, torch.tensor([1]), gradient=True)
    assert float(tokens["loss"]) == pytest.approx(math.log(4))
    assert float(tokens["entropy"]) == pytest.approx(math.log(4) - 0.75 * math.log(3))
    assert float(tokens["el2n"]) == pytest.approx(0.75 * math.sqrt(2))
    torch.testing.assert_close(slope, torch.tensor([[0.75, -0.75]]))


def test_the_slope_is_what_autograd_finds():
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(7, 50, generator=generator) * 4).requires_grad_()
    target = torch.randint(50, (7,), generator=generator)
    torch.nn.functional.cross_entropy(logits, target, reduction="sum").backward()
    _, slope = token_signals(logits.detach(), target, gradient=True)
    torch.testing.assert_close(slope, logits.grad)


def test_chunks_are_small_and_do_not_show(monkeypatch):
    logits, target = torch.randn(9, 20), torch.randint(20, (9,))
    whole, slope = token_signals(logits, target, gradient=True)
    norm, held = torch.linalg.vector_norm, []
    monkeypatch.setattr(
        torch.linalg, "vector_norm", lambda x, **how: held.append(len(x)) or norm(x, **how)
    )
    monkeypatch.setattr(signals, "CHUNK", 45)
    parts, slopes = token_signals(logits, target, gradient=True)
    assert held == [2, 2, 2, 2, 1]  # rows of 20 logits
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name])
    torch.testing.assert_close(slope, slopes)


def test_sums_are_float32_whatever_the_logits_are():
    logits = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0)).bfloat16()
    target = torch.tensor([0, 7, 1999])
    half, slope = token_signals(logits, target, gradient=True)
    wide, _ = token_signals(logits.float(), target)
    for name, values in wide.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], values)
    assert slope.dtype == torch.bfloat16


def test_huge_logits_stay_finite():
    tokens, slope = token_signals(
        torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([1]), gradient=True
    )
    assert float(tokens["loss"]) == pytest.approx(2e4)
    assert float(tokens["entropy"]) == 0.0
    assert torch.isfinite(slope).all()


def test_labels_are_shifted_and_the_first_token_is_never_predicted():
    none = [3, IGNORE, IGNORE, IGNORE]
    labels = torch.tensor([[7, IGNORE, 8, 9], [IGNORE, 5, IGNORE, IGNORE], none])
    response = find_response(labels)
    assert response.sample.tolist() == [0, 0, 1]
    assert response.position.tolist() == [1, 2, 0]
    assert response.target.tolist() == [8, 9, 5]
    assert response.count.tolist() == [2, 1, 0]
    means = response.mean(torch.tensor([1.0, 2.0, 5.0]))
    np.testing.assert_array_equal(means, [1.5, 5.0, np.nan])
