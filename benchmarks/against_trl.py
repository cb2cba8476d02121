"""What our training costs beside TRL's, on the same rows: time, operations, tokens per second, memory.

    python benchmarks/against_trl.py --quick
    python benchmarks/against_trl.py --data-folder ../shared/data

The first takes minutes and shows that it all works; the second measures ORPO and DPO on hh_rlhf and gpt4_pairs, hours
on two cores: leave the machine alone meanwhile. Both make an environment for TRL in .venv-trl where there is none yet,
and end with an error if the first losses of the two sides do not agree.

Each comparison is kept as soon as it is done, so that the same command goes on where it was. --only takes the names
that it prints, or how they begin: --only hh_rlhf/orpo/8. Where the memory is not enough for both sides, a comparison is
made anew on rows three quarters as long, and the tables say how long they were. The page that it prints is kept beside
the results; the one that it last printed is benchmarks/against_trl.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from operations import both_sides, size_of
from yardstick.comparison import Length, LossesDifferError, compare
from yardstick.environment import NAMED, ROOT, commit, installed, processor, python_with_trl
from yardstick.job import Job, Setting
from yardstick.report import markdown, time_ratios
from yardstick.rows import FILES, Pool
from yardstick.rungs import OBJECTIVES
from yardstick.worker import WorkerEndedError, WorkerKilledError

from orpo_lightning.models.pretrained import resolve
from orpo_lightning.sweep.share import cores

FULL = Length(warm_up=1, timed=5, counted=2, rate_s=30)
SEARCH = Length(warm_up=1, timed=1, counted=0, rate_s=0)
QUICK = Length(warm_up=1, timed=2, counted=1, rate_s=3)
FINALISTS = 3
"""Settings of the search, which times a single step of each and is noisy, that are then measured in full."""
SHORTEST = 256
"""Tokens of the longest row: where the memory is not enough for these, a comparison is given up."""


def main() -> None:
    """Measure what is not yet measured, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps of 2 pairs, ORPO on hh_rlhf unless --only")
    parser.add_argument("--only", action="append", help="comparisons, or how their names begin; can be repeated")
    parser.add_argument("--data-folder", type=Path, default=ROOT.parent / "shared" / "data", help="where the files are")
    parser.add_argument("--out", type=Path, default=Path("runs/against_trl"))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--max-length", type=int, default=1024, help="of the longest conversation, tokens")
    parser.add_argument(
        "--whole-length",
        type=int,
        default=384,
        help="the same where TRL takes all pairs in one micro-batch: with ours beside it, longer ones need over 24 GB",
    )
    parser.add_argument("--pairs", type=int, help="per optimizer step; 8, or 2 with --quick")
    parser.add_argument("--threads", type=int, default=cores(), help="of torch, on both sides")
    options = parser.parse_args()
    pairs = options.pairs or (2 if options.quick else 8)
    wanted = options.only or (["hh_rlhf/orpo"] if options.quick else [""])

    keys = [key for key in _keys(pairs) if any(key.startswith(each) for each in wanted)]
    if not keys:
        parser.error(f"--only: no comparison begins like that; accepted: {', '.join(_keys(pairs))}")

    trl = python_with_trl()
    conditions = _conditions(options, pairs, trl)
    store = Store(options.out / "results.json", conditions)
    bench = Bench(options, pairs, trl, store)
    for key in keys:
        bench.measure(key)
    table = markdown(conditions, store.results, bench.failed)
    (options.out / "table.md").write_text(table, encoding="utf-8")
    print(f"\n{table}")
    sys.exit(bool(bench.failed))


def _keys(pairs: int) -> Iterator[str]:
    for data in FILES:
        for objective in map(str.lower, OBJECTIVES):
            yield from (f"{data}/{objective}/{name}" for name in (str(pairs), "fastest", f"{pairs}-checkpointed"))


def candidates(pairs: int) -> list[Setting]:
    """What may be TRL's fastest setting, beside all pairs in a micro-batch: fewer, alone or grouped by length."""
    splits = [Setting(pairs, 2**power) for power in range(pairs.bit_length() - 1) if pairs % 2**power == 0]
    grouped = [replace(split, grouped=True) for split in (*splits, Setting(pairs, pairs)) if split.micro_batch > 1]
    return [*splits, *grouped]


@dataclass
class Store:
    """The results, in a file that is written after each.

    Args:
        path: the file.
        conditions: under which they hold.
    """

    path: Path
    conditions: dict[str, Any]

    def __post_init__(self) -> None:
        self.results: dict[str, Any] = {}
        if not self.path.is_file():
            return
        kept = json.loads(self.path.read_text(encoding="utf-8"))
        names = kept["conditions"] | self.conditions
        other = [name for name in names if kept["conditions"].get(name) != self.conditions.get(name)]
        if other:
            changes = (
                f"{name}: {kept['conditions'].get(name)} there, {self.conditions.get(name)} here" for name in other
            )
            sys.exit(f"{self.path} was measured otherwise ({'; '.join(changes)}): remove it, or give another --out")
        self.results = kept["comparisons"]

    def keep(self, key: str, result: dict[str, Any]) -> None:
        """Write a result, whole or not at all."""
        self.results[key] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        text = json.dumps({"conditions": self.conditions, "comparisons": self.results}, indent=1)
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, self.path)


