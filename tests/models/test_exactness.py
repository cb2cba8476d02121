"""The packed layout gives the numbers of the plain model, in value and in gradient, on every architecture."""

import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from orpo_lightning.data.batching import step_info
from orpo_lightning.models import logp_model
from orpo_lightning.models.attention.packed import PACKED_ATTENTION
from orpo_lightning.models.logp_model import LayoutWarning, LogpModel
from orpo_lightning.models.tiny import SHAPES, VOCABULARY, tiny_model
from orpo_lightning.packing import pack
from orpo_lightning.records import Role, StepInfo, TokenizedResponse, TokenizedRow
from orpo_lightning.testing import make_rows

FALL_BACK = {"gemma2", "gemma3", "bloom"}
EXACT = sorted(set(SHAPES) - FALL_BACK)
FP64_THROUGHOUT = ["opt", "opt-350m", "gpt2", "gpt-neox", "phi"]  # the others' norms round to fp32
STEP = StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0)


@pytest.fixture(autouse=True)
def no_remembered_verdicts(monkeypatch):
    monkeypatch.setattr(logp_model, "_verdicts", {})


def odd_rows():
    """Uneven pairs: one-token prompts and responses, three responses, a single one."""
    one, two, three = make_rows(3, VOCABULARY, seed=2)
    return [
        *make_rows(4, VOCABULARY),
        TokenizedRow("one-token", (5,), (TokenizedResponse((6,), Role.CHOSEN), TokenizedResponse((7,), Role.REJECTED))),
        TokenizedRow("three", one.prompt, (*one.responses, two.responses[0])),
        TokenizedRow("single", three.prompt, three.responses[:1]),
    ]


def by_definition(net, rows):
    """Log-probabilities row by row through the plain model: no batch, no padding, no code of ours."""
    responses, prompts = [], []
    for row in rows:
        for response in row.responses:
            ids = torch.tensor([row.prompt + response.ids])
            logps = net(input_ids=ids[:, :-1]).logits[0].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            responses.append(logps[len(row.prompt) - 1 :].sum())
        prompts.append(logps[: len(row.prompt) - 1].sum())
    return torch.stack(responses), torch.stack(prompts)


def value_and_gradient(net, responses, prompts):
    net.zero_grad()
    # uneven factors, so that no two mistakes cancel
    factors = torch.linspace(0.5, 1.5, len(responses), dtype=responses.dtype)
    ((responses * factors).sum() - 0.3 * prompts.sum()).backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return torch.cat([responses, prompts]).detach(), gradient


def scored(model, rows):
    table = model(pack(rows, STEP), prompt_logps=True)
    return table.logps, table.prompt_logps


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("shape", EXACT)
def test_values_and_gradients_equal_the_plain_model_in_fp32(shape, layout):
    net = tiny_model(shape)
    expected = value_and_gradient(net, *by_definition(net, odd_rows()))
    assert_close(value_and_gradient(net, *scored(LogpModel(net, layout), odd_rows())), expected, 1e-5)


@pytest.mark.parametrize("shape", FP64_THROUGHOUT)
def test_values_and_gradients_equal_the_plain_model_in_fp64(shape):
    net = tiny_model(shape, torch.float64)
    expected = value_and_gradient(net, *by_definition(net, odd_rows()))
    assert_close(value_and_gradient(net, *scored(LogpModel(net, "packed"), odd_rows())), expected, 1e-12)


@pytest.mark.parametrize("shape", sorted(FALL_BACK))
def test_models_that_cannot_run_packed_fall_back_and_say_why(shape):
    net = tiny_model(shape)
    expected = value_and_gradient(net, *by_definition(net, odd_rows()))
    model = LogpModel(net, "auto")
    with pytest.warns(LayoutWarning, match="padded layout, which computes each prompt twice: .+"):
        found = value_and_gradient(net, *scored(model, odd_rows()))
    assert_close(found, expected, 1e-5)


def test_a_model_without_attention_runs_padded():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    net = MambaForCausalLM(config).eval()
    expected = value_and_gradient(net, *by_definition(net, odd_rows()))
    with pytest.warns(LayoutWarning, match="MambaForCausalLM runs in the padded layout"):
        found = value_and_gradient(net, *scored(LogpModel(net, "auto"), odd_rows()))
    assert_close(found, expected, 1e-5)


