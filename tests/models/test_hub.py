"""Uploads, by the hub's real client to a server on this machine that speaks as much of its language as that takes."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orpo_lightning.models.hub import check_upload, upload

UPLOAD = (
    "import pathlib, sys\nfrom orpo_lightning.models.hub import check_upload, upload\n"
    "check_upload('me/mine')\nprint(upload(pathlib.Path(sys.argv[1]), 'me/mine', private=sys.argv[2] == 'private'))"
)


class Hub(BaseHTTPRequestHandler):
    """Answers the calls of one upload, all files inline."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        self.server.calls.append((self.command, path, self.headers.get("Authorization")))
        answer = {}
        if self.server.broken in path:
            self.send_error(403)  # which the client does not try again
            return
        if path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif path.endswith("/commit/main"):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{self.server.url}/me/mine/commit/1", "commitOid": "1" * 40}
        elif path.endswith("/repos/create"):
            self.server.files, self.server.visibility = {}, json.loads(body).get("visibility")
            answer = {"url": f"{self.server.url}/me/mine"}
        elif path == "/api/whoami-v2":
            answer = {"name": "me", "type": "user", "orgs": []}
        elif path == "/api/models/me/mine/revision/main" or path == "/api/models/me/mine":
            answer = {"id": "me/mine", "sha": "0" * 40, "siblings": []}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.calls, server.files, server.broken = (
        f"http://127.0.0.1:{server.server_port}",
        [],
        None,
        "nothing",
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# mine\n")
    (folder / "config.json").write_text("{}")
    return folder


def upload_elsewhere(hub, model, private=True, **env):
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret", **env}
    command = [sys.executable, "-c", UPLOAD, str(model), "private" if private else "public"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=100)


def test_a_folder_is_uploaded_in_one_commit(hub, model):
    result = upload_elsewhere(hub, model)
    assert result.returncode == 0, result.stderr
    assert "/me/mine" in result.stdout
    assert hub.files == {file.name: file.read_bytes() for file in model.iterdir()}
    assert [path for _, path, _ in hub.calls if path.endswith("/commit/main")] == ["/api/models/me/mine/commit/main"]
    assert all(token == "Bearer hf_secret" for _, path, token in hub.calls if "commit" in path or "create" in path)


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_is_made_private_or_public(hub, model, private):
    assert upload_elsewhere(hub, model, private).returncode == 0
    assert hub.visibility == ("private" if private else "public")


@pytest.mark.parametrize(
    ("broken", "private", "option"), [("preupload", True, " --private"), ("commit/main", False, "")]
)
def test_an_upload_that_fails_says_where_the_model_is(hub, model, broken, private, option):
    hub.broken = broken
    result = upload_elsewhere(hub, model, private)
    message = result.stderr.splitlines()[-1]
    assert "ValueError: the upload to me/mine failed" in message
    assert f"the model is complete in {model}: try again with `hf upload me/mine {model}{option}`" in message
    assert not hub.files


def test_nobody_logged_in_is_noticed_before_anything_is_sent(hub, model, tmp_path):
    result = upload_elsewhere(hub, model, HF_TOKEN="", HF_HOME=str(tmp_path / "home"))
    assert "nobody is logged in; run `hf auth login`, or set HF_TOKEN" in result.stderr.splitlines()[-1]
    assert hub.calls == []


def test_offline_an_upload_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(ValueError, match="--push-to me/mine: the hub refuses or cannot be reached"):
        check_upload("me/mine")


def test_an_id_that_is_none_is_refused():
    with pytest.raises(ValueError, match="--push-to me/my/mine: not a hub id; accepted: owner/name"):
        check_upload("me/my/mine")


def test_what_the_client_is_asked_to_do(monkeypatch, model):
    asked = []

    class Client:
        def create_repo(self, *args, **options):
            asked.append(("create_repo", args, options))

        def upload_folder(self, **options):
            asked.append(("upload_folder", options))
            return type("Commit", (), {"repo_url": "https://hub/me/mine"})

    monkeypatch.setattr("orpo_lightning.models.hub.HfApi", Client)
    assert upload(model, "me/mine") == "https://hub/me/mine"
    assert asked[0] == ("create_repo", ("me/mine",), {"private": True, "exist_ok": True})
    assert asked[1][1]["folder_path"] == model
    assert asked[1][1]["repo_id"] == "me/mine"
