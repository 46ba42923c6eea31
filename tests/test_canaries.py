"""Secrets that are looked for everywhere afterwards: 0 of them may be in anything that is kept, logged or told.

The server runs in real processes at log level DEBUG, against a provider that quotes whatever it was sent. Looked
through are the output of every process, the journal (live, sealed, Parquet and packed), both stores, the metrics, every
answer of the API and every command's talk. What is packed is unpacked, what is a table is read as one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from costbearer.keys import parse_key
from costbearer.simulator import running_simulator
from tests.system import Server, kill

CREDENTIAL = "CANARY-provider-credential-0a1b2c"
PROMPT, ANSWER, ERROR = "CANARY-prompt-1b2c3d", "CANARY-answer-2c3d4e", "CANARY-error-3d4e5f"
USER, TENANT = "CANARY-user-4e5f60", "CANARY-tenant-5f6071"
COOKIE, QUERY, PASSWORD = "CANARY-cookie-607182", "CANARY-query-718293", "CANARY-password-8293a4"
WRONG_TOKEN, LOGGED = "cba_CANARY-wrong-token-93a4b5c6d7e8f90a1b2c3d4e5f", "CANARY-logged-prompt-a4b5c6"
ENDINGS = ("whole", "stream", "cut", "reset", "error400", "error401", "error429", "error500", "garbage", "redirect")

LOOKS = (
    *("/metrics", "/api/v1/entries?limit=1000", "/api/v1/keys", "/api/v1/findings", "/api/v1/reports/unknown"),
    *("/api/v1/reports/spend?by=user", "/api/v1/reports/spend?by=tenant", "/readyz", "/sessions", "/unknown"),
)
SLOW_LOOKS = ("/api/v1/doctor", "/api/v1/backfill", "/", "/keys", "/keys/{key}", "/entries", "/live")
"""These take a server that has just started up to a second each."""


class Provider(BaseHTTPRequestHandler):
    """Quotes its caller: the answer has the prompt, an error the credential too. The prompt says how it ends."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        ending = next((each for each in ENDINGS if f"[{each}]".encode() in body), "whole")
        sent = self.headers.get("authorization") or self.headers.get("x-api-key")
        said = f"{ERROR} {sent} {body.decode(errors='replace')}"
        error = json.dumps({"error": {"message": said, "type": "x", "code": said}}).encode()
        if ending.startswith("error"):
            self._send(int(ending.removeprefix("error")), error)
        elif ending == "garbage":
            self._send(200, said.encode())
        elif ending == "redirect":
            self._send(302, error, location=f"http://127.0.0.1:1/{ERROR}")
        elif ending == "whole":
            self._send(200, json.dumps(self._reply()).encode())
        else:
            self._stream(ending)

    def _reply(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": f"{ANSWER} {PROMPT}"}
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-mini", "created": 1,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
        }  # fmt: skip

    def _stream(self, ending: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        piece = {"id": "c", "model": "gpt-4o-mini", "choices": [{"index": 0, "delta": {"content": ANSWER}}]}
        self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode() * 5)
        self.wfile.flush()
        if ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif ending == "stream":
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", "x-request-id": "r", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def quoting_provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def calls(server: Server, key: str, told: list[str], rounds: int) -> list[str]:
    """Every kind of call and failure; gives the credentials that were sent besides the key."""
    wrong = [key[:-1] + ("0" if key[-1] != "0" else "1"), key[:16] + "_" + "Z" * 36, "cbk_CANARY-malformed-b5c6d7"]
    tags = {"tags": [f"user:{USER}", f"tenant:{TENANT}"]}
    said = {"baggage": f"user_id={USER},tenant_id={TENANT}", "x-costbearer-tags": f"user:{USER},tenant_id:{TENANT}"}
    gateway = httpx2.Client(base_url=server.gateway_url, timeout=30, cookies={"session": COOKIE})
    for _ in range(rounds):
        for ending in ENDINGS:
            for path in ("/v1/chat/completions", "/v1/messages"):
                message = {"role": "user", "content": f"{PROMPT} [{ending}]"}
                model = "gpt-4o-mini" if "chat" in path else "claude-haiku-4-5"
                stream = ending in {"stream", "cut", "reset"}
                body = {"model": model, "messages": [message], "max_tokens": 9, "stream": stream, "metadata": tags}
                headers = {"authorization": f"Bearer {key}", "anthropic-version": "2023-06-01", **said}
                with contextlib.suppress(httpx2.HTTPError):
                    gateway.post(f"{path}?key={QUERY}", json=body, headers=headers)
    prompt = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}]})
    for path in (
        "/v1/chat/completions",
        "/v1/messages",
        "/v1beta/models/gemini-2.5-flash:generateContent",
        "/v1/nothing",
    ):
        for name in ("authorization", "x-api-key", "x-goog-api-key", "api-key"):
            for text in (*wrong, WRONG_TOKEN):
                value = f"Bearer {text}" if name == "authorization" else text
                told.append(gateway.post(f"{path}?key={text}", content=prompt, headers={name: value}).text)
        good = {"authorization": f"Bearer {key}"}
        for data in (prompt[:-3], prompt[1:], f'"{PROMPT}"', prompt.replace("gpt-4o-mini", "no-such-model")):
            gateway.post(path, content=data, headers=good)
        gateway.post(path, content=prompt, headers={**good, "x-api-key": wrong[0]})
        gateway.post(path, content=prompt, headers={**good, "x-costbearer-tags": f"{USER} no colon"})
    gateway.close()
    return wrong