def test_layout_packed_is_refused_where_it_would_be_wrong():
    with pytest.raises(ValueError, match=r"model.layout = 'packed', but Gemma2ForCausalLM cannot run packed.*'padded'"):
        scored(LogpModel(tiny_model("gemma2"), "packed"), odd_rows())


def test_an_unknown_layout_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'pakced'; accepted: auto, packed, padded"):
        LogpModel(tiny_model(), "pakced")


def test_the_check_notices_a_head_that_is_not_understood():
    net = tiny_model("llama")
    plain = net.forward
    net.forward = lambda **inputs: ((out := plain(**inputs)) and setattr(out, "logits", out.logits * 0.9)) or out
    with pytest.warns(LayoutWarning, match="differ from those of the padded layout by up to"):
        scored(LogpModel(net, "auto"), odd_rows())


def test_the_verdict_is_remembered_for_models_of_the_same_configuration(monkeypatch):
    scored(LogpModel(tiny_model("llama")), odd_rows())
    monkeypatch.setattr(LogpModel, "_why_not_packed", lambda self: pytest.fail("checked again"))
    scored(LogpModel(tiny_model("llama", seed=1)), odd_rows())


def test_conversations_beyond_the_sliding_window_run_padded():
    net = tiny_model("mistral")
    net.config.sliding_window = 16
    model = LogpModel(net, "auto")
    short, long = make_rows(2, longest=4), [TokenizedRow("long", tuple(range(3, 23)), make_rows(1)[0].responses)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", LayoutWarning)
        scored(model, short)
    with pytest.warns(LayoutWarning, match="sliding window of 16"):
        found = value_and_gradient(net, *scored(model, long))
    assert [model.shares_prompts(pack(rows, step_info(rows))) for rows in (short, long)] == [True, False]
    net.set_attn_implementation("sdpa")
    assert_close(found, value_and_gradient(net, *by_definition(net, long)), 1e-5)


@pytest.mark.parametrize("shape", ["llama", "opt"])
def test_gradient_checkpointing_changes_nothing(shape):
    net = tiny_model(shape)
    expected = value_and_gradient(net, *scored(LogpModel(net), odd_rows()))
    net.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert_close(value_and_gradient(net, *scored(LogpModel(net), odd_rows())), expected, 1e-6)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_bf16_is_as_close_to_fp32_packed_as_padded(shape):
    rows = odd_rows()
    exact = torch.cat(scored(LogpModel(tiny_model(shape)), rows))
    distance = {}
    for layout in ("packed", "padded"):
        model = LogpModel(tiny_model(shape, torch.bfloat16), layout)
        found = torch.cat(scored(model, rows))
        assert found.dtype == torch.float32
        distance[layout] = (found - exact).abs().mean()
    assert distance["packed"] <= 2 * distance["padded"]


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_it_runs_under_autocast(shape):
    net = tiny_model(shape)
    with torch.autocast("cpu", torch.bfloat16):
        model = LogpModel(net)
        found = torch.cat(scored(model, odd_rows()))
    assert model._route == model._packed  # checked without autocast, whose rounding looks like a difference
    exact = torch.cat(scored(LogpModel(net), odd_rows()))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() <= 0.05 * exact.abs().max()


def test_the_model_that_trained_packed_generates_as_plain():
    plain, net = tiny_model("llama").eval(), tiny_model("llama").eval()
    scored(LogpModel(net, "packed"), odd_rows())
    assert net.config._attn_implementation == PACKED_ATTENTION
    prompt = {"input_ids": torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 7]])}
    prompt["attention_mask"] = (prompt["input_ids"] > 0).long()
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(net.generate(**prompt, **options), plain.generate(**prompt, **options))


def test_a_saved_model_does_not_mention_our_attention(tmp_path):
    net = tiny_model("llama")
    scored(LogpModel(net, "packed"), odd_rows())
    net.save_pretrained(tmp_path)
    assert PACKED_ATTENTION not in (tmp_path / "config.json").read_text()
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(reloaded.eval()(ids).logits, net.eval()(ids).logits)
