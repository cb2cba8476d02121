"""What a name may stand for: a folder, a run, a checkpoint, a hub id."""

import importlib.metadata
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch.testing._internal.distributed.fake_pg import FakeStore

from orpo_lightning.cache_folder import CACHE_VARIABLE
from orpo_lightning.models import hub, pretrained, short_names
from orpo_lightning.models.card import ModelCard
from orpo_lightning.models.checkpoint import describe_policy
from orpo_lightning.models.identity import fingerprint
from orpo_lightning.models.loading import PolicyConfig, load_causal_lm
from orpo_lightning.models.pretrained import base_of_adapter, identity_of, lasting_name, resolve
from orpo_lightning.models.tokenizer import load_tokenizer

HUB_ID = "someone/some-model"


def a_model(folder):
    """A copy of the tiny model's folder."""
    return Path(shutil.copytree(resolve("tiny"), folder))


def write_checkpoint(path, seed, policy=PolicyConfig("tiny")):
    """A checkpoint of the tiny model with other weights, and those weights' fingerprint."""
    net = load_causal_lm(policy)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "policy": describe_policy(policy, net, None),
            "state_dict": {f"policy.net.{name}": value for name, value in net.state_dict().items()},
            "base": None,
            "objective": {"trained_by": [[0, "ORPO(lambda_=0.1)"]]},
            "global_step": 7,
        },
        path,
    )
    return fingerprint(net)


@pytest.fixture
def second_of_two_processes():
    """This process is the second of a group whose messages go nowhere."""
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


def weights_of(name):
    return fingerprint(load_causal_lm(PolicyConfig(str(name))))


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def test_a_model_folder_stands_for_itself(tmp_path):
    assert resolve(str(a_model(tmp_path / "mine"))) == str(tmp_path / "mine")


def test_a_run_stands_for_the_model_that_it_wrote(tmp_path):
    write_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", seed=1)
    (a_model(tmp_path / "run" / "model") / "config.json").touch()
    assert resolve(str(tmp_path / "run")) == str(tmp_path / "run" / "model")


