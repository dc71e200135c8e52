"""The selection variants that the grid compares: methods, and STAFF with other settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to select: a method, or STAFF with other settings.

    settings: of `staff select`, beside the base run's; a small model is "target" (itself), or
    a folder in grid.py's --others. scored_anew: they change the scores.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    scored_anew: bool = False


UNVERIFIED = {"verify_per_region": 10**9}  # no region has as many rows: all take equal shares

VARIANTS = {
    "staff": Variant(),
    "random": Variant({"method": "random"}),
    "grand": Variant({"method": "grand"}),
    "el2n": Variant({"method": "el2n"}),
    "ccs": Variant({"method": "ccs"}),
    "d2": Variant({"method": "d2"}),
    "ifd": Variant({"method": "ifd"}),
    "k-centre": Variant({"method": "k-centre"}),
    "moderate": Variant({"method": "moderate"}),
    "entropy": Variant({"method": "entropy"}),
    "length": Variant({"method": "length"}),
    "loss": Variant({"method": "loss"}),
    "loss-middle": Variant({"method": "loss", "take": "middle"}),
    "loss-lowest": Variant({"method": "loss", "take": "lowest"}),
    # STAFF's own parts, one changed at a time
    "no-verification": Variant(UNVERIFIED),
    "verify-1": Variant({"verify_per_region": 1}),
    "verify-50": Variant({"verify_per_region": 50}),
    "regions-10": Variant({"regions": 10}),
    "regions-100": Variant({"regions": 100}),
    "by-count": Variant({"stratify_by": "count"}),
    "cut-0": Variant({"cut": 0.0}),
    "cut-0.2": Variant({"cut": 0.2}),
    "allocation-paper": Variant({"allocation": "paper"}),
    "within-random": Variant({"within": "random"}),
    "preset-paper": Variant({"preset": "paper"}),
    # Combinations that search.md names
    "random-by-count": Variant({"within": "random", "stratify_by": "count"}),
    "random-cut-0": Variant({"within": "random", "cut": 0.0}),
    "random-cut-0.2": Variant({"within": "random", "cut": 0.2}),
    "random-regions-10": Variant({"within": "random", "regions": 10}),
    # Named options that the paper has not
    "shrunk": Variant({"allocation": "shrunk"}),
    "spread": Variant({"within": "spread"}),
    "spread-shrunk": Variant({"within": "spread", "allocation": "shrunk"}),
    "spread-by-count": Variant({"within": "spread", "stratify_by": "count"}),
    # Other scores
    "epochs-0": Variant({"skip_finetune": True}, scored_anew=True),
    "epochs-1": Variant({"epochs": 1}, scored_anew=True),
    "tune-0.3": Variant({"finetune_on": 0.3}, scored_anew=True),
    # The same with rows drawn at random, for the curve of cost against quality
    "random-epochs-0": Variant({"skip_finetune": True, "within": "random"}, scored_anew=True),
    "random-epochs-1": Variant({"epochs": 1, "within": "random"}, scored_anew=True),
    "random-tune-0.3": Variant({"finetune_on": 0.3, "within": "random"}, scored_anew=True),
    # Scores of 30 % of the rows, the others' told from those
    "random-score-0.3": Variant({"score_on": 0.3, "within": "random"}, scored_anew=True),
    "random-epochs-0-score-0.3": Variant(
        {"skip_finetune": True, "score_on": 0.3, "within": "random"}, scored_anew=True
    ),
    "plain-score-0.3": Variant({**UNVERIFIED, "score_on": 0.3}, scored_anew=True),
    "plain-epochs-0-score-0.3": Variant(
        {**UNVERIFIED, "skip_finetune": True, "score_on": 0.3}, scored_anew=True
    ),
    # A small model a third as large, of the family (tools/pretrain_family.py --size tiny)
    "random-tiny": Variant({"small": "tiny", "within": "random"}, scored_anew=True),
    "random-epochs-0-tiny": Variant(
        {"small": "tiny", "skip_finetune": True, "within": "random"}, scored_anew=True
    ),
    # Second round of the search
    "against-untuned": Variant({"verify_against": "untuned"}),
    "against-untuned-random": Variant({"verify_against": "untuned", "within": "random"}),
    "against-untuned-shrunk": Variant({"verify_against": "untuned", "allocation": "shrunk"}),
    "against-untuned-by-count": Variant({"verify_against": "untuned", "stratify_by": "count"}),
    "plain-random": Variant({**UNVERIFIED, "within": "random"}),
    "plain-spread": Variant({**UNVERIFIED, "within": "spread"}),
    "plain-by-count": Variant({**UNVERIFIED, "stratify_by": "count"}),
    "plain-spread-by-count": Variant({**UNVERIFIED, "within": "spread", "stratify_by": "count"}),
    "plain-cut-0": Variant({**UNVERIFIED, "cut": 0.0}),
    "plain-cut-0.2": Variant({**UNVERIFIED, "cut": 0.2}),
    "plain-epochs-0": Variant({**UNVERIFIED, "skip_finetune": True}, scored_anew=True),
    "plain-epochs-1": Variant({**UNVERIFIED, "epochs": 1}, scored_anew=True),
    "plain-tune-0.3": Variant({**UNVERIFIED, "finetune_on": 0.3}, scored_anew=True),
    "phi-lm-head": Variant({"phi": "lm-head"}, scored_anew=True),
    "phi-adapter": Variant({"phi": "adapter"}, scored_anew=True),
    "phi-last-value-lora": Variant({"phi": "last-value-lora"}, scored_anew=True),
    # The target for a small model of another size, fine-tuned like it
    "small-4m": Variant({"small": "target"}, scored_anew=True),
    "target-scores": Variant(
        {**UNVERIFIED, "small": "target", "skip_finetune": True}, scored_anew=True
    ),
    "random-target-scores": Variant(
        {**UNVERIFIED, "small": "target", "skip_finetune": True, "within": "random"},
        scored_anew=True,
    ),
    # Small models of another family, with a tokenizer of their own
    "small-bitnet": Variant({"small": "bitstories1M"}, scored_anew=True),
    "small-stories": Variant({"small": "stories260K"}, scored_anew=True),
}
OTHERS = ("ifd", "k-centre", "moderate", "entropy", "length", "loss", "loss-middle", "loss-lowest")
CORE = ("random", "grand", "el2n", "ccs", "d2", "staff")
QUICK = ("random", "ccs", "staff")
