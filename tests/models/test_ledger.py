"""The ledger: what is made is counted until it is freed, as what it is made for."""

import torch
from torch import nn

from orpo_lightning.models.ledger import Ledger


def test_what_is_freed_is_no_longer_held_and_what_was_there_never_is():
    there = torch.zeros(100)
    with Ledger([there]) as ledger:
        kept = there + 1
        _ = (there * 2).sum()
        del _
        view, there[0] = kept[:10], 5.0
        assert ledger.held["activations"] == 400
        del kept
        assert ledger.held["activations"] == 400, "a view keeps all of it"
        del view
    assert ledger.held["activations"] == 0
    assert max(moment.activations for _, moment in ledger.moments) == 804


def test_a_layer_keeps_its_input_for_the_backward_pass_and_frees_it_there():
    layer, inputs = nn.Linear(8, 8, bias=False), torch.zeros(5, 8)
    with Ledger([*layer.parameters()]) as ledger:
        hidden = inputs + 1  # counted: it is made here
        loss = layer(hidden).sum()
        del hidden
        assert ledger.held["activations"] == 5 * 8 * 4 + 4, "the input of the product, and the loss"
        loss.backward()
        assert ledger.held["activations"] == 8 * 8 * 4 + 4, "the gradient, and the loss"
        ledger.count_as("layer_gradients", layer.weight.grad)
    assert (ledger.held["activations"], ledger.held["layer_gradients"]) == (4, 8 * 8 * 4)


def test_what_is_made_is_of_the_kind_and_at_the_place_of_the_moment():
    with Ledger() as ledger:
        first = torch.zeros(1)
        ledger.kind, ledger.when, ledger.place = "head", "head", "here"
        second = torch.zeros(2)
    assert [(place, each.when, each.activations, each.head) for place, each in ledger.moments] == [
        ("", "forward", 4, 0),
        ("here", "head", 4, 8),
    ]
    del first, second