def administration(server: Server, token: str, told: list[str], turn: str) -> tuple[list[str], str]:
    """Every kind of act and refusal; gives the keys that were issued, and the cookie of a session."""
    home = {"origin": server.console_url, "accept": "text/html"}
    console = httpx2.Client(base_url=server.console_url, timeout=60)
    bearer = {"authorization": f"Bearer {token}"}
    labels = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}
    shown = [console.post("/api/v1/keys", json=labels, headers={**bearer, "idempotency-key": f"{turn}-1"}).json()]
    key_id = shown[0]["key_id"]
    shown.append(console.post(f"/api/v1/keys/{key_id}/rotate", json={"overlap": "1h"}, headers=bearer).json())
    replaced = {"keys": [{"key": f"old-{turn}", **labels}], "expires": "9d"}
    headers = {**bearer, "idempotency-key": f"{turn}-2"}
    shown += console.post("/api/v1/backfill/rotations", json=replaced, headers=headers).json()["keys"]
    told.append(console.post("/api/v1/backfill/rotations", json=replaced, headers=headers).text)
    keys = [each["key"] for each in shown]
    again = {**bearer, "idempotency-key": f"{turn}-1"}
    told.append(console.post("/api/v1/keys", json=labels, headers=again).text)
    for key in keys:
        told.append(console.get(f"/api/v1/keys/{key}", headers=bearer).text)
        told.append(console.post(f"/api/v1/keys/{key}/nothing", headers=bearer).text)
        told.append(console.get("/find", params={"q": key}, headers=bearer).text)
        told.append(console.get("/api/v1/keys", headers={"authorization": f"Bearer {key}"}).text)
    told.append(console.get("/api/v1/keys", headers={"authorization": f"Bearer {WRONG_TOKEN}"}).text)
    told.append(console.post("/sign-in", data={"token": WRONG_TOKEN}, headers=home).text)
    console.post("/sign-in", data={"token": token, "who": "Ada"}, headers=home)
    cookie = console.cookies["costbearer_session"]
    console.close()
    return keys, cookie


