"""The control store: every change with its audit row, constraints of the database itself, two processes, migrations."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from costbearer import forms
from costbearer.errors import Conflict, FieldInvalid, KeyExpired, KeyInvalid, KeyRevoked, NotFound, StoreFailed
from costbearer.keys import KeyRing, parse_key
from costbearer.labels import PLACEHOLDERS, Labels
from costbearer.ledger import LABELS
from costbearer.stores import control_schema, migrations
from costbearer.stores.control import Actor, Control, IssuedKey
from costbearer.stores.sqlite import sqlite_warning

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
ACTOR = Actor("root", "127.0.0.1", "adm_1")
GOOD: dict[str, object] = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "control.sqlite"


@pytest.fixture
def control(file: Path, clock: Clock) -> Iterator[Control]:
    with Control.open(file, clock=clock) as store:
        yield store


def issue(control: Control, clock: Clock, **changes: object) -> IssuedKey:
    return control.issue(forms.draft({**GOOD, **changes}, clock.now, 90), ACTOR)


def rotate(control: Control, clock: Clock, key: str, **given: object) -> IssuedKey:
    return control.rotate(key, forms.rotation(given, clock.now), ACTOR)


def relabel(control: Control, clock: Clock, key: str, **given: object) -> Any:
    fields = {name.rstrip("_"): value for name, value in given.items()}
    return control.relabel(key, forms.relabelling(fields, clock.now), ACTOR)


def raw(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, isolation_level=None)


def columns(**changes: object) -> dict[str, object]:
    made = {"key_id": "key_000000000001", **GOOD, "require": "[]", "created_at": "2026-11-22T12:00:00.000000+00:00"}
    return {**made, **changes}


def insert(connection: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    places = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", tuple(row.values()))


# -- keys


def test_an_issued_key_authenticates_and_reads_back(control: Control, clock: Clock) -> None:
    issued = issue(control, clock, name="night run", env="test", project="p", cost_center="4711", require=["feature"])
    assert control.get(issued.record.key_id) == issued.record
    assert control.load_keyring().authenticate(issued.text, clock.now) == issued.record
    assert issued.record.labels == Labels("ada", "search", "ranker", "rerank")
    assert issued.record.expires_at == START + 90 * DAY
    assert issued.record.require == ("feature",)
    assert (issued.record.name, issued.record.env) == ("night run", "test")


def test_the_key_itself_is_kept_nowhere(control: Control, clock: Clock, file: Path) -> None:
    issued = issue(control, clock)
    rotated = rotate(control, clock, issued.record.key_id)
    control.revoke(issued.record.key_id, ACTOR)
    stored = b"".join(path.read_bytes() for path in file.parent.iterdir())
    for text in (issued.text, rotated.text):
        assert text.encode() not in stored
        assert text[17:47].encode() not in stored
    assert issued.text not in repr(issued)


def test_a_key_is_found_by_its_id_and_by_what_it_begins_with(control: Control, clock: Clock) -> None:
    issued = issue(control, clock)
    lookup = parse_key(issued.text).lookup_id
    for name in (issued.record.key_id, f"cbk_{lookup}", issued.text):
        assert control.get(name).key_id == issued.record.key_id


@pytest.mark.parametrize("name", ["key_zzzzzzzzzzzz", "cbk_zzzzzzzzzzzz", "", "' OR 1=1 --", "../x"])
def test_an_unknown_key_is_not_found(control: Control, name: str) -> None:
    with pytest.raises(NotFound, match="costbearer keys list"):
        control.get(name)


def test_an_unknown_full_key_is_not_repeated(control: Control) -> None:
    text = "cbk_zzzzzzzzzzzz_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
    with pytest.raises(NotFound) as caught:
        control.get(text)
    assert "cbk_zzzzzzzzzzzz here" in caught.value.message


def test_keys_are_listed_in_the_order_of_issue_page_by_page(control: Control, clock: Clock) -> None:
    issued = [issue(control, clock, agent=f"agent-{number}").record.key_id for number in range(5)]
    seen, cursor = [], None
    while True:
        records, cursor = control.page(after=cursor, limit=2)
        seen += [record.key_id for record in records]
        if cursor is None:
            break
    assert seen == issued


def test_a_list_is_filtered_by_the_labels_and_the_state_of_now(control: Control, clock: Clock) -> None:
    first, second, third = (issue(control, clock, agent=name).record.key_id for name in ("a1", "a2", "a3"))
    control.revoke(second, ACTOR)
    relabel(control, clock, third, team="ads", from_="2026-11-23")

    def ids(**where: str) -> list[str]:
        return [record.key_id for record in control.page(where=where)[0]]

    assert ids(status="active") == [first, third]
    assert ids(team="search", status="revoked") == [second]
    assert ids(team="ads") == []
    clock.now = START + DAY
    assert ids(team="ads") == [third]
    assert ids(agent="a1") == [first]


@pytest.mark.parametrize(("cursor", "limit"), [("x", 5), ("-1", 5), ("9" * 30, 5), ("1", 0), (None, 1001)])
def test_a_page_that_cannot_be_is_refused(control: Control, cursor: str | None, limit: int) -> None:
    with pytest.raises(FieldInvalid):
        control.page(after=cursor, limit=limit)


def test_a_draft_made_past_the_form_is_refused_all_the_same(control: Control) -> None:
    draft = forms.KeyDraft(labels=Labels("n/a", "search", " ", "rerank"), expires_at=None)
    with pytest.raises(FieldInvalid) as caught:
        control.issue(draft, ACTOR)
    assert set(caught.value.fields) == {"owner", "agent"}
    assert control.page() == ([], None)


# -- rotation


def test_a_rotation_overlaps_and_then_only_the_new_secret_lives(control: Control, clock: Clock) -> None:
    issued = issue(control, clock)
    clock.now = START + DAY
    rotated = rotate(control, clock, issued.record.key_id, overlap="24h")
    keys = control.load_keyring()
    assert keys.authenticate(issued.text, clock.now).key_id == keys.authenticate(rotated.text, clock.now).key_id
    assert rotated.previous_until == START + 2 * DAY
    with pytest.raises(KeyExpired):
        keys.authenticate(issued.text, START + 2 * DAY)
    assert keys.authenticate(rotated.text, START + 2 * DAY).expires_at == issued.record.expires_at


def test_a_rotation_without_overlap_ends_the_old_secret_now(control: Control, clock: Clock) -> None:
    issued = issue(control, clock)
    rotated = rotate(control, clock, issued.record.key_id, overlap="0")
    keys = control.load_keyring()
    with pytest.raises(KeyExpired):
        keys.authenticate(issued.text, clock.now)
    assert keys.authenticate(rotated.text, clock.now) == control.get(issued.record.key_id)


def test_there_are_never_more_than_two_living_secrets(control: Control, clock: Clock) -> None:
    issued = issue(control, clock)
    second = rotate(control, clock, issued.record.key_id)
    with pytest.raises(Conflict, match="two secrets until 2026-11-23 12:00 UTC"):
        rotate(control, clock, issued.record.key_id)
    third = rotate(control, clock, issued.record.key_id, overlap="0")
    keys = control.load_keyring()
    for dead in (issued, second):
        with pytest.raises(KeyExpired):
            keys.authenticate(dead.text, clock.now)
    assert keys.authenticate(third.text, clock.now).key_id == issued.record.key_id
    clock.now += 2 * DAY
    rotate(control, clock, issued.record.key_id)


def test_an_overlap_does_not_outlive_the_old_expiry(control: Control, clock: Clock) -> None:
    issued = issue(control, clock, expires="2h")
    rotated = rotate(control, clock, issued.record.key_id, overlap="24h", expires="90d")
    assert rotated.previous_until == START + timedelta(hours=2)
    assert rotated.record.expires_at == START + 90 * DAY


def test_an_expired_key_comes_back_only_with_a_new_life_and_a_new_secret(control: Control, clock: Clock) -> None:
    issued = issue(control, clock, expires="1d")
    clock.now = START + 2 * DAY
    with pytest.raises(Conflict, match=r"expired on 2026-11-23 12:00 UTC; name its new life.*--expires 90d"):
        rotate(control, clock, issued.record.key_id)
    rotated = rotate(control, clock, issued.record.key_id, expires="30d")
    keys = control.load_keyring()
    with pytest.raises(KeyExpired):
        keys.authenticate(issued.text, clock.now)
    assert keys.authenticate(rotated.text, clock.now).key_id == issued.record.key_id


def test_a_revoked_key_cannot_be_rotated_or_relabelled(control: Control, clock: Clock) -> None:
    key = issue(control, clock).record.key_id
    control.revoke(key, ACTOR)
    with pytest.raises(Conflict, match="issue another"):
        rotate(control, clock, key, expires="90d", overlap="0")
    with pytest.raises(Conflict, match="its labels stay"):
        relabel(control, clock, key, team="ads")


# -- revocation and the revision that workers watch


def test_a_revocation_is_seen_by_a_reader_in_its_next_look(control: Control, clock: Clock, file: Path) -> None:
    issued = issue(control, clock)
    with Control.open(file, read_only=True, clock=clock) as worker:
        seen = worker.revision()
        assert worker.revision() == seen
        keys = worker.load_keyring()
        control.revoke(issued.record.key_id, ACTOR)
        assert worker.revision() != seen
        assert keys.authenticate(issued.text, clock.now).key_id == issued.record.key_id
        with pytest.raises(KeyRevoked):
            worker.load_keyring().authenticate(issued.text, clock.now)


def test_the_revision_stands_still_while_nothing_is_committed(control: Control, clock: Clock, file: Path) -> None:
    key = issue(control, clock).record.key_id
    seen = control.revision()
    control.get(key)
    control.load_keyring()
    with pytest.raises(NotFound):
        control.revoke("key_zzzzzzzzzzzz", ACTOR)
    assert control.revision() == seen
    control.revoke(key, ACTOR)
    assert control.revision() != seen


def test_revoking_twice_changes_nothing(control: Control, clock: Clock) -> None:
    key = issue(control, clock).record.key_id
    first = control.revoke(key, ACTOR)
    clock.now += DAY
    assert control.revoke(key, ACTOR) == first
    assert [row.action for row in control.audit_rows(key)] == ["key.issue", "key.revoke"]


def test_a_restored_file_is_noticed_and_read(control: Control, clock: Clock, file: Path, tmp_path: Path) -> None:
    issued = issue(control, clock)
    backup = tmp_path / "backup.sqlite"
    with sqlite3.connect(file) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()
    with Control.open(file, read_only=True, clock=clock) as worker:
        control.revoke(issued.record.key_id, ACTOR)
        control.close()
        seen = worker.revision()
        backup.replace(file)
        for side in ("-wal", "-shm"):
            file.with_name(file.name + side).unlink(missing_ok=True)
        assert worker.revision() != seen
        assert worker.load_keyring().authenticate(issued.text, clock.now).revoked_at is None


def test_a_store_that_is_gone_is_said_and_found_again(
    control: Control, clock: Clock, file: Path, tmp_path: Path
) -> None:
    issue(control, clock)
    with Control.open(file, read_only=True) as worker:
        worker.revision()
        file.rename(tmp_path / "away")
        with pytest.raises(StoreFailed, match="cannot be read"):
            worker.revision()
        (tmp_path / "away").rename(file)
        worker.revision()
        assert worker.load_keyring().keys == 1


# -- labels


def test_labels_hold_from_their_date_and_the_newest_whose_date_has_come(control: Control, clock: Clock) -> None:
    issued = issue(control, clock)
    key = issued.record.key_id
    relabel(control, clock, key, team="ads", from_="2026-12-01")
    now = relabel(control, clock, key, owner="grace")
    assert now.labels == Labels("grace", "search", "ranker", "rerank")
    clock.now = datetime(2026, 12, 1, tzinfo=UTC)
    assert control.get(key).labels == Labels("ada", "ads", "ranker", "rerank")
    assert control.load_keyring().authenticate(issued.text, clock.now).labels.team == "ads"
    assert [dated.labels.team for dated in control.get(key).history] == ["search", "search", "ads"]


def test_a_later_change_builds_on_the_labels_of_its_date(control: Control, clock: Clock) -> None:
    key = issue(control, clock).record.key_id
    relabel(control, clock, key, team="ads", from_="2026-12-01")
    relabel(control, clock, key, agent="bidder", from_="2026-12-02")
    clock.now = datetime(2026, 12, 3, tzinfo=UTC)
    assert control.get(key).labels == Labels("ada", "ads", "bidder", "rerank")


def test_a_past_date_is_refused_by_the_store_too(control: Control, clock: Clock) -> None:
    key = issue(control, clock).record.key_id
    change = forms.Relabelling(changes={"team": "ads"}, since=START - timedelta(seconds=1))
    with pytest.raises(FieldInvalid, match="posted entries do not change"):
        control.relabel(key, change, ACTOR)


def test_labels_that_do_not_change_are_said(control: Control, clock: Clock) -> None:
    key = issue(control, clock).record.key_id
    with pytest.raises(FieldInvalid, match="nothing changes"):
        relabel(control, clock, key, team="search")
    assert len(control.audit_rows(key)) == 1


# -- issuing once


def test_an_idempotency_key_issues_once_and_names_the_key_after_that(control: Control, clock: Clock) -> None:
    draft = forms.draft(GOOD, clock.now, 90)
    issued = control.issue(draft, ACTOR, idempotency_key="abc")
    with pytest.raises(Conflict, match=f"has issued {issued.record.key_id} already"):
        control.issue(draft, ACTOR, idempotency_key="abc")
    with pytest.raises(Conflict, match=issued.record.key_id):
        control.rotate(issued.record.key_id, forms.rotation({}, clock.now), ACTOR, idempotency_key="abc")
    assert len(control.page()[0]) == 1
    control.issue(draft, ACTOR, idempotency_key="abd")


@pytest.mark.parametrize("token", ["", "a" * 256, "a\nb"])
def test_an_unusable_idempotency_key_is_named(control: Control, clock: Clock, token: str) -> None:
    with pytest.raises(FieldInvalid, match="Idempotency-Key"):
        control.issue(forms.draft(GOOD, clock.now, 90), ACTOR, idempotency_key=token)


def test_of_many_at_once_with_one_idempotency_key_one_issues(control: Control, clock: Clock) -> None:
    draft = forms.draft(GOOD, clock.now, 90)

    def attempt(_: int) -> bool:
        try:
            control.issue(draft, ACTOR, idempotency_key="same")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


# -- audit


def test_every_change_has_its_audit_row_without_secret_or_digest(control: Control, clock: Clock, file: Path) -> None:
    issued = issue(control, clock)
    key = issued.record.key_id
    rotated = rotate(control, clock, key)
    relabel(control, clock, key, team="ads")
    control.revoke(key, ACTOR)
    rows = control.audit_rows()
    assert [row.action for row in rows] == ["key.issue", "key.rotate", "key.relabel", "key.revoke"]
    assert {row.actor for row in rows} == {ACTOR}
    assert rows[0].before is None
    assert rows[2].before is not None
    assert rows[2].after is not None
    assert (rows[2].before["team"], rows[2].after["team"]) == ("search", "ads")
    with raw(file) as connection:
        digests = [row[0] for row in connection.execute("SELECT digest FROM key_secrets")]
        text = json.dumps(connection.execute("SELECT * FROM audit_log").fetchall())
    connection.close()
    assert len(digests) == 2
    for hidden in (issued.text[17:], rotated.text[17:], *(part.hex() for part in digests), *map(_base64, digests)):
        assert hidden not in text


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def test_a_change_whose_audit_row_fails_does_not_happen(control: Control, clock: Clock, file: Path) -> None:
    key = issue(control, clock).record.key_id
    with raw(file) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    connection.close()
    with pytest.raises(StoreFailed, match="the disk is full"):
        issue(control, clock)
    with pytest.raises(StoreFailed):
        control.revoke(key, ACTOR)
    with pytest.raises(StoreFailed):
        relabel(control, clock, key, team="ads")
    with pytest.raises(StoreFailed):
        rotate(control, clock, key)
    records, _ = control.page()
    assert [record.key_id for record in records] == [key]
    assert control.get(key).revoked_at is None
    assert len(control.get(key).history) == 1
    assert len(control.get(key).secrets) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_log",
        "UPDATE audit_log SET who = 'nobody'",
        "DELETE FROM key_labels",
        "UPDATE key_labels SET team = 'maps'",
        "DELETE FROM keys",
    ],
)
def test_the_record_only_grows(control: Control, clock: Clock, file: Path, statement: str) -> None:
    relabel(control, clock, issue(control, clock).record.key_id, team="ads")
    connection = raw(file)
    with pytest.raises(sqlite3.IntegrityError, match=r"grow|never deleted"):
        connection.execute(statement)
    connection.close()


# -- the database's own constraints


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """The tables as the migration makes them, reached past every door of ours."""
    file = tmp_path_factory.mktemp("bare") / "control.sqlite"
    Control.open(file).close()
    connection = raw(file)
    yield connection
    connection.close()


@pytest.fixture
def past_the_doors(bare: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    bare.execute("BEGIN")
    yield bare
    bare.execute("ROLLBACK")


@pytest.mark.parametrize("table", ["keys", "key_labels"])
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "\t",
        "\u00a0\u2003",
        "\u200b",
        "\ufeff",
        "-",
        "--",
        "?",
        "N/A",
        "(none)",
        "None",
        "t.b.d.",
        "x" * 129,
    ],
)
def test_the_database_refuses_a_key_without_four_labels(
    past_the_doors: sqlite3.Connection, table: str, label: str, value: str | None
) -> None:
    row = columns(**{label: value})
    if table == "key_labels":
        insert(past_the_doors, "keys", columns())
        row = {**{name: row[name] for name in (*LABELS, "key_id")}, "since": row["created_at"]}
    with pytest.raises(sqlite3.IntegrityError, match=label):
        insert(past_the_doors, table, row)


def test_the_database_refuses_every_placeholder_there_is(past_the_doors: sqlite3.Connection) -> None:
    for word in sorted(PLACEHOLDERS):
        with pytest.raises(sqlite3.IntegrityError, match="team_is_a_name"):
            insert(past_the_doors, "keys", columns(team=word.upper()))
    insert(past_the_doors, "keys", columns())


def test_the_database_refuses_an_update_to_a_placeholder(control: Control, clock: Clock, file: Path) -> None:
    issue(control, clock)
    connection = raw(file)
    with pytest.raises(sqlite3.IntegrityError, match="owner_is_a_name"):
        connection.execute("UPDATE keys SET owner = 'unknown'")
    connection.close()


# -- opening, two processes, migrations


def test_an_empty_directory_becomes_a_private_store_and_opening_again_changes_nothing(file: Path) -> None:
    Control.open(file).close()
    before = {path.name: path.read_bytes() for path in file.parent.iterdir() if path.suffix in {".sqlite", ".json"}}
    Control.open(file).close()
    assert {name: (file.parent / name).read_bytes() for name in before} == before
    for name in ("control.sqlite", "keyring.json"):
        assert stat.S_IMODE((file.parent / name).stat().st_mode) == 0o600


def test_the_store_is_wal_full_and_keeps_references(control: Control) -> None:
    with control._database.reading() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_a_reader_cannot_write_and_makes_nothing(control: Control, clock: Clock, file: Path, tmp_path: Path) -> None:
    with Control.open(file, read_only=True) as reader, pytest.raises(StoreFailed, match="reading only"):
        issue(reader, clock)
    with pytest.raises(StoreFailed, match="not there yet"):
        Control.open(tmp_path / "none" / "control.sqlite", read_only=True)
    assert not (tmp_path / "none").exists()


def test_the_migrated_database_is_the_schema(control: Control) -> None:
    assert migrations.newest() == control_schema.VERSION
    with control._database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, control_schema.metadata) == []
        text = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'keys'").scalar_one()
    assert all(control_schema.label_check(label) in text for label in LABELS)


def test_a_migration_that_fails_leaves_nothing_and_the_next_start_does_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(connection: Any, version: str) -> None:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num TEXT)")
        connection.exec_driver_sql("CREATE TABLE keys (number INTEGER)")
        raise StoreFailed("stopped in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "upgrade", half)
        with pytest.raises(StoreFailed, match="in the middle"):
            Control.open(file)
    connection = raw(file)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()
    Control.open(file).close()


def test_a_store_of_a_newer_version_is_refused_and_left_alone(control: Control, file: Path) -> None:
    control.close()
    connection = raw(file)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for read_only in (True, False):
        with pytest.raises(StoreFailed, match="is of version 9999"):
            Control.open(file, read_only=read_only)


def test_a_file_that_is_no_database_is_said(file: Path) -> None:
    file.parent.mkdir()
    (file.parent / "control.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 50)
    (file.parent / "keyring.json").write_text("{}")
    (file.parent / "keyring.json").chmod(0o600)
    with pytest.raises(StoreFailed):
        Control.open(file)


def test_a_lost_keyring_is_noticed_and_not_made_anew(control: Control, clock: Clock, file: Path) -> None:
    issue(control, clock)
    ring = file.parent / "keyring.json"
    shutil.move(ring, ring.with_name("kept.json"))
    with pytest.raises(StoreFailed, match=r"keyring\.json is missing"):
        Control.open(file)
    with pytest.raises(StoreFailed, match="missing"):
        control.load_keyring()


def test_a_keyring_of_another_installation_is_noticed(
    control: Control, clock: Clock, file: Path, tmp_path: Path
) -> None:
    issue(control, clock)
    Control.open(tmp_path / "other" / "control.sqlite").close()
    shutil.copy(tmp_path / "other" / "keyring.json", file.parent / "keyring.json")
    for work in (control.load_keyring, lambda: issue(control, clock)):
        with pytest.raises(StoreFailed, match=r"does not hold the pepper \(version 1\)"):
            work()


def test_a_second_pepper_takes_new_keys_and_the_first_still_holds(control: Control, clock: Clock, file: Path) -> None:
    old = issue(control, clock)
    ring = file.parent / "keyring.json"
    document = json.loads(ring.read_text())
    document["peppers"]["2"] = _base64(b"2" * 32)
    document["active"] = 2
    ring.write_text(json.dumps(document))
    new = issue(control, clock, agent="other")
    keys = control.load_keyring()
    assert new.record.secrets[0].pepper_version == 2
    assert keys.authenticate(old.text, clock.now) == old.record
    assert keys.authenticate(new.text, clock.now) == new.record


PROCESS = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from costbearer import forms
from costbearer.stores.control import Actor, Control
with Control.open(Path(sys.argv[1])) as control:
    for number in range(10):
        given = {"owner": "ada", "team": sys.argv[2], "agent": f"agent-{number}", "workload": "rerank"}
        control.issue(forms.draft(given, datetime.now(UTC), 90), Actor("a", "b", "c"))
"""


