"""Secrets of the environment and of settings are in nothing that a command leaves behind or prints, and still work."""

import gzip
import hashlib
import html
import io
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.parse
import zipfile
from pathlib import Path

import pytest
import yaml
from forked_commands import Forks
from wandb_file import _records as records_of

import orpo_lightning
from orpo_lightning.run_folder import MODEL_FOLDER

ENVIRONMENT = {
    "HF_TOKEN": "hf_OfTheEnvironment0001",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "with/slash+plus==0002",
    "MY_PASSWORD": "with blank'quote\"and ö 0003",
    "SERVICE_CREDENTIALS": '{"private_key": "line one of 0004\\nline two of 0004"}',
    "DEPLOY_KEY": "-----BEGIN KEY-----\nfirst line of the key 0005\nsecond line of the key 0005\n-----END KEY-----",
    "ANYTHING": "named-by-a-setting-alone-0006",
}
TYPED = {
    "api_key": "typed-in-a-file-0007",
    "password": "typed-as-an-option-0008",
    "pin_secret": 98765432109,
    "default_token": "default-of-an-argument-0010",
    "url": "of-a-url-0011",
    "base_url": "of-an-address-in-the-environment-0012",
    "remote": "of-a-git-remote-0013",
    "judge_api_key": "of-an-objective-0014",
    "hub_token": "of-a-module-0015",
    "config": "of-a-configuration-of-a-logger-0016",
    "query": "of-a-query-0017",
    "short": "sh0r7",
    "header": "in-a-header-0018",
    "argument": "in-the-text-of-an-option-0019",
    "connection": "in a connection, 0020",
}
SECRETS = {**ENVIRONMENT, **TYPED}
WORDS_OF_KEY = ("first line of the key 0005", "second line of the key 0005", "line one of 0004")

