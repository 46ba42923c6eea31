"""The key that hashes tenants and users is changed while calls go on: one tenant stays one group, sums the bill."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from costbearer.app import hashers, load_hashers, prepare, waiting_in
from costbearer.attribution import Attributor, Bearer, Hashers, Said
from costbearer.bookkeeper import Bookkeeper
from costbearer.cli import root
from costbearer.errors import Conflict, NotFound, StoreFailed
from costbearer.journal import JournalWriter
from costbearer.ledger import HASHED, Entry, faults
from costbearer.reports import answer, question
from costbearer.reports.table import Table
from costbearer.stores import hash_keys as hash_keys_store
from costbearer.stores import links, secrets
from costbearer.stores.control import Actor, Control
from costbearer.stores.duckdb import Ledger, Position
from costbearer.stores.hash_keys import HashKeys, Unlinked
from costbearer.stores.rows import Posted, entries_from, table_of
from tests.factories import record
from tests.harness import Gateway, gateway, run
from tests.pages import admin_token, console, settings
from tests.test_gateway_wire import always, asked, config_for, provider, reply

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ACTOR = Actor("root", "127.0.0.1", "adm_1")
NOBODY = {"tenants": 0, "users": 0}
BEARER = Bearer(key_id="key_A", owner="ada", team="search", agent="ranker", workload="rerank")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("empty") / "data"
    Control.open(directory / "control.sqlite").close()
    return directory


@pytest.fixture
def control(tmp_path: Path, empty: Path) -> Iterator[Control]:
    shutil.copytree(empty, tmp_path, dirs_exist_ok=True)
    with Control.open(tmp_path / "control.sqlite", clock=lambda: NOW) as store:
        yield store


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.duckdb", readers=1)
    yield opened
    opened.close()


def keys_of(control: Control, waiting: Unlinked | None = None) -> HashKeys:
    return HashKeys(control.database, lambda _: waiting or Unlinked(), lambda: NOW)


def call(hashing: Hashers, sequence: int, tenant: str, user: str, cost: str = "0.1") -> Entry:
    """One call as a worker records it."""
    said = Attributor(hashing).attribute(BEARER, Said(body_tags=(f"tenant:{tenant}", f"user:{user}")))
    return msgspec.structs.replace(
        said.entry,
        journal="j1",
        sequence=sequence,
        request_id=f"r{sequence}",
        call_id=f"r{sequence}.1",
        started_at=NOW - timedelta(minutes=sequence),
        provider="openai",
        basis="estimated",
        status="ok",
        cost_usd=Decimal(cost),
        list_cost_usd=Decimal(cost),
        effective_cost_usd=Decimal(cost),
    )


def post(ledger: Ledger, *entries: Entry) -> None:
    closed = ledger.positions().get("j1", Position("j1", 1, 0, 0, 0, Decimal(0))).closed_sequence
    batch = [Posted(closed + place, entry) for place, entry in enumerate(entries, 1)]
    last = closed + len(entries)
    ledger.post(batch, [Position("j1", 1, last * 100, last, last, Decimal(0))])


def ask(ledger: Ledger, *pairs: tuple[str, str], report: str = "spend") -> Table:
    with ledger.reader() as reader:
        return answer(question(report, pairs, now=NOW + timedelta(hours=1)), reader)


def groups(table: Table, dimension: str) -> dict[object, tuple[object, object]]:
    names = [column.name for column in table.columns]
    at = [names.index(name) for name in (dimension, "calls", "cost_usd")]
    return {row[at[0]]: (row[at[1]], row[at[2]]) for row in table.rows}


def rotated(control: Control, times: int = 1) -> list[Hashers]:
    """What workers hash with before the first rotation, while two keys are live, alone again, and so on."""
    directory, keys = control.database.file.parent, keys_of(control)
    found = [hashers(secrets.keyring(directory))]
    for version in range(1, times + 1):
        keys.rotate(ACTOR)
        found.append(hashers(secrets.keyring(directory)))
        keys.retire(version, ACTOR)
        found.append(hashers(secrets.keyring(directory)))
    return found


def test_without_a_rotation_an_entrys_bytes_are_unchanged(control: Control) -> None:
    alone, both, after = rotated(control)
    plain = msgspec.json.encode(call(alone, 1, "acme", "jane"))
    assert b"before" not in plain and b"before" not in msgspec.json.encode(call(after, 1, "acme", "jane"))
    old, new = call(alone, 1, "acme", "jane"), call(both, 1, "acme", "jane")
    assert (new.tenant_before, new.user_before) == (old.tenant, old.user)
    assert new.tenant == call(after, 1, "acme", "jane").tenant != old.tenant
    assert not [fault for fault in faults(new) if "links" in fault]
    assert "user_before links to no user" in faults(msgspec.structs.replace(new, user=None))
    assert entries_from(table_of([Posted(1, new)])) == [new]


def test_one_tenant_is_one_group_before_during_and_after(control: Control, ledger: Ledger) -> None:
    alone, both, after = rotated(control)
    post(ledger, call(alone, 1, "acme", "jane"), call(alone, 2, "gone", "bob"))
    assert len(groups(ask(ledger, ("by", "tenant")), "tenant")) == 2
    post(ledger, call(both, 3, "acme", "jane"))
    post(ledger, call(after, 4, "acme", "jane"), call(after, 5, "gone", "bob"))
    found = ask(ledger, ("by", "tenant"))
    newest = call(after, 4, "acme", "jane")
    assert groups(found, "tenant")[newest.tenant] == (3, Decimal("0.3"))
    assert len(found.rows) == 3, "who was not seen while both were live is two groups: nobody can link them"
    assert (
        found.totals["total_usd"]
        == Decimal("0.5")
        == sum(Decimal(str(cost)) for _, cost in groups(found, "tenant").values())
    )
    for hashing in (alone, after):
        tenant = call(hashing, 1, "acme", "jane").tenant
        assert ask(ledger, ("by", "user"), ("where", f"tenant={tenant}")).totals["total_usd"] == Decimal("0.3")
        listed = ask(ledger, ("where", f"tenant={tenant}"), report="entries")
        assert len(listed.rows) == 3
    with ledger.reader() as reader:
        assert (reader.unlinked("tenant", 1), reader.unlinked("user", 1)) == (1, 1)
        kept = reader.as_recorded(reader.entries.select("tenant").distinct()).column("tenant").to_pylist()
    assert call(alone, 1, "acme", "jane").tenant in kept, "the record is not rewritten"


def test_a_chain_of_rotations_leads_to_the_newest_however_it_arrives(control: Control, tmp_path: Path) -> None:
    one, both, two, again, three = rotated(control, 2)
    calls = [call(each, at, "acme", "jane") for at, each in enumerate((one, both, two, again, three), 1)]
    newest = calls[-1].tenant
    for name, order in (("as made", calls), ("backwards", calls[::-1]), ("at once", None)):
        opened = Ledger.open(tmp_path / name / "ledger.duckdb", readers=1)
        for entry in order or ():
            post(opened, entry)
        if order is None:
            post(opened, *calls)
        assert groups(ask(opened, ("by", "tenant")), "tenant") == {newest: (5, Decimal("0.5"))}, name
        kept = opened._ready().execute("SELECT * FROM links ORDER BY ALL").fetchall()
        links.again(opened._ready())
        assert opened._ready().execute("SELECT * FROM links ORDER BY ALL").fetchall() == kept
        assert {now for field, _, now in kept if field == "tenant"} == {newest}
        opened.close()


def test_links_that_were_lost_are_made_anew(control: Control, ledger: Ledger) -> None:
    alone, both, _ = rotated(control)
    post(ledger, call(alone, 1, "acme", "jane"), call(both, 2, "acme", "jane"))
    assert not ledger.mend_projections()
    ledger._ready().execute("DELETE FROM links")
    assert len(ask(ledger, ("by", "tenant")).rows) == 2
    assert ledger.mend_projections()
    assert len(ask(ledger, ("by", "tenant")).rows) == 1


def test_no_link_leads_back(control: Control, ledger: Ledger) -> None:
    _, both, _ = rotated(control)
    there = call(both, 1, "acme", "jane")
    back = msgspec.structs.replace(there, sequence=2, tenant=there.tenant_before, tenant_before=there.tenant)
    post(ledger, there, back)
    assert list(groups(ask(ledger, ("by", "tenant")), "tenant")) == [there.tenant]


def test_links_that_begin_alike_and_end_apart_do_not_depend_on_their_order(control: Control, tmp_path: Path) -> None:
    """Nobody who hashes states such; what somebody else brings in must give one ledger however it is read."""
    _, both, _, again, three = rotated(control, 2)
    first, other = call(both, 1, "acme", "jane"), call(again, 2, "other", "jane")
    forged = msgspec.structs.replace(call(three, 3, "third", "jane"), tenant_before=first.tenant_before)
    kept = []
    for number, order in enumerate(((first, other, forged), (forged, other, first))):
        opened = Ledger.open(tmp_path / str(number) / "ledger.duckdb", readers=1)
        for entry in order:
            post(opened, entry)
        with opened.reader() as reader:
            assert reader.links_difference()[0] == 0
        kept.append(opened._ready().execute("SELECT * FROM links ORDER BY ALL").fetchall())
        opened.close()
    assert kept[0] == kept[1]
    assert ("tenant", first.tenant_before, forged.tenant) in kept[0]


def test_what_cannot_be_done_is_said_and_every_act_is_in_the_log(control: Control) -> None:
    keys = keys_of(control)
    with pytest.raises(Conflict, match="active"):
        keys.retire(1, ACTOR)
    with pytest.raises(NotFound, match="secrets list"):
        keys.retire(7, ACTOR)
    assert keys.rotate(ACTOR).version == 2
    with pytest.raises(Conflict, match=r"versions 1 and 2 are live.*retire 1 first"):
        keys.rotate(ACTOR)
    with pytest.raises(Conflict, match=r"3 tenants and 4 users were not seen.*nothing links them"):
        keys_of(control, Unlinked(3, 4)).retire(1, ACTOR)
    keys_of(control, Unlinked(3, 4)).retire(1, ACTOR, anyway=True)
    with pytest.raises(Conflict, match="retired already"):
        keys.retire(1, ACTOR)
    assert [(each.version, each.active, each.retired_at) for each in keys.all()] == [(1, False, NOW), (2, True, None)]
    rows = control.audit_rows()
    assert [row.action for row in rows] == ["hash_key.rotate", "hash_key.retire"]
    assert rows[1].after == {"version": 1, "tenants": 3, "users": 4}
    assert list(secrets.keyring(control.database.file.parent).hash_keys) == [2]


def test_an_act_that_is_not_written_down_does_not_happen(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    before = secrets.keyring(control.database.file.parent)

    def fail(*_: object) -> None:
        raise StoreFailed("no space")

    for place, name in ((hash_keys_store, "note"), (secrets, "replace_keyring")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            with pytest.raises(StoreFailed):
                keys_of(control).rotate(ACTOR)
        assert secrets.keyring(control.database.file.parent) == before
    assert keys_of(control).rotate(ACTOR).version == 2


@pytest.mark.parametrize("act", ["rotate", "retire"])
def test_a_death_between_keyring_and_row_is_made_good_by_doing_it_once_more(
    control: Control, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The keyring is replaced before the row is committed, so a death leaves a key that no row tells of, or a row whose
    key is gone."""
    directory, keys = control.database.file.parent, keys_of(control)
    replace = secrets.replace_keyring

    def dying(*given: Any) -> None:
        replace(*given)
        raise KeyboardInterrupt

    if act == "retire":
        keys.rotate(ACTOR)
    done = len(control.audit_rows())
    with monkeypatch.context() as patch:
        patch.setattr(secrets, "replace_keyring", dying)
        with pytest.raises(KeyboardInterrupt):
            keys.rotate(ACTOR) if act == "rotate" else keys.retire(1, ACTOR)
    held = secrets.keyring(directory).hash_keys
    assert list(held) == ([1, 2] if act == "rotate" else [2])
    assert len(control.audit_rows()) == done
    if act == "rotate":
        assert keys.rotate(ACTOR).version == 2
    else:
        with pytest.raises(Conflict, match="retire 1 first"):
            keys.rotate(ACTOR)
        keys.retire(1, ACTOR)
    assert secrets.keyring(directory).hash_keys == held, "no other key was made"
    assert [row.action for row in control.audit_rows()][done:] == [f"hash_key.{act}"]
    if act == "rotate":
        keys.retire(1, ACTOR)
    assert keys.rotate(ACTOR).version == 3


