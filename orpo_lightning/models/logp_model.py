"""The module around a causal language model whose forward takes a packed batch and returns log-probabilities.

Decoder and head are touched only inside its forward: sharded parameters are gathered by forward hooks.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from orpo_lightning.models.attention.choice import AttentionKernelName
from orpo_lightning.models.attention.packed import PACKED_ATTENTION, AttentionLayout, layout_of
from orpo_lightning.models.compilation import without_compilation
from orpo_lightning.models.head import OutputHead, TokenStatistic, target_logps
from orpo_lightning.models.kernels import Kernels
from orpo_lightning.models.work import ModelSize
from orpo_lightning.packing import PackedBatch, pack
from orpo_lightning.records import HALF_PRECISION, ResponseLogps, Role, StepInfo, TokenizedResponse, TokenizedRow

Layout = Literal["auto", "packed", "padded"]
TokenLogps = tuple[Tensor, Tensor | None]
"""A statistic of the response tokens, ``(M, ...)``, and, if asked for, of the prompt tokens, ``(P, ...)``."""
Route = Callable[[PackedBatch, bool, TokenStatistic], TokenLogps]

_verdicts: dict[str, str | None] = {}
"""Why a configuration cannot run packed (None: it can), by the hash of the configuration."""


class LayoutWarning(UserWarning):
    """A model runs in the padded layout although the packed one was preferred."""


class LogpModel(nn.Module):
    """A causal language model as a function from a packed batch to the log-probabilities of its responses.

    Args:
        net: the Hugging Face model.
        layout: ``packed`` computes each prompt once and pads nothing; ``padded`` runs a padded row per response and
            takes the model's own logits; ``auto`` is packed if the two agree on a few tokens, else padded, with a
            warning that says why.
        kernels: those of the packed layout.
    """

    def __init__(self, net: PreTrainedModel, layout: Layout = "auto", kernels: Kernels = Kernels()) -> None:
        super().__init__()
        if layout not in get_args(Layout):
            raise ValueError(f"layout = {layout!r}; accepted: {', '.join(get_args(Layout))}")
        self.net = net
        self.layout = layout
        self.kernels = kernels
        self.size = ModelSize.of(net)
        """What of it costs work, taken here, while its weights are whole on every rank."""
        self.gathered_dtype: torch.dtype | None = None
        """Of a layer's weights while it computes, where these are shared out and gathered in another than their own."""
        self._route: Route | None = None
        self._plain_attention: str = net.config._attn_implementation
        self._window = _sliding_window(net)

    def forward(self, batch: PackedBatch, prompt_logps: bool = False) -> ResponseLogps:
        """Score the responses of a batch.

        Args:
            batch: the packed micro-batch.
            prompt_logps: whether to score the tokens of the prompts too.
        """
        tokens, prompt_tokens = self.token_statistics(batch, prompt_logps)
        prompts = None
        if prompt_tokens is not None:
            prompts = _segment_sums(prompt_tokens, batch.prompt_group, len(batch))
        return ResponseLogps(
            logps=_segment_sums(tokens, batch.score_response, batch.tokens.numel()),
            tokens=batch.tokens,
            group=batch.group,
            role=batch.role,
            label=batch.label,
            prompt_logps=prompts,
            prompt_tokens=batch.prompt_tokens,
        )

    def token_statistics(
        self, batch: PackedBatch, prompt: bool = False, statistic: TokenStatistic = target_logps
    ) -> TokenLogps:
        """A function of the logits at every scored position: the seam for losses that need more than sums.

        Args:
            batch: the packed micro-batch.
            prompt: whether the prompts' positions are scored too.
            statistic: by default the log-probability of the target token.
        """
        if self._route is None:
            self._route = self._choose_route()
        if self._route == self._packed and not self.shares_prompts(batch):
            warnings.warn(
                f"conversations longer than the model's sliding window of {self._window} tokens run padded",
                LayoutWarning,
                stacklevel=2,
            )
            return self._padded(batch, prompt, statistic)
        return self._route(batch, prompt, statistic)

    def shares_prompts(self, batch: PackedBatch) -> bool:
        """Whether a batch that was scored ran packed, each prompt once; else padded, once for each response."""
        return self._route == self._packed and (self._window is None or batch.longest <= self._window)

    def _packed(
        self,
        batch: PackedBatch,
        prompt: bool,
        statistic: TokenStatistic,
        kernels: Kernels | None = None,
    ) -> TokenLogps:
        kernels = kernels or self.kernels
        hidden_NE = self._packed_hidden(batch, kernels.attention)
        head = OutputHead.of(self.net, kernels.head)
        if not prompt:
            return head.per_token(hidden_NE[batch.score_index], batch.score_target, statistic), None
        # in one go: the gradient of the output embedding, as large as it is, is made once
        index = torch.cat([batch.score_index, batch.prompt_index])
        found = head.per_token(hidden_NE[index], torch.cat([batch.score_target, batch.prompt_target]), statistic)
        responses = batch.score_target.numel()
        return found[:responses], found[responses:]

    def _packed_hidden(self, batch: PackedBatch, attention: AttentionKernelName) -> Tensor:
        hidden_NE: Tensor = self.net.get_decoder()(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            use_cache=False,
            # anything four-dimensional keeps transformers from building a mask of its own
            attention_mask=torch.zeros(1, 1, 1, 1, device=batch.input_ids.device),
            layout=self.attention_layout(batch, attention),
        ).last_hidden_state[0]
        return hidden_NE

    def _padded(self, batch: PackedBatch, prompt: bool, statistic: TokenStatistic) -> TokenLogps:
        # out of what the host knows: a list of a tensor would wait for the device
        lengths = [span.end - span.start + 1 for group in batch.groups for span in group.responses]
        targets = batch.score_target.split(lengths)
        spans = [group for group in batch.groups for _ in group.responses]
        rows = [
            torch.cat([batch.input_ids[group.start : group.prompt_end], target])
            for group, target in zip(spans, targets, strict=True)
        ]
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        ids_RT = pad_sequence(rows, batch_first=True)
        logits_RTV = self.net(input_ids=ids_RT, attention_mask=mask, use_cache=False).logits
        if logits_RTV.dtype in HALF_PRECISION:
            logits_RTV = logits_RTV.float()

        prompts = [group.prompt_end - group.start for group in spans]
        scored = [
            logits_RTV[row, length - 1 : length - 1 + count]
            for row, (length, count) in enumerate(zip(prompts, lengths, strict=True))
        ]
        responses = statistic(torch.cat(scored), batch.score_target)
        if not prompt:
            return responses, None
        first_row = [spans.index(group) for group in batch.groups]
        scored = [logits_RTV[row, : prompts[row] - 1] for row in first_row]
        return responses, statistic(torch.cat(scored), batch.prompt_target)

    def _choose_route(self) -> Route:
        if self.layout == "padded":
            return self._padded
        reason = self.verdict()
        if reason is None:
            self.net.set_attn_implementation(PACKED_ATTENTION)
            return self._packed
        if self.layout == "packed":
            raise ValueError(
                f"model.layout = 'packed', but {type(self.net).__name__} cannot run packed: {reason}. "
                "Use 'auto' or 'padded'."
            )
        warnings.warn(
            f"{type(self.net).__name__} runs in the padded layout, which computes each prompt twice: {reason}",
            LayoutWarning,
            stacklevel=2,
        )
        return self._padded

    def verdict(self) -> str | None:
        """Why this model cannot run packed; None if it can. Found out once for each configuration."""
        dtype = self.gathered_dtype or self.net.dtype
        config = f"{type(self.net).__name__} {dtype} {self.net.config.to_json_string()}"
        key = hashlib.sha256(config.encode()).hexdigest()
        if key not in _verdicts:
            _verdicts[key] = self._why_not_packed()
        return _verdicts[key]

    def obstacle(self) -> str | None:
        """What of that is known without weights."""
        kinds = set(getattr(self.net.config.get_text_config(), "layer_types", None) or ())
        if len(kinds) > 1:
            return f"its layers attend in different ways ({', '.join(sorted(kinds))})"
        return None if self.net._can_set_attn_implementation() else "its attention cannot be replaced"

    def attention_layout(self, batch: PackedBatch, kernel: AttentionKernelName) -> AttentionLayout:
        """What computes the attention of a packed batch."""
        return layout_of(batch, kernel)

    @torch.no_grad()
    def _why_not_packed(self) -> str | None:
        if obstacle := self.obstacle():
            return obstacle
        device = _input_embedding(self.net).device
        probe = _probe(self.net).to(device)
        training = self.net.training
        self.net.eval()
        try:
            # whose rounding would hide or fake a difference; layers of another dtype than the rest cannot do without
            autocast = torch.autocast(device.type, self.gathered_dtype, enabled=self.gathered_dtype is not None)
            with autocast, without_compilation():
                expected = self._padded(probe, True, target_logps)
                self.net.set_attn_implementation(PACKED_ATTENTION)
                # by kernels that run in any precision: whether a model can run packed does not depend on them, and
                # whether they can be trusted is found out where they are first used
                found = self._packed(probe, True, target_logps, Kernels(attention="blocks"))
        except Exception as error:  # whatever the reason that a model cannot run packed, padded is the answer
            return f"{type(error).__name__}: {error}"
        finally:
            self.net.set_attn_implementation(self._plain_attention)
            self.net.train(training)
        expected_logps, found_logps = (torch.cat([a, b]) for a, b in (expected, found) if b is not None)
        differences = (expected_logps - found_logps).abs()
        # the mean, because the largest of half-precision differences says little; NaN must not pass either
        if differences.mean() <= expected_logps.abs().mean() * max(
            1e-5, torch.finfo(self.gathered_dtype or self.net.dtype).eps
        ):
            return None
        return f"its log-probabilities differ from those of the padded layout by up to {differences.max():.2g} nats"


def _input_embedding(net: PreTrainedModel) -> Tensor:
    weight = net.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def _probe(net: PreTrainedModel) -> PackedBatch:
    vocabulary = _input_embedding(net).shape[0]

    def tokens(first: int, count: int) -> tuple[int, ...]:
        return tuple((first + 7919 * i) % vocabulary for i in range(count))

    rows = [
        TokenizedRow(
            f"probe:{i}",
            tokens(10 * i + 1, 6 + i),
            (
                TokenizedResponse(tokens(10 * i + 3, 5), Role.CHOSEN),
                TokenizedResponse(tokens(10 * i + 5, 3 + i), Role.REJECTED),
            ),
        )
        for i in range(2)
    ]
    return pack(rows, StepInfo(weight=2.0, tokens_per_pair=5.0, full_tokens_per_pair=10.0))


def _sliding_window(net: PreTrainedModel) -> int | None:
    config = net.config.get_text_config()
    window: int | None = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None


def _segment_sums(values: Tensor, segment: Tensor, segments: int) -> Tensor:
    return values.new_zeros(segments).index_add(0, segment, values)
