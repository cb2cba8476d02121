"""Packed streams, what may look where by definition, and kernels of CUDA as they run without one."""

import torch
from hypothesis import strategies as st

from orpo_lightning.models.attention import flex
from orpo_lightning.packing import GroupSpan, ResponseSpan


def stream(*rows):
    """The groups of a stream, from the tokens of each prompt and of its responses in the stream."""
    groups, end = [], 0
    for prompt, *responses in rows:
        start, end = end, end + prompt
        spans = []
        for tokens in responses:
            spans.append(ResponseSpan(end, end + tokens))
            end += tokens
        groups.append(GroupSpan(start, start + prompt, tuple(spans)))
    return tuple(groups)


STREAMS = {
    "pairs": stream((5, 3, 4), (2, 6, 1), (7, 2, 2)),
    "one-token prompts": stream((1, 3, 4), (1, 1, 1)),
    "one-token responses, which take no place": stream((5, 0, 4), (4, 3, 0), (3, 0, 0), (1, 0, 0)),
    "only first responses": stream((5, 3), (2, 6)),
    "a prompt alone": stream((6,)),
    "one to four responses": stream((4, 2), (3, 2, 4), (5, 1, 2, 3), (2, 3, 0, 4, 1)),
    "several tiles": stream((150, 90, 60), (7, 200, 0, 40), (140,), (1, 5, 6)),
    "exactly two tiles": stream((100, 28, 50), (70, 8)),
}

rows_of_tokens = st.lists(
    st.tuples(st.integers(1, 150), st.lists(st.integers(0, 150), max_size=4)).map(lambda row: (row[0], *row[1])),
    min_size=1,
    max_size=4,
)
streams = rows_of_tokens.map(lambda rows: stream(*rows))


def tokens_of(groups):
    last = groups[-1]
    return max(last.prompt_end, *(span.end for span in last.responses), 0)


def sees(groups):
    """Whether token i sees token j, ``(N, N)``: j is not later, of its group, and of the prompt or of i's response."""
    group_of, part_of = [], []
    for number, group in enumerate(groups):
        ends = [group.prompt_end - group.start, *(span.end - span.start for span in group.responses)]
        for part, tokens in enumerate(ends):
            group_of += [number] * tokens
            part_of += [part] * tokens
    group, part, place = torch.tensor(group_of), torch.tensor(part_of), torch.arange(len(group_of))
    earlier = place[:, None] >= place
    return earlier & (group[:, None] == group) & ((part == 0) | (part[:, None] == part))


def states(groups, heads=4, key_heads=2, size=8, dtype=torch.float64, device="cpu", seed=0):
    """Queries, keys and values, laid out in memory as the projections of a model leave them."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, tokens_of(groups), count, size, generator=generator, dtype=torch.float64)
        .to(device, dtype)
        .transpose(1, 2)
        .requires_grad_()
        for count in (heads, key_heads, key_heads)
    ]


def value_and_gradients(kernel, groups, inputs, scale=None):
    """Attention outputs, and the gradients of queries, keys and values."""
    output = kernel(groups, inputs[0].device).attend(*inputs, scale, 0.0)
    # uneven factors, so that no two mistakes cancel
    factors = torch.linspace(0.5, 1.5, output.numel(), dtype=torch.float64).sin().view(output.shape)
    gradients = torch.autograd.grad((output * factors.to(output)).sum(), inputs)
    return [output.detach(), *gradients]


def assert_close(found, expected, tolerance):
    """Relative to the norm of each tensor, or to the size of the inputs where that is 0 but for rounding."""
    for one, other in zip(found, expected, strict=True):
        assert (one.double().cpu() - other.double().cpu()).norm() <= tolerance * max(other.double().norm(), 1e-3)


def lower_right(queries, keys):
    """Causal, with the last query at the last key."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def emulated_varlen(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """Torch's variable-length kernel by its documentation: each sequence by itself, causal to the lower right."""
    assert window_size == (-1, 0)
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    # tokens beyond the last sequence would get NaN as their gradient
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] == len(key) == len(value)
    assert enable_gqa or query.shape[1] == key.shape[1]
    bounds = zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], cu_seq_k.tolist(), cu_seq_k.tolist()[1:], strict=False)
    outputs = []
    for first_q, last_q, first_k, last_k in bounds:
        queries, keys = last_q - first_q, last_k - first_k
        assert 0 < queries <= max_q
        assert queries <= keys <= max_k
        mask = lower_right(queries, keys)
        q, k, v = query[first_q:last_q], key[first_k:last_k], value[first_k:last_k]
        k, v = (each.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for each in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), v))
    return torch.cat(outputs)


def use_eager_flex(monkeypatch):
    """Have FlexAttention run op by op: in fp64, and backward too, which torch does not let one do on a CPU."""
    from torch.nn.attention import flex_attention

    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *states: None)
    monkeypatch.setattr(flex, "_compiled", lambda variant: flex_attention.flex_attention)
