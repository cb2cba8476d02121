"""Measures are ratios of sums: the same however the pairs are split, and worked by hand here."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from orpo_lightning.metrics import (
    Difference,
    RatioMetrics,
    SplitMetrics,
    preference_ratios,
    unpaired_ratios,
    weighted_sum,
    win_rate,
)
from orpo_lightning.records import ObjectiveOutput, PairLogps, UnpairedLogps

NAN = math.nan


def ratios(**values):
    return {name: (torch.tensor(float(a)), torch.tensor(float(b))) for name, (a, b) in values.items()}


def computed(metrics):
    return {name: value.item() for name, value in metrics.compute().items()}


def test_a_ratio_is_the_sum_of_numerators_over_the_sum_of_denominators():
    metrics = RatioMetrics()
    metrics.update(ratios(nll=(6, 2), loss=(1, 4)))
    metrics.update(ratios(nll=(2, 3), loss=(2, 4)))
    # not the mean of 6 / 2 and 2 / 3
    assert computed(metrics) == {"nll": 8 / 5, "loss": 3 / 8}


parts = st.tuples(st.integers(-1000, 1000), st.integers(1, 1000))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(parts, parts), min_size=1, max_size=8))
def test_many_updates_equal_one_update_over_all(updates):
    split, whole = RatioMetrics(), RatioMetrics()
    for a, b in updates:
        split.update(ratios(a=a, b=b))
    a, b = ([sum(column) for column in zip(*parts, strict=True)] for parts in zip(*updates, strict=True))
    whole.update(ratios(a=a, b=b))
    assert computed(split) == computed(whole)


def test_the_order_in_which_names_are_given_does_not_matter():
    metrics = RatioMetrics()
    metrics.update(ratios(a=(1, 1), b=(10, 1)))
    metrics.update(ratios(b=(20, 1), a=(2, 1)))
    assert computed(metrics) == {"a": 1.5, "b": 15.0}


def test_sums_keep_small_addends_that_single_precision_would_lose():
    metrics = RatioMetrics()
    metrics.update(ratios(a=(2**24, 1)))
    for _ in range(8):
        metrics.update(ratios(a=(1, 0)))
    assert computed(metrics) == {"a": 2**24 + 8}


@pytest.mark.parametrize("numerator", [0.0, 3.0, NAN, math.inf])
def test_what_was_not_counted_is_zero(numerator):
    metrics = RatioMetrics()
    metrics.update(ratios(a=(numerator, 0), b=(1, 2)))
    assert computed(metrics) == {"a": 0.0, "b": 0.5}


def test_a_nan_that_was_counted_is_shown():
    metrics = RatioMetrics()
    metrics.update(ratios(a=(NAN, 2)))
    assert math.isnan(computed(metrics)["a"])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_an_update_there_are_no_values():
    assert RatioMetrics().compute() == {}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_an_update_since_the_last_reset_there_are_no_values():
    metrics = RatioMetrics()
    metrics.update(ratios(a=(1, 2)))
    metrics.reset()
    assert not any(value.item() for value in metrics.compute().values())


def test_a_reset_forgets_what_was_counted():
    metrics = RatioMetrics()
    metrics.update(ratios(a=(1, 2)))
    metrics.reset()
    metrics.update(ratios(a=(3, 4)))
    assert computed(metrics) == {"a": 0.75}


@pytest.mark.parametrize("later", [{"a": (1, 1)}, {"a": (1, 1), "b": (1, 1), "c": (1, 1)}, {"a": (1, 1), "c": (1, 1)}])
def test_names_that_come_and_go_are_refused_by_name(later):
    metrics = RatioMetrics()
    metrics.update(ratios(a=(1, 1), b=(1, 1)))
    with pytest.raises(ValueError, match="come and go") as error:
        metrics.update(ratios(**later))
    named = str(error.value).rpartition(": ")[2].split(", ")
    assert named == sorted({"a", "b"} ^ later.keys())


def test_counting_does_not_keep_the_graph_alive():
    metrics = RatioMetrics()
    metrics.update({"a": (torch.tensor(1.0, requires_grad=True), torch.tensor(1.0))})
    assert not metrics.compute()["a"].requires_grad


def test_a_tie_is_half_a_win():
    assert win_rate(torch.tensor([1e-30, 0.0, -0.0, -1e-30])).tolist() == [1.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("ignored", [NAN, math.inf, -math.inf])
def test_a_value_of_weight_zero_is_not_looked_at(ignored):
    assert weighted_sum(torch.tensor([2.0, ignored, 3.0]), torch.tensor([1.0, 0.0, 2.0])) == 8.0


def test_a_value_of_weight_zero_has_no_gradient():
    values = torch.tensor([2.0, NAN], requires_grad=True)
    weighted_sum(values, torch.tensor([3.0, 0.0])).backward()
    assert values.grad.tolist() == [3.0, 0.0]


# means: chosen -1 -2 -1, rejected -2 -2 -0.5: a win, a tie and a loss per token; win, loss and loss in sums
POLICY = PairLogps(
    chosen=torch.tensor([-2.0, -6.0, -3.0]),
    chosen_tokens=torch.tensor([2, 3, 3]),
    rejected=torch.tensor([-4.0, -4.0, -1.0]),
    rejected_tokens=torch.tensor([2, 2, 2]),
)
OUTPUT = ObjectiveOutput(
    loss=torch.tensor([0.5, 1.0, 2.0]),
    chosen_rewards=torch.tensor([0.25, 0.0, -1.0]),
    rejected_rewards=torch.tensor([0.0, 0.0, 1.0]),
    terms={"delta": torch.tensor([1.0, 2.0, 3.0])},
)
WEIGHT = torch.tensor([1.0, 2.0, 1.0])
# weighted by 1, 2, 1, of a sum of 4
BY_HAND = {
    "loss": (0.5 + 2 * 1.0 + 2.0) / 4,
    "delta": (1 + 2 * 2 + 3) / 4,
    "logps/chosen": (-2 - 2 * 6 - 3) / 4,
    "logps/rejected": (-4 - 2 * 4 - 1) / 4,
    "logps_mean/chosen": (-1 - 2 * 2 - 1) / 4,
    "logps_mean/rejected": (-2 - 2 * 2 - 0.5) / 4,
    "pref/accuracies": (1 + 2 * 0.5 + 0) / 4,
    "pref/margins": (1 + 2 * 0 - 0.5) / 4,
    "pref/accuracies_sum": 1 / 4,
    "rewards/chosen": (0.25 - 1) / 4,
    "rewards/rejected": 1 / 4,
    "rewards/margins": (0.25 - 2) / 4,
    "rewards/accuracies": (1 + 2 * 0.5 + 0) / 4,
    # per token, of 1 * 2 + 2 * 3 + 1 * 3 tokens
    "nll_response": (2 + 2 * 6 + 3) / 11,
}


def measured(policy, output, weight):
    metrics = RatioMetrics()
    metrics.update(preference_ratios(policy, output, weight))
    return computed(metrics)


def test_the_measures_of_three_pairs_worked_by_hand():
    assert measured(POLICY, OUTPUT, WEIGHT) == pytest.approx(BY_HAND)


def test_a_pair_of_weight_zero_counts_for_nothing_even_if_its_loss_is_nan():
    def with_a_fourth(values, fourth):
        return torch.cat([values, torch.tensor([fourth], dtype=values.dtype)])

    policy = PairLogps(
        chosen=with_a_fourth(POLICY.chosen, NAN),
        chosen_tokens=with_a_fourth(POLICY.chosen_tokens, 100),
        rejected=with_a_fourth(POLICY.rejected, -math.inf),
        rejected_tokens=with_a_fourth(POLICY.rejected_tokens, 100),
    )
    output = ObjectiveOutput(
        loss=with_a_fourth(OUTPUT.loss, NAN),
        chosen_rewards=with_a_fourth(OUTPUT.chosen_rewards, NAN),
        rejected_rewards=with_a_fourth(OUTPUT.rejected_rewards, NAN),
        terms={"delta": with_a_fourth(OUTPUT.terms["delta"], math.inf)},
    )
    assert measured(policy, output, with_a_fourth(WEIGHT, 0.0)) == pytest.approx(BY_HAND)


def test_a_micro_batch_of_weight_zero_adds_nothing():
    metrics = RatioMetrics()
    metrics.update(preference_ratios(POLICY, OUTPUT, WEIGHT))
    metrics.update(preference_ratios(POLICY, OUTPUT, torch.zeros(3)))
    assert computed(metrics) == pytest.approx(BY_HAND)


def test_without_rejected_responses_nothing_that_compares_is_measured():
    policy = PairLogps(chosen=POLICY.chosen, chosen_tokens=POLICY.chosen_tokens)
    values = measured(policy, ObjectiveOutput(loss=OUTPUT.loss), WEIGHT)
    names = ("loss", "logps/chosen", "logps_mean/chosen", "nll_response")
    assert values == pytest.approx({name: BY_HAND[name] for name in names})


def test_an_objective_without_rewards_has_no_measures_of_them():
    values = measured(POLICY, ObjectiveOutput(loss=OUTPUT.loss), WEIGHT)
    absent = {name for name in BY_HAND if name.startswith("rewards/")} | {"delta"}
    assert values.keys() == BY_HAND.keys() - absent


def test_a_reward_of_one_side_only_is_measured_without_a_margin():
    values = measured(POLICY, ObjectiveOutput(loss=OUTPUT.loss, chosen_rewards=OUTPUT.chosen_rewards), WEIGHT)
    assert {name for name in values if name.startswith("rewards/")} == {"rewards/chosen"}


# single responses


def difference(a, b):
    return Difference(*((torch.tensor(float(x)), torch.tensor(float(y))) for x, y in (a, b)))


def test_a_difference_is_of_the_two_ratios_of_all_sums():
    metrics = RatioMetrics()
    metrics.update({"margin": difference((6, 2), (1, 1))})
    metrics.update({"margin": difference((2, 2), (5, 2))})
    assert computed(metrics) == {"margin": 8 / 4 - 6 / 3}


@pytest.mark.parametrize(("a", "b"), [((3, 1), (0, 0)), ((0, 0), (3, 1)), ((0, 0), (0, 0))])
def test_a_difference_is_zero_as_long_as_one_side_was_not_counted(a, b):
    metrics = RatioMetrics()
    metrics.update({"margin": difference(a, b)})
    assert computed(metrics) == {"margin": 0.0}


NOTHING = {"loss": (torch.tensor(0.0), torch.tensor(0.0)), "margin": difference((3, 1), (0, 0))} | ratios(a=(0, 0))


def test_of_a_split_what_was_counted_over_nothing_is_left_out_but_for_the_loss():
    metrics = SplitMetrics()
    metrics.update(NOTHING)
    assert computed(metrics) == {"loss": 0.0}
    metrics.update({"loss": ratios(a=(4, 2))["a"], "margin": difference((1, 1), (0, 2)), "a": NOTHING["a"]})
    assert computed(metrics) == {"loss": 2.0, "margin": 2.0}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_of_an_empty_split_there_are_no_measures():
    assert SplitMetrics().compute() == {}


def test_what_another_rank_has_counted_is_a_measure_of_the_split():
    ranks = [SplitMetrics(), SplitMetrics()]
    ranks[0].update(NOTHING)
    ranks[1].update({**NOTHING, **ratios(a=(6, 2))})
    sums = [metrics.sums for metrics in ranks]
    for metrics in ranks:
        metrics.dist_sync_fn, metrics.distributed_available_fn = lambda *_, **__: sums, lambda: True
        assert computed(metrics) == {"loss": 0.0, "a": 3.0}


# desirable, undesirable, desirable, undesirable; the first two and the last two are pairs
RESPONSES = UnpairedLogps(
    logps=torch.tensor([-2.0, -4.0, -6.0, -3.0]),
    tokens=torch.tensor([2, 2, 3, 3]),
    desirable=torch.tensor([True, False, True, False]),
    weight=torch.tensor([1.0, 1.0, 3.0, 3.0]),
)
PAIRED = RESPONSES.replace(pairs=torch.tensor([[0, 2], [1, 3]]))
OF_RESPONSES = ObjectiveOutput(
    loss=torch.tensor([0.5, 1.0, 2.0, 4.0]),
    rewards=torch.tensor([1.0, -1.0, 0.5, 0.25]),
    terms={"kl": torch.full((4,), 0.125)},
)
OF_RESPONSES_BY_HAND = {
    "loss": (0.5 + 1.0 + 3 * 2.0 + 3 * 4.0) / 8,
    "kl": 0.125,
    # each kind by itself, weighted by 1 and 3
    "logps/chosen": (-2 - 3 * 6) / 4,
    "logps/rejected": (-4 - 3 * 3) / 4,
    "logps_mean/chosen": (-1 - 3 * 2) / 4,
    "logps_mean/rejected": (-2 - 3 * 1) / 4,
    "rewards/chosen": (1 + 3 * 0.5) / 4,
    "rewards/rejected": (-1 + 3 * 0.25) / 4,
    "rewards/margins": (1 + 3 * 0.5) / 4 - (-1 + 3 * 0.25) / 4,
    "nll_response": (2 + 3 * 6) / (2 + 3 * 3),
}
OF_PAIRS_BY_HAND = {
    "pref/accuracies": 1 / 4,
    "pref/margins": (1 - 3 * 1) / 4,
    "pref/accuracies_sum": 1 / 4,
}


def of_responses(policy, output=OF_RESPONSES):
    return unpaired_ratios(policy, output, policy.weight)


def test_the_measures_of_four_responses_worked_by_hand():
    metrics = RatioMetrics()
    metrics.update(of_responses(RESPONSES))
    assert computed(metrics) == pytest.approx(OF_RESPONSES_BY_HAND)


def test_responses_that_are_pairs_are_compared_too():
    metrics = RatioMetrics()
    metrics.update(of_responses(PAIRED))
    assert computed(metrics) == pytest.approx(OF_RESPONSES_BY_HAND | OF_PAIRS_BY_HAND)


def part(index):
    index = torch.tensor(index)
    policy = UnpairedLogps(
        logps=RESPONSES.logps[index],
        tokens=RESPONSES.tokens[index],
        desirable=RESPONSES.desirable[index],
        weight=RESPONSES.weight[index],
    )
    terms = {"kl": OF_RESPONSES.terms["kl"][index]}
    return policy, ObjectiveOutput(OF_RESPONSES.loss[index], rewards=OF_RESPONSES.rewards[index], terms=terms)


def test_batches_of_one_kind_have_the_same_names_and_add_up_to_the_same_measures():
    metrics = RatioMetrics()
    for index in ([0, 2], [1], [3]):
        metrics.update(of_responses(*part(index)))
    assert computed(metrics) == pytest.approx(OF_RESPONSES_BY_HAND)


def test_without_any_undesirable_response_nothing_is_nan():
    metrics = RatioMetrics()
    metrics.update(of_responses(*part([0, 2])))
    values = computed(metrics)
    assert values.keys() == OF_RESPONSES_BY_HAND.keys()
    assert values["rewards/rejected"] == values["logps/rejected"] == values["rewards/margins"] == 0.0
    assert values["rewards/chosen"] == pytest.approx(OF_RESPONSES_BY_HAND["rewards/chosen"])


def test_terms_of_an_objective_of_responses_have_names_of_their_own():
    output = ObjectiveOutput(OF_RESPONSES.loss, terms={"logps/chosen": torch.zeros(4)})
    with pytest.raises(ValueError, match="names that are taken: logps/chosen"):
        of_responses(RESPONSES, output)


def test_one_value_per_response_is_insisted_on():
    output = ObjectiveOutput(OF_RESPONSES.loss[:2])
    with pytest.raises(ValueError, match=r"one value per response: 'loss' has the shape \(2,\), for 4 responses"):
        of_responses(RESPONSES, output)
