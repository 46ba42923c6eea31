"""Findings of audits that somebody kept, so that a team works through them: owner, status, comments, history."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from costbearer.errors import Conflict, FieldInvalid, NotFound
from costbearer.stores.acts import note
from costbearer.stores.control import Actor
from costbearer.stores.control_schema import finding_history, findings
from costbearer.stores.sqlite import Database

STATUSES: Mapping[str, str] = {
    "open": "nobody has looked at it yet",
    "in_progress": "somebody is at it",
    "fixed": "it is mended at its source; if it is seen again, it opens again",
    "accepted": "it is so on purpose",
}
"""Status -> what it says."""
ENDED = frozenset({"fixed", "accepted"})
COMMENT_CHARS_MAX = 4000
LOG_CHARS_MAX = 200


class KeptFinding(msgspec.Struct, frozen=True):
    """`document` is the finding as the audit's JSON has it; `log` names what was audited; `version` counts changes."""

    finding_id: str
    log: str
    code: str
    document: dict[str, Any]
    status: str
    owner: str | None
    version: int
    first_seen: datetime
    last_seen: datetime


class Event(msgspec.Struct, frozen=True):
    """What happened to a finding: `seen`, `status`, `owner` or `comment`."""

    at: datetime
    who: str
    what: str
    before: str | None
    after: str | None


class Findings:
    """The kept findings of one control store. Safe to use from several threads.

    Every method raises `StoreFailed` where the store cannot be read or written.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database, self._clock = database, clock

    def all(self) -> list[KeptFinding]:
        """Every kept finding, those that are not ended first, then the newest."""
        with self._database.reading() as connection:
            rows = connection.execute(select(findings).order_by(findings.c.last_seen.desc(), findings.c.code)).all()
        return sorted(map(_finding, rows), key=lambda each: each.status in ENDED)

    def get(self, finding_id: str) -> tuple[KeptFinding, list[Event]]:
        """A finding and what happened to it, the oldest first. Raises `NotFound`."""
        with self._database.reading() as connection:
            found = self._find(connection, finding_id)
            own = select(finding_history).where(finding_history.c.finding_id == finding_id)
            rows = connection.execute(own.order_by(finding_history.c.number)).all()
        return found, [Event(row.at, row.who, row.what, row.before, row.after) for row in rows]

    def keep(self, log: str, documents: Sequence[Mapping[str, Any]], actor: Actor) -> int:
        """Keep the findings of an audit of a log. One that is there is seen again, and opens again where it was fixed.

        Gives how many are new.
        """
        now, new = self._clock(), 0
        with self._database.writing() as connection:
            for document in documents:
                code, text = str(document["code"]), json.dumps(dict(document), ensure_ascii=False)
                held = connection.execute(
                    select(findings).where(findings.c.log == log, findings.c.code == code)
                ).first()
                cost = str(document.get("cost_usd"))
                if held is None:
                    new += 1
                    finding_id = f"fnd_{secrets.token_hex(8)}"
                    values = {"finding_id": finding_id, "log": log, "code": code, "document": text, "status": "open"}
                    connection.execute(insert(findings).values(version=1, first_seen=now, last_seen=now, **values))
                    self._happened(connection, finding_id, actor, "seen", None, cost)
                    continue
                again = {"document": text, "last_seen": now, "version": held.version + 1}
                if held.status == "fixed":
                    again["status"] = "open"
                    self._happened(connection, held.finding_id, actor, "status", held.status, "open")
                connection.execute(update(findings).where(findings.c.finding_id == held.finding_id).values(again))
                before = str(json.loads(held.document).get("cost_usd"))
                self._happened(connection, held.finding_id, actor, "seen", before, cost)
            note(connection, actor, "findings.keep", now, {"log": log, "findings": len(documents), "new": new})
        return new

    def change(
        self,
        finding_id: str,
        actor: Actor,
        *,
        version: int,
        status: str | None = None,
        owner: str | None = None,
        comment: str = "",
    ) -> KeptFinding:
        """Say who works on it ("" for nobody), how far it is, or something about it.

        Raises:
            NotFound: there is no such finding.
            Conflict: somebody else changed it since `version`; nothing is changed, the message says what they did.
            FieldInvalid: no such status, too long a comment, or nothing to change.
        """
        if status is not None and status not in STATUSES:
            raise FieldInvalid({"status": f"must be one of {', '.join(STATUSES)}"})
        if len(comment) > COMMENT_CHARS_MAX:
            raise FieldInvalid({"comment": f"has more than {COMMENT_CHARS_MAX:,} characters"})
        with self._database.writing() as connection:
            held = self._find(connection, finding_id)
            if held.version != version:
                raise Conflict(f"not as it was: {self._last(connection, finding_id)}. Look at it, then change it again")
            changes: dict[str, Any] = {}
            for what, old, new in (("status", held.status, status), ("owner", held.owner or "", owner)):
                if new is not None and new != old:
                    changes[what] = new or None
                    self._happened(connection, finding_id, actor, what, old or None, new or None)
            if comment.strip():
                self._happened(connection, finding_id, actor, "comment", None, comment.strip())
            elif not changes:
                raise FieldInvalid({"comment": "nothing was changed and nothing said"})
            changes["version"] = held.version + 1
            connection.execute(update(findings).where(findings.c.finding_id == finding_id).values(changes))
            note(connection, actor, "finding.change", self._clock(), {"finding": finding_id, **changes})
            return self._find(connection, finding_id)

    def _find(self, connection: Connection, finding_id: str) -> KeptFinding:
        row = connection.execute(select(findings).where(findings.c.finding_id == finding_id)).first()
        if row is None:
            raise NotFound(f"there is no kept finding {finding_id[:40]!r}")
        return _finding(row)

    def _last(self, connection: Connection, finding_id: str) -> str:
        own = select(finding_history).where(finding_history.c.finding_id == finding_id)
        row = connection.execute(own.order_by(finding_history.c.number.desc()).limit(1)).one()
        did = {"comment": "commented", "seen": "kept a new audit of the log"}.get(row.what, f"set the {row.what}")
        to = f" to {row.after or 'nobody'}" if row.what in {"status", "owner"} else ""
        return f"{row.who} {did}{to} at {row.at:%H:%M:%S} UTC"

    def _happened(
        self, connection: Connection, finding_id: str, actor: Actor, what: str, before: str | None, after: str | None
    ) -> None:
        values = {"finding_id": finding_id, "at": self._clock(), "who": actor.who, "what": what}
        connection.execute(insert(finding_history).values(before=before, after=after, **values))


def _finding(row: Any) -> KeptFinding:
    values = row._asdict()
    return KeptFinding(**{**values, "document": json.loads(values["document"])})
