"""What a device holds of a step: worked out by hand, and never more of it where there are more devices."""

from dataclasses import replace

import pytest

from orpo_lightning.memory import COMPONENTS, Copies, Footprint, Moment, Parts, Shares, extrapolated, most, need

WEIGHTS = Parts(root=40, layers=80, largest=20)
HALF = Parts(root=40, layers=40, largest=10)
STEP = Footprint(
    weights=WEIGHTS,
    gathered=HALF,
    gradients=WEIGHTS,
    arriving=HALF,
    reduced=WEIGHTS,
    state=240,
    stepping=8,
    reference=Parts(),
    gathered_reference=Parts(),
    moments=[
        Moment("forward", activations=50),
        Moment("head", activations=300, head=30, root_gradients=40),
        Moment("backward", activations=20, root_gradients=40, layer_gradients=40),
    ],
)


def test_one_process_holds_everything_and_most_of_it_where_the_backward_pass_begins():
    found = need(STEP, Copies())
    assert found.when == "head"
    assert [getattr(found, name) for name in COMPONENTS] == [120, 40, 240, 300, 30, 0, 0]
    assert found.total == 730


def test_with_few_activations_it_is_the_optimizer_that_needs_most():
    found = need(replace(STEP, moments=[Moment("head", 1)]), Copies())
    assert (found.when, found.gradients, found.optimizer, found.activations) == ("step", 120, 248, 0)


def test_the_largest_of_each_need_not_be_at_the_same_moment():
    assert most(STEP, Copies()) == {
        **{"weights": 120, "gradients": 120, "optimizer": 248, "activations": 300, "head": 30, "reference": 0},
        "exchange": 0,
    }


def test_two_copies_add_the_buckets_that_gradients_are_sent_in():
    assert need(STEP, Copies(2)).total == need(STEP, Copies()).total + 120
    assert need(STEP, Copies(2)) == need(STEP, Copies(200))


def test_a_part_of_weights_and_state_and_what_computes_as_a_whole():
    """Of 4: 120 / 4 of the weights, 240 / 4 of the state; the root and two layers gathered; its gradient whole."""
    found = need(STEP, Shares(4))
    assert [getattr(found, name) for name in COMPONENTS] == [30, 40, 60, 300, 30, 0, 40 + 2 * 10]


def of_backward(step, sharing):
    """The first of the moments of the backward pass, and what comes when it is over."""
    first, *_, last = (each for each in sharing.needs(step) if each.when == "backward")
    return first, last


def test_in_the_backward_pass_the_gradient_of_a_layer_is_there_as_it_comes_and_as_it_is_averaged():
    """It comes in 10 for each layer, is averaged in 20, and the part of a process is kept in the dtype of 80."""
    found, _ = of_backward(STEP, Shares(4))
    assert (found.gradients, found.exchange) == (40 + 80 // 4, 40 + 2 * 10 + 10 + 20)


def test_the_gradients_of_the_root_are_averaged_when_its_weights_and_the_layers_have_gone():
    half = replace(STEP, gathered=Parts(20, 40, 10), arriving=Parts(20, 40, 10), gradients=Parts(20, 40, 10))
    _, found = of_backward(half, Shares(4))
    assert (found.gradients, found.exchange) == (20 + 40 // 4, 40)


def test_the_root_is_there_twice_where_a_forward_pass_begins():
    step = replace(STEP, moments=[Moment("forward", activations=1)], state=0, gradients=Parts(), arriving=Parts())
    assert need(step, Shares(4)).exchange == 2 * 40 + 10


def test_while_micro_batches_add_up_each_process_holds_all_gradients_unless_they_are_averaged_each_time():
    adding = replace(STEP, adds_up=True)
    assert need(adding, Shares(4)).gradients == 120
    assert need(adding, Shares(4, each_micro_batch=True)).gradients == 120 // 4
    found, last = of_backward(adding, Shares(4, each_micro_batch=True))
    assert found.gradients == last.gradients == 40 + 120 // 4, "those of the root are whole until the end"
    assert last.exchange == 40


def test_gradients_that_are_added_in_their_own_dtype_are_no_second_layer():
    adding = replace(STEP, adds_up=True)
    found, _ = of_backward(adding, Shares(4))
    same, _ = of_backward(replace(adding, arriving=WEIGHTS), Shares(4))
    assert found.exchange - same.exchange == HALF.largest


def test_parts_in_the_memory_of_the_host_are_told_apart():
    found, kept = need(STEP, Shares(4, offload=True)), need(STEP, Shares(4))
    assert (found.weights, found.optimizer) == (0, 0)
    assert found.total + found.host == kept.total


def test_a_second_model_is_there_at_every_moment_and_gathered_where_it_computes():
    step = replace(
        STEP, reference=WEIGHTS, gathered_reference=HALF, moments=[Moment("reference", activations=300, reference=7)]
    )
    assert need(step, Copies()).reference == 127
    shared = need(step, Shares(4))
    assert (shared.reference, shared.exchange) == (30 + 7, 60 + 40 + 2 * 10)


@pytest.mark.parametrize("adds_up", [False, True])
@pytest.mark.parametrize("each_micro_batch", [False, True])
def test_more_devices_never_need_more_each(adds_up, each_micro_batch):
    step = replace(STEP, adds_up=adds_up, reference=WEIGHTS, gathered_reference=HALF)
    totals = [need(step, Shares(processes, each_micro_batch)).total for processes in range(1, 33)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < totals[0]


def test_every_further_layer_adds_what_the_third_has_added():
    two = [Moment("forward", 10, layer_gradients=0), Moment("backward", 30, 1, 2, 3, 8)]
    three = [Moment("forward", 14, layer_gradients=0), Moment("backward", 37, 1, 2, 3, 12)]
    assert extrapolated(two, three, 3) == three
    assert extrapolated(two, three, 12) == [Moment("forward", 50), Moment("backward", 100, 1, 2, 3, 48)]
    assert extrapolated(two, three[:1], 12) is None
