"""Which versions compute here."""

from __future__ import annotations

import importlib.metadata

PACKAGE = "orpo-lightning"


def versions() -> dict[str, str]:
    """Versions of this package and of what it computes with."""
    return {name: importlib.metadata.version(name) for name in (PACKAGE, "torch", "transformers", "lightning")}
