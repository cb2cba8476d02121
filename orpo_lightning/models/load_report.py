"""What transformers has found while it read the weights of a model, said in one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel


def check_found(name: str, net: PreTrainedModel, found: Mapping[str, Any]) -> None:
    """Insist that every weight has been read: transformers makes random ones in place of those that are missing.

    Args:
        name: of the model, for the error.
        net: the model.
        found: what transformers has found, ``output_loading_info``.

    Raises:
        ValueError: weights are missing or of another shape; names some.
    """
    missing = sorted(found["missing_keys"] & dict(net.named_parameters(remove_duplicate=False)).keys())
    if missing:
        raise ValueError(
            f"the model {name!r} lacks {len(missing)} of the weights of {type(net).__name__}, such as "
            f"{', '.join(missing[:3])}: copy or download it again, or look whether it is of this architecture"
        )
    others = sorted(found["mismatched_keys"])
    if others:
        weight, saved, wanted = others[0]
        raise ValueError(
            f"the model {name!r} has {len(others)} weights of another shape than its config.json says, such as "
            f"{weight}: {list(saved)} in the file, {list(wanted)} in {type(net).__name__}"
        )
    strays = sorted(found["unexpected_keys"])
    if strays:
        warnings.warn(
            f"the model {name!r} has {len(strays)} weights that {type(net).__name__} has no place for, such as "
            f"{', '.join(strays[:3])}: they are left out",
            stacklevel=2,
        )


@contextmanager
def without_report() -> Iterator[None]:
    """Leave out transformers' table of weights that are missing or too many, which is said in one line here."""

    def is_news(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        # of weights that could not be converted nothing else tells; what it would shard out by itself does not count
        return ("LOAD REPORT" not in message or "CONVERSION" in message) and "`fsdp_plan` rules" not in message

    loggers = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "distributed.mixin")]
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)
