from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from costbearer.errors import NotFound, StoreFailed
from costbearer.prices import PriceBook
from costbearer.stores import archive

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
