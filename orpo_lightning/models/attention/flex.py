"""Packed attention by FlexAttention: a compiled kernel that skips the tiles where no token looks, on CUDA.

Shape suffixes: H heads, K key-value heads, N tokens of the stream, D head size, Q tiles of queries, C tiles of keys.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from orpo_lightning.models.attention.segments import AttentionCall, Segment, needs_ampere, segments
from orpo_lightning.models.host_to_device import to_device
from orpo_lightning.packing import GroupSpan

TILE = 128
"""Tokens on a side of a tile; the kernel wants 128 or a multiple."""
SHORTEST = 2 * TILE
"""Shorter streams are filled up, because those of a single tile would be compiled apart."""
SMALLEST_HEAD = 16
"""The matrix units take no smaller ones."""

SKIPPED, PARTIAL, FULL = 0, 1, 2
"""Kinds of tiles: no token looks there, some do and the mask is asked, all do."""

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def tile_kinds(parts: Sequence[Segment]) -> NDArray[np.uint8]:
    """Kind of each tile of a stream, ``(Q, C)``, from lengths alone: no N x N mask is made, nor the device asked.

    Args:
        parts: the segments of the stream.

    Example:
        >>> tile_kinds([Segment(0, 300, 0, 0), Segment(300, 400, 0, 128)])
        array([[1, 0, 0, 0],
               [2, 1, 0, 0],
               [1, 1, 1, 0],
               [1, 0, 1, 1]], dtype=uint8)
    """
    tiles = _tiles(parts[-1].end)
    kinds = np.zeros((tiles, tiles), dtype=np.uint8)
    for part in parts:
        touched = slice(part.start // TILE, _tiles(part.end))
        whole = slice(_tiles(part.start), part.end // TILE)
        rows = touched.stop - touched.start
        square = kinds[touched, touched]
        np.maximum(square, np.tri(rows, dtype=np.uint8), out=square)
        if whole.start < whole.stop:
            square = kinds[whole, whole]
            square[np.tri(whole.stop - whole.start, k=-1, dtype=bool)] = FULL
        if part.prompt_tokens:
            prompt = kinds[touched, part.prompt_start // TILE : _tiles(part.prompt_end)]
            np.maximum(prompt, PARTIAL, out=prompt)
            kinds[whole, _tiles(part.prompt_start) : part.prompt_end // TILE] = FULL
    return kinds


def _tiles(tokens: int) -> int:
    return -(-tokens // TILE)


def mask_mod(own_N: Tensor, prompt_start_N: Tensor, prompt_end_N: Tensor) -> MaskMod:
    """Whether a query sees a key, in the form that FlexAttention asks for.

    It looks up what is known of the query only: the kernels hold a tile of queries and go through the keys.

    Args:
        own_N: where the segment of each token starts.
        prompt_start_N: where the prompt starts that it sees besides.
        prompt_end_N: where that ends; the same as its start where there is none.
    """

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_prompt = (key >= prompt_start_N[query]) & (key < prompt_end_N[query])
        return (key <= query) & (in_prompt | (key >= own_N[query]))

    return sees


@dataclass(frozen=True)
class Variant:
    """All that FlexAttention is compiled apart for, but for lengths.

    Args:
        call: what it computes on.
        with_gradient: of queries, keys and values, which take part in a backward pass.
        grad_mode: whether a backward pass is prepared at all.
        inference_mode: whether tensors without a version are made.
        autocast: in which precision products are, where something chooses it.
    """

    call: AttentionCall
    with_gradient: tuple[bool, ...]
    grad_mode: bool
    inference_mode: bool
    autocast: torch.dtype | None

    @classmethod
    def of(cls, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor) -> Variant:
        """The one that these need, here and now."""
        call = AttentionCall.of(query_HND, key_KND, value_KND)
        kind = call.device.type
        return cls(
            call,
            tuple(states.requires_grad for states in (query_HND, key_KND, value_KND)),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None,
        )


@functools.cache
def _compiled(variant: Variant) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # with fullgraph, too many graphs are an error; without, they would run on in N x N memory, which nobody notices
    return torch.compile(_alone(flex_attention), dynamic=True, fullgraph=True)


def _alone(function: Any) -> Any:
    """The same function with code of its own: torch counts graphs by the code, and stops at the ninth."""
    code = function.__code__.replace()
    alone = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    alone.__kwdefaults__ = function.__kwdefaults__
    return alone


class FlexAttention:
    """The segments as a block mask. Its backward pass adds up in a fixed order.

    Args:
        groups: where each prompt group stands in the stream.
        device: where the stream is.
    """

    def __init__(self, groups: Sequence[GroupSpan], device: torch.device) -> None:
        from torch.nn.attention.flex_attention import BlockMask

        parts = list(segments(groups))
        self.tokens = parts[-1].end
        if self.tokens < SHORTEST:  # what fills it up sees itself
            parts.append(Segment(self.tokens, SHORTEST, self.tokens, self.tokens))
        length = parts[-1].end
        self.filling = length - self.tokens

        lengths = [part.tokens for part in parts]
        bounds = np.array([(part.start, part.prompt_start, part.prompt_end) for part in parts], dtype=np.int32)
        of_tokens = [to_device(torch.from_numpy(np.repeat(column, lengths)), device) for column in bounds.T]
        kinds = tile_kinds(parts)
        self.block_mask = BlockMask.from_kv_blocks(
            *_ordered(kinds == PARTIAL, device),
            *_ordered(kinds == FULL, device),
            BLOCK_SIZE=TILE,
            mask_mod=mask_mod(*of_tokens),
            seq_lengths=(length, length),
        )

    @staticmethod
    def obstacle(call: AttentionCall) -> str | None:
        """Why this kernel cannot run on such tensors; None if it can."""
        if not_ampere := needs_ampere(call.device):
            return not_ampere
        if call.dtype == torch.float64:
            return "it computes in float32, bfloat16 or float16, and here is float64"
        smallest = min(call.head_size, call.value_size)
        if smallest < SMALLEST_HEAD:
            return f"its heads have a size of {SMALLEST_HEAD} or more, and these have {smallest}"
        return None

    def attend(
        self, query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """Attention outputs of the whole stream, ``(1, H, N, D)``."""
        assert dropout == 0.0, "FlexAttention has no dropout"
        usual = 1 / math.sqrt(query_HND.shape[-1])
        if scale is not None and not math.isclose(scale, usual):
            # not as an argument: compiled for any length, a number becomes a symbol, which the kernels cannot hold
            query_HND = query_HND * (scale / usual)
        compiled = _compiled(Variant.of(query_HND, key_KND, value_KND))
        output_HND: Tensor = compiled(
            *(self._laid_out(states) for states in (query_HND, key_KND, value_KND)),
            block_mask=self.block_mask,
            enable_gqa=query_HND.shape[1] != key_KND.shape[1],
        )
        return output_HND[:, :, : self.tokens] if self.filling else output_HND

    def _laid_out(self, states_HND: Tensor) -> Tensor:
        # always a copy in the order of projections: the compiler looks at strides, and at what a tensor is a view of,
        # and for each other case it would compile the kernels anew
        states_NHD = states_HND.transpose(1, 2)
        if self.filling:
            return F.pad(states_NHD, (0, 0, 0, 0, 0, self.filling)).transpose(1, 2)
        return states_NHD.clone(memory_format=torch.contiguous_format).transpose(1, 2)


def _ordered(chosen_QC: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """How many tiles of keys each tile of queries has, ``(1, 1, Q)``, and which: these first, ``(1, 1, Q, C)``."""
    counts = chosen_QC.sum(axis=1, dtype=np.int32)
    order = np.argsort(~chosen_QC, axis=1, kind="stable").astype(np.int32)

    def on_device(values: NDArray[np.int32]) -> Tensor:
        return to_device(torch.from_numpy(values)[None, None], device)

    return on_device(counts), on_device(order)
