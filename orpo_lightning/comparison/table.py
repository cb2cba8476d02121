"""One row a run: what was trained, at which cost, and what came out, by measures that hold for every objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_lightning.comparison.runs import Run
from orpo_lightning.summary.gains import FEWEST_PAIRS
from orpo_lightning.summary.intervals import Interval, bootstrap
from orpo_lightning.summary.pairs import PairMeasures


@dataclass(frozen=True)
class Row:
    """A run. None is what it did not measure.

    Args:
        run: its name.
        objective: class name.
        strength_name: the argument that weighs the preference.
        strength: its value.
        model: what it started from.
        parameters: of the policy.
        seed: of everything random.
        status: ``complete``, ``stopped``, ``failed`` or ``running``.
        reason: why it failed.
        steps: optimizer steps done.
        pairs_seen: rows trained on, each as often as it was.
        tokens_seen: tokens that the policy ran on in training, each prompt counted once.
        tflop: floating-point operations that the policy needed in training, in 10^12.
        seconds: time of the training steps, without validation.
        peak_gb: largest memory, in 10^9 bytes.
        validation_pairs: pairs of the validation set.
        accuracy: share of them whose chosen response is the likelier one per token.
        margin: of the mean log-probabilities of chosen and rejected response, nats/token.
        nll_response: of the chosen responses, nats/token.
        answer_tokens: mean length of the answers to the validation prompts.
        answers: how many these are.
        answers_cut: how many of them were cut off at the longest length.
    """

    run: str
    objective: str
    strength_name: str | None
    strength: float | None
    model: str | None
    parameters: int | None
    seed: int | None
    status: str
    reason: str | None
    steps: int
    pairs_seen: float | None
    tokens_seen: float | None
    tflop: float | None
    seconds: float | None
    peak_gb: float | None
    validation_pairs: int
    accuracy: Interval | float | None
    margin: Interval | float | None
    nll_response: float | None
    answer_tokens: float | None
    answers: int
    answers_cut: int

    @classmethod
    def of_run(cls, run: Run, of_set: str) -> Row:
        """The row of a run.

        Args:
            run: the run.
            of_set: the validation set; empty for the only one.
        """
        record, pairs = run.record, run.last_pairs(of_set)
        prefix = f"val/{of_set}/" if of_set else "val/"
        last = max((answer.step for answer in run.answers), default=0)
        answers = [answer for answer in run.answers if answer.step == last]
        lengths = [answer.tokens for answer in answers if answer.tokens is not None]
        memory = run.series.get("memory/peak_gb")
        seed = run.settings.get("seed_everything")
        return cls(
            run=run.name,
            objective=record.objective,
            strength_name=record.strength_name,
            strength=record.strength,
            model=record.model,
            parameters=record.parameters,
            seed=seed if isinstance(seed, int) else None,
            status=record.status,
            reason=record.reason,
            steps=record.steps,
            pairs_seen=run.last("work/total_pairs"),
            tokens_seen=run.last("work/total_tokens"),
            tflop=run.last("work/total_tflop"),
            seconds=run.last("time/total_s"),
            peak_gb=None if memory is None else float(memory.values.max()),
            validation_pairs=len(pairs),
            accuracy=_mean(pairs, "accuracy"),
            margin=_mean(pairs, "margin"),
            nll_response=run.last(f"{prefix}nll_response"),
            answer_tokens=sum(lengths) / len(lengths) if lengths else None,
            answers=len(answers),
            answers_cut=sum(not answer.finished for answer in answers),
        )


def value_of(measured: Interval | float | None) -> float | None:
    """A value without its interval."""
    return measured.value if isinstance(measured, Interval) else measured


def _mean(pairs: Sequence[PairMeasures], measure: str) -> Interval | float | None:
    if not pairs:
        return None
    found = bootstrap([getattr(pair, measure) for pair in pairs], [pair.weight for pair in pairs])
    return found if len(pairs) >= FEWEST_PAIRS else found.value
