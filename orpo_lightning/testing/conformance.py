"""The conformance test of objectives: the rules of the contract, each tried on random log-probabilities."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from orpo_lightning.metrics import preference_ratios, unpaired_ratios
from orpo_lightning.objectives import Objective, get_objective
from orpo_lightning.records import ObjectiveOutput, PairLogps, UndeclaredNeedError, UnpairedLogps
from orpo_lightning.testing.samples import COUNT, make_pairs, make_unpaired


def check_objective(cls: type[Objective], **arguments: Any) -> None:
    """Check that an objective keeps the contract of :class:`~orpo_lightning.Objective`.

    Shapes and dtypes; finite values and gradients at the edges (log p = 0, one-token responses, identical pairs,
    very unlikely responses, bf16 inputs); the order of the pairs does not matter; a pair's loss does not depend on
    its batch mates unless ``couples_pairs``; nothing undeclared is read; inputs are not changed in place; arguments
    are stored under their names; the objective survives a round trip through a config file and a checkpoint. An
    objective without pairs is called with single responses, and the same is asked of these.

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


@dataclass(frozen=True)
class _Specimens:
    """What objectives of one view are tried on.

    Args:
        unit: what the loss is a mean over.
        make: makes random log-probabilities, given `dtype` and `seed`.
        logps: their fields of log-probabilities.
        tokens: those of the token counts of single responses.
        others: their other fields of one value per unit.
        declared: the fields that are there only if a need is declared.
        edges: the cases of the view's own, of ordinary log-probabilities, certain ones and very unlikely ones.
        ratios: the measures of the view.
    """

    unit: str
    make: Callable[..., Any]
    logps: tuple[str, ...]
    tokens: tuple[str, ...]
    others: tuple[str, ...]
    declared: Mapping[str, tuple[str, ...]]
    edges: Callable[[Any, Tensor, Tensor], dict[str, Any]]
    ratios: Callable[..., object]

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.logps, *self.tokens, *self.others)


def _edges_of_pairs(plain: PairLogps, certain: Tensor, unlikely: Tensor) -> dict[str, PairLogps]:
    low = {"chosen": unlikely, "chosen_full": unlikely}
    high = {"chosen": certain, "chosen_full": certain}
    return {
        "a certain chosen, an unlikely rejected response": plain.replace(**high, rejected=unlikely),
        "an unlikely chosen, a certain rejected response": plain.replace(**low, rejected=certain),
        "identical responses": plain.replace(rejected=plain.chosen, rejected_tokens=plain.chosen_tokens),
    }


def _edges_of_unpaired(plain: UnpairedLogps, certain: Tensor, unlikely: Tensor) -> dict[str, UnpairedLogps]:
    every = torch.ones(COUNT, dtype=torch.bool)
    return {
        "certain responses, unlikely mismatched ones": plain.replace(logps=certain, mismatched=unlikely),
        "unlikely responses, certain mismatched ones": plain.replace(logps=unlikely, mismatched=certain),
        "desirable responses only": plain.replace(desirable=every),
        "undesirable responses only": plain.replace(desirable=~every),
        "responses of weight 0 only": plain.replace(weight=torch.zeros(COUNT)),
    }


_SPECIMENS = {
    True: _Specimens(
        unit="pair",
        make=make_pairs,
        logps=("chosen", "rejected", "chosen_full"),
        tokens=("chosen_tokens", "rejected_tokens"),
        others=("chosen_full_tokens", "margin"),
        declared={
            "needs_rejected": ("rejected", "rejected_tokens"),
            "needs_prompt_logps": ("chosen_full", "chosen_full_tokens"),
        },
        edges=_edges_of_pairs,
        ratios=preference_ratios,
    ),
    False: _Specimens(
        unit="response",
        make=make_unpaired,
        logps=("logps", "mismatched"),
        tokens=("tokens",),
        others=("desirable", "weight"),
        declared={"needs_mismatched": ("mismatched",)},
        edges=_edges_of_unpaired,
        ratios=unpaired_ratios,
    ),
}
"""By whether pairs are needed."""


def _specimens(objective: Objective) -> _Specimens:
    return _SPECIMENS[objective.needs_pairs]


def _two_models(objective: Objective) -> tuple[Any, Any]:
    """Log-probabilities under a policy and under a reference."""
    make = _specimens(objective).make
    return make(), make(seed=1)


def _declared(objective: Objective, logps: Any) -> Any:
    """The log-probabilities without what the objective does not declare."""
    declared = _specimens(objective).declared.items()
    return logps.replace(**{name: None for need, names in declared if not getattr(objective, need) for name in names})


def _select(objective: Objective, logps: Any, index: Tensor) -> Any:
    return logps.replace(**{name: logps.__dict__[name][index] for name in _specimens(objective).fields})


def _call(objective: Objective, policy: Any, reference: Any) -> ObjectiveOutput:
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
    for name in ("chosen_rewards", "rejected_rewards", "rewards"):
        if getattr(output, name) is not None:
            yield name, getattr(output, name)
    yield from ((f"terms[{name!r}]", value) for name, value in output.terms.items())


