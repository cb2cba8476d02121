"""Formulas of the objectives as pure functions: tensors in, one value per pair out, nothing reduced.

All take and return tensors of shape ``(B,)``. Half-precision inputs are raised to fp32.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from orpo_lightning.records import HALF_PRECISION

MAX_MEAN_LOGP = -1e-7
"""A mean log-probability is taken as at most this (nats/token): at 0 the odds are infinite."""


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF_PRECISION else x


def log1mexp(x: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for x < 0, exact near 0 and far from it, with finite gradients on both sides.

    Two forms meet at ``-ln 2`` (Maechler 2012, "Accurately computing log(1 - exp(-|a|))", eq. 7). The branch
    that is not taken is fed a harmless value, because ``where`` multiplies its gradient by 0, and 0 * inf is NaN.

    Example:
        >>> log1mexp(torch.tensor([-1e-6, -20.0], dtype=torch.float64))
        tensor([-1.3816e+01, -2.0612e-09], dtype=torch.float64)
    """
    x = _at_least_fp32(x)
    near_zero = x > -math.log(2)
    near = torch.log(-torch.expm1(torch.where(near_zero, x, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near_zero, -1.0, x)))
    return torch.where(near_zero, near, far)


def log_odds(mean_logps: Tensor) -> Tensor:
    """Log of the odds ``P / (1 - P)`` of a response (eq. 4 of arXiv:2403.07691).

    ``P = exp(mean_logps)`` is the geometric mean of its tokens' probabilities (eq. 3).

    Args:
        mean_logps: mean log-probability per token, nats/token, ``(B,)``; taken as at most `MAX_MEAN_LOGP`.

    Example:
        >>> log_odds(torch.tensor([0.5, 0.8]).log())
        tensor([0.0000, 1.3863])
    """
    mean_logps = _at_least_fp32(mean_logps).clamp(max=MAX_MEAN_LOGP)
    return mean_logps - log1mexp(mean_logps)


def odds_ratio_loss(log_odds_ratio: Tensor) -> Tensor:
    """``-log sigmoid(log OR)``, OR = odds(chosen) / odds(rejected) (eq. 5 and 7 of arXiv:2403.07691).

    Example:
        >>> odds_ratio_loss(torch.tensor([0.0]))
        tensor([0.6931])
    """
    return -F.logsigmoid(_at_least_fp32(log_odds_ratio))


def token_mean_nll(logps: Tensor, tokens_per_pair: float | Tensor) -> Tensor:
    """Negative log-likelihood whose mean over the pairs of a global batch is the mean over all its tokens, nats/token.

    Args:
        logps: summed log-probabilities, nats, ``(B,)``.
        tokens_per_pair: mean token count over the global batch.

    Example:
        >>> token_mean_nll(torch.tensor([-2.0, -10.0]), tokens_per_pair=3.0).mean()  # 12 nats over 6 tokens
        tensor(2.)
    """
    return -_at_least_fp32(logps) / tokens_per_pair


def sequence_mean_nll(logps: Tensor, tokens: Tensor) -> Tensor:
    """Negative log-likelihood per token of each sequence (eq. 2 of arXiv:2403.07691), nats/token.

    Args:
        logps: summed log-probabilities, nats, ``(B,)``.
        tokens: token counts, ``(B,)``.

    Example:
        >>> sequence_mean_nll(torch.tensor([-2.0, -10.0]), torch.tensor([1, 5]))
        tensor([2., 2.])
    """
    return -_at_least_fp32(logps) / tokens


