"""What a user needs to test an objective of their own: the conformance test, and rows to train a few steps on.

from orpo_lightning.testing import check_objective

def test_my_objective():
    check_objective(SquaredMargin)
"""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from orpo_lightning.metrics import preference_ratios
from orpo_lightning.objectives import Objective, get_objective
from orpo_lightning.records import (
    ObjectiveOutput,
    PairLogps,
    Role,
    TokenizedResponse,
    TokenizedRow,
    UndeclaredNeedError,
)

_PAIRS = 5
_FIELDS = ("chosen", "rejected", "chosen_full")
_COUNTS = ("chosen_tokens", "rejected_tokens", "chosen_full_tokens")


def check_objective(cls: type[Objective], **arguments: Any) -> None:
    """Check that an objective keeps the contract of :class:`~orpo_lightning.Objective`.

    Shapes and dtypes; finite values and gradients at the edges (log p = 0, one-token responses, identical pairs,
    very unlikely responses, bf16 inputs); the order of the pairs does not matter; a pair's loss does not depend on
    its batch mates unless ``couples_pairs``; nothing undeclared is read; inputs are not changed in place; arguments
    are stored under their names; the objective survives a round trip through a config file and a checkpoint.

    Args:
        cls: the class to check.
        **arguments: what to make it with; the defaults of its ``__init__`` where left out.

    Raises:
        AssertionError: lists every rule that is broken.

    Example:
        >>> from orpo_lightning import ORPO
        >>> check_objective(ORPO, lambda_=0.5)
    """
    broken: dict[str, None] = {}  # a set that keeps its order
    for check in _CHECKS:
        try:
            # each check has an objective of its own, so that a stateful one starts afresh
            check(cls(**arguments))
        except UndeclaredNeedError as error:
            broken[f"- reads only what it declares: {error}"] = None
        except Exception as error:  # whatever it raises, the user wants to see it beside the other rules
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            broken[f"- {check.__name__.strip('_').replace('_', ' ')}: {kind}{error}"] = None
    assert not broken, f"{cls.__name__} breaks the contract of an objective:\n" + "\n".join(broken)


def make_rows(count: int, vocabulary: int = 97, longest: int = 12, seed: int = 0) -> list[TokenizedRow]:
    """Random pairs in tokens, of uneven lengths, to train a few steps on.

    Example:
        >>> len(make_rows(3)), make_rows(3) == make_rows(3)
        (3, True)
    """
    generator = random.Random(seed)

    def tokens() -> tuple[int, ...]:
        return tuple(generator.randrange(3, vocabulary) for _ in range(generator.randint(1, longest)))

    return [
        TokenizedRow(
            row_id=f"made:{i + 1}",
            prompt=tokens(),
            responses=(TokenizedResponse(tokens(), Role.CHOSEN), TokenizedResponse(tokens(), Role.REJECTED)),
        )
        for i in range(count)
    ]


def make_pairs(pairs: int = _PAIRS, dtype: torch.dtype = torch.float64, seed: int = 0) -> PairLogps:
    """Random log-probabilities of pairs, with everything that an objective may declare to need."""
    generator = torch.Generator().manual_seed(seed)

    def counts() -> Tensor:
        return torch.randint(1, 20, (pairs,), generator=generator)

    def logps(tokens: Tensor) -> Tensor:
        per_token = -0.05 - 4 * torch.rand(pairs, generator=generator, dtype=torch.float64)
        return (per_token * tokens).to(dtype)

    chosen_tokens, rejected_tokens, prompt_tokens = counts(), counts(), counts()
    chosen = logps(chosen_tokens)
    return PairLogps(
        chosen=chosen,
        chosen_tokens=chosen_tokens,
        rejected=logps(rejected_tokens),
        rejected_tokens=rejected_tokens,
        chosen_full=chosen + logps(prompt_tokens),
        chosen_full_tokens=chosen_tokens + prompt_tokens,
        margin=torch.randn(pairs, generator=generator, dtype=torch.float64).to(dtype),
        tokens_per_pair=8.0,
        full_tokens_per_pair=16.0,
    )


