"""Credentials that change while the gateway runs: the new one is used soon, a broken file changes nothing."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from costbearer.config import Provider
from costbearer.credentials import Credentials
from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator
from tests.harness import gateway, make_config, run

ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}


def put(file: Path, text: str) -> None:
    """As whatever renews a token should: another file takes its name."""
    fresh = file.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.rename(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "key"
    made.write_text("first\n")
    return made


@pytest.fixture
def credentials(file: Path) -> Credentials:
    own = Provider("vertex", "gemini", "https://vertex.invalid", "first", credential_file=file)
    return Credentials({"vertex": own, "openai": Provider("openai", "openai", "https://openai.invalid", "fixed")})


def test_a_file_that_changes_is_read_again(file: Path, credentials: Credentials) -> None:
    assert (credentials.of("vertex"), credentials.refresh()) == ("first", frozenset())
    put(file, " second \n")
    assert credentials.refresh() == {"vertex"}
    assert (credentials.of("vertex"), credentials.of("openai")) == ("second", "fixed")
    assert credentials.refresh() == frozenset()
    file.write_text("third!")
    assert credentials.refresh() == {"vertex"}
    put(file, "third!")
    assert credentials.refresh() == frozenset(), "the same again is no change"


@pytest.mark.parametrize("broken", ["", "  \n", "two words", "schlüssel", None])
def test_a_file_that_holds_no_key_changes_nothing_and_is_said_once(
    file: Path, credentials: Credentials, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    if broken is None:
        file.unlink()
    else:
        put(file, broken)
    assert credentials.refresh() == credentials.refresh() == frozenset()
    assert credentials.of("vertex") == "first"
    assert caplog.text.count("holds no key now") == 1
    assert "two words" not in caplog.text
    put(file, "second")
    assert credentials.refresh() == {"vertex"}


def test_a_file_that_cannot_be_read_for_a_moment_is_read_when_it_can_be(
    file: Path, credentials: Credentials, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(file, "second")

    def short(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", short)
        assert credentials.refresh() == credentials.refresh() == frozenset()
    assert credentials.of("vertex") == "first"
    assert caplog.text.count("cannot be read") == 1
    assert credentials.refresh() == {"vertex"}


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


def test_a_worker_sends_the_new_one(tmp_path: Path, simulator: RunningSimulator) -> None:
    config = make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)
    stored = config.providers["openai"].credential_file
    assert stored is not None

    async def body() -> None:
        async with gateway(config) as running:
            assert (await running.ask(ASKED)).status == 200
            put(stored, "expired")
            await asyncio.sleep(0.6)
            refused = await running.ask(ASKED)
            assert (refused.status, refused.error_code) == (502, "upstream_failed")
            assert b"expired" not in refused.body
            put(stored, CREDENTIAL)
            await asyncio.sleep(0.6)
            assert (await running.ask(ASKED)).status == 200

    run(body)
