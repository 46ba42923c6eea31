"""The gateway's own HTTPS: a certificate and its key, which belong together."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import trustme

from costbearer.config import Config, load
from costbearer.errors import ConfigInvalid
from costbearer.gateway import server as serving
from costbearer.simulator import RunningSimulator, running_simulator
from tests.system import Server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(authority, certificate, key)."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = (directory / "authority.pem", directory / "gateway.pem", directory / "gateway.key")
    for pem, file in zip((authority.cert_pem, issued.cert_chain_pems[0], issued.private_key_pem), files, strict=True):
        pem.write_to_path(str(file))
    return files


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.mark.slow
def test_a_call_over_https(
    tmp_path: Path, simulator: RunningSimulator, certificate: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, chain, key = certificate
    server = Server(tmp_path, simulator, workers=1)
    text = server.config.read_text().replace(
        "[gateway]\n", f'[gateway]\ntls_certificate = "{chain}"\ntls_key = "{key}"\n'
    )
    server.config.write_text(text)
    server.gateway_url = server.gateway_url.replace("http:", "https:")
    trusted = ssl.create_default_context(cafile=str(authority))
    plain_get = httpx2.get
    monkeypatch.setattr("tests.system.httpx2.get", lambda url, **more: plain_get(url, **{**more, "verify": trusted}))
    try:
        server.start()
        with (
            httpx2.Client(verify=trusted) as http,
            openai.OpenAI(
                base_url=f"{server.gateway_url}/v1", api_key=server.issue(), max_retries=0, http_client=http
            ) as client,
        ):
            said: Any = [{"role": "user", "content": "Say something. [[sim:mark=https]]"}]
            answer = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=said, max_tokens=40)
            billed = simulator.books().total(mark="https")
            assert Decimal(answer.headers["x-costbearer-cost-usd"]) == billed > 0
        with pytest.raises(httpx2.HTTPError):
            plain_get(server.gateway_url.replace("https:", "http:") + "/healthz", timeout=5)
        with pytest.raises(httpx2.ConnectError):
            plain_get(f"{server.gateway_url}/healthz", timeout=5)
    finally:
        server.stop()


def config_with(directory: Path, **files: Path | None) -> Config:
    named = {f"gateway.{name}": str(file) for name, file in files.items() if file is not None}
    return load(overrides={"data": str(directory / "data"), **named}, environ={})


def refused(config: Config) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        serving.run(config, lambda *_: pytest.fail("nothing may start"))
    return caught.value.message


def test_one_without_the_other_is_refused(tmp_path: Path, certificate: tuple[Path, Path, Path]) -> None:
    _, chain, key = certificate
    for files in ({"tls_certificate": chain}, {"tls_key": key}):
        said = refused(config_with(tmp_path, **files))
        assert said == "gateway.tls_certificate and gateway.tls_key belong together; one of them is missing"


def test_a_file_that_is_not_there_is_named(tmp_path: Path, certificate: tuple[Path, Path, Path]) -> None:
    _, chain, key = certificate
    gone = tmp_path / "gone.pem"
    assert refused(config_with(tmp_path, tls_certificate=chain, tls_key=gone)) == f"gateway.tls_key: {gone} is no file"
    said = refused(config_with(tmp_path, tls_certificate=gone, tls_key=key))
    assert said == f"gateway.tls_certificate: {gone} is no file"
