"""What is known of a class of a user: the name that it is counted under, and its code."""

from __future__ import annotations

import inspect
import re
import sys
from types import CodeType
from typing import Any


def snake_case(cls: type) -> str:
    """The name of a class as one word of lower case.

    Example:
        >>> class ShortChosen: ...
        >>> snake_case(ShortChosen)
        'short_chosen'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def sources_of(cls: type, base: type) -> list[str]:
    """The text of the modules in which a class and its bases, up to one of ours, are defined.

    Example:
        >>> class Base: ...
        >>> len(sources_of(Base, base=Base))
        1
    """
    return sorted({_source_of(each) for each in cls.__mro__ if issubclass(each, base)})


def _source_of(cls: type) -> str:
    try:
        return inspect.getsource(sys.modules[cls.__module__])
    except (OSError, TypeError, KeyError):  # typed into an interpreter
        methods = (value.__code__ for value in vars(cls).values() if hasattr(value, "__code__"))
        return repr([(code.co_code, code.co_names, _plain(code.co_consts)) for code in methods])


def _plain(constants: tuple[Any, ...]) -> list[Any]:
    # the code of an inner function is shown with its address, which is another in every process
    return [each for each in constants if not isinstance(each, CodeType)]
