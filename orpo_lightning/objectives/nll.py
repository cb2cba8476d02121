"""What the objectives with a likelihood of the chosen response share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from orpo_lightning.functional import sequence_mean_nll, token_mean_nll
from orpo_lightning.objectives.base import Objective
from orpo_lightning.records import PairLogps

NLLTokens = Literal["prompt_and_response", "response"]
NLLMean = Literal["tokens", "sequences"]


class NLLObjective(Objective):
    """Base of the objectives that hold a negative log-likelihood of the chosen response."""

    nll_over: NLLTokens
    nll_mean: NLLMean

    def _check_nll(self) -> None:
        for name, value, allowed in (
            ("nll_over", self.nll_over, ("prompt_and_response", "response")),
            ("nll_mean", self.nll_mean, ("tokens", "sequences")),
        ):
            if value not in allowed:
                raise ValueError(f"{type(self).__name__}: {name} = {value!r}; accepted: {', '.join(allowed)}")

    @property
    def needs_prompt_logps(self) -> bool:
        """Whether the likelihood covers the prompt."""
        return self.nll_over == "prompt_and_response"

    def nll(self, policy: PairLogps) -> Tensor:
        """Negative log-likelihood per pair, nats/token, ``(B,)``."""
        full = self.needs_prompt_logps
        logps = policy.chosen_full if full else policy.chosen
        if self.nll_mean == "tokens":
            return token_mean_nll(logps, policy.mean_tokens(full))
        return sequence_mean_nll(logps, policy.chosen_full_tokens if full else policy.chosen_tokens)
