"""The mask and the tiles of FlexAttention, and its numbers, op by op on a CPU."""

import functools
import itertools
import math

import pytest
import torch
from attention_cases import STREAMS, assert_close, sees, states, stream, streams, use_eager_flex, value_and_gradients
from hypothesis import given, settings
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import create_block_mask

from orpo_lightning.models.attention import flex
from orpo_lightning.models.attention.blocks import BlockAttention
from orpo_lightning.models.attention.flex import FULL, SHORTEST, SKIPPED, TILE, FlexAttention, tile_kinds
from orpo_lightning.models.attention.segments import segments

CPU = torch.device("cpu")


def mask_of(attention):
    """What the mask says of each pair of tokens."""
    place = torch.arange(attention.tokens + attention.filling)
    return attention.block_mask.mask_mod(torch.tensor(0), torch.tensor(0), place[:, None], place)


def tiles_of(mask):
    """Of each tile of a mask the number of pairs in it that see each other."""
    short = -len(mask) % TILE
    whole = torch.nn.functional.pad(mask, (0, short, 0, short))
    return whole.unflatten(1, (-1, TILE)).unflatten(0, (-1, TILE)).sum((1, 3))


@given(streams)
@settings(max_examples=50, deadline=None)
def test_the_mask_is_where_a_token_may_look(groups):
    attention = FlexAttention(groups, CPU)
    mask, tokens = mask_of(attention), attention.tokens
    assert torch.equal(mask[:tokens, :tokens], sees(groups))
    assert not mask[:tokens, tokens:].any()
    assert mask.diagonal().all()  # every token sees one at least, also those that fill up: nothing is divided by 0


@given(streams)
@settings(max_examples=50, deadline=None)
def test_a_tile_is_skipped_where_nobody_looks_and_full_only_where_all_do(groups):
    kinds = torch.from_numpy(tile_kinds(list(segments(groups))))
    looking = tiles_of(sees(groups))
    assert torch.equal(kinds == SKIPPED, looking == 0)
    assert (looking[kinds == FULL] == TILE * TILE).all()


@pytest.mark.parametrize("groups", STREAMS.values(), ids=STREAMS)
def test_the_tiles_are_those_that_torch_finds_in_the_whole_mask(groups):
    attention = FlexAttention(groups, CPU)
    length = attention.tokens + attention.filling
    found = attention.block_mask
    expected = create_block_mask(found.mask_mod, 1, 1, length, length, device="cpu")
    assert found.shape == expected.shape
    assert torch.equal(found.to_dense(), expected.to_dense())
    queries = found.q_num_blocks + found.full_q_num_blocks
    assert torch.equal(queries, expected.q_num_blocks + expected.full_q_num_blocks)


def test_the_tiles_grow_with_the_conversations_and_not_with_the_square_of_the_stream():
    def tiles(pairs):
        return int((tile_kinds(list(segments(stream(*[(300, 200, 250)] * pairs)))) != SKIPPED).sum())

    assert tiles(16) <= 1.25 * 16 * tiles(1)
    assert tiles(16) < 0.1 * math.ceil(16 * 750 / TILE) ** 2


@pytest.mark.parametrize("scale", [None, 0.7], ids=["usual scale", "another scale"])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("groups", STREAMS.values(), ids=STREAMS)
def test_values_and_gradients_are_those_of_the_blocks(groups, key_heads, scale, monkeypatch):
    use_eager_flex(monkeypatch)
    inputs = states(groups, heads=4, key_heads=key_heads)
    expected = value_and_gradients(BlockAttention, groups, inputs, scale)
    assert_close(value_and_gradients(FlexAttention, groups, inputs, scale), expected, 1e-12)


def test_a_block_mask_can_be_made_in_validation(monkeypatch):
    use_eager_flex(monkeypatch)
    groups = STREAMS["several tiles"]
    with torch.inference_mode():
        query, key, value = (each.detach() for each in states(groups))
        found = FlexAttention(groups, CPU).attend(query, key, value, None, 0.0)
        torch.testing.assert_close(found, BlockAttention(groups, CPU).attend(query, key, value, None, 0.0))


@pytest.fixture
def traced_only(monkeypatch):
    """Kernels are traced as for compilation, but run as they are: what a compiler makes of them takes long."""
    torch._dynamo.reset()
    flex._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    flex._compiled.cache_clear()
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only")
def test_more_variants_than_torch_compiles_of_one_function_are_no_error():
    limit, before = torch._dynamo.config.recompile_limit, counters["stats"]["unique_graphs"]
    modes = (torch.no_grad, torch.inference_mode)
    variants = list(itertools.product(modes, (False, True), ((4, 2), (4, 4), (6, 2))))
    assert len(variants) > limit
    for groups in (stream((150, 90, 60)), stream((100, 300, 10), (3, 4, 5))):
        for mode, autocast, (heads, key_heads) in variants:
            inputs = states(groups, heads, key_heads, size=16, dtype=torch.float32)
            query, key, value = (each.detach() for each in inputs)
            with mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                FlexAttention(groups, CPU).attend(query, key, value, None, 0.0)
    assert counters["stats"]["unique_graphs"] == before + len(variants)  # none anew for other lengths


@pytest.mark.slow
def test_batches_of_other_sizes_are_not_compiled_anew():
    torch._dynamo.reset()
    batches = [(150, 90, 60)], [(7, 300)], [(3, 1, 2)], [(100, 20, 8)], [(200, 56, 0)], [(5, 4, 3, 2)] * 60
    assert max(sum(row) for row in batches[2]) < SHORTEST
    # as they come from projections, from rotary embeddings, and from one projection for all three
    kinds = (
        lambda states: states,
        lambda states: 1 * states,
        lambda states: states.contiguous(),
        lambda states: torch.cat([states, states], dim=-1).chunk(2, dim=-1)[0],
        lambda states: states.transpose(1, 2).flatten(2).unflatten(2, (states.shape[1], -1)).transpose(1, 2),
    )
    before = counters["stats"]["unique_graphs"]
    for number, rows in enumerate(batches):
        groups = stream(*rows)
        kind = kinds[number % len(kinds)]
        query, key, value = (kind(each.detach()) for each in states(groups, size=16, dtype=torch.float32))
        with torch.no_grad():
            found = FlexAttention(groups, CPU).attend(query, key, value, None, 0.0)
            expected = BlockAttention(groups, CPU).attend(query, key, value, None, 0.0)
        torch.testing.assert_close(found, expected)
    assert counters["stats"]["unique_graphs"] == before + 1
