"""Whatever a file holds, the auditor says what it could not read and where, reads the rest, and never falls over."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from costbearer.audit.result import AuditResult
from costbearer.errors import InputInvalid
from costbearer.stores.logfiles import Limits
from tests.auditing import audited, by_code, evidence
from tests.usagelogs import WRITERS, clean

CALLS = clean(30)
TEXT = WRITERS["litellm"](CALLS)
COST = sum((call.cost_usd for call in CALLS if call.status == "ok"), Decimal(0))


def same(result: AuditResult) -> bool:
    return result.records == len(CALLS) and result.cost_usd == COST


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    for name in ("log.csv", "log.parquet", "log.gz", "log", "log.txt"):
        file = tmp_path / name
        file.write_text(TEXT)
        assert same(audited(file)), name


def test_gzip_and_zstd_by_their_first_bytes(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    other = tmp_path / "b.jsonl"
    other.write_bytes(pa.compress(TEXT.encode(), codec="zstd", asbytes=True))
    assert same(audited(packed))
    assert same(audited(other))


def test_parquet_with_real_types(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in TEXT.splitlines()]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "log.parquet")
    result = audited(tmp_path / "log.parquet")
    assert result.format == "litellm"
    assert same(result)


def test_a_table_of_the_same_log(tmp_path: Path) -> None:
    import csv

    rows = [json.loads(line) for line in TEXT.splitlines()]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()} for row in rows)
    (tmp_path / "log.csv").write_text(out.getvalue())
    result = audited(tmp_path / "log.csv")
    assert result.format == "litellm"
    assert same(result)
    assert result.findings == ()


def test_one_document_with_all_of_it(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in TEXT.splitlines()]
    for number, document in enumerate((rows, {"data": rows, "has_more": False})):
        for indent in (None, 2):
            file = tmp_path / f"{number}-{indent}.json"
            file.write_text(json.dumps(document, indent=indent))
            assert same(audited(file)), file.name


def test_the_line_of_a_record_in_a_document(tmp_path: Path) -> None:
    calls = [replace(call, wrong_usd=Decimal(0)) if place == 9 else call for place, call in enumerate(clean(20))]
    file = tmp_path / "log.json"
    file.write_text(WRITERS["langfuse"](calls))
    (sample,) = by_code(audited(file))["zero_cost_with_tokens"].sample
    line = file.read_text().splitlines()[(sample.line or 0) - 1 :]
    assert sample.id == f"obs-{calls[9].number}"
    assert any(f'"obs-{calls[9].number}"' in each for each in line[:2])


def test_directories_patterns_and_several_files_are_one_log(tmp_path: Path) -> None:
    lines = TEXT.splitlines(keepends=True)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "a.jsonl").write_text("".join(lines[:10]))
    (tmp_path / "deep" / "er" / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[10:]).encode()))
    (tmp_path / "deep" / "README.md").write_text("no log")
    (tmp_path / "deep" / ".hidden").write_text("no log")
    assert same(audited(tmp_path / "deep"))
    assert same(audited(f"{tmp_path}/deep/**/*.jsonl*"))
    assert same(audited(tmp_path / "deep" / "a.jsonl", f"{tmp_path}/deep/er/*"))
    assert same(audited(tmp_path / "deep", tmp_path / "deep" / "a.jsonl")), "a file that is named twice is read once"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(TEXT.encode())

    monkeypatch.setattr(sys, "stdin", Stdin())
    assert same(audited("-"))


def test_two_formats_in_one_file(tmp_path: Path) -> None:
    other = clean(20, seed=9)
    file = tmp_path / "mixed.jsonl"
    file.write_text(TEXT + '{"neither": 1}\n' + WRITERS["bifrost"](other))
    result = audited(file)
    assert (result.unread_count, result.unread[0].line) == (1, len(CALLS) + 1)
    assert sorted(name for name, _ in result.formats) == ["bifrost", "litellm"]
    assert result.records == len(CALLS) + len(other)


def test_broken_lines_are_counted_shown_and_left_out(tmp_path: Path) -> None:
    lines = TEXT.splitlines()
    lines.insert(3, "{broken")
    lines.insert(4, "")
    lines.insert(7, '"only a text"')
    lines.insert(9, '{"something": "else"}')
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(lines) + '\n{"cut": "of')
    result = audited(file)
    assert same(result)
    assert result.unread_count == 4
    assert [each.line for each in result.unread] == [4, 8, 10, len(lines) + 1]
    assert result.unread[0].file == str(file)


def test_line_numbers_are_those_of_the_file_whatever_was_left_out(tmp_path: Path) -> None:
    calls = [replace(call, wrong_usd=Decimal(0)) if place == 20 else call for place, call in enumerate(clean(30))]
    lines = WRITERS["litellm"](calls).splitlines()
    wanted = lines[20]
    lines[5:5] = ["", "{broken", ""]
    file = tmp_path / "log.jsonl"
    file.write_text("\r\n".join(lines))
    (sample,) = by_code(audited(file))["zero_cost_with_tokens"].sample
    assert file.read_text().splitlines()[(sample.line or 0) - 1] == wanted


def test_a_quoted_line_break_in_a_table_does_not_shift_lines(tmp_path: Path) -> None:
    calls = [replace(call, wrong_usd=Decimal(0)) if place == 9 else call for place, call in enumerate(clean(20))]
    text = WRITERS["generic"](calls).splitlines()
    teams = ("search", "support", "billing")
    for team in teams:
        text[4] = text[4].replace(f";{team};", f';"{team[:3]}\n{team[3:]}";')
    assert "\n" in text[4]
    file = tmp_path / "log.csv"
    file.write_text("\n".join(text))
    (sample,) = by_code(audited(file))["zero_cost_with_tokens"].sample
    assert sample.line == 12, "a header, nine records, and one line more for the break"


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    lines = TEXT.encode().splitlines()
    lines[5] = lines[5].replace(b'"acompletion"', b'"acom\xff\xfepletion"')
    file = tmp_path / "log.jsonl"
    file.write_bytes(b"\n".join(lines))
    result = audited(file)
    assert same(result)
    assert [(each.line, "UTF-8" in each.why) for each in result.unread] == [(6, True)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_at_the_beginning_and_other_encodings(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes(TEXT.encode(encoding))
    assert same(audited(file))


def test_nul_bytes_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(TEXT.replace("acompletion", "acom\x00pletion", 1))
    assert same(audited(file))


def test_a_line_that_is_too_long_is_left_out(tmp_path: Path) -> None:
    limits = Limits(line_bytes=64 * 1024)
    lines = TEXT.splitlines()
    lines.insert(8, '{"request_id": "' + "x" * 300_000 + '"}')
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(lines))
    result = audited(file, limits=limits)
    assert same(result)
    assert [(each.line, "longer than" in each.why) for each in result.unread] == [(9, True)]


def test_a_cut_off_gzip_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    many = WRITERS["litellm"](clean(3000))
    packed = gzip.compress(many.encode())
    file = tmp_path / "log.jsonl.gz"
    file.write_bytes(packed[: len(packed) // 2])
    result = audited(file)
    assert 1000 < result.records < 2900
    assert "cut off" in result.unread[0].why


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "log.gz"
    file.write_bytes(gzip.compress(b"{}\n" * 20_000_000))
    with pytest.raises(InputInvalid, match="expansion_ratio_max"):
        audited(file)
    with pytest.raises(InputInvalid, match="expanded_bytes_max"):
        audited(file, limits=Limits(expanded_bytes=1_000_000))


def test_a_bomb_among_logs_stops_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"{}\n" * 20_000_000))
    (tmp_path / "log.jsonl").write_text(TEXT)
    result = audited(tmp_path)
    assert same(result)
    assert "expansion_ratio_max" in result.unread[0].why


def test_a_document_may_be_one_line_longer_than_a_line_may_be(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in TEXT.splitlines()]
    file = tmp_path / "log.json"
    for end in ("", "\n"):
        file.write_text(json.dumps({"data": rows}) + end)
        assert file.stat().st_size > 2 * 8192
        result = audited(file, limits=Limits(line_bytes=8192))
        assert same(result)
        assert result.unread_count == 0


def test_a_document_that_is_too_large_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "log.json"
    file.write_text(json.dumps([json.loads(line) for line in TEXT.splitlines()], indent=1))
    with pytest.raises(InputInvalid, match="one object per line"):
        audited(file, limits=Limits(document_bytes=5000))


NOTHING: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "blank": (b"\n\n  \n", "one column"),
    "binary": (bytes(range(256)) * 50, "binary"),
    "text": (b"hello there\nand more\n", "one column"),
    "other json": (b'{"a": 1, "b": 2}\n{"a": 2}\n', "it has a, b"),
    "no records": (b"[]", "it holds no records"),
    "other table": (b"name,age\nbo,3\n", "no format recognised"),
    "broken document": (b'{\n "a": [1, 2\n', "not JSON"),
    "broken parquet": (b"PAR1" + b"x" * 40, "cannot be read as Parquet"),
    "broken gzip": (b"\x1f\x8b\x08" + b"x" * 40, "cut off or damaged"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_no_log_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    data, why = NOTHING[name]
    file = tmp_path / "log.jsonl"
    file.write_bytes(data)
    with pytest.raises(InputInvalid) as refused:
        audited(file)
    assert why in refused.value.message
    assert "log.jsonl" in refused.value.message


def test_names_that_mean_nothing() -> None:
    for name in ("/no/such/file", "/no/such/*.jsonl"):
        with pytest.raises(InputInvalid, match=r"no such file|no file matches"):
            audited(name)
    with pytest.raises(InputInvalid, match="there is no format"):
        audited(__file__, wanted="excel")


def _litellm(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> AuditResult:
    rows = [json.loads(line) for line in TEXT.splitlines()]
    change(rows[0])
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return audited(file)


def test_numbers_that_are_none_stop_nothing(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in TEXT.splitlines()]
    for row, value in zip(
        rows, ("NaN", "-5", "1e999", "twelve", "12.5", "", None, 10**20, {"a": 1}, [1]), strict=False
    ):
        row["prompt_tokens"] = row["spend"] = value
        row["metadata"] = "{}"
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = audited(file)
    assert result.records == len(CALLS)
    assert result.cost_usd.is_finite()


def test_a_negative_count_is_impossible(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        row["prompt_tokens"] = -5
        row["metadata"] = "{}"

    found = by_code(_litellm(change, tmp_path))["tokens_impossible"]
    assert found.records == 1
    assert found.sample[0].line == 1


TIMES = {
    "2026-10-05T08:00:00Z": True,
    "2026-10-05 08:00:00": True,
    "2026-10-05T10:00:00+02:00": True,
    "2026-10-05T08:00:00.123456789Z": True,
    "2026-10-05T08:00:00,123Z": True,
    "20261005T080000Z": True,
    "1791187200": True,
    "1791187200.25": True,
    "1791187200000": True,
    "1791187200000000": True,
    "1791187200000000000": True,
    "Mon, 05 Oct 2026 08:00:00 GMT": True,
    "05/Oct/2026:08:00:00 +0000": True,
    "Oct 5, 2026 08:00:00": True,
    "10/05/2026 08:00": False,
    "yesterday": False,
    "infinity": False,
    "": False,
}


def test_dates_of_every_kind(tmp_path: Path) -> None:
    row = json.loads(TEXT.splitlines()[0])
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row | {"startTime": text, "endTime": None}) + "\n" for text in TIMES))
    with evidence(file) as (known, _):
        read = known.execute(known.calls.order_by("row").select("started_at", "timely"))
    for text, each in zip(TIMES, read, strict=True):
        assert bool(each["timely"]) == TIMES[text], text
        if TIMES[text]:
            assert each["started_at"].date().isoformat() == "2026-10-05", text


def test_a_map_names_the_columns_of_a_table(tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    file.write_text(
        'wann,was,rein,raus,"wer""; DROP TABLE records; --",kost\n2026-10-05,gpt-4o,1000,100,search,0.0035\n'
    )
    columns = {
        "started_at": "wann",
        "response_model": "was",
        "input_tokens": "rein",
        "output_tokens": "raus",
        "asserted_team": 'wer"; DROP TABLE records; --',
        "cost_usd": "kost",
    }
    result = audited(file, columns=columns)
    assert (result.records, result.cost_usd) == (1, Decimal("0.0035"))
    assert dict(result.groups["team"][0].names) == {"team": "search"}
    assert "price_mismatch" not in by_code(result)


def test_hostile_column_names_are_only_names(tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    evil = "'); DROP TABLE records; --"
    file.write_text(
        f'timestamp,model,input_tokens,output_tokens,cost,"{evil}",team\n2026-10-05,gpt-4o,1000,100,0.0035,x,search\n'
    )
    assert audited(file).records == 1
    assert (
        audited(file, columns={"tenant": evil, "input_tokens": "input_tokens", "response_model": "model"}).records == 1
    )


def test_an_address_that_is_not_read_is_not_repeated_with_its_password() -> None:
    with pytest.raises(InputInvalid, match="an address is read only") as caught:
        audited("https://reader:hunter2@127.0.0.1:1/log.jsonl?token=hunter2")
    assert "hunter2" not in caught.value.message
