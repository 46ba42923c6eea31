"""What is kept beside the keys in the control store: business figures, the ownership map, replaced keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
from sqlalchemy import delete, func, insert, select

from costbearer.errors import Conflict
from costbearer.figures import Figure
from costbearer.ledger import LABELS
from costbearer.owners import OwnerRow
from costbearer.stores.acts import note
from costbearer.stores.control import Actor
from costbearer.stores.control_schema import figures, ownership, replacements
from costbearer.stores.sqlite import Database


class Replacement(msgspec.Struct, frozen=True):
    """A key of another gateway, the virtual key that is to be used instead, and when the old one must be gone."""

    old_key: str
    key_id: str
    owner: str
    expires_at: datetime


class Directory:
    """Figures, ownership and replacements of one control store. Safe to use from several threads.

    Every method raises `StoreFailed` where the store cannot be read or written.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._clock = clock

    # -- business figures

    def figure(self, name: str) -> list[Figure] | None:
        """The lines of a figure in order; None where there is none of that name."""
        with self._database.reading() as connection:
            order = (figures.c.day, figures.c.label)
            rows = connection.execute(select(figures).where(figures.c.name == name).order_by(*order)).all()
        return [Figure(date.fromisoformat(row.day), Decimal(row.amount), row.label) for row in rows] or None

    def figure_names(self) -> dict[str, int]:
        """The names of all figures, with how many lines each has."""
        with self._database.reading() as connection:
            count = select(figures.c.name, func.count()).group_by(figures.c.name).order_by(figures.c.name)
            return {str(name): int(lines) for name, lines in connection.execute(count).all()}

    def keep_figure(self, name: str, lines: Sequence[Figure], actor: Actor) -> int:
        """Keep lines of a figure; one for the same day and label takes the place of the old. Gives how many changed."""
        with self._database.writing() as connection:
            held = connection.execute(select(figures).where(figures.c.name == name)).all()
            old = {(row.day, row.label): row.amount for row in held}
            new = {(line.day.isoformat(), line.label): format(line.amount, "f") for line in lines}
            changed = {key: amount for key, amount in new.items() if old.get(key) != amount}
            for day, label in changed.keys() & old.keys():
                connection.execute(
                    delete(figures).where(figures.c.name == name, figures.c.day == day, figures.c.label == label)
                )
            if changed:
                rows = [
                    {"name": name, "day": day, "label": label, "amount": amount}
                    for (day, label), amount in changed.items()
                ]
                connection.execute(insert(figures), rows)
            note(connection, actor, "figures.import", self._clock(), {"figure": name, "lines": len(changed)})
        return len(changed)

    # -- the ownership map

    def owners(self) -> list[OwnerRow]:
        """Every row, the oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(ownership).order_by(ownership.c.number)).all()
        return [_owner_row(row._asdict()) for row in rows]

    def add_owners(self, rows: Sequence[OwnerRow], actor: Actor) -> int:
        """Add rows to the map; one that says what the last row for the same thing and time says adds nothing."""
        with self._database.writing() as connection:
            held = connection.execute(select(ownership).order_by(ownership.c.number)).all()
            latest = {
                (row.kind, row.value, row.since): row.gives for row in (_owner_row(each._asdict()) for each in held)
            }
            added = 0
            for row in rows:
                key = (row.kind, row.value, row.since)
                if latest.get(key) == row.gives:
                    continue
                latest[key] = row.gives
                named = {name: row.gives.get(name) for name in LABELS}
                connection.execute(
                    insert(ownership).values(
                        kind=row.kind, value=row.value, since=row.since, created_at=self._clock(), **named
                    )
                )
                added += 1
            note(connection, actor, "ownership.import", self._clock(), {"rows": added})
        return added

    # -- keys that are replaced

    def replacements(self) -> list[Replacement]:
        """Every replaced key."""
        with self._database.reading() as connection:
            rows = connection.execute(select(replacements).order_by(replacements.c.old_key)).all()
        return [Replacement(row.old_key, row.key_id, row.owner, row.expires_at) for row in rows]

    def replace(self, found: Replacement, actor: Actor) -> None:
        """Say that a key is replaced.

        Raises:
            Conflict: it was replaced before.
        """
        with self._database.writing() as connection:
            held = connection.execute(select(replacements).where(replacements.c.old_key == found.old_key)).first()
            if held is not None:
                raise Conflict(f"key {found.old_key[:60]!r} was replaced by {held.key_id} before")
            connection.execute(insert(replacements).values(created_at=self._clock(), **msgspec.structs.asdict(found)))
            note(connection, actor, "keys.replace", self._clock(), {"old_key": found.old_key, "key_id": found.key_id})


def _owner_row(row: Mapping[str, object]) -> OwnerRow:
    since = row["since"]
    assert since is None or isinstance(since, datetime)
    gives = {name: str(row[name]) for name in LABELS if row[name] is not None}
    return OwnerRow(str(row["kind"]), str(row["value"]), since, gives)
