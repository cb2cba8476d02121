"""From hidden states to log-probabilities of given tokens, or to another statistic of the logits.

The logits of all tokens are not held: a part of them is computed, used and, for the backward pass, computed again.
For log-probabilities under a plain linear head that part is a block of the vocabulary, of at most 64 * 2^20 logits (on
a CPU 4 * 2^20), in half precision with a copy in fp32; for all else it is the whole vocabulary at a chunk of at most
512 positions. A batch with fewer logits is one part.

Shape suffixes: M scored positions, C positions of a chunk, E hidden size, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from orpo_lightning.models.agreement import KernelWarning
from orpo_lightning.models.head_kernels import HeadKernelName, head_kernel
from orpo_lightning.models.linear_logps import computing_dtype
from orpo_lightning.records import HALF_PRECISION

CHUNK_TOKENS = 512
"""Positions per chunk: at a vocabulary of 50,000 the logits of a chunk take 100 MB in fp32."""

TokenStatistic = Callable[[Tensor, Tensor], Tensor]
"""A function of a chunk's logits ``(C, V)``, fp32 or higher, and its target tokens ``(C,)``; returns ``(C, ...)``."""


def target_logps(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Log-probability of each target token, nats, ``(C,)``.

    Example:
        >>> target_logps(torch.zeros(1, 4), torch.tensor([2]))
        tensor([-1.3863])
    """
    return logits_CV.gather(1, targets_C[:, None])[:, 0] - logits_CV.logsumexp(dim=1)


@dataclass(frozen=True)
class OutputHead:
    """All that a causal language model does between its last hidden state and its logits.

    Args:
        projection: the output embedding, bias included.
        scale: factor of the logits (Cohere's ``logit_scale``, the inverse of Granite's ``logits_scaling``).
        softcap: bound of the logits, ``softcap * tanh(logits / softcap)``; None = unbounded.
        kernel: what computes log-probabilities where the projection is a plain linear one.
    """

    projection: nn.Module
    scale: float = 1.0
    softcap: float | None = None
    kernel: HeadKernelName = "blocks"

    @classmethod
    def of(cls, net: PreTrainedModel, kernel: HeadKernelName = "blocks") -> OutputHead:
        """The head of a Hugging Face causal language model."""
        config = net.config
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        projection = net.get_output_embeddings()
        assert isinstance(projection, nn.Module)
        return cls(projection, scale / divisor, getattr(config, "final_logit_softcapping", None), kernel)

    def logits(self, hidden_CE: Tensor) -> Tensor:
        """Logits in at least fp32, ``(C, V)``."""
        logits_CV: Tensor = self.projection(hidden_CE)
        if self.scale != 1.0:
            logits_CV = logits_CV * self.scale
        if logits_CV.dtype in HALF_PRECISION:
            logits_CV = logits_CV.float()
        if self.softcap is not None:
            logits_CV = self.softcap * torch.tanh(logits_CV / self.softcap)
        return logits_CV

    def per_token(
        self,
        hidden_ME: Tensor,
        targets_M: Tensor,
        statistic: TokenStatistic = target_logps,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> Tensor:
        """`statistic` of every position, by default the log-probability of its target, ``(M, ...)``."""
        linear = self._plain_linear
        if statistic is target_logps and linear is not None:
            logps = head_kernel(self.kernel, hidden_ME.device, computing_dtype(linear.weight))
            return logps(hidden_ME, linear.weight, linear.bias, targets_M, self.scale)
        if statistic is target_logps and self.kernel != "blocks":
            warnings.warn(
                f"model.policy.head_kernel = {self.kernel!r} does not run: the head is more than a linear layer "
                "(an adapter in it, soft-capped logits), and is computed in chunks of positions",
                KernelWarning,
                stacklevel=2,
            )

        def of_chunk(hidden_CE: Tensor, targets_C: Tensor) -> Tensor:
            return statistic(self.logits(hidden_CE), targets_C)

        chunks = zip(hidden_ME.split(chunk_tokens), targets_M.split(chunk_tokens), strict=True)
        return torch.cat(
            [
                checkpoint(of_chunk, hidden_CE, targets_C, use_reentrant=False, preserve_rng_state=False)
                for hidden_CE, targets_C in chunks
            ]
        )

    @property
    def _plain_linear(self) -> nn.Linear | None:
        """The projection, if its logits are a product with its weight and no more; an adapter or a hook adds to it."""
        linear = self.projection
        if type(linear) is not nn.Linear or self.softcap is not None:
            return None
        return None if linear._forward_hooks or linear._forward_pre_hooks else linear
