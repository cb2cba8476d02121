"""A reference whose log-probabilities were computed before the first step, so that no second model is held."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn
from tqdm import tqdm

from orpo_lightning.models.host_to_device import to_device
from orpo_lightning.models.reference_store import ReferenceStore
from orpo_lightning.models.work import ModelSize
from orpo_lightning.packing import PackedBatch, pack, response_key
from orpo_lightning.ranks import fail_together, from_all_ranks, place_among_ranks
from orpo_lightning.records import HALF_PRECISION, ResponseLogps, StepInfo, TokenizedRow

FILL_TOKENS = 4096
"""Tokens of a forward pass that fills the store: no gradients are kept, so this is little memory."""
SAVE_SECONDS = 60.0
"""What is computed is written at least this often; a fill that is killed loses no more."""
_WAIT_OF_RANKS_S = 1200.0
"""How long ranks wait for another run that computes the same; torch gives up on those that wait for half an hour."""
VERIFIED_ROWS = 4
"""Rows whose stored values are computed again at the start of a run, where the reference is at hand."""


class Scorer(Protocol):
    """A model as a function from a packed batch to the log-probabilities of its responses."""

    def __call__(self, batch: PackedBatch, prompt_logps: bool = False) -> ResponseLogps:
        """Score the responses of a batch."""


class Rows(Protocol):
    """Rows by their places."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> TokenizedRow: ...


@dataclass(frozen=True)
class ReferenceRun:
    """What a reference is told of a run before its first batch.

    Args:
        rows: returns all rows that the run may ask for, which may be made one by one as they are asked for.
        prompt_logps: whether it asks for the prompts too.
        device: where the run computes.
        precision: the name of the precision it computes in.
        autocast: the context of a forward pass in that precision.
        place: brings another model into that precision and onto the device.
        progress: whether to show progress.
        say: tells the user something, once for all processes.
    """

    rows: Callable[[], Rows]
    prompt_logps: bool
    device: torch.device
    precision: str
    autocast: Callable[[], AbstractContextManager[Any]]
    place: Callable[[nn.Module], object]
    progress: bool
    say: Callable[[str], object]


def start_tolerance(dtype: torch.dtype, precision: str) -> float:
    """Largest relative difference between log-probabilities that should be equal, computed in other batches.

    In bf16 those of SmolLM2-135M are up to 0.4% from those in fp32; kernels may differ by as much among themselves.
    """
    return 1e-2 if dtype in HALF_PRECISION or "16" in precision else 1e-3


