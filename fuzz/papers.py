"""What reads the files that people write: contracts, ownership maps, settings, saved views, price archives."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from costbearer import contract_rows
from costbearer.audit import ownership
from costbearer.config import load
from costbearer.console import saved
from costbearer.errors import ConfigInvalid, FieldInvalid, InputInvalid, PricesInvalid, StoreFailed
from costbearer.prices import PriceBook
from costbearer.stores.views import SavedView

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="costbearer-fuzz-") as directory:
        file = Path(directory) / name
        file.write_bytes(data)
        yield file


def contract(data: bytes) -> None:
    """A contract is taken whole or refused whole; what was taken can be written and is the same."""
    try:
        terms, commitments = contract_rows.read(data)
    except PricesInvalid as refused:
        assert refused.message
        return
    again = contract_rows.read(contract_rows.written(terms, commitments))
    assert [row.scope for row in again[0]] == [row.scope for row in terms]
    assert len(again[1]) == len(commitments)


def owners(data: bytes) -> None:
    """An ownership map, as YAML and as CSV: rules that give an owner or a team, or a refusal that names the row."""
    for name in ("map.yaml", "map.csv"):
        with _file(data, name) as file:
            try:
                found = ownership.read(file)
            except InputInvalid:
                continue
        assert all({"owner", "team"} & rule.gives.keys() for rule in found.rules)
        ownership.rows_of(found)


def settings(data: bytes) -> None:
    """A settings file: settings within their bounds, or a refusal."""
    with _file(data, "costbearer.toml") as file:
        try:
            config = load(file, environ={})
        except ConfigInvalid:
            return
    assert "fuzz-credential" not in repr(config)


def views(data: bytes) -> None:
    """Saved views: written and read again they are the same."""
    try:
        found = saved.loads(data.decode("utf-8", "replace"), NOW)
    except FieldInvalid:
        return
    kept = [SavedView(*view, 1, "ada", NOW) for view in found]
    assert saved.loads(saved.dumps(kept), NOW) == found


def archive(data: bytes) -> None:
    """A price archive: a book, or a refusal."""
    try:
        PriceBook.loads(data)
    except StoreFailed:
        return
