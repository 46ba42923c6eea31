"""The calls of a ledger as they count now: without what was taken back, and each with the time at which it was made."""

from __future__ import annotations

from typing import Any

from costbearer.ledger import CORRECTING


def calls(entries: Any, since: Any, until: Any) -> Any:
    """The entries that stand for a call made in `[since, until)`, with `entry_id`, and `called_at`, which is when.

    A replacement that was posted for a closed month starts when it was posted; its call was made when the entry that it
    replaces in the end says.
    """
    reversed_ones = entries.filter(entries.calls < 0).select(entry_id="refers_to").distinct()
    counted = entries.filter(entries.calls > 0)
    first = counted.filter(counted.kind.notin(sorted(CORRECTING)))
    later = counted.filter(counted.kind.isin(sorted(CORRECTING)))
    made = (
        first.semi_join(later, "call_id").group_by("call_id").aggregate(called_at=lambda table: table.started_at.min())
    )
    later = later.join(made, "call_id")
    later = later.filter((later.called_at >= since) & (later.called_at < until))
    first = first.filter((first.started_at >= since) & (first.started_at < until))
    names = [*entries.columns, "called_at"]
    both = first.mutate(called_at=first.started_at).select(*names).union(later.select(*names))
    return both.mutate(entry_id=both.journal + "." + both.sequence.cast("string")).anti_join(reversed_ones, "entry_id")
