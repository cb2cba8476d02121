"""One row a run: what was trained, at which cost, and what came out, by measures that hold for every objective."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_lightning.comparison.measures import MEASURES
from orpo_lightning.comparison.runs import Run
from orpo_lightning.summary.intervals import Interval


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
        validated_at: of these, those before the last validation, which the quality is of.
        pairs_seen: rows trained on, each as often as it was.
        tokens_seen: tokens that the policy ran on in training, each prompt counted once.
        tflop: floating-point operations that the policy needed in training, in 10^12.
        wall_seconds: time of the run, with loading and validation.
        seconds: time of the training steps alone.
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
    validated_at: int | None
    pairs_seen: float | None
    tokens_seen: float | None
    tflop: float | None
    wall_seconds: float | None
    seconds: float | None
    peak_gb: float | None
    validation_pairs: int
    accuracy: Interval | float | None
    margin: Interval | float | None
    nll_response: Interval | float | None
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
            validated_at=run.validated_at(of_set),
            pairs_seen=run.last("work/total_pairs"),
            tokens_seen=run.last("work/total_tokens"),
            tflop=run.last("work/total_tflop"),
            # of one that runs, or was killed, it was written as it began
            wall_seconds=None if record.status == "running" else record.wall_seconds,
            seconds=run.last("time/total_s"),
            peak_gb=None if memory is None else float(memory.values.max()),
            validation_pairs=len(pairs),
            accuracy=MEASURES["accuracy"].mean(pairs),
            margin=MEASURES["margin"].mean(pairs),
            # without pairs the logged one is all there is
            nll_response=MEASURES["nll_response"].mean(pairs)
            if pairs
            else run.last(run.logged("nll_response", of_set)),
            answer_tokens=sum(lengths) / len(lengths) if lengths else None,
            answers=len(answers),
            answers_cut=sum(not answer.finished for answer in answers),
        )

    @property
    def why_not_compared(self) -> str | None:
        """Why what was validated is not what the run comes to, so that it is in no test, mean or plot of quality."""
        if self.status in _WITHOUT_END:
            return _WITHOUT_END[self.status]
        if self.validated_at == 0 and self.steps:
            return f"last validated at step 0 of {self.steps:,}"
        return None


_WITHOUT_END = {"failed": "failed", "running": "is running, or was killed"}


def value_of(measured: Interval | float | None) -> float | None:
    """A value without its interval."""
    return measured.value if isinstance(measured, Interval) else measured
