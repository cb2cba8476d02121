"""Processes that read one checkpoint hold it against its checksums together, and have it in memory once."""

import errno
import json
import sys
import zipfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers import attempt, leave_together, run_on_two_ranks

from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.ranks import from_all_ranks, place_among_ranks
from orpo_lightning.strategies import FSDP2Strategy

WEIGHTS = {f"weight.{i}": torch.arange(5000.0) + i for i in range(4)}
STATE = {0: {"step": torch.tensor(7.0), "exp_avg": torch.ones(5000), "moments": [torch.ones(5000)]}}
CHECKPOINT = {
    "pytorch-lightning_version": "2.6.0",
    "global_step": 7,
    "state_dict": WEIGHTS,
    "optimizer_states": [{"state": STATE, "param_groups": [{"lr": 0.1, "params": [0]}]}],
    "callbacks": {"Best": {"best_model_score": torch.tensor(0.5), "weights": torch.ones(5000)}},
}
HOW = ["whole", "in parts"]
"""Under DDP, and under FSDP2."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of one launch of two processes."""
    place = tmp_path_factory.mktemp("ranks")
    for name in ("one", "spoilt", "replaced"):
        SafeCheckpointIO().save_checkpoint(CHECKPOINT, place / name / "last.ckpt")
    spoil(place / "spoilt" / "last.ckpt", entry=1)
    for name in ("best-step=5", "best-step=6"):
        SafeCheckpointIO().save_checkpoint(CHECKPOINT, place / "spoilt" / f"{name}.ckpt")
    spoil(place / "spoilt" / "best-step=6.ckpt", entry=1)  # the newer, which is tried first
    run_on_two_ranks(__file__, place)
    return place


@pytest.fixture(scope="module")
def said(folder):
    """What came of each process."""
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


def spoil(path, entry):
    """Turn a bit of what the second of two processes looks at alone."""
    with zipfile.ZipFile(path) as archive:
        inside = archive.infolist()[entry]
    content = bytearray(path.read_bytes())
    name_and_extra = sum(int.from_bytes(content[inside.header_offset + at :][:2], "little") for at in (26, 28))
    content[inside.header_offset + 30 + name_and_extra] ^= 1
    path.write_bytes(content)


def mapped_places(path):
    """The addresses of the memory of this process that lies in a file."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [range(int(first, 16), int(end, 16)) for first, end in spans]


def in_file(tensor, places):
    return any(tensor.data_ptr() in place for place in places)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_each_process_looks_at_its_share_alone(said, folder, how):
    first, second = (of_rank[f"looked at {how}"] for of_rank in said)
    with zipfile.ZipFile(folder / "one" / "last.ckpt") as archive:
        assert sorted(first + second) == sorted(archive.namelist())
    assert abs(len(first) - len(second)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_what_one_of_them_finds_damaged_all_refuse_in_the_same_words_and_name_one_that_is_whole(said, folder, how):
    first, second = (of_rank[f"spoilt {how}"] for of_rank in said)
    assert first == second
    assert first.startswith(f"ValueError: {folder / 'spoilt' / 'last.ckpt'} is damaged: it is cut off or altered ")
    assert first.endswith(f"whole is {folder / 'spoilt' / 'best-step=5.ckpt'}: take that one")


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_one_that_is_not_there_is_said_to_be_so_by_all(said, how):
    first, second = (of_rank[f"none {how}"] for of_rank in said)
    assert first == second
    assert first.startswith("FileNotFoundError: ")
    assert "none.ckpt" in first


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_where_the_system_lets_one_of_them_not_look_all_say_so(said, how):
    said_by = [of_rank[f"closed {how}"].partition(": ")[2] for of_rank in said]
    assert said_by == ["[Errno 13] Permission denied: 'last.ckpt'"] * 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped is asked of Linux")
@pytest.mark.parametrize("how", HOW)
def test_weights_and_moments_lie_in_the_file_and_what_may_be_kept_does_not(said, how):
    for of_rank in said:
        assert of_rank[f"in the file {how}"] == {
            **{name: True for name in ("weight.0", "exp_avg", "moments")},
            **{name: False for name in ("step", "best_model_score", "weights of a callback")},
        }


@pytest.mark.slow
def test_they_are_what_they_were_when_another_has_taken_the_name_of_the_file(said):
    assert [of_rank["after the next one"] for of_rank in said] == [True, True]


def test_one_process_alone_has_no_use_for_the_file_any_more(tmp_path):
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    found = SafeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(found["state_dict"]["weight.1"], WEIGHTS["weight.1"])
    assert mapped_places(tmp_path / "last.ckpt") == []


def places_of(found, path):
    state, callback = found["optimizer_states"][0]["state"][0], found["callbacks"]["Best"]
    tensors = {"weight.0": found["state_dict"]["weight.0"], "exp_avg": state["exp_avg"], "moments": state["moments"][0]}
    tensors |= {"step": state["step"], "best_model_score": callback["best_model_score"]}
    places = mapped_places(path)
    return {
        name: in_file(each, places) for name, each in {**tensors, "weights of a callback": callback["weights"]}.items()
    }


def refuse(path):
    raise PermissionError(errno.EACCES, "Permission denied", path.name)


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank, said, real = place_among_ranks()[0], {}, zipfile.ZipFile.open
    readers = {"whole": SafeCheckpointIO(), "in parts": FSDP2Strategy()}
    readers["in parts"].broadcast = lambda path: path
    for how, reader in readers.items():
        looked_at = said[f"looked at {how}"] = []

        def note(archive, name, *others, looked_at=looked_at):
            looked_at.append(name)
            return real(archive, name, *others)

        path = folder / "one" / "last.ckpt"
        with patch.object(zipfile.ZipFile, "open", note):
            found = reader.load_checkpoint(path)
        said[f"in the file {how}"] = places_of(found, path)
        attempt(said, f"spoilt {how}", partial(reader.load_checkpoint, folder / "spoilt" / "last.ckpt"))
        with patch.object(Path, "exists", refuse) if rank else nullcontext():
            attempt(said, f"closed {how}", partial(reader.load_checkpoint, path))
        attempt(said, f"none {how}", partial(reader.load_checkpoint, folder / "none.ckpt"))
    found = readers["whole"].load_checkpoint(folder / "replaced" / "last.ckpt")
    from_all_ranks(None)  # both have read it
    if rank == 0:
        later = {**CHECKPOINT, "state_dict": {name: torch.zeros(5000) for name in WEIGHTS}, "optimizer_states": []}
        SafeCheckpointIO().save_checkpoint(later, folder / "replaced" / "last.ckpt")
    from_all_ranks(None)
    as_it_was = [torch.equal(found["state_dict"][name], weight) for name, weight in WEIGHTS.items()]
    as_it_was.append(torch.equal(found["optimizer_states"][0]["state"][0]["exp_avg"], STATE[0]["exp_avg"]))
    said["after the next one"] = all(as_it_was)
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    leave_together()
