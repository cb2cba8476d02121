"""Checkpoints that are folders: what was written is read, whole or weight by weight, and nothing of it can run code."""

import errno
import gc
import os
import pickle
import random
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from lightning import LightningModule

from orpo_lightning import sharded_checkpoint
from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.integrity import check_whole, damage
from orpo_lightning.manifest import CONFIG_HASH, MANIFEST_FILE, Manifest, read_manifest
from orpo_lightning.sharded_checkpoint import ShardedCheckpoint, is_sharded, write_sharded
from orpo_lightning.strategies import FSDP1Strategy, FSDP2Strategy

WEIGHTS = {f"policy.net.layer.{i}.weight": torch.arange(12.0).reshape(3, 4) + i for i in range(4)}
MOMENTS = {i: {"step": torch.tensor(7.0), "exp_avg": torch.full((3, 4), float(i))} for i in range(4)}
CHECKPOINT = {
    "pytorch-lightning_version": "2.6.0",
    "global_step": 7,
    "epoch": 1,
    CONFIG_HASH: "ab12",
    "state_dict": WEIGHTS,
    "optimizer_states": [{"state": MOMENTS, "param_groups": [{"lr": 0.1, "params": [0, 1, 2, 3]}]}],
    "loops": {"fit_loop": {"total": 7}},
}


@pytest.fixture
def folder(tmp_path):
    FSDP2Strategy().save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def assert_equal(found, wanted):
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_equal(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    else:
        assert found == wanted


def test_what_was_written_is_read(folder):
    assert is_sharded(folder)
    assert_equal(ShardedCheckpoint(folder).whole(), CHECKPOINT)
    assert_equal(SafeCheckpointIO().load_checkpoint(folder), CHECKPOINT)


def test_a_disk_that_is_full_is_an_error_that_says_so_and_what_was_there_stays(folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(OSError, match="cannot be written") as refused:
            FSDP2Strategy().save_checkpoint(CHECKPOINT, folder)
    assert str(refused.value) == (
        f"{folder} cannot be written: No space left on device. What was there before is as it was: make room, then go "
        "on with --ckpt_path last"
    )
    assert os.listdir(folder.parent) == ["last.ckpt"]
    assert_equal(ShardedCheckpoint(folder).whole(), CHECKPOINT)


FULL = """
import resource, sys, torch
from orpo_lightning.strategies import FSDP2Strategy

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # the system refuses what goes beyond, as on a full disk
plain = {"pytorch-lightning_version": "2.6.0", "optimizer_states": []}
FSDP2Strategy().save_checkpoint({**plain, "state_dict": {"weight": torch.zeros(100_000)}}, sys.argv[1])
"""


@pytest.mark.slow
def test_it_says_what_the_system_says_and_not_what_torch_makes_of_it(folder):
    done = subprocess.run([sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith(f"OSError: {folder} cannot be written: File too large. What was ")
    assert_equal(ShardedCheckpoint(folder).whole(), CHECKPOINT)


def test_after_a_save_all_of_it_is_on_the_disk_and_its_name_too(tmp_path, monkeypatch):
    synced, moved, rename, fsync = [], [], os.rename, os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(Path(os.readlink(f"/proc/self/fd/{number}"))) or fsync(number)
    )
    monkeypatch.setattr(os, "rename", lambda *places: moved.append(len(synced)) or rename(*places))
    FSDP2Strategy().save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    before, after = synced[: moved[-1]], synced[moved[-1] :]
    assert {path.name for path in before} >= {"__0_0.distcp", ".metadata.tmp", "meta.pt", "manifest.json"}
    assert before[-1].name == "new"  # the folder of these
    assert after == [tmp_path]


def test_an_optimizer_without_a_state_is_read_too(tmp_path):
    plain = {**CHECKPOINT, "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}]}
    write_sharded(plain, tmp_path)
    assert_equal(ShardedCheckpoint(tmp_path).whole(), plain)


OF_AN_OPTIMIZER = {
    "step": 7,
    "scale": 0.5,
    "warm": True,
    "way": "up",
    "before": None,
    "betas": (0.9, 0.99),
    "empty": {},
    "moments": {"first": torch.arange(12.0).reshape(3, 4), 1: torch.tensor(2), "age": 3},
    "history": [torch.arange(4), None, [torch.zeros(2, dtype=torch.bfloat16), 1.5]],
    "pair": (torch.ones(3), "text"),
}


def with_state(state):
    return {**CHECKPOINT, "optimizer_states": [{"state": state, "param_groups": [{"lr": 0.1, "params": [0]}]}]}


def test_the_state_of_an_optimizer_may_be_numbers_text_and_nothing_and_tensors_at_any_depth(tmp_path):
    wanted = with_state({0: OF_AN_OPTIMIZER, "of all": {"count": 9}})
    FSDP2Strategy().save_checkpoint(wanted, tmp_path / "last.ckpt")
    found = SafeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert_equal(found, wanted)
    state = found["optimizer_states"][0]["state"][0]
    assert {key: type(value) for key, value in state.items()} == {key: type(OF_AN_OPTIMIZER[key]) for key in state}
    assert state["history"][2][0].dtype is torch.bfloat16


def test_a_checkpoint_that_was_written_before_is_read_too(folder):
    plain = torch.load(folder / "meta.pt", weights_only=True)
    plain["optimizer_states"][0]["state"] = {}  # all of it was in the names of the tensors
    torch.save(plain, folder / "meta.pt")
    assert_equal(ShardedCheckpoint(folder).whole(), CHECKPOINT)


class Clock:
    """Not plain."""


@pytest.mark.parametrize("write", [FSDP2Strategy().save_checkpoint, SafeCheckpointIO().save_checkpoint])
@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"clock": Clock()}, r"optimizer_states\.0\.state\.0\.clock, a .*\.Clock"),
        ({"history": [1, {"clock": Clock()}]}, r"optimizer_states\.0\.state\.0\.history\.1\.clock, a .*\.Clock"),
        ({Clock: 1}, r"the key optimizer_states\.0\.state\.0\.<class .*Clock'>, a builtins\.type"),
    ],
)
def test_what_could_not_be_read_again_is_refused_before_anything_is_overwritten(folder, write, state, name):
    with pytest.raises(
        ValueError, match=f"a checkpoint cannot hold {name}: .*; accepted: tensors, numbers, text, None"
    ):
        write(with_state({0: state}), folder)
    assert os.listdir(folder.parent) == ["last.ckpt"]
    assert_equal(ShardedCheckpoint(folder).whole(), CHECKPOINT)


