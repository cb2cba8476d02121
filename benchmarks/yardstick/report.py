"""The results as Markdown."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from counting import CONVENTION

from yardstick.comparison import TOLERANCE, difference
from yardstick.measures import spread
from yardstick.rows import ABOUT_FILES

Result = Mapping[str, Any]


class Goal(NamedTuple):
    """What a comparison of 8 pairs a step is to reach.

    Args:
        time: TRL / ours.
        operations: TRL / ours.
        memory: ours / TRL, at most; None where there is no goal.
    """

    time: float
    operations: float
    memory: float | None = None


WHOLE_GOALS = {"hh_rlhf": Goal(4.0, 4.0, 0.40), "gpt4_pairs": Goal(2.8, 3.0, 0.40)}
"""By data, where TRL takes all 8 pairs in a micro-batch."""
FASTEST_GOALS = {"hh_rlhf": Goal(2.2, 1.6), "gpt4_pairs": Goal(1.7, 1.5)}
"""By data, where TRL takes its fastest setting."""
RATE_GOAL = 0.60
"""Our useful operations per second, as a share of the rate of matrix products."""


def markdown(conditions: Mapping[str, Any], results: Mapping[str, Result], failed: Mapping[str, str]) -> str:
    """All that was measured, as a page.

    Args:
        conditions: of the machine and the runs, by name.
        results: by ``DATA/OBJECTIVE/SETTING`` those that were measured in full, by ``DATA/OBJECTIVE/search/SETTING``
            the candidates for TRL's fastest setting.
        failed: why those that did not run to their end did not, by the same names.
    """
    full = {key: result for key, result in results.items() if "/search/" not in key}
    pages = [
        f"# Against TRL {conditions['trl']}",
        _settings(conditions),
        "## Ours / TRL",
        summary(full),
        *_goals(full),
        *([f"Not measured:\n\n{_listed(failed)}"] if failed else []),
        *(f"## {_title(key, result)}\n\n{details(result)}" for key, result in full.items()),
        *_searches(results),
    ]
    return "\n\n".join(pages) + "\n"


def _settings(conditions: Mapping[str, Any]) -> str:
    how = (
        "Both sides train the same rows in the same order, each in its own process and by its own training loop, with "
        "the same tokens, weights, precision (fp32), optimizer (fused AdamW), clipping and constant learning rate, "
        "without validation, saving or loggers, and without gradient checkpointing where it is not named (it is TRL's "
        "default, and not ours). Their steps alternate: while one side takes "
        "a step the other sleeps. The time of a step holds everything from the data to the optimizer. Of the times "
        "and their ratios the median and the range stand here. The longest row is in tokens. "
        "Tokens count once for each pair (prompt, chosen and "
        f"rejected response), the same number on both sides. {CONVENTION}"
    )
    return f"{_prose(how)}\n\n{_prose(ABOUT_FILES)}\n\n{_listed(conditions)}"


def summary(results: Mapping[str, Result]) -> str:
    """The ratios of ours to TRL, a line for each comparison, and how much of the machine ours uses."""
    header = [
        "data",
        "objective",
        "TRL's setting",
        "longest row",
        "time per step",
        "operations",
        "peak memory",
        "our share of the rate",
    ]
    lines = []
    for key, result in results.items():
        data, objective, _ = key.split("/")
        flops, memory = _ratios(result)
        measured = [spread(time_ratios(result), ".2f"), f"{flops:.2f}", f"{memory:.2f}", f"{useful_share(result):.0%}"]
        longest = f"{result['rows']['longest']:,}"
        lines.append([data, objective.upper(), _setting(result), longest, *measured])
    return _table(header, lines)


def _goals(results: Mapping[str, Result]) -> list[str]:
    """How far the comparisons that have goals are from them."""
    lines = []
    for key, result in results.items():
        data, objective, setting = key.split("/")
        if result["rows"]["pairs"] != 8 or data not in WHOLE_GOALS:
            continue
        goals = [WHOLE_GOALS[data]] if setting == "8" else []
        goals += [FASTEST_GOALS[data]] if result.get("is_fastest") else []
        flops, memory = _ratios(result)
        time, operations, share = 1 / statistics.median(time_ratios(result)), 1 / flops, useful_share(result)
        lines += [
            [
                *(data, objective.upper(), _setting(result)),
                _held(f"{time:.2f}", f"{goal.time}", time >= goal.time),
                _held(f"{operations:.2f}", f"{goal.operations}", operations >= goal.operations),
                _held(f"{memory:.2f}", f"{goal.memory:.2f}", memory <= goal.memory) if goal.memory else "",
                _held(f"{share:.0%}", f"{RATE_GOAL:.0%}", share >= RATE_GOAL),
            ]
            for goal in goals
        ]
    header = ["data", "objective", "TRL's setting", "TRL's time / ours", "TRL's operations / ours"]
    header += ["our memory / TRL's", "our share of the rate"]
    return ["## Beside the goals", _table(header, lines)] if lines else []


def _held(value: str, goal: str, is_met: bool) -> str:
    return f"{value} ({goal}: {'met' if is_met else 'missed'})"


def time_ratios(result: Result) -> list[float]:
    """Ours / TRL of each pair of timed steps."""
    return [a / b for a, b in zip(result["ours"]["seconds"], result["trl"]["seconds"], strict=True)]


def _ratios(result: Result) -> tuple[float, float]:
    ours, theirs = _operations(result)
    return sum(ours) / sum(theirs), result["ours"]["peak_bytes"] / result["trl"]["peak_bytes"]


def _operations(result: Result) -> tuple[list[int], list[int]]:
    """Of the steps that were timed, or, where their closed form is not known, of those that were counted after them."""
    known = result.get("operations") or {side: result[side]["flops"] for side in ("ours", "trl")}
    return known["ours"], known["trl"]


def details(result: Result) -> str:
    """Everything that a comparison measured."""
    ours, theirs = result["ours"], result["trl"]
    tokens = sum(result["tokens"])
    flops, memory = _ratios(result)
    rates = [tokens / sum(side["seconds"]) for side in (ours, theirs)]
    counts = [statistics.mean(side) / 1e12 for side in _operations(result)]
    lines = [
        [
            "time per step, s",
            *(spread(side["seconds"], ".2f") for side in (ours, theirs)),
            spread(time_ratios(result), ".2f"),
        ],
        ["operations per step, 10^12", *(f"{count:.3f}" for count in counts), f"{flops:.3f}"],
        ["tokens per second", *(f"{rate:,.0f}" for rate in rates), f"{rates[0] / rates[1]:.2f}"],
        ["peak memory, 10^9 bytes", *(f"{side['peak_bytes'] / 1e9:.2f}" for side in (ours, theirs)), f"{memory:.2f}"],
    ]
    for number, values in enumerate(result["first"], start=1):
        for name in ("loss", "gradient_norm"):
            if name in values:
                mine, other = values[name]
                differ = f"differ by {difference(mine, other):.0e}"
                lines.append([f"{name.replace('_', ' ')}, step {number}", f"{mine:.6f}", f"{other:.6f}", differ])
    rows = result["rows"]
    largest = max(difference(*pair) for values in result["first"] for pair in values.values())
    busy = [sum(side["cpu_seconds"]) / sum(side["seconds"]) for side in (ours, theirs)]
    by_form = (
        "; those above are of the timed steps, by the closed form that gave exactly what was counted"
        if "operations" in result
        else ""
    )
    notes = (
        f"{rows['pairs']} pairs per step, of {rows['longest']:,} tokens at most. "
        f"Steps timed: {len(ours['seconds'])} of each side; then {len(ours['flops'])} of each whose operations are "
        f"counted{by_form}. Mean tokens of the rows: prompt "
        f"{rows['prompt']:.0f}, chosen {rows['chosen']:.0f}, rejected {rows['rejected']:.0f}; {rows['left_out']:,} of "
        f"{rows['read']:,} rows that fit were left out, because TRL would make other tokens of them. Held against each "
        f"other: {result['matched']}. The largest difference is {largest:.0e}, relative (refused above {TOLERANCE:g}). "
        f"Processor time per second of a step: ours {busy[0]:.2f} s, TRL's {busy[1]:.2f} s; much less than the number "
        f"of threads means that the machine was busy with something else. {_useful(result)}{result['date']}."
    )
    return _table(["", "ours", "TRL", "ours / TRL"], lines) + "\n\n" + _prose(notes)


def useful_share(result: Result) -> float:
    """Our useful operations per second, as a share of the rate of matrix products that the machine sustains."""
    return _useful_rate(result) / statistics.mean(result["matmul_rate"])


def _useful_rate(result: Result) -> float:
    return statistics.median(a / b for a, b in zip(result["useful_flops"], result["ours"]["seconds"], strict=True))


def _useful(result: Result) -> str:
    before, after = (f"{rate / 1e9:.0f}" for rate in result["matmul_rate"])
    return (
        f"Ours makes {_useful_rate(result) / 1e9:.0f} * 10^9 useful operations per second (what is computed again not "
        f"counted), {useful_share(result):.0%} of the rate of fp32 products of 2048 x 2048 matrices that the machine "
        f"sustained before ({before} * 10^9) and after ({after} * 10^9) these steps. "
    )


def _searches(results: Mapping[str, Result]) -> list[str]:
    """The candidates for TRL's fastest setting, by data and objective."""
    groups: dict[str, dict[str, Result]] = {}
    for key, result in results.items():
        data, objective, *searched, setting = key.split("/")
        candidates = groups.setdefault(f"{data}, {objective.upper()}", {})
        # what was measured in full stands in place of the step of the search
        if not setting.endswith("-checkpointed") and not (searched and setting in candidates):
            candidates[setting] = result
    tables = []
    for name, candidates in groups.items():
        lines = [
            [
                each["in_words"],
                f"{each['rows']['longest']:,}",
                str(len(each["trl"]["seconds"])),
                spread(each["trl"]["seconds"], ".2f"),
                spread(time_ratios(each), ".2f"),
            ]
            for each in candidates.values()
        ]
        header = ["TRL's setting", "longest row", "steps timed", "TRL's time per step, s", "ours / TRL"]
        tables.append(f"### {name}\n\n{_table(header, lines)}")
    explained = (
        "Each setting is measured beside ours on the same rows: one step, then in full the three with the largest "
        "ratio of ours to TRL's time, beside all pairs and one pair per micro-batch; the fastest has the largest of "
        "these, and what one step told of the others is rough. "
        "Settings that pad most are held to shorter rows than the others, for the memory of TRL; longer ones would "
        "be padded more. Neither side compiles its layers. TRL's DPO trainer always takes its log-probabilities in "
        "chunks, its ORPO trainer cannot; padding_free of the DPO trainer has no effect in this version."
    )
    return ["## TRL's settings", _prose(explained), *tables]


def _title(key: str, result: Result) -> str:
    data, objective, _ = key.split("/")
    return f"{data}, {objective.upper()}, TRL: {_setting(result)}"


def _setting(result: Result) -> str:
    words = str(result["in_words"])
    return f"{words} (its fastest)" if result.get("is_fastest") else words


def _listed(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in values.items())


def _prose(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