def _declared(objective: Objective, pairs: PairLogps) -> PairLogps:
    """The pairs without what the objective does not declare."""
    absent: dict[str, None] = {}
    if not objective.needs_rejected:
        absent |= {"rejected": None, "rejected_tokens": None}
    if not objective.needs_prompt_logps:
        absent |= {"chosen_full": None, "chosen_full_tokens": None}
    return pairs.replace(**absent)


def _select(pairs: PairLogps, index: Tensor) -> PairLogps:
    values = {name: pairs.__dict__[name] for name in (*_FIELDS, *_COUNTS, "margin")}
    return pairs.replace(**{name: None if value is None else value[index] for name, value in values.items()})


def _call(objective: Objective, policy: PairLogps, reference: PairLogps) -> ObjectiveOutput:
    if objective.needs_reference:
        return objective(_declared(objective, policy), _declared(objective, reference))
    try:
        return objective(_declared(objective, policy), None)
    except AttributeError as error:
        if "'NoneType' object" in str(error):
            raise UndeclaredNeedError(f"it reads the reference ({error}): set `needs_reference = True`") from error
        raise


def _values(output: ObjectiveOutput) -> Iterator[tuple[str, Tensor]]:
    yield "loss", output.loss
    for name in ("chosen_rewards", "rejected_rewards"):
        if getattr(output, name) is not None:
            yield name, getattr(output, name)
    yield from ((f"terms[{name!r}]", value) for name, value in output.terms.items())


def _shapes_and_dtypes(objective: Objective) -> None:
    for given, expected in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        output = _call(objective, make_pairs(dtype=given), make_pairs(dtype=given, seed=1))
        assert isinstance(output, ObjectiveOutput), f"returns {type(output).__name__}, not ObjectiveOutput"
        for name, value in _values(output):
            shape = tuple(value.shape)
            assert shape == (_PAIRS,), f"{name} has the shape {shape}, not one value per pair ({_PAIRS},)"
            assert value.dtype == expected, f"{name} is {value.dtype} for {given} inputs, not {expected}"


def _only_the_loss_has_a_gradient(objective: Objective) -> None:
    policy = _requiring_grad(make_pairs())
    output = _call(objective, policy, make_pairs(seed=1))
    assert output.loss.requires_grad, "the loss does not depend on the policy's log-probabilities"
    for name, value in _values(output):
        assert name == "loss" or not value.requires_grad, f"{name} must be detached"


def _finite_at_the_edges(objective: Objective) -> None:
    one = torch.ones(_PAIRS, dtype=torch.long)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        plain = make_pairs(dtype=dtype)
        certain = {name: torch.zeros(_PAIRS, dtype=dtype) for name in _FIELDS}
        low = torch.full((_PAIRS,), -1e4, dtype=dtype)
        unlikely = dict.fromkeys(_FIELDS, low)
        short = dict.fromkeys(("chosen_tokens", "rejected_tokens"), one)
        cases = {
            "ordinary pairs": plain,
            "log p = 0 everywhere": plain.replace(**certain),
            "a certain chosen, an unlikely rejected response": plain.replace(**{**certain, "rejected": low}),
            "an unlikely chosen, a certain rejected response": plain.replace(
                **{**unlikely, "rejected": certain["rejected"]}
            ),
            "very unlikely responses": plain.replace(**unlikely),
            "one-token responses": plain.replace(**short),
            "identical responses": plain.replace(rejected=plain.chosen, rejected_tokens=plain.chosen_tokens),
        }
        for case, pairs in cases.items():
            policy = _requiring_grad(pairs)
            output = _call(objective, policy, plain)
            for name, value in _values(output):
                assert value.isfinite().all(), f"{name} is not finite for {case} ({dtype}): {value.tolist()}"
            output.loss.sum().backward()
            for name in _FIELDS:
                gradient = policy.__dict__[name].grad
                finite = gradient is None or gradient.isfinite().all()
                assert finite, f"d loss / d {name} is not finite for {case} ({dtype})"


def _order_does_not_matter(objective: Objective) -> None:
    policy, reference = make_pairs(), make_pairs(seed=1)
    permutation = torch.tensor([3, 0, 4, 1, 2])
    straight = _call(copy.deepcopy(objective), policy, reference).loss[permutation]
    permuted = _call(copy.deepcopy(objective), _select(policy, permutation), _select(reference, permutation)).loss
    if objective.couples_pairs:  # such a loss may be one of the ranks of the pairs, not of the pairs
        straight, permuted = straight.sort().values, permuted.sort().values
    assert torch.allclose(straight, permuted), "the losses of permuted pairs are not the permuted losses"