def test_so_are_two_tensors_of_one_name_and_weights_that_are_no_tensors(folder):
    state = {"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"two tensors of the name optimizer_states\.0\.0\.a\.b; give one of"):
        FSDP2Strategy().save_checkpoint(with_state({0: state}), folder)
    with pytest.raises(ValueError, match=r"cannot hold state_dict\.extra, a dict; accepted: tensors\. Have the module"):
        FSDP2Strategy().save_checkpoint({**CHECKPOINT, "state_dict": {**WEIGHTS, "extra": {}}}, folder)
    assert_equal(ShardedCheckpoint(folder).whole(), CHECKPOINT)


def test_the_manifest_says_what_is_there(folder):
    manifest = read_manifest(folder / MANIFEST_FILE, Manifest)
    assert (manifest.step, manifest.epoch, manifest.config) == (7, 1, "ab12")
    assert manifest.versions.keys() == {"orpo-lightning", "torch", "transformers", "lightning"}
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json"}
    assert manifest.sizes == files


def test_weights_are_read_one_at_a_time(folder):
    alive = []
    for name, weight in ShardedCheckpoint(folder).weights.items():
        assert torch.equal(weight, WEIGHTS[name])
        alive.append(weakref.ref(weight))
        del weight
        gc.collect()
    assert len(alive) == 4
    assert not any(reference() is not None for reference in alive)


def test_what_is_asked_for_may_be_a_part(folder):
    into = {"state_dict.policy.net.layer.2.weight": torch.zeros(3, 4)}
    ShardedCheckpoint(folder).load(into)
    assert_equal(into, {"state_dict.policy.net.layer.2.weight": WEIGHTS["policy.net.layer.2.weight"]})


class Malicious:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("name", [".metadata", "meta.pt"])
def test_nothing_in_it_can_run_code(folder, tmp_path, name):
    if name == "meta.pt":
        torch.save(Malicious(tmp_path / "it ran"), folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Malicious(tmp_path / "it ran")))
    with pytest.raises(ValueError, match="cannot be read"):
        ShardedCheckpoint(folder).plain()
    assert not (tmp_path / "it ran").exists()


def test_only_the_classes_of_torchs_metadata_are_made():
    unpickler = sharded_checkpoint._PlainUnpickler
    for module, name in (("os", "system"), ("torch", "load"), ("torch.distributed.checkpoint.metadata", "os")):
        with pytest.raises(pickle.UnpicklingError, match="is not metadata"):
            unpickler(open(os.devnull, "rb")).find_class(module, name)  # noqa: SIM115  # the unpickler outlives no line


@pytest.fixture
def file(tmp_path):
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_what_is_whole_is_whole(file):
    assert damage(file) is None
    check_whole(file)


