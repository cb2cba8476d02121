"""The weights in the files of a model are known by their content, read as little and as seldom as can be."""

import json
import os
import re
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from helpers import leave_together, run_on_two_ranks
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from orpo_lightning.models import weight_files
from orpo_lightning.models.hub import snapshot_of
from orpo_lightning.models.pretrained import resolve
from orpo_lightning.models.tiny import tiny_model
from orpo_lightning.models.weight_files import content_of, content_together, files_of_weights

EMBEDDINGS = "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny model's folder."""
    return Path(shutil.copytree(resolve("tiny"), tmp_path / "copy"))


@pytest.fixture
def opened(monkeypatch):
    """The names of the files whose weights are looked at."""
    names = []
    look = weight_files.safe_open
    monkeypatch.setattr(weight_files, "safe_open", lambda file, *kind: names.append(file.name) or look(file, *kind))
    return names


def in_shards(folder, size="50KB"):
    net = tiny_model("llama", seed=1)
    for place, limit in ((folder / "whole", "5GB"), (folder / "shards", size)):
        net.save_pretrained(place, max_shard_size=limit)
    return folder / "whole", folder / "shards"


def test_the_same_weights_have_the_same_content_however_many_files_they_are_in(tmp_path):
    whole, shards = in_shards(tmp_path)
    assert len(files_of_weights(whole)) == 1 < len(files_of_weights(shards))
    assert content_of(whole) == content_of(shards)
    assert content_of(whole) != content_of(Path(resolve("tiny")))


def test_what_surrounds_the_weights_does_not_count(folder):
    before = content_of(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", {"format": "pt", "written": "today"})
    (folder / "README.md").write_text("mine")
    torch.save({}, folder / "pytorch_model.bin")  # is not read where there are safetensors
    save_file({"weight": torch.ones(1)}, folder / "adapter_model.safetensors")
    assert content_of(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights[EMBEDDINGS][0].add_(1e-6),
        lambda weights: weights.update({EMBEDDINGS: weights[EMBEDDINGS].T.contiguous()}),
        lambda weights: weights.update({EMBEDDINGS: weights[EMBEDDINGS].view(torch.int32)}),
        lambda weights: weights.update({"other": weights.pop(EMBEDDINGS)}),
        lambda weights: weights.pop(EMBEDDINGS),
        lambda weights: weights.update({"scalar": torch.tensor(1.0)}),
    ],
    ids=["number", "shape", "dtype", "name", "one less", "one more"],
)
def test_every_weight_counts_with_its_name_dtype_and_shape(folder, change):
    before = content_of(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert content_of(folder) != before


def test_a_bin_file_is_read_as_bytes(folder, monkeypatch):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the weights were loaded"))
    before = content_of(folder)
    assert list(before) == ["pytorch_model.bin"]
    with (folder / "pytorch_model.bin").open("ab") as file:
        file.write(b"0")
    assert content_of(folder) != before


def test_bin_files_in_parts_are_those_that_their_index_names(folder):
    (folder / "model.safetensors").unlink()
    for name in ("a.bin", "b.bin", "c.bin"):
        torch.save({}, folder / name)
    index = {"weight_map": {"x": "b.bin", "y": "a.bin", "z": "a.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert [file.name for file in files_of_weights(folder)] == ["a.bin", "b.bin"]


def test_a_file_that_the_settings_name_goes_before_the_others(folder):
    save_file({"weight": torch.ones(1)}, folder / "mine.safetensors")
    assert files_of_weights(folder, "mine.safetensors") == [folder / "mine.safetensors"]


def test_a_folder_without_weights_is_refused_in_a_line(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights in .*copy: accepted: model\.safetensors, .*\.bin"):
        content_of(folder)


def test_files_are_looked_at_once_as_long_as_nobody_writes_to_them(folder, opened):
    content_of(folder)
    content_of(folder)
    assert opened == ["model.safetensors"]
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors")
    assert list(content_of(folder)) == ["weight torch.float32 [1]"]
    assert opened == ["model.safetensors"] * 2


def test_of_all_weights_one_at_a_time_is_in_memory(folder, monkeypatch):
    seen, digest_of = [], weight_files._digest_of

    def looking(weight):
        assert not any(each() is not None for each in seen)
        seen.append(weakref.ref(weight))
        return digest_of(weight)

    monkeypatch.setattr(weight_files, "_digest_of", looking)
    content_of(folder)
    assert len(seen) == len(load_file(folder / "model.safetensors"))


def as_one_of_two(monkeypatch, rank, of_the_other, machine=None):
    monkeypatch.setattr(weight_files, "place_on_machine", lambda: (rank, 2 if machine is None else 1))
    monkeypatch.setattr(weight_files, "fail_together", lambda act: act())
    monkeypatch.setattr(weight_files, "from_all_ranks", lambda own: [own, (machine or own[0], of_the_other)])


def test_of_two_processes_of_a_machine_each_reads_its_share_and_both_know_all(folder, monkeypatch):
    whole, shares = content_of(folder), []
    for rank in (0, 1):
        monkeypatch.setattr(weight_files, "from_all_ranks", lambda own: shares.append(own[1]) or [own])
        monkeypatch.setattr(weight_files, "place_on_machine", lambda rank=rank: (rank, 2))
        content_together(folder)
    first, second = shares
    assert not first.keys() & second.keys()
    assert abs(len(first) - len(second)) <= 1
    assert first | second == whole
    for rank, (own, other) in enumerate((shares, shares[::-1])):
        as_one_of_two(monkeypatch, rank, other)
        assert content_together(folder) == whole == own | other


@pytest.mark.parametrize("other", ["altered", "in files of another kind"])
def test_a_machine_with_another_copy_is_told_of(folder, monkeypatch, other):
    own = content_of(folder)
    name = min(own)
    there = own | {name: "f" * 64} if other == "altered" else {"pytorch_model.bin": "f" * 64}
    as_one_of_two(monkeypatch, 0, there, machine="another")
    with pytest.raises(ValueError, match=f"not the same on all machines .* {re.escape(name)}.*copy or download"):
        content_together(folder)
    as_one_of_two(monkeypatch, 0, own, machine="another")
    assert content_together(folder) == own


def test_a_snapshot_of_the_hub_has_the_content_of_its_files_in_a_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--some-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):  # as the hub's client lays them out
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert snapshot_of("someone/some-model", None) == snapshot
    assert content_of(snapshot) == content_of(folder)


@pytest.mark.slow
def test_two_processes_read_half_each_and_fail_together(folder):
    run_on_two_ranks(__file__, folder)
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [each["content"] for each in found] == [content_of(folder)] * 2
    assert sorted(found[0]["seen"] + found[1]["seen"]) == sorted(load_file(folder / "model.safetensors"))
    assert [each["error"] for each in found] == [f"no weights in {folder / 'none'}: accepted: mine.safetensors"] * 2


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank, seen, share = os.environ["RANK"], [], weight_files._share

    def seeing(*given):
        for name, weight in share(*given):
            seen.append(name)
            yield name, weight

    weight_files._share = seeing
    found = {"content": content_together(folder), "seen": list(seen)}
    (folder / "mine.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(OSError, match="no weights") as error:  # in the first alone
        content_together(folder / "none" if rank == "0" else folder, "mine.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps({**found, "error": str(error.value)}))
    leave_together()