def audit_of_a_log(server: Server, token: str, told: list[str]) -> None:
    """An audit, kept, of a log that has a prompt and its answer."""
    log = {"request_id": "r1", "call_type": "acompletion", "api_key": "k", "spend": 0.0, "total_tokens": 9,
           "prompt_tokens": 5, "completion_tokens": 4, "startTime": "2026-09-01T00:00:00Z",
           "endTime": "2026-09-01T00:00:01Z", "model": "gpt-4.1", "custom_llm_provider": "openai",
           "metadata": {}, "messages": LOGGED, "response": LOGGED}  # fmt: skip
    kept = {"name": "log.jsonl", "keep": "true"}
    answer = httpx2.post(
        f"{server.console_url}/api/v1/audits",
        params=kept,
        content=json.dumps(log),
        headers={"authorization": f"Bearer {token}"},
        timeout=60,
    )
    told.append(answer.text)


def look(server: Server, token: str, cookie: str, told: list[str], paths: tuple[str, ...]) -> None:
    """What the API says to the token, and pages to the session."""
    with httpx2.Client(base_url=server.console_url, timeout=60, cookies={"costbearer_session": cookie}) as console:
        for path in paths:
            bearer = path.startswith(("/api", "/m"))
            headers = {"authorization": f"Bearer {token}"} if bearer else {"accept": "text/html"}
            answer = console.get(path, headers=headers)
            assert answer.status_code == 200, (path, answer.status_code)
            told.append(answer.text)


def commands(server: Server, told: list[str]) -> None:
    """What commands say when they are given a password."""
    for address in (
        f"postgresql://reader:{PASSWORD}@127.0.0.1:1/spend",
        f"https://reader:{PASSWORD}@127.0.0.1:1/log.jsonl?token={PASSWORD}",
    ):
        done = server.run("audit", address)
        assert done.returncode == 2, done
        told.append(done.stdout + done.stderr)


def unpacked(file: Path) -> bytes:
    """What a file says, in every form it can be read in."""
    data = file.read_bytes()
    if file.suffix == ".zst":
        with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as stream:
            data += stream.read()
    if file.suffix == ".parquet":
        data += json.dumps(pq.read_table(file).to_pylist(), default=str).encode()
    if file.name == "control.sqlite":
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        data += "\n".join(connection.iterdump()).encode()
        connection.close()
    if file.name == "ledger.duckdb":
        with duckdb.connect(str(file), read_only=True) as base:
            for (table,) in base.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                data += str(base.execute(f'SELECT row::VARCHAR FROM "{table}" AS row').fetchall()).encode()
    return data


def await_moved(server: Server, lookup_id: str) -> None:
    """A key that a worker saw used is kept under the new pepper soon after."""
    end = time.monotonic() + 20
    while True:
        connection = sqlite3.connect(f"file:{server.data / 'control.sqlite'}?mode=ro", uri=True)
        query = "SELECT pepper_version FROM key_secrets WHERE lookup_id = ?"
        (version,) = connection.execute(query, (lookup_id,)).fetchone()
        connection.close()
        if version == 2:
            return
        assert time.monotonic() < end
        time.sleep(0.1)


