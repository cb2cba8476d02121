"""A manifest that does not say all it has to is refused in a line, whatever is wrong with it: nothing is held by it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import slow_but

from orpo_lightning.checkpoint_io import SafeCheckpointIO
from orpo_lightning.manifest import MANIFEST, MANIFEST_FILE
from orpo_lightning.models.content import MODEL_MANIFEST, check_content, write_model_manifest
from orpo_lightning.models.pretrained import resolve
from orpo_lightning.strategies import FSDP2Strategy

CHECKPOINT = {
    "pytorch-lightning_version": "2.6.0",
    "global_step": 7,
    "epoch": 1,
    "state_dict": {"policy.net.weight": torch.arange(12.0)},
    "optimizer_states": [],
}
OF_ALL = ("step", "epoch", "config", "versions", "sizes", "checksums")
GONE = "<gone>"
VALUES = [GONE, None, True, -1, 3.5, "text", [1], {}, {"a": None}]


class OfFile:
    """A checkpoint that is a file, which holds its manifest."""

    keys = OF_ALL
    names, advice = "last.ckpt is damaged: the manifest", "no other checkpoint beside it is whole"

    def __init__(self, folder: Path):
        self.place = folder / "last.ckpt"
        SafeCheckpointIO().save_checkpoint(CHECKPOINT, self.place)

    def change(self, changed):
        found = torch.load(self.place, weights_only=True)
        torch.save(found | {MANIFEST: changed(found[MANIFEST])}, self.place)

    def read(self):
        SafeCheckpointIO().load_checkpoint(self.place)


class OfFolder:
    """A sharded checkpoint."""

    keys = OF_ALL
    names, advice = f"last.ckpt is damaged: {MANIFEST_FILE}", "no other checkpoint beside it is whole"
    file = MANIFEST_FILE

    def __init__(self, folder: Path):
        self.place = folder / "last.ckpt"
        FSDP2Strategy().save_checkpoint(CHECKPOINT, self.place)

    def change(self, changed):
        manifest = self.place / self.file
        manifest.write_text(json.dumps(changed(json.loads(manifest.read_text()))))

    def read(self):
        SafeCheckpointIO().load_checkpoint(self.place)


class OfModel(OfFolder):
    """An exported model."""

    keys = (*OF_ALL, "hashes")
    names, advice = f"model is damaged: {MODEL_MANIFEST}", f"copy or download the folder again; .* {MODEL_MANIFEST}"
    file = MODEL_MANIFEST

    def __init__(self, folder: Path):
        self.place = folder / "model"
        shutil.copytree(resolve("tiny"), self.place)
        write_model_manifest(self.place, step=7, epoch=1, config=None)

    def read(self):
        check_content(self.place)


KINDS = (OfFile, OfFolder, OfModel)
FOLDERS = (OfFolder, OfModel)


def refused(kept, detail=""):
    with pytest.raises(ValueError, match=rf"{kept.names}.*{detail}.*{kept.advice}") as error:
        kept.read()
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "value", slow_but([GONE, None, "text"], [GONE, None, True, -1, 3.5, "text", [1], {}, {"a": None}]), ids=repr
)
@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in KINDS for key in kind.keys])
def test_each_part_has_to_be_there_and_of_its_type(kind, key, value, tmp_path):
    kept = kind(tmp_path)
    fits = {
        **dict.fromkeys(("step", "epoch"), value == -1),  # nothing is held against it
        "config": value is None or value == "text",
        "versions": value == {},
        "checksums": value == {} and kind is not OfFolder,  # files of the others have theirs elsewhere
    }

    def changed(manifest):
        rest = {name: each for name, each in manifest.items() if name != key}
        return rest if value is GONE else rest | {key: value}

    kept.change(changed)
    if fits.get(key):
        kept.read()
    else:
        refused(kept, key if key != "checksums" or value != {} else "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", slow_but([None, "text"], [None, [], ["step"], "text", 3, True, {}]), ids=repr)
def test_it_has_to_be_a_mapping_that_holds_all(kind, whole, tmp_path):
    kept = kind(tmp_path)
    kept.change(lambda manifest: whole)
    refused(kept, "has to hold")


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x00" * 40, b"\xff\xfe\x00", b'{"step": 7', b"[" * 200_000, b'{"step": ' + b"9" * 9_000 + b"}"],
    ids=["empty", "a brace", "zeros", "no text", "cut off", "nested without end", "a number without end"],
)
def test_it_has_to_be_json(kind, content, tmp_path):
    kept = kind(tmp_path)
    (kept.place / kept.file).write_bytes(content)
    refused(kept)


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("what", ["a folder", "a link to nothing"])
def test_it_has_to_be_a_file(kind, what, tmp_path):
    kept = kind(tmp_path)
    manifest = kept.place / kept.file
    manifest.unlink()
    if what == "a folder":
        manifest.mkdir()
    else:
        manifest.symlink_to("gone")
    refused(kept, "cannot be read")


@pytest.mark.parametrize(
    ("kind", "keys", "name"),
    [
        (OfFile, ["sizes"], "state_dict"),
        (OfFolder, ["sizes"], "meta.pt"),
        (OfFolder, ["sizes"], ".metadata"),
        (OfFolder, ["checksums"], ".metadata"),
        (OfModel, ["sizes"], "model.safetensors"),
        (OfModel, ["hashes"], "model.safetensors"),
        (OfModel, ["sizes", "hashes"], "model.safetensors"),
    ],
)
def test_what_it_does_not_tell_of_is_not_taken_for_whole(kind, keys, name, tmp_path):
    kept = kind(tmp_path)

    def changed(manifest):
        for key in keys:
            del manifest[key][name]
        return manifest

    kept.change(changed)
    refused(kept)


@pytest.mark.parametrize("kind", FOLDERS)
def test_nothing_outside_the_folder_is_looked_at(kind, tmp_path):
    kept = kind(tmp_path)
    key = "hashes" if kind is OfModel else "checksums"
    (tmp_path / "other").write_text("other")
    kept.change(lambda manifest: manifest | {key: {**manifest[key], "../other": next(iter(manifest[key].values()))}})
    refused(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_later_version_adds_is_passed_over(kind, tmp_path):
    kept = kind(tmp_path)
    kept.change(lambda manifest: manifest | {"signed_by": "a later version"})
    kept.read()