def _shapes_and_dtypes(objective: Objective) -> None:
    specimens = _specimens(objective)
    for given, expected in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        output = _call(objective, specimens.make(dtype=given), specimens.make(dtype=given, seed=1))
        assert isinstance(output, ObjectiveOutput), f"returns {type(output).__name__}, not ObjectiveOutput"
        for name, value in _values(output):
            shape = tuple(value.shape)
            assert shape == (COUNT,), f"{name} has the shape {shape}, not one value per {specimens.unit} ({COUNT},)"
            assert value.dtype == expected, f"{name} is {value.dtype} for {given} inputs, not {expected}"


def _only_the_loss_has_a_gradient(objective: Objective) -> None:
    policy, reference = _two_models(objective)
    output = _call(objective, _requiring_grad(objective, policy), reference)
    assert output.loss.requires_grad, "the loss does not depend on the policy's log-probabilities"
    for name, value in _values(output):
        assert name == "loss" or not value.requires_grad, f"{name} must be detached"


def _finite_at_the_edges(objective: Objective) -> None:
    specimens = _specimens(objective)
    one = torch.ones(COUNT, dtype=torch.long)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        plain = specimens.make(dtype=dtype)
        certain, unlikely = torch.zeros(COUNT, dtype=dtype), torch.full((COUNT,), -1e4, dtype=dtype)
        cases = {
            f"ordinary {specimens.unit}s": plain,
            "log p = 0 everywhere": plain.replace(**dict.fromkeys(specimens.logps, certain)),
            "very unlikely responses": plain.replace(**dict.fromkeys(specimens.logps, unlikely)),
            "one-token responses": plain.replace(**dict.fromkeys(specimens.tokens, one)),
            **specimens.edges(plain, certain, unlikely),
        }
        for case, logps in cases.items():
            policy = _requiring_grad(objective, logps)
            output = _call(objective, policy, plain)
            for name, value in _values(output):
                assert value.isfinite().all(), f"{name} is not finite for {case} ({dtype}): {value.tolist()}"
            output.loss.sum().backward()
            for name in specimens.logps:
                gradient = policy.__dict__[name].grad
                finite = gradient is None or gradient.isfinite().all()
                assert finite, f"d loss / d {name} is not finite for {case} ({dtype})"


def _order_does_not_matter(objective: Objective) -> None:
    policy, reference = _two_models(objective)
    permutation = torch.tensor([3, 0, 4, 1, 2])
    straight = _call(copy.deepcopy(objective), policy, reference).loss[permutation]
    permuted = _call(
        copy.deepcopy(objective), *(_select(objective, each, permutation) for each in (policy, reference))
    ).loss
    if objective.couples_pairs:  # such a loss may be one of the ranks of the pairs, not of the pairs
        straight, permuted = straight.sort().values, permuted.sort().values
    assert torch.allclose(straight, permuted), "the losses of permuted pairs are not the permuted losses"


def _batch_mates_do_not_matter(objective: Objective) -> None:
    if objective.couples_pairs:
        return
    policy, reference = _two_models(objective)
    together = _call(copy.deepcopy(objective), policy, reference).loss
    before, after = copy.deepcopy(objective), copy.deepcopy(objective)
    _call(after, policy, reference)
    assert _plain(before) == _plain(after), (
        "its state changes in a call, so that a pair's loss depends on the pairs before it; if that is meant, set "
        "`couples_pairs = True`"
    )
    for i in range(COUNT):
        index = torch.tensor([i])
        alone = _call(copy.deepcopy(objective), *(_select(objective, each, index) for each in (policy, reference))).loss
        assert torch.allclose(together[i : i + 1], alone), (
            "a pair's loss changes with the other pairs of the batch; if that is meant, set `couples_pairs = True`"
        )


def _inputs_are_not_changed(objective: Objective) -> None:
    policy, reference = _two_models(objective)
    before = copy.deepcopy((policy, reference))
    _call(objective, policy, reference)
    for logps, old in zip((policy, reference), before, strict=True):
        for name in _specimens(objective).fields:
            assert torch.equal(logps.__dict__[name], old.__dict__[name]), f"{name} was changed in place"


def _arguments_are_stored(objective: Objective) -> None:
    strength = objective.strength_name
    assert strength is None or strength in objective.argument_names(), f"strength_name = {strength!r} is no argument"
    for name in objective.argument_names():
        assert hasattr(objective, name), f"the argument {name!r} of __init__ is not stored as an attribute of that name"
    arguments = objective.arguments()
    weight = arguments[strength] if strength else 0
    assert isinstance(weight, int | float), f"strength_name = {strength!r} names no number but {weight!r}"
    for name, value in arguments.items():
        if isinstance(value, float) and value:
            changed = arguments | {name: 0.9 * value}
            found = type(objective)(**changed).arguments()
            assert found == changed, f"made with {name} = {changed[name]}, it stores {found}"


def _plain(objective: Objective) -> str:
    return repr({name: getattr(value, "tolist", lambda v=value: v)() for name, value in objective.state_dict().items()})


def _terms_have_names_of_their_own(objective: Objective) -> None:
    policy, reference = _two_models(objective)
    output = _call(objective, policy, reference)
    _specimens(objective).ratios(_declared(objective, policy), output, torch.ones(COUNT))


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
    policy, reference = _two_models(objective)
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


def _requiring_grad(objective: Objective, logps: Any) -> Any:
    names = _specimens(objective).logps
    return logps.replace(**{name: logps.__dict__[name].detach().clone().requires_grad_() for name in names})


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