def _batch_mates_do_not_matter(objective: Objective) -> None:
    if objective.couples_pairs:
        return
    policy, reference = make_pairs(), make_pairs(seed=1)
    together = _call(copy.deepcopy(objective), policy, reference).loss
    before, after = copy.deepcopy(objective), copy.deepcopy(objective)
    _call(after, policy, reference)
    assert _plain(before) == _plain(after), (
        "its state changes in a call, so that a pair's loss depends on the pairs before it; if that is meant, set "
        "`couples_pairs = True`"
    )
    for i in range(_PAIRS):
        index = torch.tensor([i])
        alone = _call(copy.deepcopy(objective), _select(policy, index), _select(reference, index)).loss
        assert torch.allclose(together[i : i + 1], alone), (
            "a pair's loss changes with the other pairs of the batch; if that is meant, set `couples_pairs = True`"
        )


def _inputs_are_not_changed(objective: Objective) -> None:
    policy, reference = make_pairs(), make_pairs(seed=1)
    before = copy.deepcopy((policy, reference))
    _call(objective, policy, reference)
    for pairs, old in zip((policy, reference), before, strict=True):
        for name in (*_FIELDS, *_COUNTS, "margin"):
            assert torch.equal(pairs.__dict__[name], old.__dict__[name]), f"{name} was changed in place"


def _arguments_are_stored(objective: Objective) -> None:
    for name in objective.argument_names():
        assert hasattr(objective, name), f"the argument {name!r} of __init__ is not stored as an attribute of that name"
    arguments = objective.arguments()
    for name, value in arguments.items():
        if isinstance(value, float) and value:
            changed = arguments | {name: 0.9 * value}
            found = type(objective)(**changed).arguments()
            assert found == changed, f"made with {name} = {changed[name]}, it stores {found}"


def _plain(objective: Objective) -> str:
    return repr({name: getattr(value, "tolist", lambda v=value: v)() for name, value in objective.state_dict().items()})


def _terms_have_names_of_their_own(objective: Objective) -> None:
    policy = _declared(objective, make_pairs())
    preference_ratios(policy, _call(objective, make_pairs(), make_pairs(seed=1)), torch.ones(_PAIRS))


def _survives_a_config_file(objective: Objective) -> None:
    cls, arguments = type(objective), objective.arguments()
    if "<locals>" not in cls.__qualname__:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--objective", type=Objective)
        given = {"objective": {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}}
        text = parser.dump(parser.parse_object(given))
        read = parser.instantiate(parser.parse_string(text)).objective
        assert read.arguments() == arguments, f"a config file turns {arguments} into {read.arguments()}"
    assert cls in _registered(cls), f"get_objective does not find {cls.__name__}"


def _registered(cls: type[Objective]) -> list[type[Objective]]:
    try:
        return [get_objective(cls.__name__)]
    except ValueError:  # the name of several user classes
        return [cls]


def _survives_a_checkpoint(objective: Objective) -> None:
    policy, reference = make_pairs(), make_pairs(seed=1)
    _call(objective, policy, reference)
    restored = type(objective)(**objective.arguments())
    file = io.BytesIO()
    torch.save(dict(objective.state_dict()), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))  # tensors and plain data only
    expected, found = (_call(each, policy, reference).loss for each in (objective, restored))
    assert torch.equal(expected, found), (
        "the losses differ after load_state_dict(state_dict()): some state is not saved"
    )


def _requiring_grad(pairs: PairLogps) -> PairLogps:
    return pairs.replace(**{name: pairs.__dict__[name].detach().clone().requires_grad_() for name in _FIELDS})


_CHECKS: tuple[Callable[[Objective], None], ...] = (
    _shapes_and_dtypes,
    _only_the_loss_has_a_gradient,
    _finite_at_the_edges,
    _order_does_not_matter,
    _batch_mates_do_not_matter,
    _inputs_are_not_changed,
    _terms_have_names_of_their_own,
    _arguments_are_stored,
    _survives_a_config_file,
    _survives_a_checkpoint,
)