@pytest.mark.parametrize("steps", [3, 7, 9])
def test_of_a_run_that_was_copied_the_steps_decide_and_not_the_times(tmp_path, steps):
    newest = write_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", seed=1)  # of step 7
    model = a_model(tmp_path / "run" / "model")
    ModelCard("ORPO()", "tiny", steps, "0.1.0").write(model)
    (model / "README.md" if steps < 7 else tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert (weights_of(tmp_path / "run") == newest) is (steps < 7)


def test_a_run_that_has_gone_on_since_it_wrote_its_model_stands_for_its_newest_checkpoint(tmp_path):
    (a_model(tmp_path / "run" / "model") / "config.json").touch()
    newest = write_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", seed=1)
    assert weights_of(tmp_path / "run") == newest


def test_a_run_without_a_model_stands_for_its_newest_checkpoint(tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    newest = write_checkpoint(checkpoints / "a.ckpt", seed=1)
    write_checkpoint(checkpoints / "b.ckpt", seed=2)
    os.utime(checkpoints / "b.ckpt", ns=(0, 0))
    assert weights_of(tmp_path / "run") == newest


def test_a_checkpoint_becomes_a_folder_once_for_each_of_its_contents(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    first = write_checkpoint(path, seed=1)
    folder = resolve(str(path))
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(os.listdir(folder))
    assert weights_of(folder) == first
    with monkeypatch.context() as patched:
        patched.setattr("orpo_lightning.models.checkpoint.export_checkpoint", lambda *args: pytest.fail("again"))
        assert resolve(str(path)) == folder
    second = write_checkpoint(path, seed=2)
    assert weights_of(path) == second != first


def test_another_version_of_the_package_exports_a_checkpoint_again(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "last.ckpt", seed=1)
    before = resolve(str(tmp_path / "last.ckpt"))
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9.9" if name == "orpo-lightning" else version(name)
    )
    assert resolve(str(tmp_path / "last.ckpt")) != before


def test_a_checkpoint_of_a_run_that_started_from_a_checkpoint_is_found(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_checkpoint(Path("first.ckpt"), seed=1)
    last = write_checkpoint(Path("second.ckpt"), seed=2, policy=PolicyConfig("first.ckpt"))
    monkeypatch.chdir(tmp_path)  # where "first.ckpt" is nothing
    assert weights_of("work/second.ckpt") == last


def an_adapter(folder, base):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return str(folder)


@pytest.mark.parametrize(
    ("name", "lasting"),
    [("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"), ("tiny", "tiny"), ("run", "run/model"), ("a.ckpt", "a.ckpt")],
)
def test_a_model_is_named_to_others_by_what_they_can_find(tmp_path, monkeypatch, name, lasting):
    monkeypatch.chdir(tmp_path)
    a_model(Path("run/model"))
    write_checkpoint(Path("a.ckpt"), seed=1)
    expected = str(tmp_path / lasting) if Path(name).exists() else lasting
    assert lasting_name(name) == expected


def test_the_base_of_an_adapter_is_found_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setitem(short_names.HUB_IDS, "tiny", "someone/tiny")
    assert base_of_adapter(an_adapter(tmp_path / "a", "someone/tiny")) == ("tiny", None)
    assert base_of_adapter(str(a_model(tmp_path / "model"))) is None


def test_where_the_package_of_a_short_name_is_missing_its_hub_id_counts(tmp_path, cached_on_the_hub, monkeypatch):
    def missing():
        raise ModuleNotFoundError("pip install it")

    monkeypatch.setitem(short_names._BUILDERS, "some", (missing, None))
    monkeypatch.setitem(short_names.HUB_IDS, "some", HUB_ID)
    assert base_of_adapter(an_adapter(tmp_path / "a", HUB_ID)) == (HUB_ID, None)


def test_an_adapter_whose_base_is_not_there_says_so(tmp_path):
    folder = an_adapter(tmp_path / "a", "/gone/base")
    for load in (load_tokenizer, lambda name: load_causal_lm(PolicyConfig(name))):
        with pytest.raises(FileNotFoundError, match=r"needs the model that it was trained on.*'/gone/base'") as error:
            load(folder)
        assert str(tmp_path / "a" / "adapter_config.json") in str(error.value)


@pytest.mark.parametrize("base", [None, "itself"])
def test_an_adapter_of_nothing_is_refused(tmp_path, base):
    folder = an_adapter(tmp_path / "a", base and str(tmp_path / "a"))
    with pytest.raises(ValueError, match="accepted: the folder or hub id of the model that it was trained on"):
        load_causal_lm(PolicyConfig(folder))


def test_an_adapter_without_a_tokenizer_takes_its_bases(tmp_path):
    assert load_tokenizer(an_adapter(tmp_path / "a", "tiny")).get_vocab() == load_tokenizer("tiny").get_vocab()


def test_the_files_of_an_adapter_are_those_of_its_base_too(tmp_path):
    base = a_model(tmp_path / "base")
    folder = an_adapter(tmp_path / "a", str(base))
    before = identity_of(folder)
    os.utime(base / "model.safetensors", ns=(0, 0))
    assert identity_of(folder) != before


def test_a_folder_without_a_model_says_what_was_looked_for(tmp_path):
    (tmp_path / "configs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config.json.*checkpoints/\*.ckpt") as error:
        resolve(str(tmp_path / "configs"))
    assert str(tmp_path / "configs") in str(error.value)


@pytest.mark.parametrize("name", ["models/mine", "mine"])
def test_offline_a_name_that_is_nowhere_is_answered_at_once_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=name) as error:
        load_causal_lm(PolicyConfig(name))
    assert time.monotonic() - start < 1
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert all(part in message for part in ("tiny, smollm2", "HF_HUB_OFFLINE is set"))


def test_without_a_network_the_hub_is_asked_once(monkeypatch):
    calls = []

    def no_network(*args, **kwargs):
        calls.append(args)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(hub, "get_hf_file_metadata", no_network)
    with pytest.raises(FileNotFoundError, match=r"the hub cannot be reached \(Name or service not known\)"):
        resolve(HUB_ID)
    assert len(calls) == 1


def test_what_cannot_be_a_hub_id_is_not_asked_for():
    with pytest.raises(FileNotFoundError, match="it is not a hub id"):
        resolve("two words")


@pytest.fixture
def cached_on_the_hub(tmp_path, monkeypatch):
    """The tiny model in the hub's own cache, as the hub's client lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--some-model"
    a_model(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    for revision in ("main", "v2"):
        (repository / "refs" / revision).write_text("0" * 40)


def test_offline_a_hub_id_is_found_in_the_hubs_cache(cached_on_the_hub):
    assert resolve(HUB_ID) == HUB_ID
    assert weights_of(HUB_ID) == weights_of("tiny")
    assert fingerprint(load_causal_lm(PolicyConfig(HUB_ID, revision="v2"))) == weights_of("tiny")


def test_a_revision_that_is_not_there_is_refused(cached_on_the_hub):
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        load_causal_lm(PolicyConfig(HUB_ID, revision="v3"))


def test_a_hub_id_is_known_by_its_commit_and_a_branch_may_move(monkeypatch):
    asked = []
    monkeypatch.setattr(pretrained, "why_not_on_hub", lambda name, revision: asked.append((name, revision)))
    first, second = (identity_of(HUB_ID, digit * 40) for digit in "12")
    assert first != second
    assert first == identity_of(HUB_ID, "1" * 40) != identity_of("someone/else", "1" * 40)
    assert identity_of(HUB_ID) is identity_of(HUB_ID, "main") is identity_of(HUB_ID, "v1.0") is None
    # the revision that is loaded is the one that has to be there
    assert asked[:2] == [(HUB_ID, "1" * 40), (HUB_ID, "2" * 40)]


def test_a_local_model_is_known_by_its_files(tmp_path):
    folder = a_model(tmp_path / "model")
    before = identity_of(str(folder))
    assert identity_of(str(folder)) == before != identity_of("tiny")
    os.utime(folder / "config.json", (0, 0))
    assert identity_of(str(folder)) != before


def test_a_model_that_another_process_than_the_first_makes_has_its_weights(tmp_path, second_of_two_processes):
    assert weights_of(resolve("tiny")) == weights_of("tiny")
    fingerprint_of_checkpoint = write_checkpoint(tmp_path / "a.ckpt", seed=1)
    assert weights_of(resolve(str(tmp_path / "a.ckpt"))) == fingerprint_of_checkpoint
