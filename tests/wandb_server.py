"""A small server on this machine that speaks the calls of the real client of Weights & Biases, for the tests.

It keeps what it is sent, hands out the trials of sweeps, and ends those that are behind. It answers what the client of
wandb 0.31 reads, and nothing else: it is no copy of the real server.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import yaml

ENTITY, KEY = "somebody", "0" * 40
_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
_PATHS = {
    "file_stream": re.compile(r"/files/[^/]+/[^/]+/(?P<run>[^/]+)/file_stream"),
    "upload": re.compile(r"/storage/(?P<run>[^/]+)/(?P<name>.+)"),
    "telemetry": re.compile(r"/sdk/otel/.*"),
}


@dataclass
class ReceivedRun:
    """A run, as far as the client has told.

    Args:
        id: by which the client knows it.
        project: that it belongs to.
        sweep: the id of its sweep; None of a run of its own.
        arguments: what the sweep gave it.
        config: its configuration; under ``_wandb`` what the client tells of itself.
        history: what it logged, a row for each call.
        summary: its summary fields.
        files: what it uploaded, by name.
        exit_code: None as long as it runs.
        is_stopped: whether early termination has asked its agent to end it.
    """

    id: str
    project: str = ""
    sweep: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    is_stopped: bool = False

    @property
    def state(self) -> str:
        """As the pages of W&B call it."""
        return {None: "running", 0: "finished"}.get(self.exit_code, "failed")

    @property
    def axes(self) -> dict[str, str]:
        """The measure that each measure, or ``*`` for all, is drawn over."""
        metrics = self.config["_wandb"]["m"]
        names = [metric.get("1") or metric.get("2") for metric in metrics]  # of one measure, or of all that match
        return {name: names[metric["5"] - 1] for name, metric in zip(names, metrics, strict=True) if "5" in metric}

    def values(self, name: str) -> list[float]:
        """Of a measure, in the order in which they were logged."""
        return [row[name] for row in self.history if name in row]


@dataclass
class ReceivedSweep:
    """A sweep.

    Args:
        id: by which agents ask for it.
        project: that it belongs to.
        config: the file it was made from.
        waiting: the arguments of the trials that are still to be handed out.
    """

    id: str
    project: str
    config: dict[str, Any]
    waiting: list[dict[str, Any]]

    def is_behind(self, run: ReceivedRun, others: Sequence[ReceivedRun]) -> bool:
        """Whether hyperband ends a run: at a band it was not among the best 1 / eta of those that came so far.

        At any band, not at its last one only: a run that is asked about late may be alone at its last.
        """
        settings = self.config.get("early_terminate")
        if settings is None:
            return False
        metric, eta = self.config["metric"], settings["eta"]
        sign = 1 if metric["goal"] == "maximize" else -1
        curves = [[sign * value for value in each.values(metric["name"])] for each in (run, *others)]
        bands = itertools.takewhile(lambda n: n <= len(curves[0]), (settings["min_iter"] * eta**k for k in range(30)))
        return any(_is_behind_at(band, curves, eta) for band in bands)


def _is_behind_at(band: int, curves: Sequence[Sequence[float]], eta: float) -> bool:
    there = sorted((max(curve[:band]) for curve in curves if len(curve) >= band), reverse=True)
    return max(curves[0][:band]) < there[int(len(there) / eta)]


class WandbServer:
    """The server; listens while it is entered.

    Args:
        trials: the arguments of the trials of a sweep that is not a grid, which has its own.

    Attributes:
        calls: how often the client called what.
        runs: by id.
        sweeps: by id.

    Example:
        >>> with WandbServer() as server:
        ...     server.environment["WANDB_BASE_URL"].startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, trials: Sequence[Mapping[str, Any]] = ()) -> None:
        self.calls: Counter[str] = Counter()
        self.runs: dict[str, ReceivedRun] = {}
        self.sweeps: dict[str, ReceivedSweep] = {}
        self._trials = trials
        self._lock = threading.Lock()
        self._agents: dict[str, str] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._operations = {
            "Viewer": self._viewer,
            "UpsertSweep": self._upsert_sweep,
            "SweepWithRuns": self._sweep_with_runs,
            "CreateAgent": self._create_agent,
            "Heartbeat": self._heartbeat,
            "RunResumeStatus": self._run_resume_status,
            "UpsertBucket": self._upsert_bucket,
            "CreateRunFiles": self._create_run_files,
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What has the client talk to this server, and every other second, so that short trials are told of in time."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """Answer a call."""
        with self._lock:
            if path == "/graphql":
                call = json.loads(body)
                operation = _OPERATION.search(call["query"])
                assert operation is not None, call
                self.calls[operation[1]] += 1
                answer = self._operations.get(operation[1], _nothing)
                return {"data": answer(call.get("variables") or {})}
            name, match = next((name, match) for name, each in _PATHS.items() if (match := each.fullmatch(path)))
            self.calls[name] += 1
            if name == "upload":
                self.runs[match["run"]].files[match["name"]] = body
            elif name == "file_stream":
                _receive(self.runs[match["run"]], json.loads(body))
            return {}

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}

    def _upsert_sweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        config = yaml.safe_load(variables["config"])
        trials = _grid(config["parameters"]) if config["method"] == "grid" else map(dict, self._trials)
        sweep = ReceivedSweep(f"sweep{len(self.sweeps) + 1}", variables["projectName"], config, list(trials))
        self.sweeps[sweep.id] = sweep
        made = {"name": sweep.id, "project": _project(sweep.project)}
        return {"upsertSweep": {"sweep": made, "configValidationWarnings": []}}

    def _sweep_with_runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps[variables["sweep"]]
        known = {"id": sweep.id, "name": sweep.id, "config": yaml.safe_dump(sweep.config), "runs": {"edges": []}}
        return {"project": {"sweep": known}}

    def _create_agent(self, variables: dict[str, Any]) -> dict[str, Any]:
        agent = f"agent{len(self._agents) + 1}"
        self._agents[agent] = variables["sweep"]
        return {"createAgent": {"agent": {"id": agent}}}

    def _heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps[self._agents[variables["id"]]]
        commands = self._commands(sweep, list(json.loads(variables["runState"])))
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}

    def _commands(self, sweep: ReceivedSweep, running: list[str]) -> list[dict[str, Any]]:
        if not running and not sweep.waiting:
            return [{"type": "exit"}]
        if not running:
            run = ReceivedRun(f"trial{len(self.runs) + 1}", sweep.project, sweep.id, sweep.waiting.pop(0))
            self.runs[run.id] = run
            arguments = {name: {"value": value} for name, value in run.arguments.items()}
            return [{"type": "run", "run_id": run.id, "args": arguments, "program": sweep.config["program"]}]
        for run in (self.runs[each] for each in running):
            others = [each for each in self.runs.values() if each.sweep == sweep.id and each is not run]
            run.is_stopped = run.is_stopped or sweep.is_behind(run, others)
        return [{"type": "stop", "run_id": each} for each in running if self.runs[each].is_stopped]

    def _run_resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        began = run is not None and run.config
        return {"model": {**_project(variables["project"]), "bucket": _bucket(run) if run and began else None}}

    def _upsert_bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(variables["name"], ReceivedRun(variables["name"]))
        run.project = variables["project"] or run.project
        run.exit_code = None
        told = json.loads(variables["config"] or "{}")
        run.config |= {name: each["value"] for name, each in told.items()}
        run.summary |= json.loads(variables["summaryMetrics"] or "{}")
        return {"upsertBucket": {"bucket": _bucket(run), "inserted": True}}

    def _create_run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables["run"]
        files = [{"name": each, "uploadUrl": f"{self.url}/storage/{run}/{each}"} for each in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}


def _nothing(_: dict[str, Any]) -> dict[str, Any]:
    """What the client takes for a server that has no such thing."""
    return {}


def _grid(parameters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    values = [each["values"] if "values" in each else [each["value"]] for each in parameters.values()]
    return [dict(zip(parameters, combination, strict=True)) for combination in itertools.product(*values)]


def _project(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "entity": {"id": ENTITY, "name": ENTITY}}


def _bucket(run: ReceivedRun) -> dict[str, Any]:
    """A run, as the client asks for it where it makes one or goes on with it."""
    return {
        **{"id": run.id, "name": run.id, "displayName": run.id, "sweepName": run.sweep},
        "project": _project(run.project),
        "config": json.dumps({name: {"value": value} for name, value in run.config.items()}),
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(run.history),
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        **{"eventsLineCount": 0, "eventsTail": "[]", "logLineCount": 0, "tags": [], "notes": ""},
        "wandbConfig": json.dumps({"t": 1}),
    }


def _receive(run: ReceivedRun, told: Mapping[str, Any]) -> None:
    """Take in what a run streams; lines that come again replace those that were there."""
    files = told.get("files") or {}
    if "wandb-history.jsonl" in files:
        lines = files["wandb-history.jsonl"]
        place = lines["offset"]
        run.history[place : place + len(lines["content"])] = [json.loads(line) for line in lines["content"]]
    if "wandb-summary.json" in files:
        run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
    if told.get("complete"):
        run.exit_code = told["exitcode"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: WandbServer, *args: Any) -> None:
        self._wandb = server
        super().__init__(*args)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        content = json.dumps(self._wandb.answer(self.path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST  # noqa: N815  # the name that http.server looks for

    def log_message(self, *args: Any) -> None:
        """Nothing: it is no news that somebody calls."""
