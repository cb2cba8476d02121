"""What can be told at the start of a fit, or of its first step."""

from __future__ import annotations

import math

from orpo_lightning.modules.optimization import OptimizerConfig, ScheduleConfig, rate_factor, warmup_steps

WORSE_THAN_GUESSING = 1.1
"""From how many times the entropy of a guess on a model does worse than one that guesses. Random weights stay below:
of the usual initialization they give 1.01 times it for the shape of SmolLM2-135M and 1.03 for one of 2048 dimensions.
SmolLM2-135M behind a permuted vocabulary gives 1.14, with shuffled layers 1.7."""


def still_warming_up(schedule: ScheduleConfig, optimizer: OptimizerConfig, total_steps: int) -> str | None:
    """The learning rate rises up to the last step.

    Args:
        schedule: the schedule.
        optimizer: the optimizer, with the peak of the rate.
        total_steps: optimizer steps of the run.

    Example:
        >>> print(still_warming_up(ScheduleConfig(warmup=50), OptimizerConfig(lr=1e-3), total_steps=20))
        the learning rate is still warming up ... model.schedule.warmup is 50 steps and the run has 20, ...
    """
    warmup = warmup_steps(schedule, total_steps)
    # a single step is a peak of its own
    if warmup < max(total_steps, 2):
        return None
    last = optimizer.lr * rate_factor(schedule, total_steps, total_steps - 1)
    return (
        f"the learning rate is still warming up when training ends: model.schedule.warmup is {warmup:,} steps and the "
        f"run has {total_steps:,}, so that its last step has the rate {last:.3g} and the peak is {optimizer.lr:.3g}. "
        "Set model.schedule.warmup to a share of the steps, such as 0.1"
    )


def rate_of_zero(optimizer: OptimizerConfig) -> str | None:
    """Nothing can be learned at a rate of 0.

    Args:
        optimizer: the optimizer.

    Example:
        >>> rate_of_zero(OptimizerConfig(lr=1e-6)) is None
        True
    """
    if optimizer.lr:
        return None
    return "nothing is learned: model.optimizer.lr is 0, so that the weights stay as they are. Set it above 0"


def no_gradient(norm: float) -> str | None:
    """The first step has a gradient of 0.

    Args:
        norm: the gradient norm of the first step.

    Example:
        >>> no_gradient(0.5) is None
        True
    """
    if norm:
        return None
    return (
        "the gradient of the first step is 0, so that nothing is learned from it: look whether the loss depends on the "
        "log-probabilities, whether all rows have the weight 0, and, in fp16, whether the loss is too small for it"
    )


def worse_than_guessing(nll: float, vocabulary: int) -> str | None:
    """The weights that training starts from make the chosen responses less likely than a guess among all tokens.

    Args:
        nll: of the chosen responses, nats/token.
        vocabulary: number of tokens that the model knows.

    Example:
        >>> worse_than_guessing(7.0, vocabulary=1024) is None
        True
        >>> print(worse_than_guessing(12.5, vocabulary=1024))
        before training the chosen responses are less likely than a guess: ...
    """
    guess = math.log(vocabulary)
    if nll <= WORSE_THAN_GUESSING * guess:
        return None
    return (
        f"before training the chosen responses are less likely than a guess: nll_response is {nll:.2f} nats/token, and "
        f"that of a guess among all {vocabulary:,} tokens is {guess:.2f}. The tokenizer, the chat template or the "
        "weights are wrong: look at rows with orpo-lightning data, and at answers with orpo-lightning generate"
    )