MINE = """
import hashlib, json, os, signal
from pathlib import Path
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from orpo_lightning import ORPO, PreferenceModule

RECEIVED = {}

def received(**values):
    RECEIVED.update({name: hashlib.sha256(str(value).encode()).hexdigest() for name, value in values.items()})
    rank = f".{os.environ.get('LOCAL_RANK', 0)}" if "PER_RANK" in os.environ else ""
    Path(os.environ["RECEIVED"] + rank).write_text(json.dumps(RECEIVED))

class Notify(Callback):
    def __init__(
        self, hub_token: str, variable_token: str, password: str, pin_secret: int, url: str, own_password: str,
        query: str, short_secret: str, headers: list[str], options: str, connection: str,
        default_token: str = "default-of-an-argument-0010", end: str = "",
    ):
        self.told = dict(locals())
        del self.told["self"]
        received(**self.told)
        self.end = end
        print("made with", self.told)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step < 1:
            return
        if self.end == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.end:
            raise {"bug": RuntimeError, "mistake": ValueError}[self.end](f"cannot reach {self.told}")

class Remote(CSVLogger):
    def __init__(self, save_dir: str = "remote", api_key: str = "", headers: dict[str, str] | None = None):
        super().__init__(save_dir)
        received(api_key=api_key, authorization=(headers or {}).get("Authorization"))

class Judged(ORPO):
    def __init__(self, lambda_: float = 0.1, judge_api_key: str = "", judge_secret: int = 0, fail: bool = False):
        super().__init__(lambda_=lambda_)
        self.judge_api_key, self.judge_secret, self.fail = judge_api_key, judge_secret, fail
        received(judge_api_key=judge_api_key, judge_secret=judge_secret)

    def __call__(self, policy, reference=None):
        output = super().__call__(policy, reference)
        if self.fail:
            output.loss[0] = float("nan")
        return output

class Module(PreferenceModule):
    def __init__(self, *args, module_token: str = "", **kwargs):
        super().__init__(*args, **kwargs)
        self.save_hyperparameters()
        received(module_token=self.hparams.module_token)
"""
SHORT = [
    *("--config", "orpo", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=1"),
    *("--data.limit=16", "--trainer.max_steps=2", "--summary.prompts=1"),
]


def settings(**of_notify):
    """A configuration with a secret wherever one can be."""
    return {
        "trainer": {
            "logger": [
                {
                    "class_path": "WandbLogger",
                    "init_args": {"project": "secrets"},
                    "dict_kwargs": {"config": {"service_password": TYPED["config"]}},
                },
                {"class_path": "TensorBoardLogger"},
                {
                    "class_path": "mine.Remote",
                    "init_args": {
                        "api_key": TYPED["api_key"],
                        "headers": {"Authorization": "Bearer ${oc.env:HF_TOKEN}"},
                    },
                },
            ],
            "callbacks": [
                {
                    "class_path": "mine.Notify",
                    "init_args": {
                        "hub_token": "${oc.env:HF_TOKEN}",
                        "variable_token": "${oc.env:ANYTHING}",
                        "password": TYPED["password"],
                        "pin_secret": TYPED["pin_secret"],
                        "url": f"https://someone:{TYPED['url']}@example.com/hook",
                        "own_password": "${oc.env:MY_PASSWORD}",
                        "query": f"https://example.com/hook?token={TYPED['query']}&x=1",
                        "short_secret": TYPED["short"],
                        "headers": ["Accept: text/plain", f"Authorization: Bearer {TYPED['header']}"],
                        "options": f"--api-key {TYPED['argument']} --team x",
                        "connection": f"Server=db;User Id=me;Password={TYPED['connection']};",
                        **of_notify,
                    },
                }
            ],
        },
        "model": {
            "class_path": "mine.Module",
            "init_args": {
                "module_token": TYPED["hub_token"],
                "objective": {
                    "class_path": "mine.Judged",
                    "init_args": {"judge_api_key": TYPED["judge_api_key"], "judge_secret": TYPED["pin_secret"]},
                },
            },
        },
    }


class Place:
    """A home, a folder to work in, and files of the user's own, which are allowed to hold secrets."""

    def __init__(self, folder, forks):
        self.forks = forks
        self.own, self.work, self.home = (folder / name for name in ("own", "work", "home"))
        for each in (self.own, self.work, self.home):
            each.mkdir()
        (self.own / "mine.py").write_text(MINE)
        git = ["git", "-C", str(self.work)]
        subprocess.run([*git, "init", "-q"], check=True)
        remote = f"https://someone:{TYPED['remote']}@example.com/repository.git"
        subprocess.run([*git, "remote", "add", "origin", remote], check=True)
        cache = folder / "home" / "cache"
        cache.mkdir()
        (cache / "models").symlink_to(Path(os.environ["ORPO_LIGHTNING_CACHE"]) / "models")
        self.environment = {
            **os.environ,
            **ENVIRONMENT,
            "HOME": str(self.home),
            "ORPO_LIGHTNING_CACHE": str(cache),
            "PYTHONPATH": os.pathsep.join([str(self.own), str(Path(orpo_lightning.__file__).parents[1])]),
            "RECEIVED": str(self.own / "received.json"),
            "WANDB_MODE": "offline",
            "WANDB_BASE_URL": f"https://someone:{TYPED['base_url']}@example.com",
        }
        self.printed = []

    def config(self, name="mine.yaml", **of_notify):
        path = self.own / name
        path.write_text(yaml.safe_dump(settings(**of_notify)))
        return path

    def run(self, *words, **environment):
        """Run a command as a user does; returns its exit code and what it printed."""
        code, printed = self.forks.run(words, self.work, {**self.environment, **environment})
        self.printed.append(printed)
        return code, printed

    @property
    def received(self):
        return json.loads((self.own / "received.json").read_text())

    def leaks(self):
        """Every secret that is anywhere outside of the user's own files, with where it is."""
        found = [
            (f"printed {i}", secret) for i, text in enumerate(self.printed) for secret in secrets_in(text.encode())
        ]
        for folder in (self.work, self.home):
            for path in folder.rglob("*"):
                if path.is_file() and ".git" not in path.relative_to(folder).parts:
                    name = str(path.relative_to(folder))
                    found += [(name, secret) for secret in secrets_in(name.encode())]
                    found += [(name, secret) for part in parts_of(path.read_bytes()) for secret in secrets_in(part)]
        return sorted(set(found))


def parts_of(content):
    """The bytes of a file, and of what is packed inside."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield from parts_of(gzip.decompress(content))
    elif content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from parts_of(archive.read(name))
    elif content.startswith(b":W&B"):
        yield b"\n".join(records_of(content))


def secrets_in(content):
    for name, value in SECRETS.items():
        if any(form in content for form in forms_of(str(value))):
            yield name
    for line in WORDS_OF_KEY:
        if line.encode() in content:
            yield line


def forms_of(value):
    quoted = (urllib.parse.quote(value), urllib.parse.quote_plus(value), html.escape(value), repr(value)[1:-1])
    texts = {value, *quoted, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return {text.encode() for text in texts} | {value.encode("utf-16-le")}


@pytest.fixture(scope="module")
def forks():
    forks = Forks(dict(os.environ))
    yield forks
    forks.close()


@pytest.fixture
def place(tmp_path, forks):
    return Place(tmp_path, forks)


def digest(value):
    return hashlib.sha256(str(value).encode()).hexdigest()


def test_what_is_packed_or_quoted_is_found(place):
    """The test itself: a secret in any of these places would be found."""
    place.printed.append(f"Error: {ENVIRONMENT['MY_PASSWORD']!r}")
    with zipfile.ZipFile(place.work / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", ENVIRONMENT["HF_TOKEN"] * 9)
    (place.work / "b.json.gz").write_bytes(gzip.compress(json.dumps(ENVIRONMENT["DEPLOY_KEY"]).encode()))
    assert {name for _, name in place.leaks()} == {"MY_PASSWORD", "HF_TOKEN", "DEPLOY_KEY", *WORDS_OF_KEY[:2]}


def test_a_fit_keeps_and_prints_none_of_them_and_its_parts_get_all_of_them(place):
    typed = ["--trainer.callbacks.password", TYPED["password"], f"--model.module_token={TYPED['hub_token']}"]
    code, printed = place.run("fit", *SHORT, "--config", place.config(), *typed)
    assert code == 0, printed
    assert place.leaks() == []
    received = place.received
    for name in ("password", "pin_secret", "default_token", "api_key", "judge_api_key"):
        assert received[name] == digest(TYPED[name]), name
    assert received["module_token"] == digest(TYPED["hub_token"])
    assert received["hub_token"] == digest(ENVIRONMENT["HF_TOKEN"])
    assert received["own_password"] == digest(ENVIRONMENT["MY_PASSWORD"])
    assert received["variable_token"] == digest(ENVIRONMENT["ANYTHING"])
    assert received["authorization"] == digest(f"Bearer {ENVIRONMENT['HF_TOKEN']}")
    assert received["url"] == digest(f"https://someone:{TYPED['url']}@example.com/hook")
    assert received["options"] == digest(f"--api-key {TYPED['argument']} --team x")
    kept = yaml.safe_load((place.work / "runs/orpo/config.yaml").read_text())
    notify = kept["trainer"]["callbacks"][0]["init_args"]
    assert notify["hub_token"] == "${oc.env:HF_TOKEN}"
    assert notify["variable_token"] == "${oc.env:ANYTHING}"
    assert notify["password"] == "<secret>"
    assert notify["url"] == "https://<secret>@example.com/hook"
    assert notify["headers"] == ["Accept: text/plain", "Authorization: Bearer <secret>"]
    assert notify["options"] == "--api-key <secret> --team x"
    assert notify["connection"] == "Server=db;User Id=me;Password=<secret>;"
    assert "made with" in printed
    assert "${oc.env:HF_TOKEN}" in (place.work / "runs/orpo" / MODEL_FOLDER / "README.md").read_text()
    assert place.work.joinpath("runs/orpo/checkpoints/last.ckpt").exists()


@pytest.mark.slow
def test_rows_are_shown_as_they_are_whatever_is_said_of_secrets_in_them(place):
    said = ["password: swordfish", "def f(x):\n    token = f(x)", '{"api_key": "abc"} --password abc']
    rows = [{"prompt": f"What is {i}?", "chosen": text, "rejected": "I know."} for i, text in enumerate(said)]
    (place.work / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    code, printed = place.run("data", "--config", "orpo", "--data.train", "rows.jsonl", "--data.val=null", "--show=3")
    assert code == 0, printed
    for line in "\n".join(said).splitlines():
        assert line in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "a", "b", "--api_key=typed-as-an-option-0008"], "unrecognized arguments: --api_key=<secret>"),
        (
            ["export", "--checkpoint", "a", "--out", "b", "--hub_tokens", "sh0r7"],
            "unrecognized arguments: --hub_tokens <secret>",
        ),
        (["fit", "--api_key=typed-as-an-option-0008"], "--api_key is not a setting"),
    ],
)
def test_an_option_that_no_verb_has_is_named_without_what_was_typed(place, words, said):
    code, printed = place.run(*words)
    assert code == 2
    assert said in printed
    assert place.leaks() == []


@pytest.mark.slow
def test_a_fit_that_is_stopped_says_how_to_go_on_without_them_and_goes_on_where_they_are_given_again(place):
    typed = ["--trainer.callbacks.password", TYPED["password"], f"--model.module_token={ENVIRONMENT['HF_TOKEN']}"]
    mine = place.config(end="stop")
    code, printed = place.run("fit", *SHORT, "--config", mine, *typed)
    assert code == 75, printed
    (again,) = [line.partition("to go on: ")[2] for line in printed.splitlines() if "to go on: orpo-lightning" in line]
    assert "--trainer.callbacks.password '<secret>'" in again
    assert "'--model.module_token=${oc.env:HF_TOKEN}'" in again
    code, printed = place.run(*shlex.split(again)[1:])
    assert code == 2
    refusal = (
        "orpo-lightning: --trainer.callbacks.password: <secret> stands for a secret that was left out here; set it"
    )
    assert printed.startswith(refusal)

    kept = place.work / "runs/orpo/config.yaml"
    code, printed = place.run("fit", "--config", kept, "--ckpt_path", "last")
    assert code == 2
    (number,) = re.findall(r"config\.yaml:(\d+): [a-z_.]+: <secret> stands for a secret that was left out", printed)
    assert "<secret>" in kept.read_text().splitlines()[int(number) - 1]

    # a number cannot be left for a later file
    kept.write_text(re.sub(r"((pin|judge)_secret): <secret>", rf"\1: {TYPED['pin_secret']}", kept.read_text()))
    code, printed = place.run(
        "fit", "--config", kept, "--config", place.config("again.yaml", default_token="", end=""), "--ckpt_path", "last"
    )
    assert code == 0, printed
    assert place.received["password"] == digest(TYPED["password"])
    kept.unlink()
    assert place.leaks() == []


@pytest.mark.slow
def test_a_configuration_that_was_kept_is_started_again_as_it_is_where_its_secrets_are_in_the_environment(place):
    mine = place.own / "references.yaml"
    notify = {name: "${oc.env:HF_TOKEN}" for name in ("hub_token", "variable_token", "password", "own_password")}
    notify |= {"pin_secret": "${oc.env:PIN_SECRET}", "url": "https://me:${oc.env:HF_TOKEN}@example.com"}
    notify |= {"default_token": "", "query": "x", "short_secret": ""}
    notify |= {
        "headers": ["Authorization: Bearer ${oc.env:HF_TOKEN}"],
        "options": "--api-key ${oc.env:HF_TOKEN}",
        "connection": "Server=db;Password=${oc.env:HF_TOKEN};",
    }
    callbacks = [{"class_path": "mine.Notify", "init_args": notify}]
    mine.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    environment = {"PIN_SECRET": "4"}
    code, printed = place.run("fit", *SHORT, "--config", mine, **environment)
    assert code == 0, printed
    before = place.received
    kept = place.work / "runs/orpo/config.yaml"
    assert "pin_secret: ${oc.env:PIN_SECRET}" in kept.read_text()
    code, printed = place.run("fit", "--config", kept, **environment)
    assert code == 0, printed
    assert place.received == before
    assert (place.work / "runs/orpo-2/config.yaml").read_text() == kept.read_text().replace("runs/orpo", "runs/orpo-2")
    assert place.leaks() == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["bug", "mistake"])
@pytest.mark.parametrize("traceback", ["", "1"])
def test_a_fit_that_fails_tells_why_without_them(place, end, traceback):
    code, printed = place.run("fit", *SHORT, "--config", place.config(end=end), ORPO_LIGHTNING_TRACEBACK=traceback)
    assert code == 1
    assert ("Traceback" in printed) == (end == "bug" or bool(traceback))
    assert "cannot reach {'hub_token': '<secret>'" in printed
    record = json.loads((place.work / "runs/orpo/run.json").read_text())
    assert record["reason"].startswith("cannot reach {'hub_token': '<secret>'")
    assert place.leaks() == []


@pytest.mark.slow
def test_a_step_that_failed_is_kept_without_them(place):
    place.config()
    fails = ["--model.objective.fail=true", "--trainer.logger=false"]
    code, printed = place.run("fit", *SHORT, "--config", place.own / "mine.yaml", *fails)
    assert code == 1
    assert list((place.work / "runs/orpo").glob("failed-step-*.pt"))
    code, printed = place.run("replay", "runs/orpo")
    assert code == 1
    keys = ("model.module_token", "model.objective.judge_api_key", "model.objective.judge_secret")
    assert f"holds no secrets, and the run had {', '.join(sorted(keys))}; set each" in printed.replace("\n", "")
    again = shlex.split(printed.partition("environment: orpo-lightning ")[2])
    values = {"hub_token": TYPED["hub_token"], "judge_api_key": TYPED["judge_api_key"], "pin": str(TYPED["pin_secret"])}
    for name in values:
        again[again.index("${oc.env:NAME}")] = f"${{oc.env:{name}}}"
    before = place.received
    code, printed = place.run(*again, **values)
    assert code == 0, printed
    assert "It fails as it did" in printed
    assert place.received == {name: before[name] for name in place.received}
    assert place.leaks() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trainer.callbacks.pin_secret=not-a-number-typed-as-an-option-0008"], "trainer.callbacks.pin_secret"),
        (["--trainer.callbacks.passwort=typed-as-an-option-0008"], "trainer.callbacks.passwort is not a setting"),
        (["--ckpt_path=https://me:of-a-url-0011@example.com/last.ckpt"], "https://<secret>@example.com/last.ckpt"),
        (["--data.train=https://me:of-a-url-0011@example.com/a.jsonl"], "https://<secret>@example.com/a.jsonl"),
        (["--config=https://me:of-a-url-0011@example.com/a.yaml"], "https://<secret>@example.com/a.yaml"),
        (["--data.limit=hf_OfTheEnvironment0001"], "--data.limit = <secret>; accepted: a whole number"),
        (["--data.train=hf_OfTheEnvironment0001"], "<secret>"),
        (["--trainer.callbacks.url=${oc.env:NOT_THERE}"], "NOT_THERE"),
    ],
)
def test_what_is_refused_is_named_without_them(place, words, said):
    code, printed = place.run("fit", *SHORT, "--config", place.config(), *words)
    assert code in (1, 2)
    assert said in printed
    assert "Traceback" not in printed
    assert place.leaks() == []


@pytest.mark.slow
def test_what_is_made_of_runs_has_none_of_them(place):
    mine = place.config()
    quiet = ["--config", mine, "--trainer.logger=false"]
    for number in (1, 2):
        code, printed = place.run("fit", *SHORT, *quiet, f"--trainer.default_root_dir=runs/{number}")
        assert code == 0, printed
    # somebody has put a secret back to start the run again
    kept = place.work / "runs/2/config.yaml"
    own = kept.read_text().replace("password: <secret>", f"password: {TYPED['password']}")
    kept.write_text(own)
    commands = [
        ["export", "--checkpoint", "runs/1", "--out", "exported"],
        ["export", "--checkpoint", "runs/2", "--out", "exported-2"],
        ["compare", "runs/1", "runs/2", "--json", "comparison.json", "--csv", "comparison.csv"],
        ["report", "runs/1", "runs/2", "--out", "page.html", "--figures", "figures"],
        ["data", *SHORT[:2], "--data.limit=16", "--config", mine, "--trainer.logger=false"],
        ["validate", *SHORT, "--config", mine, "--ckpt_path", "runs/1/checkpoints/last.ckpt"],
        ["fit", *SHORT, "--config", mine, "--print_config"],
    ]
    for command in commands:
        code, printed = place.run(*command)
        assert code == 0, (command, printed)
    kept.unlink()
    assert place.leaks() == []


@pytest.mark.slow
def test_a_rank_is_started_with_what_was_typed_and_loggers_keep_none_of_it(place):
    """Before the ranks are started the words cannot be hidden, and once they are W&B would keep them."""
    typed = ["--trainer.callbacks.password", TYPED["password"], f"--model.module_token={TYPED['hub_token']}"]
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    mine = place.config(password="of-the-file", short_secret="x")
    done = subprocess.run(  # a rank is started by the program that was, which a fork has not been
        [sys.executable, "-m", "orpo_lightning", "fit", *SHORT, "--config", mine, *typed, *two],
        cwd=place.work,
        env={**place.environment, "PER_RANK": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    place.printed += [done.stdout, done.stderr]
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        received = json.loads((place.own / f"received.json.{rank}").read_text())
        assert received["password"] == digest(TYPED["password"])
        assert received["module_token"] == digest(TYPED["hub_token"])
    assert list((place.work / "runs/orpo/wandb").rglob("*.wandb"))
    assert place.leaks() == []


@pytest.mark.slow
def test_a_sweep_keeps_none_of_them_and_its_trials_get_all_of_them(place):
    file = place.own / "sweep.yaml"
    command = ["${env}", "${program}", "fit", *SHORT, "--config", str(place.config()), "${args}"]
    command += ["--trainer.callbacks.query=${envvar:HF_TOKEN}"]
    content = {
        "program": "orpo-lightning",
        "command": command,
        "method": "grid",
        "metric": {"name": "val/pref/accuracies", "goal": "maximize"},
        "parameters": {"model.objective.lambda_": {"values": [0.1, 0.2]}},
    }
    file.write_text(yaml.safe_dump(content))
    code, printed = place.run("sweep", file, "--out", "swept", "--trainer.callbacks.hub_token=${oc.env:HF_TOKEN}")
    assert code == 0, printed
    assert len(list((place.work / "swept/trials").glob("*/model"))) == 2
    assert place.received["query"] == place.received["hub_token"] == digest(ENVIRONMENT["HF_TOKEN"])
    assert place.leaks() == []
