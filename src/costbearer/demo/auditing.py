"""The demo's last act: its own entries, exported and audited like any other gateway's log."""

from __future__ import annotations

from pathlib import Path

import msgspec

from costbearer.audit.run import Options, audit
from costbearer.audit.show_text import text
from costbearer.demo.stage import LIVE, Stage
from costbearer.prices import PriceBook
from costbearer.stores import archive
from costbearer.stores.logs import Logs, workplace

PAGE = "1000"


def audited(running: Stage, file: Path) -> list[str]:
    """Export every entry into a file, audit it, and give the report's lines."""
    _export(running, file)
    with workplace() as work:
        logs = Logs(work)
        try:
            result = audit(logs, PriceBook.loads(archive.bundled()), Options((str(file),)))
        finally:
            logs.close()
    return text(result).splitlines()


def _export(running: Stage, file: Path) -> None:
    encode = msgspec.json.Encoder().encode
    params = {"limit": PAGE, "since": LIVE}
    with file.open("wb") as handle:
        while True:
            answer = running.api("GET", "/api/v1/entries", params=params)
            handle.writelines(encode(entry) + b"\n" for entry in answer["entries"])
            if answer["next_cursor"] is None:
                return
            params["cursor"] = answer["next_cursor"]
