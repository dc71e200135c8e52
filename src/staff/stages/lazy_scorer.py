"""A scorer whose model is loaded when it is needed."""

from typing import Any

from staff.models.quantised import NONE
from staff.stages.options import spread_of, trust_of


class LazyScorer:
    """A scorer whose model is loaded for the first batch: stored scores need none.

    start: score the loss of responses without their prompts instead, after this token.
    """

    def __init__(
        self,
        config: Any,
        *,
        model: str,
        adapter: str | None,
        quantize: str = NONE,
        features: bool = False,
        start: int | None = None,
    ) -> None:
        from staff.scores.alone import ResponseAlone
        from staff.scores.signals import SIGNALS

        self.config, self.model, self.adapter = config, model, adapter
        self.quantize = quantize
        self.features, self.start = features, start
        self.columns = ("effort", *SIGNALS) if start is None else ResponseAlone.columns
        self._scorer: Any = None

    def __call__(self, batch: Any) -> Any:
        """Score one batch: columns float64 [B]."""
        if self._scorer is None:
            self._scorer = self._load()
        return self._scorer(batch)

    def release(self) -> None:
        """Let go of the model; it is loaded again if need be."""
        self._scorer = None

    def _load(self) -> Any:
        from staff.models.load import load_model
        from staff.scores.alone import ResponseAlone
        from staff.scores.effort import Scorer

        config = self.config
        model = load_model(
            self.model,
            dtype=config.dtype,
            device=config.device,
            adapter=self.adapter,
            merge=config.phi != "adapter",
            attention=config.attention,
            quantize=self.quantize,
            spread=spread_of(config, self.model, self.adapter),
            trust=trust_of(config),
        )
        free = config.padding_free or None
        if self.start is not None:
            alone = Scorer(model, phi=None, signals=("loss",), padding_free=free)
            return ResponseAlone(alone, start=self.start)
        return Scorer(
            model,
            phi=config.phi,
            features=self.features,
            seed=config.seed,
            padding_free=free,
        )
