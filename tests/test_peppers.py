"""The secret that keys are kept under is changed while they are used: no key stops, and the old one ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from costbearer import forms
from costbearer.cli import root
from costbearer.errors import Conflict, KeyExpired, KeyInvalid, KeyRevoked, NotFound, StoreFailed
from costbearer.keys import KeyRing
from costbearer.stores import peppers as peppers_store
from costbearer.stores import rekeying, secrets
from costbearer.stores.control import Actor, Control, IssuedKey
from costbearer.stores.peppers import Peppers
from costbearer.stores.rekeying import ASIDE, FILE, Rekeyed, Spool
from tests.harness import gateway, make_config, run

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ACTOR = Actor("root", "127.0.0.1", "adm_1")
GOOD: dict[str, object] = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; to migrate one takes longer than most tests here."""
    directory = tmp_path_factory.mktemp("empty") / "data"
    Control.open(directory / "control.sqlite").close()
    return directory


@pytest.fixture
def control(tmp_path: Path, empty: Path) -> Iterator[Control]:
    shutil.copytree(empty, tmp_path, dirs_exist_ok=True)
    with Control.open(tmp_path / "control.sqlite", clock=lambda: NOW) as store:
        yield store


@pytest.fixture
def peppers(control: Control) -> Peppers:
    return Peppers(control.database, lambda: NOW)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def issue(control: Control, agent: str = "ranker") -> IssuedKey:
    return control.issue(forms.draft({**GOOD, "agent": agent}, NOW, 90), ACTOR)


def move(peppers: Peppers, spool: Spool) -> int:
    """What a worker does with the keys it saw, and the console after it."""
    spool.hand_over()
    return peppers.move(spool)


def versions(control: Control, key: str) -> list[int]:
    return [secret.pepper_version for secret in control.get(key).secrets]


def waiting(peppers: Peppers) -> dict[int, tuple[str, ...]]:
    return {each.version: each.waiting for each in peppers.all()}


def test_a_key_moves_when_it_is_used_and_never_stops(control: Control, peppers: Peppers, spool: Spool) -> None:
    used, idle = issue(control), issue(control, "idle")
    made = peppers.rotate(ACTOR)
    assert (made.version, made.active) == (2, True)
    assert waiting(peppers) == {1: (used.record.key_id, idle.record.key_id), 2: ()}
    ring = control.load_keyring(spool)
    for _ in range(3):
        assert ring.authenticate(used.text, NOW).key_id == used.record.key_id
    assert move(peppers, spool) == 1, "once, however often it was used"
    assert (versions(control, used.record.key_id), versions(control, idle.record.key_id)) == ([2], [1])
    assert waiting(peppers)[1] == (idle.record.key_id,)
    ring.authenticate(used.text, NOW)  # by a worker that has not read the keys anew
    again = control.load_keyring(spool)
    assert again.authenticate(used.text, NOW).key_id == used.record.key_id
    assert move(peppers, spool) == 0
    new = issue(control, "new")
    assert versions(control, new.record.key_id) == [2]


def test_a_moved_key_is_checked_under_the_new_pepper_alone(control: Control, peppers: Peppers, spool: Spool) -> None:
    used, idle = issue(control), issue(control, "idle")
    peppers.rotate(ACTOR)
    control.load_keyring(spool).authenticate(used.text, NOW)
    move(peppers, spool)
    with pytest.raises(Conflict, match="1 keys were not used since version 1"):
        peppers.retire(1, ACTOR)
    retired = peppers.retire(1, ACTOR, anyway=True)
    assert retired.waiting == (idle.record.key_id,)
    assert set(secrets.keyring(control.database.file.parent).peppers) == {2}
    ring = control.load_keyring(spool)
    assert ring.authenticate(used.text, NOW).key_id == used.record.key_id
    with pytest.raises(KeyExpired, match=r"cbk_\w{12} was not used before .* retired.*keys rotate") as caught:
        ring.authenticate(idle.text, NOW)
    for hidden in ("ada", idle.record.key_id, idle.text[17:]):
        assert hidden not in caught.value.message, "nobody has proved to hold it"
    with pytest.raises(KeyInvalid):
        ring.authenticate(idle.text[:-1] + "!", NOW)
    rotated = control.rotate(idle.record.key_id, forms.rotation({"overlap": "0"}, NOW), ACTOR)
    assert control.load_keyring().authenticate(rotated.text, NOW).key_id == idle.record.key_id