@contextlib.contextmanager
def debugged_server(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose processes log at DEBUG, not yet started, with the quoting provider behind it."""
    debug = directory / "debug"
    debug.mkdir()
    (debug / "sitecustomize.py").write_text(
        "import logging\n_set = logging.basicConfig\n"
        "logging.basicConfig = lambda **given: _set(**{**given, 'level': logging.DEBUG})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(debug))
    with quoting_provider() as url, running_simulator() as simulator:
        server = Server(directory, simulator, workers=1)
        text = server.config.read_text().replace(simulator.openai_base_url, f"{url}/v1")
        server.config.write_text(text.replace(simulator.anthropic_base_url, url))
        (directory / "provider-key").write_text(CREDENTIAL)
        yield server


def await_sealed(server: Server) -> None:
    """Everything of a worker that has ended is sealed by the bookkeeper soon after."""
    end = time.monotonic() + 10
    while not list(server.data.rglob("*.parquet")):
        assert time.monotonic() < end
        time.sleep(0.05)


def in_files(server: Server) -> dict[str, bytes]:
    """Every file of the data directory as it is now."""
    return {str(file): file.read_bytes() for file in server.data.rglob("*") if file.is_file()}


def assert_none_found(
    server: Server, live: dict[str, bytes], told: list[str], token: str, keys: list[str], others: list[str]
) -> None:
    """No secret, nor the secret part of a key, is in what was live, is at rest, was told or was logged."""
    secrets = {CREDENTIAL, ERROR, USER, TENANT, COOKIE, QUERY, PROMPT, ANSWER, WRONG_TOKEN}
    secrets |= {token, *keys, *others, *(key[17:47] for key in keys)}
    output = (server.directory / "server.log").read_bytes()
    looked = {**live, "answers": "\n".join(told).encode(), "output": output}
    looked |= {f"{file} at rest": unpacked(file) for file in server.data.rglob("*") if file.is_file()}
    own = {"admin-token": {token}}
    found = [
        (name, secret)
        for name, data in looked.items()
        for secret in secrets
        if secret.encode() in data and secret not in own.get(Path(name.removesuffix(" at rest")).name, set())
    ]
    size = sum(map(len, looked.values()))
    print(*sorted({(Path(name).name, secret[:24]) for name, secret in found}), sep="\n")
    print(f"{len(found)} of {len(secrets)} canaries in {size:,} bytes of {len(looked)} files, answers and outputs")
    assert found == []
    assert b"DEBUG" in output, "the log level was DEBUG"
    kinds = ("ledger.duckdb", "control.sqlite", ".parquet", ".cbj.zst")
    assert all(any(name.endswith(f"{kind} at rest") for name in looked) for kind in kinds), "every kind was looked at"


def test_no_secret_of_a_short_life_is_in_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of call once, and every kind of place; audits, passwords and other peppers are for the long life."""
    told: list[str] = []
    with debugged_server(tmp_path, monkeypatch) as server:
        server.start()
        try:
            token = (server.data / "admin-token").read_text().strip()
            keys, cookie = administration(server, token, told, "first")
            sent = calls(server, keys[0], told, rounds=1)
            look(server, token, cookie, told, LOOKS)
            kill(server.roles()["workers"][0])
            await_sealed(server)
            live = in_files(server)
            entries = server.entries()
        finally:
            server.stop()
    assert {each["status"] for each in entries} >= {"ok", "error"}, "all of it went through"
    assert_none_found(server, live, told, token, keys, [cookie, *sent])


@pytest.mark.soak
def test_no_secret_is_in_anything_that_is_kept_logged_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with debugged_server(tmp_path, monkeypatch) as server:
        server.start()
        try:
            token = (server.data / "admin-token").read_text().strip()
            keys, cookie = administration(server, token, told, "first")
            audit_of_a_log(server, token, told)
            look(server, token, cookie, told, LOOKS)
            sent = calls(server, keys[0], told, rounds=5)
            server.api("POST", "/api/v1/peppers", json={})
            time.sleep(1)
            sent += calls(server, keys[0], told, rounds=1)
            await_moved(server, parse_key(keys[0]).lookup_id)
            kill(server.roles()["workers"][0])
            time.sleep(3)
            server.await_ready()
            sent += calls(server, keys[1], told, rounds=1)
            time.sleep(1.5)
            more, other = administration(server, token, told, "again")
            audit_of_a_log(server, token, told)
            key_id = server.api("GET", "/api/v1/keys")["keys"][0]["key_id"]
            look(server, token, other, told, (*LOOKS, *(path.replace("{key}", key_id) for path in SLOW_LOOKS)))
            commands(server, told)
            live = in_files(server)
            entries = server.entries()
        finally:
            server.stop()
    assert {each["status"] for each in entries} >= {"ok", "error"}, "all of it went through"
    assert len(entries) > 100
    assert_none_found(server, live, told, token, keys + more, [cookie, other, PASSWORD, LOGGED, *sent])
