"""The table of settings in docs/configuration.md, from the signatures and docstrings of the classes they are set for.

``PYTHONPATH=tests python tests/settings_table.py`` writes it into the page.
"""

import dataclasses
import inspect
import re

from docstring_parser import parse
from pages import page_named

from orpo_lightning import Objective, PreferenceDataModule, PreferenceModule

HEADER = ["| key | default | meaning |", "|---|---|---|"]
BLOCKS = {"model": PreferenceModule, "data": PreferenceDataModule}
TABLE = re.compile(r"(<!-- written by tests/settings_table.py -->\n).*?(<!-- end -->)", re.DOTALL)


def settings(key, cls):
    """Each setting of a class and of the dataclasses in it: key, default, meaning."""
    texts = {each.arg_name: each.description for each in parse(inspect.getdoc(cls)).params}
    hints = inspect.get_annotations(cls if dataclasses.is_dataclass(cls) else cls.__init__, eval_str=True)
    for name, parameter in inspect.signature(cls).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            yield from settings(f"{key}.{name}", hints[name])
        else:
            yield f"{key}.{name}", default_of(parameter, hints[name]), meaning_of(texts[name])


def default_of(parameter, hint):
    if hint is Objective:
        return "ORPO"
    value = parameter.default
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value)
    return "{}" if "Mapping" in str(hint) else "[]"


def meaning_of(text):
    plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text.replace("``", "`"))
    plain = re.sub(r"\bNone\b", "null", " ".join(plain.split())).rstrip(".")
    return plain[0].upper() + plain[1:]


def table():
    rows = [row for key, cls in BLOCKS.items() for row in settings(key, cls)]
    return "\n".join([*HEADER, *(f"| `{key}` | {default} | {meaning} |" for key, default, meaning in rows)])


if __name__ == "__main__":
    page = page_named("configuration")
    text = table()
    page.path.write_text(TABLE.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page.text))
