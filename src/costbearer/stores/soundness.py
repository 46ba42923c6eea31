"""`ledger.faults` for whole tables: what does not hold of rows that are too many to be looked at one by one.

Amounts are multiplied and added by Arrow, in 256-bit decimals where 128 bits could overflow: exact, or an error.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from costbearer import money
from costbearer.ledger import AMORTISATION, CORRECTING, LABELS, PROVIDER_DIFFERENCE
from costbearer.stores.bounds import within_limits
from costbearer.usage import COUNTS, METERS, REQUEST

_QUANTITY = pa.decimal256(19, 0)
_AMOUNT = pa.decimal256(money.DIGITS, money.PLACES)
_PRODUCT = pa.decimal256(money.DIGITS + 20, money.PLACES)
_WEIGHTS = {name: sum(meter.plus.count(name) - meter.minus.count(name) for meter in METERS) for name in COUNTS}
"""How often a count is in the sum of all leaves: a part of another count is in it once less than it is on its own."""


def faults_of(table: pa.Table) -> list[tuple[str, str]]:
    """(entry id, fault) for everything that does not hold of rows in `SEALED_ARROW`; empty for sound ones.

    Besides what `faults` says: the charges of a call must cover its usage.
    """
    if not table.num_rows:
        return []
    absurd = within_limits(table)[1]
    if absurd:
        # What is absurd cannot be added up; the others are judged without it.
        places = [row.row for row in absurd]
        named = table.select(["journal", "sequence"]).take(places).to_pylist()
        texts = (f"{', '.join(row.fields)} beyond every limit" for row in absurd)
        said = [(f"{row['journal']}.{row['sequence']}", text) for row, text in zip(named, texts, strict=True)]
        kept = pc.invert(pc.is_in(pa.array(range(table.num_rows)), value_set=pa.array(places)))
        return [*said, *faults_of(table.filter(kept))]
    columns: dict[str, Any] = {name: table.column(name).combine_chunks() for name in table.column_names}
    checks = [*_kind_faults(columns), *_basis_faults(columns), *_charge_faults(columns)]
    found = []
    for wrong, text in checks:
        places = pc.indices_nonzero(pc.fill_null(wrong, False))
        journals, sequences = (columns[name].take(places).to_pylist() for name in ("journal", "sequence"))
        found += [(f"{journal}.{sequence}", text) for journal, sequence in zip(journals, sequences, strict=True)]
    return found


def _kind_faults(columns: dict[str, Any]) -> list[tuple[Any, str]]:
    usage = pc.equal(columns["kind"], "usage")
    correcting = pc.is_in(columns["kind"], value_set=pa.array(sorted(CORRECTING)))
    negative = pc.or_(pc.less(columns["calls"], 0), pc.less(columns["requests"], 0))
    counted = _any([pc.is_valid(columns[name]) for name in COUNTS])
    difference = pc.and_(correcting, pc.equal(columns["calls"], 0))
    amortising = pc.equal(columns["kind"], AMORTISATION)
    nothing = pa.scalar(money.ZERO, columns["cost_usd"].type)
    adding = _any(
        [
            pc.not_equal(columns["calls"], 0),
            pc.not_equal(columns["requests"], 0),
            counted,
            pc.fill_null(pc.not_equal(columns["cost_usd"], nothing), fill_value=True),
        ]
    )
    return [
        *((pc.and_(usage, _missing(columns[label])), f"{label} is missing") for label in LABELS),
        (pc.and_(correcting, _missing(columns["refers_to"])), "a correction refers to no entry"),
        (
            pc.and_(difference, pc.or_(counted, pc.is_null(columns["cost_usd"]))),
            "a difference carries counts, or no cost",
        ),
        (pc.and_(amortising, adding), "an amortisation carries calls, counts or a cost"),
        (pc.and_(pc.invert(correcting), negative), "an entry that is no correction takes calls back"),
        (pc.less(columns["ended_at"], columns["started_at"]), "ended before it started"),
        (pc.is_valid(columns["settlement"]), "it settles a call, which only an entry of the gateway can"),
    ]


def _basis_faults(columns: dict[str, Any]) -> list[tuple[Any, str]]:
    cost, basis = columns["cost_usd"], columns["basis"]
    unknown = pc.equal(basis, "unknown")
    known, reasonless = pc.invert(unknown), _missing(columns["reason_unknown"])
    return [
        (pc.and_(unknown, pc.is_valid(cost)), "an unknown cost carries an amount"),
        (pc.and_(unknown, reasonless), "an unknown cost states no reason"),
        (pc.and_(known, pc.is_null(cost)), "a known basis without a cost"),
        (pc.and_(known, pc.invert(reasonless)), "a known cost states a reason for being unknown"),
        (
            pc.and_(pc.equal(basis, "provider_cost"), _differ(cost, columns["provider_cost_usd"])),
            "the cost is not the one the provider stated",
        ),
        (
            pc.and_(pc.equal(basis, "metered"), _differ(cost, columns["computed_cost_usd"])),
            "the cost is not the one computed from the usage",
        ),
    ]


def _charge_faults(columns: dict[str, Any]) -> list[tuple[Any, str]]:
    lists = columns["charges"]
    owner = pc.list_parent_indices(lists)
    flat = lists.flatten()
    quantity, cost = flat.field("quantity"), flat.field("cost_usd")
    product = pc.multiply(quantity.cast(_QUANTITY), flat.field("unit_price_usd").cast(_AMOUNT))
    wrong = pc.not_equal(product.cast(_PRODUCT), cost.cast(_PRODUCT))
    counted = pc.invert(pc.is_in(flat.field("meter"), value_set=pa.array([PROVIDER_DIFFERENCE, REQUEST])))
    size = len(lists)
    added = _per_owner(owner, cost, size)
    quantities = _per_owner(owner.filter(counted), quantity.filter(counted), size)
    used: Any = pa.array([0] * size, type=pa.int64())
    for name, weight in _WEIGHTS.items():
        if weight:
            used = pc.add(used, pc.multiply(pc.fill_null(columns[name], 0), weight))
    known = pc.and_(pc.not_equal(columns["basis"], "unknown"), pc.is_valid(columns["cost_usd"]))
    nothing = pa.scalar(money.ZERO, columns["cost_usd"].type)
    uncovered = pc.and_(pc.is_valid(quantities), pc.not_equal(quantities, used))
    return [
        (
            pc.and_(known, pc.not_equal(pc.fill_null(added, nothing), columns["cost_usd"])),
            "the charges do not add up to the cost",
        ),
        (_owns(owner, wrong, size), "the cost of a charge is not quantity x unit price"),
        (pc.and_(uncovered, pc.not_equal(columns["calls"], 0)), "the charges do not cover the usage"),
    ]


def _per_owner(owner: Any, values: Any, size: int) -> Any:
    """The sum of the values of each owner 0 to size - 1, NULL where it has none."""
    sums = pa.table({"owner": owner, "value": values}).group_by("owner").aggregate([("value", "sum")])
    at = pc.index_in(pa.array(range(size), type=owner.type), value_set=sums.column("owner").combine_chunks())
    return sums.column("value_sum").combine_chunks().take(at)


def _owns(owner: Any, wrong: Any, size: int) -> Any:
    return pc.is_in(pa.array(range(size), type=owner.type), value_set=owner.filter(wrong).unique())


def _missing(column: Any) -> Any:
    return pc.or_(pc.is_null(column), pc.fill_null(pc.equal(column, ""), False))


def _differ(left: Any, right: Any) -> Any:
    both = pc.fill_null(pc.not_equal(left, right), False)
    return pc.or_(both, pc.xor(pc.is_null(left), pc.is_null(right)))


def _any(masks: list[Any]) -> Any:
    whole = masks[0]
    for mask in masks[1:]:
        whole = pc.or_(whole, mask)
    return whole