def test_two_old_versions_live_side_by_side(control: Control, peppers: Peppers, spool: Spool) -> None:
    first = issue(control)
    peppers.rotate(ACTOR)
    second = issue(control, "second")
    peppers.rotate(ACTOR)
    ring = control.load_keyring(spool)
    for each in (first, second):
        assert ring.authenticate(each.text, NOW).key_id == each.record.key_id
    assert move(peppers, spool) == 2
    assert waiting(peppers) == {1: (), 2: (), 3: ()}
    for version in (1, 2):
        peppers.retire(version, ACTOR)
    for each in (first, second):
        assert control.load_keyring().authenticate(each.text, NOW).key_id == each.record.key_id


def test_every_step_is_in_the_log_and_nothing_secret_is(control: Control, peppers: Peppers, spool: Spool) -> None:
    used = issue(control)
    peppers.rotate(ACTOR)
    control.load_keyring(spool).authenticate(used.text, NOW)
    move(peppers, spool)
    peppers.retire(1, ACTOR)
    rows = control.audit_rows()
    assert [row.action for row in rows] == ["key.issue", "pepper.rotate", "key.rekey", "pepper.retire"]
    assert (rows[2].before, rows[2].after, rows[2].key_id) == ({"pepper": 1}, {"pepper": 2}, used.record.key_id)
    ring = secrets.keyring(control.database.file.parent)
    told = str(rows)
    assert not any(pepper.hex() in told for pepper in ring.peppers.values())


def test_what_is_handed_over_is_private_and_holds_no_key(control: Control, peppers: Peppers, spool: Spool) -> None:
    used = issue(control)
    peppers.rotate(ACTOR)
    control.load_keyring(spool).authenticate(used.text, NOW)
    spool.hand_over()
    file, aside = (control.database.file.parent / name for name in (FILE, ASIDE))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert used.text[17:] not in file.read_text()
    with spool.taken():
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert (file.read_bytes(), aside.read_bytes()) == (b"", b"")


def test_nothing_is_handed_over_for_a_key_that_is_refused(control: Control, peppers: Peppers, spool: Spool) -> None:
    used, revoked = issue(control), issue(control, "revoked")
    control.revoke(revoked.record.key_id, ACTOR)
    peppers.rotate(ACTOR)
    ring = control.load_keyring(spool)
    for text in (used.text[:-1] + ("0" if used.text[-1] != "0" else "1"), revoked.text):
        with pytest.raises((KeyInvalid, KeyRevoked)):
            ring.authenticate(text, NOW)
    assert move(peppers, spool) == 0


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"lookup_id": "zzzzzzzzzzzz", "pepper": 2, "digest": "00"}',
        '{"lookup_id": "LOOKUP", "pepper": 2, "digest": "zz"}',
        '{"lookup_id": "LOOKUP", "pepper": 2, "digest": "00"}',
        '{"lookup_id": "LOOKUP", "pepper": 9, "digest": "%s"}' % ("00" * 32),
        '{"lookup_id": "LOOKUP", "pepper": 1, "digest": "%s"}' % ("00" * 32),
    ],
)
def test_a_line_that_cannot_be_is_left_out_and_the_rest_is_taken(
    control: Control, peppers: Peppers, spool: Spool, line: str
) -> None:
    used, other = issue(control), issue(control, "other")
    peppers.rotate(ACTOR)
    file = control.database.file.parent / FILE
    file.write_text(line.replace("LOOKUP", other.text[4:16]) + "\n")
    control.load_keyring(spool).authenticate(used.text, NOW)
    assert move(peppers, spool) == 1
    assert control.load_keyring().authenticate(other.text, NOW).key_id == other.record.key_id


