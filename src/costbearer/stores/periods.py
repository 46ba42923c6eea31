"""Months that are closed: nothing in them changes, and what is learned of their calls later is posted in the open one.

A month is closed with all before it, once it is over, and never opened again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from sqlalchemy import insert, select

from costbearer.errors import Conflict, FieldInvalid
from costbearer.stores.acts import note
from costbearer.stores.control import Actor
from costbearer.stores.control_schema import periods
from costbearer.stores.sqlite import Database

_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])", re.ASCII)


class ClosedMonth(msgspec.Struct, frozen=True):
    """`month` as `2026-10`, and when it was closed."""

    month: str
    closed_at: datetime


class Periods:
    """The closed months of one control store. Safe to use from several threads."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._clock = clock

    def closed(self) -> list[ClosedMonth]:
        """The months that were closed, the oldest first.

        Raises:
            StoreFailed: the store cannot be read.
        """
        with self._database.reading() as connection:
            rows = connection.execute(select(periods).order_by(periods.c.month)).all()
        return [ClosedMonth(row.month, row.closed_at) for row in rows]

    def is_closed(self, when: datetime) -> bool:
        """Whether the month of a moment is closed.

        Raises:
            StoreFailed: the store cannot be read.
        """
        return self.as_of_now()(when)

    def as_of_now(self) -> Callable[[datetime], bool]:
        """The same question to be asked many times, as the store answers it now.

        Raises:
            StoreFailed: the store cannot be read.
        """
        last = max((each.month for each in self.closed()), default="")
        return lambda when: f"{when.astimezone(UTC):%Y-%m}" <= last

    def close(self, month: str, actor: Actor) -> ClosedMonth:
        """Close a month and all before it.

        Raises:
            FieldInvalid: it is no month, or not over yet.
            Conflict: it is closed.
        """
        if _MONTH.fullmatch(month) is None:
            raise FieldInvalid({"month": "must be a month such as 2026-10"})
        now = self._clock()
        if month >= f"{now.astimezone(UTC):%Y-%m}":
            raise FieldInvalid({"month": f"{month} is not over yet (in UTC)"})
        with self._database.writing() as connection:
            last = connection.execute(select(periods.c.month).order_by(periods.c.month.desc())).scalars().first()
            if last is not None and month <= last:
                raise Conflict(f"{month} is closed; the last closed month is {last}")
            connection.execute(insert(periods).values(month=month, closed_at=now))
            note(connection, actor, "period.close", now, {"month": month})
        return ClosedMonth(month, now)
