"""What callers write into a question reaches the engine as a value or not at all, and the engine can reach nothing."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pytest
import sqlglot
from sqlglot import exp

from costbearer.errors import NotFound, QueryInvalid, StoreFailed
from costbearer.reports import REPORTS, answer, question
from costbearer.reports.beside import Beside
from costbearer.reports.query import PARAMETERS
from costbearer.stores import duckdb as store
from costbearer.stores import lockdown, rollups
from costbearer.stores.duckdb import Ledger
from costbearer.stores.ledger_reader import Reader
from tests.factories import make_entry
from tests.ledgers import ledger_of

ROOT = Path(store.__file__).parent.parent
NOW = datetime(2026, 12, 1, tzinfo=UTC)
JOURNAL = "20261122T193000-1a2b3c4d"
MARK = "zqx7"
"""Is in every payload, so that what became of it in a statement can be found."""

BREAKS = ("'", "''", "\\'", '"', "`", "')", '")', "$$", "*/", "\u2019", "%27", "0", "")
ACTS = (
    " OR '1'='1",
    " UNION SELECT content FROM read_text('{canary}') --",
    "; DROP TABLE entries; --",
    "; CREATE TABLE pwned AS SELECT 1; --",
    "; COPY (SELECT 1) TO '{made}'; --",
    "; ATTACH '{made}' AS other; --",
    "; SET enable_external_access = true; --",
    "||(SELECT content FROM read_text('{canary}'))||'",
    ", (SELECT content FROM read_text('{canary}')) --",
    "; INSTALL httpfs; LOAD httpfs; --",
    "; PRAGMA database_list; --",
    "/**/UNION/**/SELECT/**/1,2,3--",
)
MORE = (
    "team; --",
    "1e309",
    "-1",
    "NULL",
    "(none)",
    "%s%s%n",
    "{{7*7}}",
    "${{x}}",
    "\x00",
    "tag:'",
    'tag:"',
    "tag:x'] --",
)
BEFORE: dict[str, tuple[str, ...]] = {
    "by": ("", "tag:", "team,"),
    "where": ("team=", "tag:x=", "", "day=", "model="),
    "compare": ("", "2026-11-01.."),
    "as": ("", "openai/"),
}
"""What may stand before a payload, so that it comes further."""


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with ledger_of([make_entry(JOURNAL, number, tags={"x": "y"}) for number in range(1, 6)]) as ledger:
        yield ledger


def payloads(canary: Path, made: Path) -> list[str]:
    places = {"canary": canary, "made": made}
    return [f"{MARK}{b}{act.format(**places)}" for b in BREAKS for act in ACTS] + [f"{MARK}{each}" for each in MORE]


def asked(texts: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(report, parameter, text): every text in every parameter of every report, each way it can be begun."""
    for (name, report), parameter in itertools.product(REPORTS.items(), PARAMETERS):
        for before, text in itertools.product(BEFORE.get(parameter, ("",)), texts):
            if parameter in report.form.takes:
                yield name, parameter, before + text


