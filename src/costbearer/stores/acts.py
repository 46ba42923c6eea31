"""The audit log of administrative acts: one row per change, written in the change's own transaction.

What is kept elsewhere cannot share that transaction. Prices are a file: the row and the file are written inside one
transaction of the log, which commits last. Entries are posted to the journal, which takes long: their row is committed
first (`before_posting`), so that nothing is posted that the log does not tell of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert

from costbearer.stores.control_schema import audit_log

if TYPE_CHECKING:
    from costbearer.stores.control import Actor
    from costbearer.stores.sqlite import Database


def note(
    connection: Connection,
    actor: Actor,
    action: str,
    at: datetime,
    after: Mapping[str, object] | None,
    before: Mapping[str, object] | None = None,
    key_id: str | None = None,
) -> None:
    """Write down who did what, to which key where it is about one; `before` and `after` are documents without a
    secret."""
    connection.execute(
        insert(audit_log).values(
            at=at,
            who=actor.who,
            source=actor.source,
            request_id=actor.request_id,
            action=action,
            key_id=key_id,
            before=None if before is None else json.dumps(dict(before), ensure_ascii=False),
            after=None if after is None else json.dumps(dict(after), ensure_ascii=False),
        )
    )


def before_posting(database: Database, actor: Actor, action: str, asked: Mapping[str, object]) -> None:
    """Write down what is about to be posted.

    Raises:
        StoreFailed: the row cannot be written; nothing may be posted then.
    """
    with database.writing() as connection:
        note(connection, actor, action, datetime.now(UTC), asked)