@pytest.mark.slow
def test_two_processes_start_on_an_empty_directory_and_both_write(file: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(file), team], stderr=subprocess.PIPE)
        for team in ("search", "ads")
    ]
    outcomes = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], outcomes
    with Control.open(file) as control:
        assert len(control.page()[0]) == 20
        assert len(control.audit_rows()) == 20
        assert control.load_keyring().keys == 20


def test_a_reader_never_sees_half_a_change(control: Control, clock: Clock, file: Path) -> None:
    stop = threading.Event()
    seen: list[KeyRing] = []

    def read() -> None:
        with Control.open(file, read_only=True, clock=clock) as reader:
            while not stop.is_set():
                seen.append(reader.load_keyring())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        texts = [issue(control, clock, agent=f"agent-{number}").text for number in range(20)]
    finally:
        stop.set()
        thread.join()
    seen.append(control.load_keyring())
    for keys in seen:
        found = 0
        for text in texts:
            try:
                keys.authenticate(text, clock.now)
            except KeyInvalid:
                continue
            found += 1
        assert found == keys.keys


@pytest.mark.parametrize(
    ("version", "warned"),
    [
        ((3, 6, 23), False),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_the_versions_of_sqlite_with_the_wal_fault_are_known(version: tuple[int, ...], warned: bool) -> None:
    assert (sqlite_warning(version) is not None) == warned


def test_the_warning_goes_to_the_log(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    with caplog.at_level(logging.WARNING, logger="costbearer.control"):
        Control.open(file).close()
    assert "SQLite 3.40.1" in caplog.text
