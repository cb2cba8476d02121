"""What becomes of rows that are longer than the window: dropped, cut, or refused; never cut to nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from orpo_lightning.data.columns import RowError
from orpo_lightning.records import TokenizedRow

Overlong = Literal["drop", "truncate_prompt", "truncate_response", "error"]
LENGTH_REASONS = ("prompt_too_long", "response_too_long", "identical_after_truncation")
LEAST_LEFT = 8
"""A prompt or response that would be cut to fewer tokens is dropped instead."""


@dataclass(frozen=True)
class LengthLimits:
    """The window, and the policy for rows that do not fit.

    Args:
        max_length: longest conversation, prompt and response together, tokens.
        max_prompt_length: longest prompt, tokens.
        overlong: ``drop`` the row; ``truncate_prompt``: keep the end of the prompt (after its first token, if that
            is `bos`) so that all responses fit; ``truncate_response``: keep the beginning of each response, without
            the token that ends it, since it does not end there; or an ``error``.
        bos: the token that begins every prompt, if the tokenizer has one.

    Raises:
        ValueError: a limit or the policy is out of range.
    """

    max_length: int = 1024
    max_prompt_length: int = 512
    overlong: Overlong = "drop"
    bos: int | None = None

    def __post_init__(self) -> None:
        if self.max_length < LEAST_LEFT:
            raise ValueError(f"data.max_length = {self.max_length!r} is out of range; accepted: {LEAST_LEFT} or more")
        if not 1 <= self.max_prompt_length < self.max_length:
            raise ValueError(
                f"data.max_prompt_length = {self.max_prompt_length} leaves no room for a response in "
                f"data.max_length = {self.max_length}; accepted: 1 to {self.max_length - 1}, or null for half"
            )
        if self.overlong == "truncate_prompt" and self.max_prompt_length < LEAST_LEFT:
            raise ValueError(
                f"data.max_prompt_length = {self.max_prompt_length} is out of range for data.overlong = "
                f"truncate_prompt, which leaves a prompt {LEAST_LEFT} tokens at least; accepted: {LEAST_LEFT} or more"
            )
        if self.overlong not in get_args(Overlong):
            raise ValueError(f"data.overlong = {self.overlong!r}; accepted: {', '.join(get_args(Overlong))}")

    def fit(self, row: TokenizedRow) -> TokenizedRow:
        """The row if it fits, else what the policy makes of it.

        Raises:
            RowError: the row is to be dropped; its reason is one of `LENGTH_REASONS`.
            ValueError: the policy is ``error``.

        Example:
            >>> from orpo_lightning.records import Role, TokenizedResponse
            >>> row = TokenizedRow("a:1", tuple(range(20)), (TokenizedResponse(tuple(range(9)), Role.CHOSEN),))
            >>> LengthLimits(25, 24, overlong="truncate_prompt").fit(row).prompt
            (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
        """
        return row if self._excess(row) is None else _POLICIES[self.overlong](self, row)

    def _excess(self, row: TokenizedRow) -> RowError | None:
        if len(row.prompt) > self.max_prompt_length:
            detail = f"the prompt has {len(row.prompt)} tokens, data.max_prompt_length is {self.max_prompt_length}"
            return RowError("prompt_too_long", row.row_id, detail)
        longest = len(row.prompt) + max(len(response.ids) for response in row.responses)
        if longest > self.max_length:
            detail = f"prompt and response have {longest} tokens, data.max_length is {self.max_length}"
            return RowError("response_too_long", row.row_id, detail)
        return None

    def _drop(self, row: TokenizedRow) -> TokenizedRow:
        excess = self._excess(row)
        assert excess is not None
        raise excess

    def _refuse(self, row: TokenizedRow) -> TokenizedRow:
        raise ValueError(
            f"{self._excess(row)}, and data.overlong is error; set it to drop, truncate_prompt or truncate_response"
        )

    def _truncate_prompt(self, row: TokenizedRow) -> TokenizedRow:
        longest = max(len(response.ids) for response in row.responses)
        room = min(self.max_prompt_length, self.max_length - longest)
        if room < LEAST_LEFT:
            detail = f"a response has {longest} tokens, which leaves {room} for the prompt"
            raise RowError("response_too_long", row.row_id, detail)
        kept = row.prompt[:1] if row.prompt[0] == self.bos else ()
        return replace(row, prompt=kept + row.prompt[len(kept) - room :])

    def _truncate_response(self, row: TokenizedRow) -> TokenizedRow:
        room = self.max_length - len(row.prompt)
        if len(row.prompt) > self.max_prompt_length or room < LEAST_LEFT:
            return self._drop(row)
        responses = tuple(replace(response, ids=response.ids[:room]) for response in row.responses)
        if len({response.ids for response in responses}) < len(responses):
            detail = f"the responses are the same in their first {room} tokens, all that data.max_length leaves them"
            raise RowError("identical_after_truncation", row.row_id, detail)
        return replace(row, responses=responses)


_POLICIES: dict[str, Callable[[LengthLimits, TokenizedRow], TokenizedRow]] = {
    "drop": LengthLimits._drop,
    "truncate_prompt": LengthLimits._truncate_prompt,
    "truncate_response": LengthLimits._truncate_response,
    "error": LengthLimits._refuse,
}