def test_what_was_not_committed_is_handed_over_again(
    control: Control, peppers: Peppers, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = issue(control)
    peppers.rotate(ACTOR)
    control.load_keyring(spool).authenticate(used.text, NOW)

    def fail(*_: object, **__: object) -> None:
        raise StoreFailed("no space")

    with monkeypatch.context() as patch:
        patch.setattr(peppers_store, "note", fail)
        with pytest.raises(StoreFailed):
            move(peppers, spool)
    assert versions(control, used.record.key_id) == [1]
    assert move(peppers, spool) == 1


def test_a_rotation_that_is_not_written_down_does_not_happen(
    control: Control, peppers: Peppers, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued, before = issue(control), secrets.keyring(control.database.file.parent)

    def fail(*_: object) -> None:
        raise StoreFailed("no space")

    for place, name in ((peppers_store, "note"), (secrets, "replace_keyring")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            with pytest.raises(StoreFailed):
                peppers.rotate(ACTOR)
        assert secrets.keyring(control.database.file.parent) == before
        assert [each.version for each in peppers.all()] == [1]
    assert control.load_keyring().authenticate(issued.text, NOW).key_id == issued.record.key_id


def test_a_retirement_that_dies_before_the_keyring_is_written_still_holds(
    control: Control, peppers: Peppers, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = issue(control)
    peppers.rotate(ACTOR)

    def fail(*_: object) -> None:
        raise StoreFailed("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(secrets, "replace_keyring", fail)
        with pytest.raises(StoreFailed):
            peppers.retire(1, ACTOR, anyway=True)
    with pytest.raises(KeyExpired):
        control.load_keyring(spool).authenticate(issued.text, NOW)
    peppers.rotate(ACTOR)
    assert set(secrets.keyring(control.database.file.parent).peppers) == {2, 3}, "the next change takes it out"


def test_what_cannot_be_retired_is_said(control: Control, peppers: Peppers) -> None:
    issue(control)
    with pytest.raises(Conflict, match="active"):
        peppers.retire(1, ACTOR, anyway=True)
    for version in (7, 2**63, -(2**70)):
        with pytest.raises(NotFound, match="secrets list"):
            peppers.retire(version, ACTOR)
    peppers.rotate(ACTOR)
    peppers.retire(1, ACTOR, anyway=True)
    with pytest.raises(Conflict, match="retired already"):
        peppers.retire(1, ACTOR, anyway=True)


def test_ended_keys_and_secrets_do_not_wait(control: Control, peppers: Peppers) -> None:
    revoked, rotated = issue(control), issue(control, "rotated")
    control.revoke(revoked.record.key_id, ACTOR)
    peppers.rotate(ACTOR)
    control.rotate(rotated.record.key_id, forms.rotation({"overlap": "0"}, NOW), ACTOR)
    assert waiting(peppers) == {1: (), 2: ()}
    later = Peppers(control.database, lambda: NOW + timedelta(days=100))
    assert waiting(later)[1] == ()


def test_a_spool_that_cannot_be_written_refuses_no_call(control: Control, peppers: Peppers, tmp_path: Path) -> None:
    issued, gone = issue(control), tmp_path / "gone"
    peppers.rotate(ACTOR)
    spool = Spool(gone)
    ring: KeyRing = control.load_keyring(spool)
    assert ring.authenticate(issued.text, NOW).key_id == issued.record.key_id
    spool.hand_over()
    gone.mkdir()
    spool.hand_over()
    assert (gone / FILE).read_bytes().count(b"\n") == 1, "it was kept"


def test_a_full_disk_takes_no_part_of_a_line(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    spool.add("0" * 12, 2, bytes(32))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
        spool.hand_over()
        assert (tmp_path / FILE).read_bytes() == b""
    spool.hand_over()
    with spool.taken() as handed:
        assert [each.lookup_id for each in handed] == ["0" * 12]


def test_a_worker_waits_for_nobody(spool: Spool, tmp_path: Path) -> None:
    """Neither for the console, which waits for the control store with what it took, nor for whoever else has the file:
    it comes again, and nothing is lost."""
    console = Spool(tmp_path)

    def work(number: int) -> None:
        spool.add(f"{number:012d}", 2, bytes(32))
        spool.hand_over()

    with ThreadPoolExecutor(1) as worker:
        worker.submit(work, 1).result(1)
        with console.taken() as handed:
            assert [each.lookup_id for each in handed] == [f"{1:012d}"]
            worker.submit(work, 2).result(1)
        with (tmp_path / FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            worker.submit(work, 3).result(1)
            with console.taken() as handed:
                assert handed == [], "the console does not wait either"
        worker.submit(work, 4).result(1)
    with console.taken() as handed:
        assert [each.lookup_id for each in handed] == [f"{number:012d}" for number in (2, 3, 4)]


def test_what_a_worker_keeps_is_bounded(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekeying, "WAITING_MAX", 3)
    for number in (1, 2, 3, 4, 1, 5, 2):
        spool.add(f"{number:012d}", 2, bytes(32))
    spool.hand_over()
    assert (tmp_path / FILE).read_bytes().count(b"\n") == 3


def test_lines_outlive_a_console_that_dies_with_them(spool: Spool, tmp_path: Path) -> None:
    def handed_over(number: int) -> bytes:
        spool.add(f"{number:012d}", 2, bytes(32))
        spool.hand_over()
        return (tmp_path / FILE).read_bytes()

    # Within its copy: one line whole and one cut off, and nothing taken away yet.
    line = handed_over(1)
    (tmp_path / ASIDE).write_bytes(line + line[:30])
    # With all of them, before the control store had any.
    with contextlib.suppress(KeyboardInterrupt), spool.taken() as handed:
        assert {each.lookup_id for each in handed} == {f"{1:012d}"}
        raise KeyboardInterrupt
    handed_over(2)
    with spool.taken() as handed:
        assert {each.lookup_id for each in handed} == {f"{1:012d}", f"{2:012d}"}
    with spool.taken() as handed:
        assert handed == []


def test_many_workers_hand_over_at_once(tmp_path: Path) -> None:
    spools, taken = [Spool(tmp_path) for _ in range(8)], list[Rekeyed]()

    def work(spool: Spool) -> None:
        for number in range(50):
            spool.add(f"{spools.index(spool):06d}{number:06d}", 2, bytes(32))
            spool.hand_over()
            if number % 10 == 0:
                with spool.taken() as handed:
                    taken.extend(handed)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, spools))
    for spool in spools:
        spool.hand_over()
    with spools[0].taken() as handed:
        taken.extend(handed)
    assert sorted(each.lookup_id for each in taken) == [
        f"{at:06d}{number:06d}" for at in range(8) for number in range(50)
    ]


def test_a_running_worker_hands_over_while_the_console_waits_with_what_it_took(tmp_path: Path) -> None:
    async def body() -> None:
        config = make_config(tmp_path, "http://127.0.0.1:1/v1", "http://127.0.0.1:1")
        async with gateway(config) as running:
            console, used = Spool(config.data), Peppers(running.control.database)
            key = running.control.issue(forms.draft(GOOD, datetime.now(UTC), 90), ACTOR)
            used.rotate(ACTOR)
            old = running.worker.keyring
            while running.worker.keyring is old:
                await asyncio.sleep(0.02)
            file = config.data / FILE
            for text in (running.key, key.text):
                # Already the first has a line in the file, so the second finds the console with that line.
                with console.taken():
                    assert (await running.ask(b"", "/v1/models", method="GET", key=text)).status == 200
                    async with asyncio.timeout(5):
                        while not file.exists() or not file.read_bytes():
                            await asyncio.sleep(0.02)
            assert used.move(console) == 1
            assert used.all()[0].waiting == (running.control.get(running.key[:16]).key_id,)

    run(body)


def test_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COSTBEARER_URL", "COSTBEARER_TOKEN", "COSTBEARER_CONFIG", "COSTBEARER_DATA"):
        monkeypatch.delenv(name, raising=False)
    with Control.open(tmp_path / "control.sqlite") as control:
        key = control.issue(forms.draft(GOOD, datetime.now(UTC), 90), ACTOR)

    def run(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(root, [*words, "--data", str(tmp_path)])
        return done.exit_code, done.stdout, done.stderr

    assert run("secrets", "rotate")[0] == 0
    assert f"{key.record.key_id} was not used since version 1" in run("secrets", "list")[1]
    code, _, said = run("secrets", "retire", "1")
    assert code == 2 and "1 keys were not used" in said
    spool = Spool(tmp_path)
    with Control.open(tmp_path / "control.sqlite", read_only=True) as control:
        control.load_keyring(spool).authenticate(key.text, datetime.now(UTC))
    spool.hand_over()
    assert json.loads(run("secrets", "list", "--json")[1])["peppers"][0]["waiting"] == []
    assert run("secrets", "retire", "1")[0] == 0
    with Control.open(tmp_path / "control.sqlite", read_only=True) as control:
        assert control.load_keyring().authenticate(key.text, datetime.now(UTC)).key_id == key.record.key_id