@dataclass
class Bench:
    """Measures comparisons by their names."""

    options: argparse.Namespace
    pairs: int
    trl: Path
    store: Store
    failed: dict[str, str] = field(default_factory=dict)

    def measure(self, key: str) -> None:
        """Measure a comparison in full, and what it depends on; nothing twice."""
        data, objective, name = key.split("/")
        if name != "fastest":
            whole = Setting(self.pairs, self.pairs, checkpointed=name.endswith("-checkpointed"))
            self._compare(key, data, objective, whole, self._length)
            return
        begin = f"{data}/{objective}/"
        self.measure(f"{begin}{self.pairs}")
        in_full = [str(self.pairs), *(setting.name for setting in self._finalists(data, objective))]
        ran = [f"{begin}{each}" for each in in_full if f"{begin}{each}" in self.store.results]
        if not ran:
            self.failed[key] = "no setting ran"
            return
        fastest = max(ran, key=self._ratio)
        for each in ran:
            self.store.keep(each, {**self.store.results[each], "is_fastest": each == fastest})

    def _finalists(self, data: str, objective: str) -> list[Setting]:
        """One pair in a micro-batch, and the fastest others of a search; each measured in full."""
        every = candidates(self.pairs)
        keys = {f"{data}/{objective}/search/{each.name}": each for each in every if each.micro_batch > 1}
        for key, setting in keys.items():
            self._compare(key, data, objective, setting, SEARCH)
        searched = sorted((key for key in keys if key in self.store.results), key=self._ratio, reverse=True)
        finalists = [each for each in every if each.micro_batch == 1] + [keys[key] for key in searched[:FINALISTS]]
        for setting in finalists:
            self._compare(f"{data}/{objective}/{setting.name}", data, objective, setting, self._length)
        return finalists

    @property
    def _length(self) -> Length:
        return QUICK if self.options.quick else FULL

    def _ratio(self, key: str) -> float:
        return statistics.median(time_ratios(self.store.results[key]))

    def _compare(self, key: str, data: str, objective: str, setting: Setting, length: Length) -> None:
        if key in self.store.results or key in self.failed:
            return
        longest = self.options.max_length
        if setting.accumulate == 1:
            longest = min(self.options.whole_length, longest)
        searched = self.store.results.get(f"{data}/{objective}/search/{setting.name}")
        if searched:  # on rows for which the memory was enough
            longest = searched["rows"]["longest"]
        for tokens in _shorter_and_shorter(longest):
            print(f"{key}: {setting.in_words}, {tokens:,} tokens at most", flush=True)
            try:
                self.store.keep(key, self._measured(key, data, objective, setting, length, tokens))
            except LossesDifferError as error:
                sys.exit(f"\n{key}: {error}")
            except WorkerEndedError as error:
                print(f"\n{key}: {error}\n", flush=True)
                self.failed[key] = str(error).partition("; the end of")[0]
                if not isinstance(error, WorkerKilledError):
                    return
            else:
                self.failed.pop(key, None)
                ratios = ", ".join(f"{ratio:.2f}" for ratio in time_ratios(self.store.results[key]))
                print(f"  ours / TRL: {ratios}", flush=True)
                return

    def _measured(
        self, key: str, data: str, objective: str, setting: Setting, length: Length, longest: int
    ) -> dict[str, Any]:
        pool, model = self._pool(data), resolve(self.options.model)
        folder = (self.options.out / "work" / key.replace("/", "_")).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        chosen = pool.choose(setting, length.steps, longest)
        pool.write(chosen, folder / "rows.jsonl")
        job = Job(
            objective=objective,
            model=model,
            data=self._file(data),
            max_length=self.options.max_length,
            rows=chosen,
            rows_file=str(folder / "rows.jsonl"),
            setting=setting,
            folder=str(folder),
        )
        result = compare(job, length, folder, self.options.threads, self.trl)
        timed = slice(length.warm_up, length.warm_up + length.timed)
        result["tokens"] = pool.tokens(chosen, setting.pairs)[timed]
        if not setting.checkpointed:
            by_form = both_sides(size_of(model), [pool.rows[i] for i in chosen], setting, objective.upper())
            check_operations({side: flops[timed.stop :] for side, flops in by_form.items()}, result)
            result["operations"] = {side: flops[timed] for side, flops in by_form.items()}
        result["rows"] = pool.describe(chosen) | {"pairs": setting.pairs, "longest": longest}
        return result

    def _file(self, data: str) -> str:
        path = (self.options.data_folder / FILES[data]).absolute()
        if not path.is_file():
            sys.exit(f"no file at {path}: give the folder of the data sets by --data-folder")
        return str(path)

    def _pool(self, data: str) -> Pool:
        return _pool(self._file(data), resolve(self.options.model), self.options.max_length)


def check_operations(by_form: dict[str, list[int]], result: dict[str, Any]) -> None:
    """Insist that the closed form gives what was counted of the same steps."""
    for side, flops in by_form.items():
        counted = result[side]["flops"]
        if counted != flops:
            sys.exit(f"{side}: counted {counted} operations, and the closed form gives {flops}")


def _shorter_and_shorter(longest: int) -> Iterator[int]:
    yield longest
    while (longest := longest * 3 // 4) >= SHORTEST:
        yield longest


@cache
def _pool(data: str, model: str, max_length: int) -> Pool:
    return Pool.of(data, model, max_length)


def _conditions(options: argparse.Namespace, pairs: int, trl: Path) -> dict[str, Any]:
    versions = installed(trl)
    return {
        "commit": commit(),
        "trl": versions["trl"],
        "machine": f"{processor()}, {cores()} cores ({platform.machine()}), {options.threads} threads of torch",
        "ours": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lightning")),
        "TRL's environment": ", ".join(f"{name} {versions[name]}" for name in NAMED),
        "python": platform.python_version(),
        "peak memory": "of the allocator" if torch.cuda.is_available() else "of the process since it began",
        "model": options.model,
        "longest conversation, tokens": options.max_length,
        "the same where TRL takes all pairs in one micro-batch": options.whole_length,
        "pairs per optimizer step": pairs,
        "quick": options.quick,
    }


if __name__ == "__main__":
    main()
