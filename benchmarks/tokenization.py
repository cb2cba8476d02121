"""How fast rows are read, filtered, tokenized and written to the cache, cold and warm.

    python benchmarks/tokenization.py --like hh_rlhf/train.jsonl.gz --tokenizer smollm2

makes distinct rows out of those of a raw HH-RLHF file (each with a number of its own in the prompt and in both
responses), and prints rows per second over the whole way from the file to the table of tokens, several times.

That command printed, on 2026-11-24 at commit 3a55277, 2 cores of a shared x86_64 machine with nothing else running
(2,000 rows of harmless-base; under other load the same code makes 1,100 to 2,900 rows/s):

    20,000 rows like train.jsonl.gz, smollm2; 2 cores, tokenizers 0.23.3, transformers 5.23.0
    cold: 3,795 rows/s (5.27 s); warm, file touched: 0.07 s
    cold: 3,689 rows/s (5.42 s); warm, file touched: 0.07 s
    cold: 3,683 rows/s (5.43 s); warm, file touched: 0.07 s
    cold: 3,924 rows/s (5.10 s); warm, file touched: 0.07 s
    cold: 4,046 rows/s (4.94 s); warm, file touched: 0.07 s
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from orpo_lightning.cache_folder import CACHE_VARIABLE, cache_folder
from orpo_lightning.data.files import read_file
from orpo_lightning.data.preparation import Preparation
from orpo_lightning.data.sources import SourceConfig
from orpo_lightning.models.tokenizer import load_tokenizer

_TURN = "\n\nAssistant:"


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="a file of raw HH-RLHF rows")
    parser.add_argument("--tokenizer", default="smollm2")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    how = Preparation(load_tokenizer(options.tokenizer))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("tokenizers", "transformers"))
    print(f"{options.rows:,} rows like {options.like.name}, {options.tokenizer}; {os.cpu_count()} cores, {versions}")
    models = cache_folder() / "models"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in _distinct_rows(options.like, options.rows))
        for repeat in range(options.repeats):
            os.environ[CACHE_VARIABLE] = f"{folder}/cache-{repeat}"
            Path(os.environ[CACHE_VARIABLE]).mkdir()
            Path(os.environ[CACHE_VARIABLE], "models").symlink_to(models)
            cold = _seconds(how, path)
            os.utime(path)
            warm = _seconds(how, path)
            print(f"cold: {options.rows / cold:,.0f} rows/s ({cold:.2f} s); warm, file touched: {warm:.2f} s")
    print(f"{platform.processor() or platform.machine()}, python {platform.python_version()}")


def _seconds(how: Preparation, path: Path) -> float:
    start = time.perf_counter()
    how.prepare(SourceConfig(str(path)), "train")
    return time.perf_counter() - start


def _distinct_rows(like: Path, count: int) -> Iterator[dict[str, str]]:
    rows = [row for _, row in read_file(like, like.name)]
    for number in range(count):
        row = rows[number % len(rows)]
        yield {side: _numbered(row[side], f" ({number} {side})") for side in ("chosen", "rejected")}


def _numbered(text: str, tag: str) -> str:
    prompt, turn, rest = text.partition(_TURN)
    return f"{prompt} {tag.split()[0]}{turn}{rest}{tag}"


if __name__ == "__main__":
    main()