class Watched:
    """Looks at every statement before it runs: the mark may stand in texts and nowhere else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements, self.marked = 0, 0
        execute = Reader.execute

        def watched(reader: Reader, expression: Any, /) -> Any:
            self.look(ibis.to_sql(expression, dialect="duckdb"))
            return execute(reader, expression)

        monkeypatch.setattr(Reader, "execute", watched)

    def look(self, statement: str) -> None:
        self.statements += 1
        if MARK not in statement:
            return
        self.marked += 1
        (tree,) = sqlglot.parse(statement, dialect="duckdb")
        assert isinstance(tree, exp.Query), "the statement does more than ask"
        texts = sum(node.this.count(MARK) for node in tree.find_all(exp.Literal) if node.is_string)
        names = [node.name for node in tree.find_all(exp.Identifier) if MARK in node.name]
        comments = [text for node in tree.walk() for text in node.comments or () if MARK in text]
        assert not names and not comments, (names, comments)
        assert texts > 0
        assert not list(tree.find_all(exp.Table)) or {table.name for table in tree.find_all(exp.Table)} <= TABLES


TABLES = {"entries", "charges", rollups.CALLS.name, rollups.CHARGES.name, *(f"t{number}" for number in range(40))}


def put(ledger: Ledger, questions: Sequence[tuple[str, str, str]], canary: Path, made: Path) -> tuple[int, int]:
    """Ask all of it; gives how many were answered and how many refused. Nothing else may come of any."""
    answered = refused = 0
    for name, parameter, text in questions:
        form = REPORTS[name].form
        pairs = [(parameter, text), ("since", "2026-11-01"), ("until", "2026-12-01")]
        if form.argument and form.argument != parameter:
            pairs.append((form.argument, "x"))
        pairs = [
            pair for place, pair in enumerate(pairs) if pair[0] in form.takes and pair[0] not in dict(pairs[:place])
        ]
        try:
            query = question(name, pairs, now=NOW)
            with ledger.reader() as reader:
                table = answer(query, reader, Beside())
        except (QueryInvalid, NotFound):
            refused += 1
            continue
        answered += 1
        assert SECRET not in table.to_json(), (name, parameter, text)
    with ledger.reader() as reader:
        listed = reader.sql("SELECT table_name FROM duckdb_tables() ORDER BY 1").column(0).to_pylist()
        count = reader.sql("SELECT count(*) AS n FROM entries").column("n").to_pylist()
        rows = reader.sql("SELECT name, value FROM duckdb_settings()").to_pylist()
    assert "pwned" not in listed
    assert count == [5]
    assert {row["name"]: row["value"] for row in rows if row["name"] in lockdown.HELD} == lockdown.HELD
    assert not made.exists()
    assert canary.read_text() == SECRET
    return answered, refused


SECRET = "canary-5f1e"


def test_no_parameter_of_a_report_becomes_sql(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary, made, watched = tmp_path / "canary", tmp_path / "made", Watched(monkeypatch)
    canary.write_text(SECRET)
    every = list(asked(payloads(canary, made)))
    # The report that most is asked of, where a text comes furthest; and a few of all.
    furthest = [each for each in every if each[0] == "spend" and each[2].startswith(("tag:", "team=", "tag:x="))]
    some = [*furthest[:: len(furthest) // 8], *every[:: len(every) // 10]]
    answered, refused = put(ledger, some, canary, made)
    assert answered > 3
    assert refused > 3
    assert watched.marked > 5


@pytest.mark.soak
def test_no_payload_in_any_parameter_becomes_sql(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, made, watched = tmp_path / "canary", tmp_path / "made", Watched(monkeypatch)
    canary.write_text(SECRET)
    # Every eleventh: no break, act or parameter is left out, for eleven divides none of their counts.
    every = list(asked(payloads(canary, made)))[::11]
    answered, refused = put(ledger, every, canary, made)
    print(
        f"\n0 of {len(every):,} questions ({len(payloads(canary, made))} payloads) became SQL: {refused:,} refused, "
        f"{answered:,} answered; the mark stood as a text in {watched.marked:,} of {watched.statements:,} statements"
    )


def test_a_watched_statement_that_is_not_sound_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.look(f"SELECT * FROM entries WHERE team = '{MARK}'")
    for statement in (
        f'SELECT "{MARK}" FROM entries',
        f"SELECT 1 FROM entries -- {MARK}",
        f"SELECT '{MARK}' FROM other",
        f"SELECT '{MARK}'; DROP TABLE entries",
    ):
        with pytest.raises((AssertionError, ValueError)):
            watched.look(statement)


def test_an_engine_that_is_not_shut_in_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What is set and what the engine says of it afterwards differ by the quotes.
    monkeypatch.setattr(lockdown, "HELD", {"TimeZone": "'UTC'"})
    with pytest.raises(StoreFailed, match="TimeZone"):
        Ledger.open(tmp_path / "ledger.duckdb", readers=1)


def test_what_does_not_hold_is_named() -> None:
    class Deaf:
        """An engine that says yes to every setting and does nothing."""

        def execute(self, statement: str) -> Any:
            return duckdb.connect().execute("SELECT name, value FROM duckdb_settings()")

    with pytest.raises(StoreFailed, match="enable_external_access"):
        lockdown.lock(Deaf())  # type: ignore[arg-type]


# -- how statements are made

_SQL = re.compile(
    r"\b(SELECT|INSERT INTO|DELETE FROM|UPDATE \w+ SET|DROP (TABLE|VIEW)|CREATE (OR|TEMP|TABLE|VIEW|MACRO)|ATTACH|"
    r"COPY|PRAGMA|DESCRIBE|ALTER TABLE|FROM|WHERE|GROUP BY|ORDER BY)\b"
)
_RUNS = frozenset({"sql", "raw_sql", "exec_driver_sql", "executescript", "read_sql"})


def made_of_pieces(tree: ast.AST) -> Iterator[tuple[int, int, list[ast.expr]]]:
    """Texts of SQL put together out of pieces: (line, different words of SQL in it, the pieces that are no constants).
    What people read may have one such word in capitals."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            constant = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
            pieces = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            sides = [node.left, node.right]
            constant = "".join(str(side.value) for side in sides if isinstance(side, ast.Constant))
            pieces = [side for side in sides if not isinstance(side, ast.Constant)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            constant = str(getattr(node.func.value, "value", ""))
            pieces = list(node.args)
        else:
            continue
        words = {match[0] for match in _SQL.finditer(constant)}
        if pieces and words:
            yield node.lineno, len(words), pieces


def test_no_statement_is_made_outside_of_the_stores() -> None:
    for path in ROOT.rglob("*.py"):
        if path.is_relative_to(ROOT / "stores"):
            continue
        text = path.read_text(encoding="utf-8")
        if not _SQL.search(text) and not any(f".{name}(" in text for name in _RUNS):
            continue
        tree = ast.parse(text)
        found = [line for line, words, _ in made_of_pieces(tree) if words > 1]
        assert not found, f"{path}:{found}: a statement is put together outside of the stores"
        runs = [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _RUNS
        ]
        assert not runs, f"{path}:{runs}: a statement is run outside of the stores"


QUOTING = frozenset({"identifier", "literal", "quoted", "alias"})
"""What makes a name or a text of anything, in one place each."""


def test_statements_in_the_stores_are_made_of_what_is_written_there() -> None:
    """Whatever goes into a statement is quoted in one place, or stands in `MADE` with where it comes from."""
    unknown = set()
    for path in sorted((ROOT / "stores").rglob("*.py")):
        if "migrations" in path.parts:
            continue
        for line, _, pieces in made_of_pieces(ast.parse(path.read_text(encoding="utf-8"))):
            for piece in pieces:
                if not _is_own(piece) and ast.unparse(piece) not in MADE.get(path.stem, frozenset()):
                    unknown.add(f"{path.name}:{line}: {ast.unparse(piece)}")
    assert not unknown, "\n".join(sorted(unknown))


def _is_own(piece: ast.expr) -> bool:
    """A constant of the module, or something that was quoted."""
    if isinstance(piece, ast.Name):
        return piece.id.isupper()
    if isinstance(piece, ast.Call):
        name = piece.func.id if isinstance(piece.func, ast.Name) else getattr(piece.func, "attr", "")
        return name in QUOTING
    return isinstance(piece, ast.Constant | ast.JoinedStr)


MADE: dict[str, frozenset[str]] = {
    # Names of tables and columns out of `ledger_schema`.
    "duckdb": frozenset({"name", "table", "sets", "names", "charge"}),
    "ledger_file": frozenset({"name", "', '.join((f'{alias(c.name)} {c.engine}' for c in columns))"}),
    # Columns by which entries are grouped: those of `_GROUPS`, or quoted after they were found in the schema.
    "ledger_reader": frozenset({"', '.join(names)", "group", "keys"}),
    # Tables and columns of the two roll-ups, which are constants; hours come apart.
    "rollups": frozenset(
        {
            "source", "rollup.made(source)", "rollup.merged()", "some", "CALLS.name", "CHARGES.name", "keys",
            "self.name", "rollup.merged(condition)", "condition", "rollup.name", "self._summed(self.sums)", "sums",
        }
    ),
    # The table of links and the columns that are hashes, which are constants; what is looked for comes apart.
    "links": frozenset(
        {
            "before", "name", "source", "newest", "stated", "upwards", "live", "_pairs(source)", "_pairs(_ENTRIES)",
            "_unlike(_ENTRIES)", "_unlike('stated_by')",
        }
    ),
    # A foreign log: names, paths and shapes as literals of `logsql`, numbers of ours, compiled expressions.
    "logs": frozenset(
        {
            "ibis.to_sql(selected, dialect='duckdb')", "ibis.to_sql(expression, dialect='duckdb')", "sums", "first",
            "number", "each", "shown", "sql", "path", "self.limits.line_bytes * 2", "self.limits.line_bytes", "columns",
            "names", "self._texts(source)",
            "', '.join(sums)", "shape", "self._texts_of(table, tops)", "table", "read", "macro",
        }
    ),
    "logsql": frozenset(
        {
            "texts", "source", "sql", "read",
            "_listed(*carried, f'TRY(json_transform(t, {literal(json.dumps(shape))})) AS j')",
            "_listed(*carried, *members, *cells)", "_listed(*carried, 'unnest(members) AS t')",
            "_listed(*carried, *empty)", "_listed(*carried, *cells, *opened)", "_listed(*carried, *values)",
        }
    ),
    # A table of somebody's PostgreSQL, quoted, after it was found in that server's own list.
    "logtables": frozenset({"""'.'.join(('"' + part.replace('"', '""') + '"' for part in table))"""}),
    "lockdown": frozenset({"name", "value"}),
}  # fmt: skip
"""What goes into statements beside constants and what was quoted, by module, and where it comes from."""
