"""The batch plan: the global batch is what counts; how it is split over micro-batches and ranks changes nothing."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import DataLoader

from orpo_lightning.data.batching import BatchPlan, PlanSampler, step_info
from orpo_lightning.records import Role, TokenizedResponse, TokenizedRow

WITHOUT_REJECTED = [role for role in Role if role is not Role.REJECTED]


def make_row(number, prompt=2, chosen=2, rejected=2, weight=1.0):
    """A row of the given lengths; its stream takes prompt + (chosen - 1) + (rejected - 1) tokens."""
    responses = (
        TokenizedResponse((7,) * chosen, Role.CHOSEN),
        TokenizedResponse((8,) * rejected, Role.REJECTED),
    )
    return TokenizedRow(str(number), (5,) * prompt, responses, weight=weight)


lengths = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
row_lists = st.lists(lengths, min_size=1, max_size=14).map(lambda all_: [make_row(i, *n) for i, n in enumerate(all_)])
global_batches = st.integers(1, 10)
splits = st.tuples(st.integers(1, 3), st.integers(1, 3))
quick = settings(deadline=None, max_examples=40)


def ranks_of(rows, global_batch, accumulate=1, world=1, **options):
    return [BatchPlan(rows, global_batch, accumulate, world, rank, **options) for rank in range(world)]


def micro_batches_of(plans, step, epoch=0):
    """The micro-batches of a step as its ranks see them: all ranks' first, then all ranks' second, and so on."""
    accumulate = plans[0].accumulate
    first = epoch * len(plans[0]) + step * accumulate
    return [plan[index] for index in range(first, first + accumulate) for plan in plans]


def trained_rows(batches):
    """Ids of the rows that count, in no order."""
    return Counter(
        row_id for batch in batches for row_id, weight in zip(batch.row_ids, batch.weight, strict=True) if weight > 0
    )


def is_filler(batch):
    return not batch.weight.any()


@quick
@given(row_lists, global_batches, splits)
def test_an_epoch_trains_on_every_row_exactly_once(rows, global_batch, split):
    plans = ranks_of(rows, global_batch, *split)
    batches = [plan[index] for plan in plans for index in range(len(plan))]
    assert trained_rows(batches) == {row.row_id: 1 for row in rows}


@quick
@given(row_lists, global_batches, splits, st.integers(0, 3))
def test_a_step_trains_on_the_same_rows_however_it_is_split(rows, global_batch, split, epoch):
    whole, parts = ranks_of(rows, global_batch), ranks_of(rows, global_batch, *split)
    for step in range(whole[0].steps):
        assert trained_rows(micro_batches_of(parts, step, epoch)) == trained_rows(micro_batches_of(whole, step, epoch))


@quick
@given(row_lists, global_batches, splits)
def test_every_rank_has_the_same_number_of_micro_batches(rows, global_batch, split):
    accumulate, _ = split
    plans = ranks_of(rows, global_batch, *split)
    assert {len(plan) for plan in plans} == {math.ceil(len(rows) / global_batch) * accumulate}


@quick
@given(row_lists, global_batches, splits)
def test_every_micro_batch_carries_the_counts_of_its_whole_step(rows, global_batch, split):
    accumulate, world = split
    plans = ranks_of(rows, global_batch, accumulate, world)
    by_id = {row.row_id: row for row in rows}
    for step in range(plans[0].steps):
        batches = micro_batches_of(plans, step)
        members = [by_id[row_id] for row_id in trained_rows(batches)]
        chosen = [len(row.responses[0].ids) for row in members]
        prompts = [len(row.prompt) - 1 for row in members]
        for batch in batches:
            assert batch.step.weight == len(members)
            assert batch.step.tokens_per_pair == pytest.approx(sum(chosen) / len(members))
            assert batch.step.full_tokens_per_pair == pytest.approx((sum(chosen) + sum(prompts)) / len(members))
            assert batch.step.micro_batches == accumulate * world


def test_the_counts_of_a_step_are_weighted_sums():
    info = step_info([make_row(1, prompt=3, chosen=2, weight=1.0), make_row(2, prompt=2, chosen=5, weight=3.0)], 4)
    assert info.weight == 4
    assert info.tokens_per_pair == (1 * 2 + 3 * 5) / 4
    # the first token of a prompt is predicted by nothing
    assert info.full_tokens_per_pair == (1 * (2 + 2) + 3 * (1 + 5)) / 4
    assert info.micro_batches == 4


def test_rejected_tokens_do_not_count():
    assert step_info([make_row(1, rejected=2)]) == step_info([make_row(1, rejected=9)])


def test_slots_that_cannot_be_filled_hold_a_repeated_row_of_weight_zero():
    plans = ranks_of([make_row(i) for i in range(10)], 4, accumulate=3, world=2)
    steps = [micro_batches_of(plans, step) for step in range(3)]
    # 6 slots a step for 4, 4 and 2 pairs
    assert [sum(map(is_filler, batches)) for batches in steps] == [2, 2, 4]
    for batches in steps:
        trained = trained_rows(batches)
        assert all(len(batch) == 1 for batch in batches)
        assert {batch.row_ids[0] for batch in batches if is_filler(batch)} <= trained.keys()


@quick
@given(row_lists, global_batches, splits)
def test_there_are_fillers_only_where_rows_are_missing(rows, global_batch, split):
    plans = ranks_of(rows, global_batch, *split)
    slots = math.prod(split)
    for step in range(plans[0].steps):
        batches = micro_batches_of(plans, step)
        assert sum(map(is_filler, batches)) == max(0, slots - trained_rows(batches).total())


def test_the_last_smaller_batch_of_an_epoch_is_kept_with_its_own_counts():
    rows = [make_row(i, chosen=i + 1) for i in range(10)]
    (plan,) = ranks_of(rows, 4, shuffle=False)
    assert [plan[step].step.weight for step in range(3)] == [4, 4, 2]
    assert [plan[step].step.tokens_per_pair for step in range(3)] == [2.5, 6.5, 9.5]


def test_a_row_longer_than_all_others_together_sits_alone():
    rows = [make_row(0, prompt=100), *(make_row(i, prompt=4) for i in range(1, 8))]
    batches = micro_batches_of(ranks_of(rows, 8, accumulate=2), step=0)
    assert sorted((batch.row_ids for batch in batches), key=len)[0] == ("0",)
    assert sorted(map(len, batches)) == [1, 7]


@quick
@given(row_lists, global_batches, splits, st.booleans())
def test_micro_batches_are_balanced(rows, global_batch, split, rejected):
    plans = ranks_of(rows, global_batch, *split, roles=list(Role) if rejected else WITHOUT_REJECTED)
    for step in range(plans[0].steps):
        batches = micro_batches_of(plans, step)
        loads = [0 if is_filler(batch) else batch.num_tokens for batch in batches]
        longest = max(group.responses[-1].end - group.start for batch in batches for group in batch.groups)
        assert max(loads) <= sum(loads) / len(loads) + longest


def test_the_longest_rows_are_placed_first():
    # four rows of 6 tokens and one of 24: placed last, the long one would stand on two short ones, 36 against 12
    rows = [*(make_row(i, prompt=4) for i in range(4)), make_row(4, prompt=22)]
    batches = micro_batches_of(ranks_of(rows, 5, accumulate=2, shuffle=False), step=0)
    assert sorted(batch.num_tokens for batch in batches) == [24, 24]


def everything(plan, order=iter):
    batches = {index: plan[index] for index in order(range(2 * len(plan)))}
    return {index: (batch.row_ids, batch.input_ids.tolist(), batch.step) for index, batch in batches.items()}


@pytest.mark.parametrize("global_batch", [4, 11])
def test_a_micro_batch_depends_on_its_number_and_not_on_what_was_asked_before(global_batch):
    rows = [make_row(i, prompt=1 + i % 5) for i in range(11)]
    forwards, backwards = (BatchPlan(rows, global_batch, 2, seed=7) for _ in range(2))
    assert everything(forwards) == everything(backwards, order=reversed)


def order_of(plan, epoch):
    return [row_id for step in range(plan.steps) for row_id in trained_rows(micro_batches_of([plan], step, epoch))]


def test_epochs_and_seeds_have_orders_of_their_own():
    rows = [make_row(i) for i in range(12)]
    orders = [tuple(order_of(BatchPlan(rows, 1, seed=seed), epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_without_shuffling_rows_keep_their_order_in_every_epoch():
    plan = BatchPlan([make_row(i) for i in range(10)], 4, shuffle=False)
    for epoch in range(2):
        steps = [sorted(trained_rows(micro_batches_of([plan], step, epoch)), key=int) for step in range(3)]
        assert steps == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]


def test_the_optimizer_steps_after_the_last_micro_batch_of_each_rank():
    for plan in ranks_of([make_row(i) for i in range(10)], 4, accumulate=3, world=2):
        assert [plan[index].step.is_last for index in range(len(plan))] == [False, False, True] * 3


def test_every_micro_batch_has_randomness_of_its_own():
    plans = ranks_of([make_row(i) for i in range(10)], 4, accumulate=3, world=2)
    seeds = [plan[index].step.seed for plan in plans for index in range(2 * len(plan))]
    assert len(set(seeds)) == 2 * 2 * 9
    for seed in seeds:
        torch.Generator().manual_seed(seed)  # refuses what is not a seed


def test_the_seed_of_a_micro_batch_depends_on_that_of_the_run():
    rows = [make_row(0)]
    assert BatchPlan(rows, 1, seed=0)[0].step.seed != BatchPlan(rows, 1, seed=1)[0].step.seed


def test_the_sampler_goes_on_at_its_first_step_in_its_first_epoch_only():
    plan = BatchPlan([make_row(i) for i in range(10)], 4, accumulate=2)  # 3 steps of 2 micro-batches
    sampler = PlanSampler(plan, epoch=5, first_step=2)
    assert list(sampler) == [34, 35]
    sampler.set_epoch(6)
    assert list(sampler) == [36, 37, 38, 39, 40, 41]


def test_the_sampler_has_the_length_of_the_whole_epoch():
    plan = BatchPlan([make_row(i) for i in range(10)], 4, accumulate=2)
    assert len(PlanSampler(plan, epoch=5, first_step=2)) == len(PlanSampler(plan)) == 6


def test_resuming_at_a_step_gives_the_rest_of_the_uninterrupted_epoch():
    plan = BatchPlan([make_row(i) for i in range(10)], 2, accumulate=2)
    whole = [plan[index].row_ids for index in PlanSampler(plan, epoch=1)]
    rest = [plan[index].row_ids for index in PlanSampler(plan, epoch=1, first_step=3)]
    assert rest == whole[6:]
    assert len(rest) == 4


def loaded(plan, workers):
    sampler = PlanSampler(plan)
    loader = DataLoader(plan, sampler=sampler, batch_size=None, num_workers=workers)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in loader:
            yield batch.row_ids, batch.input_ids.tolist(), batch.weight.tolist(), batch.step


def test_worker_processes_give_the_same_batches():
    plan = BatchPlan([make_row(i, prompt=1 + i % 5) for i in range(10)], 4, accumulate=3)
    assert list(loaded(plan, 2)) == list(loaded(plan, 0))


def test_a_row_of_weight_zero_has_its_place_and_counts_for_nothing():
    rows = [make_row(0, chosen=9, weight=0.0), make_row(1, chosen=3)]
    batch = BatchPlan(rows, 2, shuffle=False)[0]
    assert dict(zip(batch.row_ids, batch.weight.tolist(), strict=True)) == {"0": 0.0, "1": 1.0}
    assert (batch.step.weight, batch.step.tokens_per_pair) == (1.0, 3.0)


def test_a_step_of_rows_of_weight_zero_has_normalisers_that_can_be_divided_by():
    batch = BatchPlan([make_row(i, weight=0.0) for i in range(2)], 2)[0]
    assert batch.weight.tolist() == [0.0, 0.0]
    assert min(batch.step.weight, batch.step.tokens_per_pair, batch.step.full_tokens_per_pair) > 0


# 90 + 1 + 1 tokens, and 2 + 1 + 1
TWO_ROWS = [make_row("file:9", prompt=90), make_row("file:10", prompt=2)]


def test_a_micro_batch_of_more_tokens_than_allowed_is_refused_with_what_to_change():
    plan = BatchPlan(TWO_ROWS, 2, max_tokens=95)
    with pytest.raises(ValueError, match="max_tokens_per_batch") as error:
        plan.check_tokens(epoch=0)
    for said in ("2 rows has 96 tokens", "95", "file:9, has 92", "accumulate_grad_batches", "data.max_length"):
        assert said in str(error.value)


@pytest.mark.parametrize("options", [{"max_tokens": 96}, {"max_tokens": None}, {"max_tokens": 92, "accumulate": 2}])
def test_micro_batches_that_fit_are_accepted(options):
    BatchPlan(TWO_ROWS, 2, **options).check_tokens(epoch=0)


def test_every_step_and_rank_of_the_epoch_is_checked():
    rows = [*(make_row(i) for i in range(7)), make_row("long", prompt=90)]
    for plan in ranks_of(rows, 4, accumulate=2, world=2, shuffle=False, max_tokens=50):
        with pytest.raises(ValueError, match="long"):
            plan.check_tokens(epoch=0)


def test_rejected_responses_that_are_left_out_take_no_tokens():
    rows = [make_row(0, prompt=2, chosen=3, rejected=50), make_row(1, prompt=2, chosen=3, rejected=2)]
    plan = BatchPlan(rows, 2, roles=WITHOUT_REJECTED, max_tokens=8)
    plan.check_tokens(epoch=0)
    assert plan[0].num_tokens == 8
    with pytest.raises(ValueError, match="max_tokens_per_batch"):
        BatchPlan(rows, 2, max_tokens=8).check_tokens(epoch=0)


def test_micro_batches_are_balanced_by_the_tokens_that_are_run():
    # long rejected responses would put row 0 alone, if they were counted
    rows = [make_row(0, prompt=3, rejected=90), *(make_row(i, prompt=3, rejected=1) for i in range(1, 4))]
    batches = micro_batches_of(ranks_of(rows, 4, accumulate=2, roles=WITHOUT_REJECTED), step=0)
    assert [len(batch) for batch in batches] == [2, 2]


def test_a_global_batch_below_one_is_refused():
    with pytest.raises(ValueError, match=r"data\.global_batch_size = 0"):
        BatchPlan([make_row(0)], 0)


def test_a_split_without_rows_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        BatchPlan([], 4)
