from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from costbearer.errors import Conflict, NotFound, StoreFailed
from costbearer.prices import PriceBook
from costbearer.stores import archive
from costbearer.stores.archive import (
    Current,
    all_contracts,
    all_hashes,
    begin,
    bundled,
    current,
    history,
    hold,
    load,
    load_contract,
    moved,
)

DATA = b'{"format": 1}\n'
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_an_archive_is_kept_under_its_hash_once(tmp_path: Path) -> None:
    prices = tmp_path / "data" / "prices"
    assert archive.all_hashes(prices) == []
    assert archive.keep(prices, DATA) == DIGEST
    first = (prices / f"{DIGEST}.json").stat()
    assert archive.keep(prices, DATA) == DIGEST
    again = (prices / f"{DIGEST}.json").stat()
    assert (first.st_ino, first.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)
    assert archive.load(prices, DIGEST) == DATA
    other = archive.keep(prices, DATA + b" ")
    assert archive.all_hashes(prices) == sorted([DIGEST, other])
    assert [path.name for path in prices.iterdir() if path.suffix != ".json"] == []


def test_a_damaged_archive_is_reported_and_never_written_over(tmp_path: Path) -> None:
    archive.keep(tmp_path, DATA)
    (tmp_path / f"{DIGEST}.json").write_bytes(b"damaged")
    with pytest.raises(StoreFailed, match="damaged"):
        archive.load(tmp_path, DIGEST)
    with pytest.raises(StoreFailed, match="damaged"):
        archive.keep(tmp_path, DATA)
    assert (tmp_path / f"{DIGEST}.json").read_bytes() == b"damaged"


@pytest.mark.parametrize("digest", ["0" * 64, "", "../../etc/passwd", DIGEST.upper(), DIGEST + "\n"])
def test_an_unknown_hash_is_not_found(tmp_path: Path, digest: str) -> None:
    archive.keep(tmp_path, DATA)
    with pytest.raises(NotFound):
        archive.load(tmp_path, digest)


def test_a_place_that_cannot_be_written_is_a_failed_store(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(StoreFailed):
        archive.keep(blocked / "prices", DATA)


def test_many_writers_of_the_same_archive_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: archive.keep(tmp_path, DATA), range(32))) == {DIGEST}
    assert archive.load(tmp_path, DIGEST) == DATA
    assert archive.all_hashes(tmp_path) == [DIGEST]


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / f"{DIGEST}.123.new").write_bytes(b"half")
    assert archive.all_hashes(tmp_path) == []


def test_the_bundled_archive_is_a_price_book() -> None:
    data = archive.bundled()
    book = PriceBook.loads(data)
    assert book.hash == hashlib.sha256(data).hexdigest()
    assert len(book.providers()) >= 40


# ---- what holds ----------------------------------------------------------------------------------------------------

OTHER = bundled().replace(b'"as_of":"2026', b'"as_of":"2027')


def test_where_nothing_was_said_the_bundled_archive_holds(tmp_path: Path) -> None:
    assert current(tmp_path / "none") == Current(bundled(), None, 0)
    assert moved(tmp_path / "none") is None
    assert history(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_the_first_start_says_it_once(tmp_path: Path) -> None:
    begin(tmp_path)
    begin(tmp_path)
    assert current(tmp_path) == Current(bundled(), None, 1)
    assert [held.by for held in history(tmp_path)] == ["costbearer"]


def test_what_was_taken_holds_and_what_held_before_stays(tmp_path: Path) -> None:
    first = hold(tmp_path, expected=0, contract=b"# agreed", by="ada", what="a contract")
    assert current(tmp_path) == Current(bundled(), b"# agreed", 1)
    before = moved(tmp_path)
    second = hold(tmp_path, expected=1, archive=OTHER, by="bob", what="newer prices")
    assert moved(tmp_path) != before
    assert current(tmp_path) == Current(OTHER, b"# agreed", 2)
    assert history(tmp_path) == [first, second]
    assert (second.revision, second.by, second.what) == (2, "bob", "newer prices")
    assert all_hashes(tmp_path) == sorted({first.archive, second.archive})
    assert all_contracts(tmp_path) == [first.contract]
    assert load(tmp_path, first.archive) == bundled()
    assert load_contract(tmp_path, str(first.contract)) == b"# agreed"


def test_of_two_changes_from_one_state_the_second_is_refused(tmp_path: Path) -> None:
    hold(tmp_path, expected=0, contract=b"a", by="ada", what="")
    with pytest.raises(Conflict, match=r"revision 1, not 0"):
        hold(tmp_path, expected=0, contract=b"b", by="bob", what="")
    assert current(tmp_path).contract == b"a"


def test_many_at_once_all_get_their_turn(tmp_path: Path) -> None:
    def change(number: int) -> int:
        while True:
            try:
                return hold(
                    tmp_path, expected=current(tmp_path).revision, contract=b"%d" % number, by="", what=""
                ).revision
            except Conflict:
                continue

    with ThreadPoolExecutor(4) as pool:
        revisions = sorted(pool.map(change, range(12)))
    assert revisions == list(range(1, 13))
    assert len(history(tmp_path)) == 12


@pytest.mark.parametrize("damage", [b"", b"{}", b"[{}]", b'[{"revision":1}]', b"\xff"])
def test_a_damaged_state_is_said_and_not_guessed(tmp_path: Path, damage: bytes) -> None:
    begin(tmp_path)
    (tmp_path / "current.json").write_bytes(damage)
    with pytest.raises(StoreFailed, match=r"current\.json cannot be read"):
        current(tmp_path)


def test_what_should_hold_and_is_not_there_or_is_damaged(tmp_path: Path) -> None:
    held = hold(tmp_path, expected=0, contract=b"a", by="", what="")
    kept = tmp_path / f"{held.contract}.contract"
    kept.chmod(0o600)
    kept.write_bytes(b"b")
    with pytest.raises(StoreFailed, match="damaged"):
        current(tmp_path)
    kept.unlink()
    with pytest.raises(NotFound, match="has no contract"):
        current(tmp_path)