class CachedReference:
    """Log-probabilities of the reference, looked up by content: row order, filters and limits do not matter.

    Args:
        fingerprint: of the reference's weights.
        store: where the log-probabilities of these weights are kept, for a given precision.
        dtype: returns that of the policy, whose log-probabilities these are compared with.
        live: the reference itself, where that costs no memory: the policy, for as long as it has not moved, or the
            policy without its adapter. None: it has to be loaded.
        moves: whether `live` stops being the reference as soon as the policy is trained.
        is_as_loaded: whether the weights of `live` still have the fingerprint.
        load: loads the reference, frozen and in eval mode; only for a store that is not complete.
    """

    def __init__(
        self,
        fingerprint: str,
        store: Callable[[str], ReferenceStore],
        dtype: Callable[[], torch.dtype],
        live: Scorer | None,
        moves: bool,
        is_as_loaded: Callable[[], bool],
        load: Callable[[], nn.Module],
    ) -> None:
        self.fingerprint = fingerprint
        self.size: ModelSize | None = None  # what it took was taken once, before the first step, for all later runs too
        self._store = store
        self._dtype = dtype
        self._live = live
        self._moves = moves
        self._is_as_loaded = is_as_loaded
        self._load = load
        self._values: dict[bytes, float] = {}

    def __call__(self, batch: PackedBatch, prompt_logps: bool = False) -> ResponseLogps:
        """Look up the log-probabilities of a batch."""
        return ResponseLogps(
            logps=self._look_up(batch.keys, batch),
            tokens=batch.tokens,
            group=batch.group,
            role=batch.role,
            label=batch.label,
            prompt_logps=self._look_up(batch.prompt_keys, batch) if prompt_logps else None,
            prompt_tokens=batch.prompt_tokens,
        )

    def _look_up(self, keys: Sequence[bytes], batch: PackedBatch) -> Tensor:
        try:
            values = [self._values[key] for key in keys]
        except KeyError:
            raise ValueError(
                f"no reference log-probabilities were computed for some of the rows {', '.join(batch.row_ids)}: a data "
                "module has to hold all rows of a run in its property `rows` before the first batch; or set "
                "model.reference.mode = copy"
            ) from None
        dtype = torch.promote_types(self._dtype(), torch.float32)
        return to_device(torch.tensor(values, dtype=dtype), batch.tokens.device)

    def policy_moves(self) -> None:
        """The policy's weights are no longer those it started from."""
        if self._moves:
            self._live = None

    def prepare(self, run: ReferenceRun) -> None:
        """Read what is stored, check a few values of it, and compute what is missing, each rank its share.

        The check needs the reference itself, and is left out where that would have to be loaded: it is a model of its
        own, or the policy's starting weights, which a checkpoint has replaced. Files of the store that are cut off or
        altered are noticed always, by the store.

        Raises:
            ValueError: stored values are not those of the reference, or computed ones are not finite.
        """
        store, rows = self._store(run.precision), run.rows()
        keys_of: list[list[bytes]] = []
        tokens: list[int] = []
        # of all rows at once the keys and sizes only; a row is made again where it has to be scored
        for row in (rows[place] for place in range(len(rows))):
            keys_of.append(_keys(row, run.prompt_logps))
            tokens.append(row.num_tokens)
        wanted = {key for keys in keys_of for key in keys}
        with ExitStack() as alone:
            missing = self._missing(wanted, store)
            if missing:
                alone.enter_context(_one_run_at_a_time(store))
                missing = self._missing(wanted, store)  # another run may have filled it meanwhile
            self._check_and_fill(rows, keys_of, tokens, missing, store, run)

    def _missing(self, wanted: set[bytes], store: ReferenceStore) -> set[bytes]:
        """What is left after reading the store, the same on every rank, whatever each can see of it.

        All ranks have to run the same number of forward passes.
        """
        self._values.update(fail_together(lambda: store.read(wanted - self._values.keys())))
        return set().union(*from_all_ranks(wanted - self._values.keys()))

    def _check_and_fill(
        self,
        rows: Rows,
        keys_of: Sequence[Sequence[bytes]],
        tokens: Sequence[int],
        missing: set[bytes],
        store: ReferenceStore,
        run: ReferenceRun,
    ) -> None:
        wanted = {key for keys in keys_of for key in keys}
        stored = [place for place, keys in enumerate(keys_of) if missing.isdisjoint(keys)]
        if self._live is not None and stored:
            sample = stored[:: -(-len(stored) // VERIFIED_ROWS)]
            self._verify(self._live, [rows[place] for place in sample], store, run)
        run.say(
            f"reference log-probabilities: {len(wanted) - len(missing):,} of {len(wanted):,} are in {store.folder}"
            + (f", {len(missing):,} are computed now" if missing else "")
        )
        if missing:
            chosen = {place: tokens[place] for place in _without_duplicates(keys_of, missing)}
            self._fill(rows, chosen, missing, store, run)

    def _verify(self, live: Scorer, sample: Sequence[TokenizedRow], store: ReferenceStore, run: ReferenceRun) -> None:
        found = _score(live, sample, run)
        tolerance = start_tolerance(self._dtype(), run.precision)
        largest = max(1e-6, *(abs(self._values[key]) for key in found))

        def differs(row: TokenizedRow) -> bool:
            # written so that NaN differs
            keys = _keys(row, run.prompt_logps)
            return not all(abs(found[key] - self._values[key]) <= tolerance * largest for key in keys)

        different = [row.row_id for row in sample if differs(row)]
        # each node may have a store of its own
        different = next((each for each in from_all_ranks(different) if each), [])
        if different:
            raise ValueError(
                "the stored reference log-probabilities are not those of the reference, on the rows "
                f"{', '.join(different)}: delete {store.folder}, or set model.reference.mode = copy"
            )

    def _fill(
        self, rows: Rows, tokens: Mapping[int, int], missing: set[bytes], store: ReferenceStore, run: ReferenceRun
    ) -> None:
        scorer = self._live
        if scorer is None:
            loaded = self._load()
            run.place(loaded)
            scorer = loaded
        elif not self._is_as_loaded():
            raise ValueError(
                "the policy's weights were changed after they were loaded, so that they are not those of its reference "
                "any more and cannot compute its log-probabilities: set model.reference.mode = copy"
            )
        computed: dict[bytes, float] = {}

        def save(part: dict[bytes, float]) -> None:
            new = {key: value for key, value in part.items() if key in missing and math.isfinite(value)}
            _keep(new, store)
            computed.update(new)

        _score_share(scorer, rows, tokens, run, save)
        for other in from_all_ranks(computed):
            self._values |= other
        lost = missing - self._values.keys()
        if lost:
            chosen = (rows[place] for place in tokens)
            bad = [row.row_id for row in chosen if not lost.isdisjoint(_keys(row, run.prompt_logps))]
            raise ValueError(f"the reference's log-probabilities are not finite on the rows {', '.join(bad)}")
        # nodes that do not share a file system keep a store each
        there = fail_together(lambda: store.read(missing - computed.keys()))
        _keep({key: self._values[key] for key in missing - computed.keys() - there.keys()}, store)


def _keep(values: Mapping[bytes, float], store: ReferenceStore) -> None:
    """Write values down for later runs; where that cannot be done this one goes on, for which other processes wait."""
    try:
        store.write(values)
    except OSError as error:
        warnings.warn(
            f"reference log-probabilities cannot be kept in {store.folder} ({error}): the next run computes them again",
            stacklevel=2,
        )


def _score_share(
    scorer: Scorer,
    rows: Rows,
    tokens: Mapping[int, int],
    run: ReferenceRun,
    save: Callable[[dict[bytes, float]], None],
) -> None:
    """Score this rank's share of the rows and save it in parts, the last also where it is interrupted."""
    rank, ranks = place_among_ranks()
    batches = _micro_batches(tokens, ranks)[rank::ranks]
    title = f"reference log-probabilities of {len(tokens):,} rows"
    part: dict[bytes, float] = {}
    begun = time.monotonic()
    try:
        for batch in tqdm(batches, desc=title, unit="batch", disable=not run.progress or rank > 0):
            part |= _score(scorer, [rows[place] for place in batch], run)
            if time.monotonic() - begun >= SAVE_SECONDS:
                save(part)
                part, begun = {}, time.monotonic()
    finally:
        save(part)


def _micro_batches(tokens: Mapping[int, int], ranks: int) -> list[list[int]]:
    """Batches of about equally many tokens, the same number for every rank: sharded models need them to keep step.

    Args:
        tokens: of each row, by its place.
        ranks: number of ranks.
    """
    batches: list[list[int]] = []
    room = 0
    # the longest first: what does not fit into memory says so at once
    for place in sorted(tokens, key=lambda place: -tokens[place]):
        if room < tokens[place]:
            batches.append([])
            room = FILL_TOKENS
        batches[-1].append(place)
        room -= tokens[place]
    shortest = batches[-1][-1]
    return batches + [[shortest]] * (-len(batches) % ranks)


@torch.no_grad()
def _score(scorer: Scorer, rows: Sequence[TokenizedRow], run: ReferenceRun) -> dict[bytes, float]:
    batch = pack(rows, StepInfo(weight=1.0, tokens_per_pair=1.0, full_tokens_per_pair=1.0))
    with run.autocast():
        table = scorer(batch.to(run.device), prompt_logps=run.prompt_logps)
    values = dict(zip(batch.keys, table.logps.tolist(), strict=True))
    if table.prompt_logps is not None:
        values |= dict(zip(batch.prompt_keys, table.prompt_logps.tolist(), strict=True))
    return values


def _keys(row: TokenizedRow, prompt: bool) -> list[bytes]:
    keys = [response_key(row.prompt, response.ids) for response in row.responses]
    return [*keys, response_key(row.prompt)] if prompt else keys


def _without_duplicates(keys_of: Sequence[Sequence[bytes]], missing: set[bytes]) -> list[int]:
    """The places of the rows that have all missing keys among them."""
    left, chosen = set(missing), []
    for place, keys in enumerate(keys_of):
        if not left.isdisjoint(keys):
            left.difference_update(keys)
            chosen.append(place)
    return chosen


@contextmanager
def _one_run_at_a_time(store: ReferenceStore) -> Iterator[None]:
    """Let no other run compute the same meanwhile. The first rank waits for it, and the others for that one."""
    rank, ranks = place_among_ranks()
    seconds = -1 if ranks == 1 else _WAIT_OF_RANKS_S
    with store.filled_by_one(seconds) if rank == 0 else nullcontext():
        from_all_ranks(None)
        yield