def test_a_keyring_of_old_gives_no_number_twice(control: Control) -> None:
    directory = control.database.file.parent
    old = secrets.keyring(directory)
    keys_of(control).rotate(ACTOR)
    secrets.replace_keyring(directory, old)
    with pytest.raises(StoreFailed, match=r"version 2.*backup"):
        keys_of(control).rotate(ACTOR)


def seen(data: Path) -> None:
    """A call of one tenant and one user, by a worker that has ended."""
    made = call(load_hashers(data), 1, "acme", "jane")
    hashes = {name: getattr(made, name) for pair in HASHED.items() for name in pair}
    writer = JournalWriter.open(data / "journal")
    record(writer, started_at=NOW, ended_at=NOW, **hashes)
    writer.close()


def test_by_command(control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COSTBEARER_URL", "COSTBEARER_TOKEN", "COSTBEARER_CONFIG", "COSTBEARER_DATA"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(root, ["secrets", *words, "--data", str(tmp_path)])
        return done.exit_code, done.stdout + done.stderr

    seen(tmp_path)
    assert run("rotate", "--hashes")[0] == 0
    assert re.search(r"(?m)^1 +old +1 +1$", run("list")[1]), run("list")[1]
    refusals = {"1": "1 tenants and 1 users were not seen", "2": "the active one", "7": "no version 7"}
    refusals[str(2**63)] = f"no version {2**63}"
    for version, words in refusals.items():
        code, said = run("retire", version, "--hashes")
        assert code == 2 and words in said, said
    code, said = run("rotate", "--hashes")
    assert code == 2 and "retire 1 first" in said
    seen(tmp_path)
    code, said = run("retire", "1", "--hashes")
    assert code == 0 and "0 tenants" in said
    assert run("retire", "1", "--hashes")[0] == 2
    first, second = json.loads(run("list", "--json")[1])["hash_keys"]
    assert (first["version"], first["active"], first["waiting"]) == (1, False, NOBODY) and first["retired_at"]
    assert second == {"version": 2, "active": True, "retired_at": None, "waiting": NOBODY}
    acts = [(row.action, row.before, row.after) for row in control.audit_rows()]
    assert acts == [
        ("hash_key.rotate", {"active": 1}, {"active": 2}),
        ("hash_key.retire", None, {"version": 1, "tenants": 0, "users": 0}),
    ]


def test_by_api(tmp_path: Path) -> None:
    config = settings(tmp_path)
    prepare(config)
    seen(config.data)
    headers = {"authorization": f"Bearer {admin_token(config)}"}
    with console(config) as reader:

        def ask(method: str, place: str = "", **body: object) -> tuple[int, Any]:
            said = reader.request(method, f"/api/v1/hash-keys{place}", headers=headers, json=body or {})
            assert not any(key.hex() in said.text for key in secrets.keyring(config.data).hash_keys.values())
            return said.status_code, said.json()

        assert ask("POST") == (201, {"version": 2, "active": True, "retired_at": None, "waiting": NOBODY})
        listed = reader.get("/api/v1/hash-keys", headers=headers).json()["hash_keys"]
        assert [each["waiting"] for each in listed] == [{"tenants": 1, "users": 1}, NOBODY]
        assert ask("POST")[0] == ask("POST", "/1/retire")[0] == ask("POST", "/2/retire")[0] == 409
        assert ask("POST", "/7/retire")[0] == ask("POST", f"/{2**63}/retire")[0] == 404
        assert ask("POST", "/1/retire", anyway="yes")[0] == ask("POST", other=1)[0] == 422
        code, retired = ask("POST", "/1/retire", anyway=True)
        assert (code, retired["active"], retired["waiting"]) == (200, False, {"tenants": 1, "users": 1})
        assert ask("POST", "/1/retire", anyway=True)[0] == 409
    with Control.open(config.control_file, read_only=True) as store:
        assert [row.action for row in store.audit_rows()] == ["hash_key.rotate", "hash_key.retire"]


def test_a_tenant_stays_one_group_while_a_running_worker_takes_another_hash_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls before, while two keys are live and after the old one is retired: one group, found by either hash."""

    async def calls(running: Gateway, count: int) -> tuple[str, str | None]:
        tagged = [("authorization", f"Bearer {running.key}"), ("x-costbearer-tags", "tenant:acme,user:jane")]
        for _ in range(count):
            assert (await running.ask(asked(), headers=tagged)).status == 200
        entry = running.entries()[-1]
        return entry.tenant or "", entry.tenant_before

    async def taken(running: Gateway, before: Hashers) -> None:
        while running.worker.attributor.hashers is before:
            await asyncio.sleep(0.02)

    async def body() -> None:
        async with provider(always(reply())) as made, gateway(config_for(tmp_path, made.url)) as running:
            ledger = Ledger.open(tmp_path / "ledger.duckdb", readers=1)
            bookkeeper = Bookkeeper(running.directory / "journal", ledger)
            keys = HashKeys(running.control.database, waiting_in(ledger, bookkeeper))
            monkeypatch.setattr(running.worker, "_load_hashers", lambda: load_hashers(running.directory))
            running.worker.attributor.hashers = load_hashers(running.directory)
            alone = await calls(running, 2)
            hashers = running.worker.attributor.hashers
            keys.rotate(ACTOR)
            with pytest.raises(Conflict, match="1 tenants and 1 users were not seen"):
                keys.retire(1, ACTOR)
            await taken(running, hashers)
            both, hashers = await calls(running, 3), running.worker.attributor.hashers
            keys.retire(1, ACTOR)
            await taken(running, hashers)
            after = await calls(running, 4)
            assert (both, after) == ((after[0], alone[0]), (after[0], None))
            assert (alone[0][:3], after[0][:3]) == ("h1_", "h2_")
            bookkeeper.catch_up()
            asking = [
                [("by", "tenant")],
                *([("by", "tenant"), ("where", f"tenant={each}")] for each in (alone[0], after[0])),
            ]
            with ledger.reader() as reader:
                tables = [answer(question("spend", pairs, now=datetime.now(UTC)), reader) for pairs in asking]
            ledger.close()
            assert [[row[:2] for row in table.rows] for table in tables] == [[(after[0], 9)]] * 3
            (one,) = {entry.cost_usd for entry in running.entries()}
            assert one and {table.totals["total_usd"] for table in tables} == {one * 9} == {running.total()}

    run(body)
