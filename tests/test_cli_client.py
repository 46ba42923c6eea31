"""What commands wait for, and what they say of a server that does not answer in time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from costbearer.cli import client as clients
from costbearer.cli.client import Remote
from costbearer.console_process import POSTING
from costbearer.errors import RemoteFailed
from tests.pages import settings


@pytest.fixture
def silent() -> Iterator[str]:
    """Somebody who takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("path", "limit"), [("/api/v1/keys", "TIMEOUT_S"), ("/api/v1/restatements", "POSTING_TIMEOUT_S")]
)
def test_who_does_not_answer_in_time_may_still_be_doing_it(
    tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch, path: str, limit: str
) -> None:
    monkeypatch.setattr(clients, limit, 0.1)
    with Remote(settings(tmp_path), silent, "a-token") as remote, pytest.raises(RemoteFailed) as refused:
        remote.document("POST", path, body={})
    assert "may still be doing what was asked" in refused.value.message


def test_what_posts_whole_months_is_waited_for() -> None:
    assert clients.POSTING < POSTING
    assert clients.POSTING_TIMEOUT_S > clients.TIMEOUT_S
