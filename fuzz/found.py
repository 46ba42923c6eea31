"""What fuzzing has found: the inputs as they were, replayed for ever with the seeds of their target."""

from __future__ import annotations

from collections.abc import Mapping

from fuzz.seeds import ARCHIVE, text

FOUND: Mapping[str, tuple[bytes, ...]] = {
    # A row of YAML whose name is no text: the refusal that should have named it was a TypeError.
    "owners": (
        b"ownership:\n  - key: sk-search-1\n    null: search\n    owner: ana\n    from: 2026-01-01\n",
        b"ownership:\n  - {key: a, 1: x, b: y, owner: ana}\n",
        b"- " * 3000,
        b"- key: 2026-13-45\n  owner: ana\n",
    ),
    # What stood behind the end of an array was read as an element of it where it came in one piece.
    "replies-gemini": (b'\x00[{"usageMetadata":{"promptTokenCount":9}}]{"responseId":"late","usageMetadata":{}}',),
    # Nested too deep, a number of thousands of digits, a time that no calendar has: not the errors of a wrong bill.
    "bills": (
        b"[" * 100_000,
        b'{"data":[{"start_time":99999999999999999,"end_time":1,"results":[{"amount":{"value":1}}]}]}',
        b'{"data":[{"start_time":1e400,"end_time":1,"results":[{"amount":{"value":1}}]}]}',
        b'{"data":[{"starting_at":"2026-10-05","ending_at":"2026-10-06","results":[{"amount":"1e999999999"}]}]}',
        b"period,amount\n9999-12-31,1\n",
        b"period,amount\n9999-12,1\n",
        b"period,amount,model\n2026-10-05,1," + b"x" * 200_000 + b"\n",
    ),
    "contract": (
        b"a = " + b"[" * 5000,
        b"a = " + b"9" * 5000,
        b"a" + b".a" * 3000 + b" = 1",
        b"[" + b"a." * 3000 + b"a]",
    ),
    "views": (b"a = " + b"[" * 5000, b"a = " + b"9" * 5000, b"a" + b".a" * 3000 + b" = 1"),
    "settings": (b"a = " + b"[" * 5000, b"a = " + b"9" * 5000, b"a" + b".a" * 3000 + b" = 1", b"\xff"),
    # A clause about a list where a text should be.
    "archive": (
        b'{"x":' * 100_000,
        *(text(ARCHIVE).replace(b'"gpt-4o"}', each + b"}") for each in (b"[]", b"{}", b"1")),
    ),
}
