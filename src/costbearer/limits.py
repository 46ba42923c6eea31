"""How much one entry may hold, in one table: what is beyond it is damage or malice, and no usage.

The record only grows: one absurd value in it would be in every sum that is ever made of it. Sums are kept in columns
that hold so many times the limit that no number of entries there can be overflows them. A value beyond its limit is
not taken where it is read; an entry that holds one is not sound (`ledger.faults`); and one that stands in a journal
all the same, written before there were limits, is posted without it (`ledger.bounded`).
"""

from __future__ import annotations

from datetime import UTC, datetime

AMOUNT_USD_MAX = 10**12
"""One amount of money: a price, a charge, a cost, a bound; a hundred times what the world pays for models in a year.
A sum has 26 digits before the point: it holds a hundred million million such amounts, which is more entries than disks
hold."""

COUNT_MAX = 10**12
"""One count of usage: tokens, characters, seconds. No provider states a larger one. A sum of counts has 128 bits."""

QUANTITY_MAX = 10**14
"""What one charge charges: several counts of one call may be charged at one price."""

CALLS_MAX = 10**9
"""Calls, requests and attempts one entry stands for: one of an imported log may be the sum of a day."""

MILLISECONDS_MAX = 10**10
"""How long one call took: 115 days. Batches, which take longest, end after a few."""

TIME_MIN = datetime(2000, 1, 1, tzinfo=UTC)
TIME_MAX = datetime(2100, 1, 1, tzinfo=UTC)
"""When a call can have been. What is near the ends of the calendar cannot be brought into another time zone."""