def altered(content, seed):
    """Cut off, or with a bit turned somewhere."""
    draw = random.Random(seed)
    if seed % 4 == 0:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def is_refused(path):
    """Whether a checkpoint is refused in words of ours; else it is read as it was written."""
    try:
        found = SafeCheckpointIO().load_checkpoint(path)
    except ValueError:
        return True
    assert_equal(found, CHECKPOINT)
    return False


def test_no_altered_byte_of_a_file_is_read(file):
    content = file.read_bytes()
    refused = 0
    for seed in range(300):
        file.write_bytes(altered(content, seed))
        refused += is_refused(file)
    assert refused > 150  # others are in what says nothing, such as the dates of the archive


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "meta.pt", "manifest.json"])
def test_nor_of_a_folder(folder, name):
    content = (folder / name).read_bytes()
    refused = 0
    for seed in range(60):
        (folder / name).write_bytes(altered(content, seed))
        refused += is_refused(folder)
    assert refused >= 15  # those that are cut off at least
    (folder / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"last\.ckpt"):
        SafeCheckpointIO().load_checkpoint(folder)


def test_one_beside_it_that_is_whole_is_offered(folder):
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, folder.with_name("best-step=3.ckpt"))
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, folder.with_name("best-step=5.ckpt"))
    newest = folder.with_name("best-step=5.ckpt")
    newest.write_bytes(newest.read_bytes()[:900])
    (folder / "__0_0.distcp").write_bytes((folder / "__0_0.distcp").read_bytes()[:900])
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: __0_0\.distcp has 900 bytes") as refused:
        SafeCheckpointIO().load_checkpoint(folder)
    assert str(refused.value).endswith(f"whole is {folder.with_name('best-step=3.ckpt')}: take that one")


def test_tensors_that_are_missing_from_a_file_are_noticed(file):
    found = torch.load(file, weights_only=True)
    del found["state_dict"]["policy.net.layer.2.weight"]
    torch.save(found, file)
    with pytest.raises(ValueError, match="state_dict has 144 bytes and was written with 192") as refused:
        SafeCheckpointIO().load_checkpoint(file)
    assert str(refused.value).startswith(f"{file} is damaged: ")
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, file.with_name("best-step=3.ckpt"))
    with pytest.raises(ValueError, match=r"whole is .*best-step=3\.ckpt: take that one"):
        SafeCheckpointIO().load_checkpoint(file)


@pytest.mark.parametrize("first", ["file", "folder"])
def test_a_file_takes_the_place_of_a_folder_and_the_other_way_round(tmp_path, first):
    place, later = tmp_path / "last.ckpt", {**CHECKPOINT, "global_step": 8}

    def write(kind, checkpoint):
        if kind == "file":
            SafeCheckpointIO().save_checkpoint(checkpoint, place)
        else:
            FSDP2Strategy().save_checkpoint(checkpoint, place)

    write(first, CHECKPOINT)
    write("folder" if first == "file" else "file", later)
    assert_equal(SafeCheckpointIO().load_checkpoint(place), later)
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("strategy", [FSDP1Strategy, FSDP2Strategy])
def test_of_a_folder_that_was_read_before_nothing_is_taken_for_a_file(folder, tmp_path, strategy):
    reader, module = strategy(), Boring()
    reader.connect(module)
    for place, value in ((tmp_path / "folder.ckpt", 1.0), (tmp_path / "file.ckpt", 2.0)):
        weights = {name: torch.full_like(weight, value) for name, weight in module.state_dict().items()}
        checkpoint = {"pytorch-lightning_version": "2.6.0", "global_step": 7, "state_dict": weights, "loops": {}}
        checkpoint["optimizer_states"] = []
        if place.stem == "folder":
            place.mkdir()
            write_sharded(checkpoint, place)
        else:
            SafeCheckpointIO().save_checkpoint(checkpoint, place)
        reader.load_model_state_dict(reader.load_checkpoint(place))
        assert all((weight == value).all() for weight in module.state_dict().values())


class Boring(LightningModule):
    def __init__(self):
        super().__init__()
        self.policy = torch.nn.Linear(2, 2)


class Named(torch.Tensor):
    """A kind of tensor that torch does not read again by itself."""


def test_a_tensor_of_a_kind_of_ones_own_is_refused_by_name(tmp_path):
    checkpoint = {"pytorch-lightning_version": "2.6.0", "state_dict": {"weight": torch.zeros(2).as_subclass(Named)}}
    with pytest.raises(ValueError, match=r"cannot hold state_dict\.weight, a .*\.Named: reading"):
        SafeCheckpointIO().save_checkpoint(checkpoint, tmp_path / "last.ckpt")
