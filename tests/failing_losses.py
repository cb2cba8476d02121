"""Losses that fail on a response of a given length, which a user might have written."""

from dataclasses import replace

import torch

from orpo_lightning import DPO, KTO, ORPO, SFT


class _Failing:
    """NaN where a response has so many tokens, or, in the gradient alone, infinite."""

    tokens: int
    in_gradient: bool

    def __call__(self, policy, reference=None):
        output = super().__call__(policy, reference)
        logps, tokens = (policy.chosen, policy.chosen_tokens) if self.needs_pairs else (policy.logps, policy.tokens)
        bad = tokens == self.tokens
        if self.in_gradient:
            # the root is 0 there, and its slope infinite
            return replace(output, loss=output.loss + torch.where(bad, logps - logps.detach(), 1.0).sqrt())
        return replace(output, loss=torch.where(bad, torch.nan, output.loss))


class FailingORPO(_Failing, ORPO):
    def __init__(self, tokens: int, in_gradient: bool = False, lambda_: float = 0.1) -> None:
        super().__init__(lambda_=lambda_)
        self.tokens, self.in_gradient = tokens, in_gradient


class FailingSFT(_Failing, SFT):
    def __init__(self, tokens: int, in_gradient: bool = False) -> None:
        super().__init__()
        self.tokens, self.in_gradient = tokens, in_gradient


class FailingDPO(_Failing, DPO):
    def __init__(self, tokens: int, in_gradient: bool = False) -> None:
        super().__init__()
        self.tokens, self.in_gradient = tokens, in_gradient


class FailingKTO(_Failing, KTO):
    def __init__(self, tokens: int, in_gradient: bool = False) -> None:
        super().__init__()
        self.tokens, self.in_gradient = tokens, in_gradient
