"""The sequences of the variable-length kernel, with the kernel itself replaced by what its documentation says."""

import pytest
import torch
from attention_cases import (
    STREAMS,
    assert_close,
    emulated_varlen,
    sees,
    states,
    stream,
    streams,
    tokens_of,
    value_and_gradients,
)
from hypothesis import given, settings

from orpo_lightning.models.attention import varlen
from orpo_lightning.models.attention.blocks import BlockAttention
from orpo_lightning.models.attention.varlen import KeyPlan, VarlenAttention, varlen_kernel

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def kernel_by_its_documentation():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "varlen_kernel", lambda: emulated_varlen)
        yield


def test_the_blocks_are_attention_where_a_token_may_look():
    for groups in STREAMS.values():
        query, key, value = states(groups)
        expected = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=sees(groups), enable_gqa=True
        )
        torch.testing.assert_close(BlockAttention(groups, CPU).attend(query, key, value, None, 0.0), expected)


@pytest.mark.parametrize("scale", [None, 0.7], ids=["usual scale", "another scale"])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("groups", STREAMS.values(), ids=STREAMS)
def test_values_and_gradients_are_those_of_the_blocks(groups, key_heads, scale):
    inputs = states(groups, heads=4, key_heads=key_heads)
    expected = value_and_gradients(BlockAttention, groups, inputs, scale)
    assert_close(value_and_gradients(VarlenAttention, groups, inputs, scale), expected, 1e-12)


@given(streams)
@settings(max_examples=25, deadline=None)
def test_they_are_for_any_stream(groups):
    inputs = states(groups, heads=2, key_heads=1, size=4)
    expected = value_and_gradients(BlockAttention, groups, inputs)
    assert_close(value_and_gradients(VarlenAttention, groups, inputs), expected, 1e-12)


def test_the_prompt_is_repeated_before_each_further_response_only():
    attention = VarlenAttention(stream((3, 2, 1, 2), (2, 1)), CPU)
    assert attention.plan.tokens_T.tolist() == [0, 1, 2, 3, 4, *(0, 1, 2), 5, *(0, 1, 2), 6, 7, 8, 9, 10]
    assert attention.query_offsets.tolist() == [0, 5, 6, 8, 11]
    assert attention.key_offsets.tolist() == [0, 5, 9, 14, 17]
    assert (attention.longest_query, attention.longest_key) == (5, 5)


def test_nothing_is_gathered_where_no_prompt_is_repeated():
    _, key, _ = states(STREAMS["only first responses"])
    keys = VarlenAttention(STREAMS["only first responses"], CPU)._keys(key)
    assert keys.data_ptr() == key.data_ptr()


@given(streams)
@settings(max_examples=25, deadline=None)
def test_gradients_of_repeated_prompts_add_up_in_one_order(groups):
    plan = KeyPlan(groups, CPU)
    # each step touches a token once, so that no two threads add to the same place
    assert plan.own_N.numel() == tokens_of(groups)
    assert torch.equal(plan.tokens_T[plan.own_N], torch.arange(tokens_of(groups)))
    for tokens, places in plan.repeats:
        assert tokens.unique().numel() == tokens.numel()
        assert torch.equal(plan.tokens_T[places], tokens)
    all_places = torch.cat([plan.own_N, *(places for _, places in plan.repeats)])
    assert torch.equal(all_places.sort().values, torch.arange(plan.tokens_T.numel()))


def test_the_longest_query_is_never_given_as_one_token():
    assert VarlenAttention(stream((1, 0, 0), (1, 0)), CPU).longest_query == 2


def test_a_torch_without_the_arguments_that_are_needed_has_no_kernel(monkeypatch):
    monkeypatch.undo()
    varlen = pytest.importorskip("torch.nn.attention.varlen")

    def of_torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None): ...

    monkeypatch.setattr(varlen, "varlen_attn", of_torch_2_10)
    assert varlen_kernel() is None


def test_the_arguments_of_the_kernel_are_looked_up_once_and_not_in_each_layer(monkeypatch):
    monkeypatch.undo()
    torchs = pytest.importorskip("torch.nn.attention.varlen")

    def kernel(query, key, value, scale=None, window_size=(-1, -1), enable_gqa=False): ...

    looked_up = []
    signature = varlen.inspect.signature
    monkeypatch.setattr(torchs, "varlen_attn", kernel)
    monkeypatch.setattr(varlen.inspect, "signature", lambda function: looked_up.append(function) or signature(function))
    assert varlen_kernel() is varlen_kernel() is kernel
    assert looked_up == [kernel]
