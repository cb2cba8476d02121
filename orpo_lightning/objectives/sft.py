"""Supervised fine-tuning."""

from __future__ import annotations

from orpo_lightning.objectives.nll import NLLMean, NLLObjective, NLLTokens
from orpo_lightning.records import ObjectiveOutput, PairLogps


class SFT(NLLObjective):
    """Supervised fine-tuning on the chosen responses: ``-log P(x, y_w)`` (eq. 2 of arXiv:2403.07691).

    Training never runs the rejected responses. It has no implicit reward.

    Args:
        nll_over: the tokens of the likelihood, as in :class:`ORPO`, so that ORPO with lambda 0 is SFT.
        nll_mean: how the likelihood is averaged, as in :class:`ORPO`.

    Example:
        >>> import torch
        >>> pairs = PairLogps(chosen=torch.tensor([-6.0]), chosen_tokens=torch.tensor([3]))
        >>> SFT(nll_over="response")(pairs).loss
        tensor([2.])
    """

    formula = "-log P(x, y_w)"
    citation = "arXiv:2403.07691, eq. 2"
    needs_rejected = False

    def __init__(self, nll_over: NLLTokens = "prompt_and_response", nll_mean: NLLMean = "tokens") -> None:
        self.nll_over = nll_over
        self.nll_mean = nll_mean
        self._check_nll()

    def __call__(self, policy: PairLogps, reference: PairLogps | None = None) -> ObjectiveOutput:
        nll = self.nll(policy)
        return ObjectiveOutput(nll, terms={"nll_loss": nll.detach()})
