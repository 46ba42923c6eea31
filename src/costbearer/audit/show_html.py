"""An audit as one page that needs nothing else: no script, no font, no picture from anywhere.

Light and dark follow the reader's system; printed, it is black on white. Every text out of a log is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from html import escape
from importlib import resources

from costbearer import money
from costbearer.audit import words
from costbearer.audit.finding import SUBJECTS_SHOWN, Finding
from costbearer.audit.result import AuditResult, Group
from costbearer.audit.verdict import Compared, verdict

ROWS = 15


def html(result: AuditResult, compared: Compared | None = None) -> str:
    """The page."""
    style = resources.files("costbearer.audit").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(part for part in _parts(result, compared) if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>LLM cost audit</title><style>{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _parts(result: AuditResult, compared: Compared | None) -> Iterator[str]:
    word, sentence = verdict(result)
    yield "<h1>LLM cost audit</h1>"
    yield f'<p class="soft">{escape(words.subject_line(result))}</p>'
    yield f'<div class="verdict {word}"><b>{words.HEADLINES[word].capitalize()}</b>{escape(sentence)}</div>'
    yield _tiles(result)
    yield _attributed(result)
    yield _findings(result.findings, result.files == 1)
    yield _groups("Who bears it", result.groups["owner"], ("owner", "team"))
    yield _groups("Keys", result.groups["key"], ("key", "team"))
    yield _groups("Models", result.groups["model"], ("model",))
    yield _groups("Providers", result.groups["provider"], ("provider",))
    yield _groups("Request patterns", result.groups["pattern"], ("pattern",))
    yield _questions(result)
    yield _bill(result)
    yield _changes(compared)
    yield _remarks(result)


def _tiles(result: AuditResult) -> str:
    metrics = result.metrics
    gap = metrics.reconciliation_gap_pct
    tiles = [
        (words.dollars(result.cost_usd), "spend by the log"),
        (words.dollars(result.computed_usd), "by the prices of the day"),
        (words.percent(metrics.unattributed_spend_pct), "of the spend is nobody's"),
        (words.percent(metrics.finops_ready_pct), "of the calls are FinOps-ready"),
        (words.percent(metrics.requests_missing_team_pct), "of the calls have no team"),
        (words.percent(metrics.requests_missing_session_pct), "of the calls have no session"),
    ]
    if gap is not None:
        tiles.append((f"{gap:g}%", "gap to the invoice"))
    if result.unknown_calls:
        tiles.append((f"{result.unknown_calls:,}", "calls of unknown cost"))
    inner = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(says)}</span></div>' for value, says in tiles
    )
    return f'<div class="tiles">{inner}</div>'


def _attributed(result: AuditResult) -> str:
    whole = money.total(usd for _, usd in result.attributed)
    parts, keys = [], []
    for name, usd in result.attributed:
        ratio = money.share(usd, whole)
        shade = {"verified": "v", "inferred": "i", "asserted": "a"}.get(name, "n")
        if ratio:
            parts.append(f'<i class="{shade}" style="width:{100 * ratio:.2f}%"></i>')
        keys.append(f'<i class="{shade}"></i>{escape(name)} {words.share(usd, whole)}')
    return f'<div class="stack">{"".join(parts)}</div><p class="key">{"".join(keys)}</p>'


def _findings(findings: Sequence[Finding], one_file: bool) -> str:
    if not findings:
        return "<h2>Findings</h2><p>None.</p>"
    return f"<h2>Findings, the dearest first</h2>{''.join(_finding(each, one_file) for each in findings)}"


def _finding(finding: Finding, one_file: bool) -> str:
    check = finding.check
    rows = "".join(
        f'<tr><td class="name">{escape(each.subject)}</td><td class="num">{each.records:,}</td>'
        f'<td class="num">{escape(words.dollars(each.cost_usd))}</td></tr>'
        for each in finding.subjects[:SUBJECTS_SHOWN]
    )
    more = len(finding.subjects) - SUBJECTS_SHOWN
    rest = f'<p class="soft">and {more} more</p>' if more > 0 else ""
    calls = words.count(finding.records, "call")
    seen = escape(words.places(finding.sample, one_file=one_file))
    head = '<tr><th>what</th><th class="num">calls</th><th class="num">dollars</th></tr>'
    return (
        f'<details><summary><span class="usd">{escape(words.finding_dollars(finding))}</span>'
        f'<span class="what">{escape(check.title)} <span class="soft">({calls})</span></span>'
        f'<span class="tag {check.severity}">{check.severity}</span>'
        f'<span class="tag">{check.confidence}</span></summary>'
        f'<div class="in"><p><code>{check.code}</code></p><p>{escape(check.why)}</p>'
        f"<p><b>Fix.</b> {escape(check.fix)}</p>"
        f'<div class="scroll"><table>{head}{rows}</table></div>'
        f'{rest}<p class="soft">Seen at <code>{seen}</code></p></div></details>'
    )


def _groups(title: str, groups: Sequence[Group], columns: Sequence[str]) -> str:
    if not groups:
        return ""
    most = max((group.cost_usd for group in groups), default=money.ZERO)
    heads = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = "".join(_row(group, most) for group in groups[:ROWS])
    more = len(groups) - ROWS
    rest = f'<p class="soft">and {more} more</p>' if more > 0 else ""
    return (
        f'<h2>{escape(title)}</h2><div class="scroll"><table><tr>{heads}<th></th><th class="num">dollars</th>'
        f'<th class="num">share</th><th class="num">calls</th></tr>{rows}</table></div>{rest}'
    )


def _row(group: Group, most: Decimal) -> str:
    names = "".join(f'<td class="name">{escape(value or "(none)")}</td>' for _, value in group.names)
    ratio = money.share(group.cost_usd, most) or 0.0
    part = words.percent(None if group.share is None else 100 * group.share)
    return (
        f'<tr>{names}<td class="chart"><div class="bar" style="width:{max(0.0, 100 * ratio):.2f}%"></div></td>'
        f'<td class="num">{escape(words.dollars(group.cost_usd))}</td><td class="num">{part}</td>'
        f'<td class="num">{group.calls:,}</td></tr>'
    )


def _questions(result: AuditResult) -> str:
    audit = result.traces
    rows = "".join(
        f'<tr><td>{each.n}</td><td>{escape(each.question)}</td><td class="{"yes" if each.passed else "no"}">'
        f'{"yes" if each.passed else "no"}</td><td class="soft">{escape(each.evidence)}</td></tr>'
        for each in audit.questions
    )
    hops = _list(
        f"{hop.hop} loses " + ", ".join(f"{name} on {number} of {hop.records}" for name, number in hop.lost)
        for hop in audit.hops
    )
    ready = "Ready" if audit.ready else "Not ready"
    return (
        f"<h2>Traces</h2><p>{ready}: {sum(each.passed for each in audit.questions)} of {len(audit.questions)}, "
        f"from {len(audit.traces)} of {audit.of:,} traces.</p>"
        f'<div class="scroll"><table>{rows}</table></div>{hops}'
    )


def _bill(result: AuditResult) -> str:
    bill = result.reconciled
    if bill is None:
        return ""
    rows = "".join(
        f'<tr><td class="name">{escape(gap.what)}</td><td class="num">{escape(words.dollars(gap.invoice_usd))}</td>'
        f'<td class="num">{escape(words.dollars(gap.log_usd))}</td>'
        f'<td class="num">{escape(words.dollars(gap.gap_usd))}</td></tr>'
        for gap in bill.gaps
    )
    return (
        f"<h2>Beside the invoice</h2><p>{words.dollars(bill.invoice_usd)} billed, "
        f"{words.dollars(bill.log_usd)} in the log; "
        f'{bill.matched} days, models and requests agree.</p><div class="scroll"><table><tr><th>what</th>'
        f'<th class="num">billed</th><th class="num">logged</th><th class="num">gap</th></tr>{rows}</table></div>'
    )


def _changes(compared: Compared | None) -> str:
    if compared is None:
        return ""
    parts = []
    for name in ("new", "worse", "better", "gone"):
        changes = getattr(compared, name)
        listed = _list(
            f"{each.id}: {words.dollars(each.before_usd)} -> {words.dollars(each.after_usd)}" for each in changes[:ROWS]
        )
        parts.append(f"<p><b>{len(changes)} {name}</b></p>{listed}")
    return f"<h2>Since {escape(compared.baseline)}</h2>{''.join(parts)}"


def _remarks(result: AuditResult) -> str:
    notes = _list(result.notes)
    unread = _list(f"{each.file}:{each.line or ''} {each.why}" for each in result.unread)
    lines = (
        f"<p>{words.count(result.unread_count, 'line')} could not be read.</p>{unread}" if result.unread_count else ""
    )
    return f'<h2>Remarks</h2>{notes}{lines}<p class="soft">Prices: archive {escape(result.prices)}.</p>'


def _list(items: Iterable[str]) -> str:
    inner = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{inner}</ul>" if inner else ""
