"""Saved views and annotations: the questions a team asks again, and what happened on a day."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime

import msgspec
from sqlalchemy import delete, insert, select, update

from costbearer.errors import Conflict, NotFound
from costbearer.stores.acts import note
from costbearer.stores.control import Actor
from costbearer.stores.control_schema import annotated_days, saved_views
from costbearer.stores.sqlite import INTEGER_MAX, Database


class SavedView(msgspec.Struct, frozen=True):
    """A page's address with a name. `parameters` is its query string; `version` counts the changes."""

    name: str
    page: str
    parameters: str
    description: str
    version: int
    updated_by: str
    updated_at: datetime


class Annotation(msgspec.Struct, frozen=True):
    """What happened on a day; for all spend, or where `dimension` is `value`."""

    number: int
    day: date
    text: str
    dimension: str | None
    value: str | None
    created_by: str
    created_at: datetime


class Views:
    """Saved views and annotations of one control store. Safe to use from several threads.

    Every method raises `StoreFailed` where the store cannot be read or written.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database, self._clock = database, clock

    def all(self) -> list[SavedView]:
        """Every view by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(saved_views).order_by(saved_views.c.name)).all()
        return [SavedView(*row) for row in rows]

    def get(self, name: str) -> SavedView:
        """Raises `NotFound` where there is none of that name."""
        with self._database.reading() as connection:
            row = connection.execute(select(saved_views).where(saved_views.c.name == name)).first()
        if row is None:
            raise NotFound(f"there is no saved view {name[:80]!r}")
        return SavedView(*row)

    def save(
        self, name: str, page: str, parameters: str, description: str, actor: Actor, *, version: int | None = None
    ) -> SavedView:
        """Keep a view under a name. `version` is the one that was changed, 0 for a new one, None for whatever is there.

        Raises:
            Conflict: somebody else changed it meanwhile.
        """
        now = self._clock()
        with self._database.writing() as connection:
            row = connection.execute(select(saved_views).where(saved_views.c.name == name)).first()
            held = 0 if row is None else int(row.version)
            if version is not None and version != held:
                by = f"{row.updated_by} changed it at {row.updated_at:%H:%M:%S} UTC" if row else "it was removed"
                raise Conflict(f"the view {name!r} is not as it was: {by}. Look at it, and save again")
            made = SavedView(name, page, parameters, description, held + 1, actor.who, now)
            values = msgspec.structs.asdict(made)
            if row is None:
                connection.execute(insert(saved_views).values(values))
            else:
                connection.execute(update(saved_views).where(saved_views.c.name == name).values(values))
            before = None if row is None else {"page": row.page, "parameters": row.parameters}
            after = {"view": name, "page": page, "parameters": parameters}
            note(connection, actor, "view.save", now, after, before)
        return made

    def remove(self, names: Iterable[str], actor: Actor) -> int:
        """Remove views; gives how many there were."""
        removed = 0
        with self._database.writing() as connection:
            for name in names:
                row = connection.execute(select(saved_views).where(saved_views.c.name == name)).first()
                if row is not None:
                    connection.execute(delete(saved_views).where(saved_views.c.name == name))
                    before = {"view": name, "page": row.page, "parameters": row.parameters}
                    note(connection, actor, "view.remove", self._clock(), None, before)
                    removed += 1
        return removed

    # -- annotations

    def annotations(self) -> list[Annotation]:
        """Every annotation, the oldest day first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(annotated_days).order_by(annotated_days.c.day, annotated_days.c.number)
            ).all()
        return [Annotation(number, date.fromisoformat(day), *rest) for number, day, *rest in rows]

    def annotate(self, day: date, text: str, scope: tuple[str, str] | None, actor: Actor) -> Annotation:
        """Write down what happened on a day."""
        now, (dimension, value) = self._clock(), scope or (None, None)
        values = {"day": day.isoformat(), "text": text, "dimension": dimension, "value": value}
        with self._database.writing() as connection:
            key = connection.execute(
                insert(annotated_days).values(created_by=actor.who, created_at=now, **values)
            ).inserted_primary_key
            note(connection, actor, "annotation.add", now, values)
        assert key is not None
        return Annotation(key[0], day, text, dimension, value, actor.who, now)

    def remove_annotation(self, number: int, actor: Actor) -> None:
        """Take one away; the audit log keeps it.

        Raises:
            NotFound: there is none of that number.
        """
        with self._database.writing() as connection:
            kept = select(annotated_days).where(annotated_days.c.number == number)
            row = connection.execute(kept).first() if abs(number) <= INTEGER_MAX else None
            if row is None:
                raise NotFound(f"there is no annotation {number}; somebody else may have removed it")
            connection.execute(delete(annotated_days).where(annotated_days.c.number == number))
            note(connection, actor, "annotation.remove", self._clock(), None, {"day": row.day, "text": row.text})
