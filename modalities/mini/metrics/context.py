"""Whether the scene is the one that the prompt names, against the truth of the mini world."""

from __future__ import annotations

from modalities.core.evidence import Evidence
from modalities.core.metric import Metric, Scores
from modalities.mini.captions import CONTEXT_PHRASES
from modalities.mini.metrics.identity import EMBEDDED, shares_right


class Context(Metric):
    """Share of the pictures in which the probe sees the context that the prompt names."""

    title = "context (truth)"
    axis = "text"
    needs = ("prompts", "truth")

    def checkpoint(self, evidence: Evidence) -> str:
        return str(EMBEDDED / "probe")

    def score(self, evidence: Evidence) -> Scores:
        return shares_right(evidence, "context", CONTEXT_PHRASES)
