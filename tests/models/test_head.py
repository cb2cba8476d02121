"""The head: the same numbers for any chunk, no more logits than those of a chunk, only where it is asked for."""

import pytest
import torch
from tensors import LargestTensor

from orpo_lightning.models import linear_logps
from orpo_lightning.models.head import OutputHead, target_logps
from orpo_lightning.models.logp_model import LogpModel
from orpo_lightning.models.tiny import SHAPES, tiny_model
from orpo_lightning.packing import pack
from orpo_lightning.records import Role, StepInfo
from orpo_lightning.testing import make_rows

STEP = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)


class Projected:
    """Counts the positions that the output embedding is applied to."""

    def __init__(self, net):
        self.positions = 0
        net.get_output_embeddings().register_forward_hook(self.count)

    def count(self, module, inputs, output):
        self.positions += output.shape[0]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_do_not_change_values_or_gradients(chunk):
    torch.manual_seed(0)
    head = OutputHead(torch.nn.Linear(8, 31, dtype=torch.float64), scale=0.5, softcap=3.0)
    hidden = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 31, (20,))
    logits = 3.0 * torch.tanh(head.projection(hidden) * 0.5 / 3.0)
    expected = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    found = head.per_token(hidden, targets, chunk_tokens=chunk)
    torch.testing.assert_close(found, expected)
    inputs = (hidden, *head.projection.parameters())
    for one, other in zip(
        torch.autograd.grad(found.sin().sum(), inputs), torch.autograd.grad(expected.sin().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_no_more_logits_are_held_than_those_of_a_chunk():
    hidden = torch.randn(1024, 8, requires_grad=True)
    head = OutputHead(torch.nn.Linear(8, 5000), softcap=3.0)
    targets = torch.randint(0, 5000, (1024,))
    with LargestTensor() as seen:
        head.per_token(hidden, targets, chunk_tokens=64).sum().backward()
    assert seen.numel == 64 * 5000
    with LargestTensor() as plain:  # the observer does see such a block where there is one
        target_logps(head.logits(hidden), targets).sum().backward()
    assert plain.numel == 1024 * 5000


def test_a_statistic_of_the_logits_can_replace_the_log_probability():
    net = tiny_model("llama")
    batch = pack(make_rows(3), STEP)

    def sum_of_squared_probabilities(logits, targets):
        return logits.softmax(-1).square().sum(-1)

    packed, _ = LogpModel(net, "packed").token_statistics(batch, statistic=sum_of_squared_probabilities)
    padded, _ = LogpModel(net, "padded").token_statistics(batch, statistic=sum_of_squared_probabilities)
    assert packed.shape == batch.score_target.shape
    torch.testing.assert_close(packed, padded)


@pytest.mark.parametrize(("prompt", "rejected"), [(False, True), (True, True), (False, False), (True, False)], ids=str)
def test_logits_exist_only_where_a_log_probability_is_asked_for(prompt, rejected):
    net = tiny_model("llama")
    model, rows = LogpModel(net, "packed"), make_rows(5)
    model(pack(rows, STEP))  # the check of the layout projects, too
    projected = Projected(net)
    with torch.no_grad():
        model(pack(rows, STEP, roles=[Role.CHOSEN, *[Role.REJECTED] * rejected]), prompt_logps=prompt)
    chosen, other = ([len(row.responses[i].ids) for row in rows] for i in (0, 1))
    expected = sum(chosen) + rejected * sum(other) + prompt * sum(len(row.prompt) - 1 for row in rows)
    assert projected.positions == expected


def test_the_prompt_runs_once_and_nothing_is_padded():
    net = tiny_model("llama")
    model, rows = LogpModel(net, "packed"), make_rows(5)
    seen = []
    net.get_decoder().register_forward_hook(lambda module, args, out: seen.append(out.last_hidden_state.shape[1]))
    model._route = model._choose_route()
    seen.clear()
    model(pack(rows, STEP))
    # the last token of a response predicts nothing and is left out
    assert seen == [sum(len(row.prompt) + sum(len(r.ids) - 1 for r in row.responses) for row in rows)]


@pytest.mark.parametrize("prompt", [True, False])
def test_forward_and_backward_never_hold_a_tensor_of_tokens_x_vocabulary(monkeypatch, prompt):
    vocabulary = 3000
    monkeypatch.setitem(SHAPES, "wide", ("llama", {**SHAPES["llama"][1], "vocab_size": vocabulary}))
    monkeypatch.setattr(linear_logps, "BLOCK_LOGITS", {"cpu": 40_000})
    net, batch = tiny_model("wide"), pack(make_rows(12, vocabulary), STEP)
    positions = batch.score_index.numel() + prompt * batch.prompt_index.numel()
    largest = {}
    for layout in ("packed", "padded"):
        model = LogpModel(net, layout)
        model(batch)  # the check of the layout makes small ones of all logits
        with LargestTensor() as seen:
            table = model(batch, prompt_logps=prompt)
            (table.logps.sum() + (table.prompt_logps.sum() if prompt else 0)).backward()
        largest[layout] = seen.numel
    # nothing is larger than the weights of the head and their gradient
    assert largest["packed"] == net.get_output_embeddings().weight.numel() < positions * vocabulary
    assert largest["padded"] >= positions * vocabulary  # the observer sees what is there
