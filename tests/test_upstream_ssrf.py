"""Nothing that a caller or a provider says changes whom the gateway connects to, or what it shows them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from costbearer.config import Config, load
from tests.harness import gateway, run
from tests.proxies import Origin, listening

PROVIDER_KEY = "sk-of-the-provider"
ANSWERED = {"model": "gpt-4o-mini", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}

SPELLINGS = (
    "http://{sink}/",
    "https://{sink}/",
    "//{sink}/",
    "{sink}",
    "/{sink}",
    "@{sink}",
    "x@{sink}/",
    "{sink}#",
    "http:{sink}",
    "http:\\\\{sink}\\",
    "../../../{sink}/",
    "..%2f..%2f{sink}",
    "%2f%2f{sink}%2f",
    "x:{sink}",
    "?base_url=http://{sink}",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/",
    "gopher://{sink}/_GET",
    "unix:/run/{port}.sock",
    "x HTTP/1.1\r\nHost: {sink}\r\n\r\nGET http://{sink}/",
    "x%20HTTP/1.1%0d%0aHost:%20{sink}%0d%0a%0d%0aGET%20/",
)
"""Ways to write an address. `{sink}` is host and port of a listener that nobody may reach."""

HEADERS = (
    "host",
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-server",
    "x-original-url",
    "x-rewrite-url",
    "x-base-url",
    "x-upstream-host",
    "proxy",
    "proxy-authorization",
    "location",
    "referer",
    "openai-organization",
    "x-costbearer-tags",
)
PATHS = (
    "{bad}",
    "{bad}/v1/chat/completions",
    "/v1/chat/completions{bad}",
    "/v1/chat/completions?x={bad}",
    "/v1/responses/{bad}",
    "/v1/files/{bad}/content",
    "/v1/batches/{bad}",
    "/v1/messages/batches/{bad}/results",
    "/v1beta/models/{bad}:generateContent",
    "/v1beta/{bad}:generateContent",
    "/model/{bad}/converse",
    "/openai/deployments/{bad}/chat/completions?api-version={bad}",
)
FIELDS = ("model", "base_url", "api_base", "user", "previous_response_id", "webhook", "callback_url")


def config_for(directory: Path, port: int) -> Config:
    directory.joinpath("key").write_text(PROVIDER_KEY)
    file = directory / "costbearer.toml"
    file.write_text(
        "".join(
            f'[providers.{dialect}]\ndialect = "{dialect}"\nbase_url = "http://127.0.0.1:{port}/base"\n'
            f'api_key_file = "key"\nproxy = ""\n'
            for dialect in ("openai", "anthropic", "gemini", "bedrock", "azure", "cohere")
        )
        + '[[routes]]\nmodel = "gpt-4o-mini"\nupstreams = ["openai"]\n'
        + "".join(
            f'[[routes]]\nmodel = "{start}*"\nupstreams = ["{dialect}"]\n'
            for start, dialect in {"h": "gemini", ".": "bedrock", "/": "azure", "x": "anthropic", "": "openai"}.items()
        )
    )
    return load(file, overrides={"data": str(directory / "data")}, environ={})


def held_to_its_base(request: bytes) -> bool:
    """Is it one request, in origin form, below the path that was configured?"""
    line, _, rest = request.partition(b"\r\n")
    method, target, version = line.split(b" ")
    path = target.split(b"?")[0]
    return (
        method in {b"GET", b"POST", b"DELETE"}
        and version == b"HTTP/1.1"
        and path.startswith(b"/base/")
        and b".." not in path.split(b"/")
        and rest.lower().count(b"\r\nhost:") + rest.lower().startswith(b"host:") == 1
    )


def test_nothing_a_caller_sends_leads_elsewhere(tmp_path: Path) -> None:
    async def body() -> None:
        sink, origin = Origin(), Origin()
        async with (
            listening(sink),
            listening(origin),
            gateway(config_for(tmp_path, origin.port)) as running,
        ):
            count = 0
            for spelling in SPELLINGS:
                bad = spelling.format(sink=f"127.0.0.1:{sink.port}", port=sink.port)
                for name in HEADERS:
                    if "\r" in bad:
                        continue  # a header's line ends there: the next test of the same spelling is the path
                    more = [("authorization", f"Bearer {running.key}"), (name, bad)]
                    await running.ask(ANSWERED, headers=more)
                    count += 1
                for path in PATHS:
                    for method in ("POST", "GET"):
                        filled = path.format(bad=bad)
                        await running.ask(ANSWERED if method == "POST" else b"", filled, method=method)
                        count += 1
                for field in FIELDS:
                    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"):
                        await running.ask({**ANSWERED, "input": "hi", field: bad}, path)
                        count += 1
            reached = len(origin.received)
            assert reached > 200, "many of them are calls that are made"
            assert (sink.connections, sink.received) == (0, [])
            _, writer = await asyncio.open_connection("127.0.0.1", sink.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await asyncio.sleep(0.05)
            assert (sink.connections, len(sink.received)) == (1, 1), "the sink does notice who comes"
            writer.close()
            astray = [request for request in origin.received if not held_to_its_base(request)]
            assert astray == []
            host = f"host: 127.0.0.1:{origin.port}\r\n".encode()
            assert all(host in request.lower() for request in origin.received)
            print(f"SSRF: {count} payloads, {reached} calls at their provider, 0 of {count} reached the sink")

    run(body)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 305])
def test_a_redirect_is_never_followed(status: int, tmp_path: Path) -> None:
    async def body() -> None:
        sink = Origin()
        async with listening(sink):
            away = f"HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:{sink.port}/v1/x\r\ncontent-length: 0\r\n\r\n"
            origin = Origin(away.encode())
            async with listening(origin), gateway(config_for(tmp_path, origin.port)) as running:
                wire = await running.ask(ANSWERED)
                assert wire.status is not None
                assert wire.status >= 300
                assert len(origin.received) == 1
                assert PROVIDER_KEY.encode() in origin.received[0]
            assert sink.connections == 0

    run(body)
