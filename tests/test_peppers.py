"""The secret that keys are kept under is changed while they are used: no key stops, and the old one ends."""

from __future__ import annotations

import json
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
from costbearer.stores import secrets
from costbearer.stores.control import Actor, Control, IssuedKey
from costbearer.stores.peppers import Peppers
from costbearer.stores.rekeying import FILE, Rekeyed, Spool

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
    assert peppers.move(spool) == 1, "once, however often it was used"
    assert (versions(control, used.record.key_id), versions(control, idle.record.key_id)) == ([2], [1])
    assert waiting(peppers)[1] == (idle.record.key_id,)
    ring.authenticate(used.text, NOW)  # by a worker that has not read the keys anew
    again = control.load_keyring(spool)
    assert again.authenticate(used.text, NOW).key_id == used.record.key_id
    assert peppers.move(spool) == 0
    new = issue(control, "new")
    assert versions(control, new.record.key_id) == [2]


def test_a_moved_key_is_checked_under_the_new_pepper_alone(control: Control, peppers: Peppers, spool: Spool) -> None:
    used, idle = issue(control), issue(control, "idle")
    peppers.rotate(ACTOR)
    control.load_keyring(spool).authenticate(used.text, NOW)
    peppers.move(spool)
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
    assert peppers.move(spool) == 2
    assert waiting(peppers) == {1: (), 2: (), 3: ()}
    for version in (1, 2):
        peppers.retire(version, ACTOR)
    for each in (first, second):
        assert control.load_keyring().authenticate(each.text, NOW).key_id == each.record.key_id


def test_every_step_is_in_the_log_and_nothing_secret_is(control: Control, peppers: Peppers, spool: Spool) -> None:
    used = issue(control)
    peppers.rotate(ACTOR)
    control.load_keyring(spool).authenticate(used.text, NOW)
    peppers.move(spool)
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
    file = control.database.file.parent / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert used.text[17:] not in file.read_text()
    peppers.move(spool)
    assert file.read_bytes() == b""


def test_nothing_is_handed_over_for_a_key_that_is_refused(control: Control, peppers: Peppers, spool: Spool) -> None:
    used, revoked = issue(control), issue(control, "revoked")
    control.revoke(revoked.record.key_id, ACTOR)
    peppers.rotate(ACTOR)
    ring = control.load_keyring(spool)
    for text in (used.text[:-1] + ("0" if used.text[-1] != "0" else "1"), revoked.text):
        with pytest.raises((KeyInvalid, KeyRevoked)):
            ring.authenticate(text, NOW)
    assert peppers.move(spool) == 0


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
    assert peppers.move(spool) == 1
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
            peppers.move(spool)
    assert versions(control, used.record.key_id) == [1]
    assert peppers.move(spool) == 1


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
    issued = issue(control)
    peppers.rotate(ACTOR)
    ring: KeyRing = control.load_keyring(Spool(tmp_path / "gone"))
    assert ring.authenticate(issued.text, NOW).key_id == issued.record.key_id


def test_many_workers_hand_over_at_once(tmp_path: Path) -> None:
    spool, taken = Spool(tmp_path), list[Rekeyed]()

    def add(number: int) -> None:
        Spool(tmp_path).add(f"{number:012d}", 2, bytes(32))
        if number % 10 == 0:
            with spool.taken() as handed:
                taken.extend(handed)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(400)))
    with spool.taken() as handed:
        taken.extend(handed)
    assert sorted(each.lookup_id for each in taken) == [f"{number:012d}" for number in range(400)]


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
    with Control.open(tmp_path / "control.sqlite", read_only=True) as control:
        control.load_keyring(Spool(tmp_path)).authenticate(key.text, datetime.now(UTC))
    assert json.loads(run("secrets", "list", "--json")[1])["peppers"][0]["waiting"] == []
    assert run("secrets", "retire", "1")[0] == 0
    with Control.open(tmp_path / "control.sqlite", read_only=True) as control:
        assert control.load_keyring().authenticate(key.text, datetime.now(UTC)).key_id == key.record.key_id
