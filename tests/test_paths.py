"""Names that lead elsewhere: nothing is read or written but what was asked for."""

from __future__ import annotations

import io
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from costbearer.cli.export import _target
from costbearer.console import audits as desk
from costbearer.console import saved
from costbearer.console.audits import Audits, safe_name
from costbearer.console.pages.shell import STATIC, files, static_router
from costbearer.errors import CostbearerError, FieldInvalid, InputInvalid, NotFound
from costbearer.price_desk import Desk
from costbearer.stores import archive
from costbearer.stores.lognames import found
from costbearer.stores.logtables import is_address

ELSEWHERE = (
    *("../secret", "../../secret", "..", ".", "/etc/passwd", "//etc/passwd", "a/../../secret", "./../secret", "~root"),
    *("..\\secret", "C:\\secret", "\\\\host\\share\\secret", "CON", "NUL.txt", "a:b", "secret\x00.jsonl", "\x00", ""),
    *("%2e%2e%2fsecret", "..%2fsecret", "..%252fsecret", "%c0%ae%c0%ae/secret", "\u2025/secret", "．．/secret", "-"),
    *(
        "--config",
        "-o",
        "--data=/",
        "file:///etc/passwd",
        "postgresql://h/d",
        "*",
        "[a]",
        "$(id)",
        "`id`",
        "a\nb",
        "...",
    ),
    *(
        "....//secret",
        "secret/",
        ".hidden",
        "x" * 5000,
        "\u202egpj.exe",
        "keyring.json",
        "../keyring.json",
        "admin-token",
    ),
)
SECRET = "canary-71c0"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_name_of_a_log_that_is_sent_is_a_file_beside_nothing(name: str) -> None:
    inside(name)


@given(st.text(st.sampled_from("./\\-~:%*[ \x00\n") | st.characters(codec="utf-8"), max_size=30))
def test_whatever_a_log_is_called(name: str) -> None:
    inside(name)


def inside(name: str) -> None:
    made = safe_name(name)
    place = Path("/somewhere/deep")
    assert (place / made).parent == place
    assert made and not made.startswith(("-", ".")) and made.isascii() and made.isprintable() and len(made) <= 80
    assert not is_address(made)


def test_a_log_that_is_sent_is_written_in_its_own_place_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit is given the file's own name, in a directory of its own, which is gone afterwards."""
    commands: list[tuple[list[str], list[str]]] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def audited_instead(_: Any, made: Any, place: Path, arguments: list[str]) -> None:
        commands.append(([made.name, *arguments], sorted(each.name for each in place.iterdir())))

    monkeypatch.setattr(desk.Audits, "_audited", audited_instead)
    asked = Audits(tmp_path / "data")
    for name in ELSEWHERE:
        asked.start(name, io.BytesIO(b"{}"), {"map": (name, b"a: b"), "format": "litellm"}).over.wait(10)
    assert len(commands) == len(ELSEWHERE)
    for words, there in commands:
        assert sorted((words[0], words[2])) == there
        assert words[1] == "--map" and words[3:] == ["--format", "litellm"]
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() < 50


def test_nothing_but_the_static_files_is_served() -> None:
    app = FastAPI()
    app.include_router(static_router())
    with TestClient(app) as client:
        for file in files().values():
            assert client.get(file.path, headers={"accept-encoding": "identity"}).content == file.body
        for name in ELSEWHERE:
            for path in (f"{STATIC}/{name}", f"{STATIC}/vendor/{name}", f"{STATIC}/../{name}"):
                if "\x00" in path or "\n" in path:
                    continue
                answer = client.get(path)
                assert answer.status_code == 404, path
        for written in (
            "../app.py",
            "..%2fapp.py",
            "%2e%2e/app.py",
            "vendor/../../app.py",
            "..\\app.py",
            "../templates/base.html",
        ):
            assert client.get(f"{STATIC}/{written}").status_code == 404


@pytest.mark.parametrize("reference", ELSEWHERE)
def test_a_price_archive_is_found_by_its_hash_or_day_alone(reference: str, tmp_path: Path) -> None:
    prices = tmp_path / "data" / "prices"
    prices.mkdir(parents=True)
    for place in (tmp_path / "secret", tmp_path / "data" / "secret", tmp_path / "data" / "keyring.json"):
        place.write_text(SECRET)
    with pytest.raises(NotFound):
        Desk(prices).find(reference)
    with pytest.raises((CostbearerError, ValueError)):
        archive.load(prices, reference)
    assert sorted(each.name for each in tmp_path.rglob("*") if each.is_file()) == ["keyring.json", "secret", "secret"]


@pytest.mark.parametrize(
    "page", [*ELSEWHERE, "//evil.example", "/explore/../keys", "/\\evil.example", "javascript:x", "/explore?x"]
)
def test_a_saved_view_leads_to_a_page_of_the_console(page: str) -> None:
    from datetime import UTC, datetime

    with pytest.raises(FieldInvalid, match="page: is one of"):
        saved.draft("name", page, "", "", datetime(2026, 11, 1, tzinfo=UTC))


def test_a_directory_is_read_and_nothing_that_its_links_lead_to(tmp_path: Path) -> None:
    logs, other = tmp_path / "logs", tmp_path / "other"
    (logs / "deep").mkdir(parents=True)
    other.mkdir()
    (logs / "deep" / "own.jsonl").write_text("{}")
    (other / "theirs.jsonl").write_text("{}")
    (other / "secret").write_text(SECRET)
    (logs / "secret.jsonl").symlink_to(other / "secret")
    (logs / "theirs.jsonl").symlink_to(Path("../other/theirs.jsonl"))
    (logs / "dir").symlink_to(other)
    (logs / "loop").symlink_to(logs)
    (logs / "nowhere.jsonl").symlink_to("nowhere")
    (logs / "again.jsonl").symlink_to("deep/own.jsonl")
    assert [Path(name).name for name in found([str(logs)])] == ["again.jsonl", "own.jsonl"]
    assert found([str(logs / "theirs.jsonl")]), "a link that is named itself is asked for"


@pytest.mark.parametrize("name", ["no\x00file", "\x00", "~nobody/x", "no/../../such", "C:\\x", "n" * 5000])
def test_a_name_that_can_be_no_file_is_refused(name: str) -> None:
    with pytest.raises(InputInvalid):
        found([name])


def test_an_export_writes_through_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text(SECRET)
    target = tmp_path / "out.jsonl"
    target.with_name("out.jsonl.part").symlink_to(victim)
    with _target(target) as write:
        write({"a": 1})
    assert target.read_text() == '{"a":1}\n'
    assert not target.is_symlink()
    target.unlink()
    target.symlink_to(victim)
    with _target(target) as write:
        write({"a": 2})
    assert target.read_text() == '{"a":2}\n'
    assert victim.read_text() == SECRET
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.jsonl", "victim"]
    with pytest.raises(InputInvalid, match="cannot be written"), _target(tmp_path / "no" / "out") as write:
        write({})