def dpo_loss(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """``-(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m)``: eq. 7 of arXiv:2305.18290.

    With ``e > 0`` it is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences and relationship to
    IPO"); of summed log-probabilities instead of log-ratios, the preference term of CPO (eq. 3 of arXiv:2401.08417).

    Args:
        margin: log-ratio to the reference of the chosen response less that of the rejected one, ``(B,)``.
        beta: strength of the constraint to the reference, per unit of `margin`.
        label_smoothing: probability that a label is flipped, in [0, 0.5).

    Example:
        >>> dpo_loss(torch.tensor([0.0]), beta=0.1)
        tensor([0.6931])
    """
    logits = beta * _at_least_fp32(margin)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def robust_dpo_loss(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """``(-(1 - e) log sigmoid(beta m) + e log sigmoid(-beta m)) / (1 - 2 e)``: robust DPO, arXiv:2403.00409.

    Its expectation over labels flipped with probability e is the DPO loss of the clean labels.

    Args:
        margin: as in :func:`dpo_loss`, ``(B,)``.
        beta: as in :func:`dpo_loss`.
        label_smoothing: the flip probability e, in [0, 0.5).

    Example:
        >>> robust_dpo_loss(torch.tensor([0.0]), beta=0.1, label_smoothing=0.1)
        tensor([0.6931])
    """
    logits = beta * _at_least_fp32(margin)
    clean = -(1 - label_smoothing) * F.logsigmoid(logits) + label_smoothing * F.logsigmoid(-logits)
    return clean / (1 - 2 * label_smoothing)


def hinge_loss(margin: Tensor, beta: float) -> Tensor:
    """``max(0, 1 - beta m)``: the hinge form of DPO (hinge-norm, arXiv:2309.06657).

    Args:
        margin: as in :func:`dpo_loss`, ``(B,)``.
        beta: inverse of the margin at which the loss vanishes.

    Example:
        >>> hinge_loss(torch.tensor([0.0, 20.0]), beta=0.1)
        tensor([1., 0.])
    """
    return F.relu(1 - beta * _at_least_fp32(margin))


def ipo_loss(margin: Tensor, tau: float) -> Tensor:
    """``(m - 1 / (2 tau))^2``: eq. 17 of arXiv:2310.12036.

    Args:
        margin: as in :func:`dpo_loss`, ``(B,)``.
        tau: strength of the regularisation; the margin is driven to ``1 / (2 tau)``.

    Example:
        >>> ipo_loss(torch.tensor([0.0, 5.0]), tau=0.1)
        tensor([25.,  0.])
    """
    return (_at_least_fp32(margin) - 1 / (2 * tau)) ** 2


def simpo_loss(mean_margin: Tensor, beta: float, gamma: float) -> Tensor:
    """``-log sigmoid(beta (A_w - A_l) - gamma)``: eq. 6 of arXiv:2405.14734.

    Args:
        mean_margin: mean log-probability of the chosen response less that of the rejected one, nats/token, ``(B,)``.
        beta: scale of the reward.
        gamma: target margin of the scaled reward.

    Example:
        >>> simpo_loss(torch.tensor([0.5]), beta=2.0, gamma=1.0)
        tensor([0.6931])
    """
    return -F.logsigmoid(beta * _at_least_fp32(mean_margin) - gamma)


def kto_reference_point(mismatched_log_ratio: Tensor, weight: Tensor | None = None) -> Tensor:
    """``max(0, mean h(x, y'))``: the reference point of KTO (arXiv:2402.01306), without gradient.

    It estimates how far the policy is from its reference by responses y' to other prompts; being a divergence, it is
    at least 0.

    Args:
        mismatched_log_ratio: log-ratio of policy to reference of a response to another prompt, nats, ``(R,)``.
        weight: weights of the mean, ``(R,)``; a value of weight 0 is not looked at. Default: all equal.

    Returns:
        A scalar, nats; 0 where nothing has weight.

    Example:
        >>> kto_reference_point(torch.tensor([1.0, 4.0])), kto_reference_point(torch.tensor([1.0, -4.0]))
        (tensor(2.5000), tensor(0.))
    """
    h = _at_least_fp32(mismatched_log_ratio.detach())
    weight = torch.ones_like(h) if weight is None else weight.to(h.dtype)
    mean = torch.where(weight > 0, weight * h, 0.0).sum() / weight.sum()
    return torch.where(weight.sum() > 0, mean, 0.0).clamp_min(0)


def kto_loss(
    log_ratio: Tensor,
    reference_point: Tensor,
    desirable: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """``l_D (1 - sigmoid(beta (h - z)))`` if desirable, else ``l_U (1 - sigmoid(beta (z - h)))``: arXiv:2402.01306.

    Args:
        log_ratio: log-ratio h of policy to reference of each response, nats, ``(R,)``.
        reference_point: the reference point z, nats, a scalar; taken as a constant.
        desirable: whether each response is desirable, ``(R,)``.
        beta: how fast the value of a gain or loss saturates, per nat.
        desirable_weight: l_D.
        undesirable_weight: l_U.

    Example:
        >>> kto_loss(torch.tensor([0.0, 0.0]), torch.tensor(0.0), torch.tensor([True, False]), beta=0.1)
        tensor([0.5000, 0.5000])
    """
    # 1 - sigmoid(x) is sigmoid(-x), without the cancellation where sigmoid(x) rounds to 1
    gain = beta * (_at_least_fp32(log_ratio) - reference_point.detach())
    loss = torch.sigmoid(torch.where(desirable, -gain, gain))
    return torch.where(desirable, desirable_weight * loss, undesirable_weight * loss)
