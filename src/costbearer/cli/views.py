"""`costbearer views` and `costbearer annotations`: saved questions as files in a repository, and what happened when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from costbearer.cli.client import Local, Remote, operator, with_client
from costbearer.cli.output import csv_option, json_option, one_of, print_csv, print_json, print_table, say
from costbearer.errors import InputInvalid

_FILE = click.Path(path_type=Path, dir_okay=False)
CHANGES_FOUND = 1
_VIEW = ("name", "page", "parameters", "description", "updated_by")
_NOTE = ("number", "day", "text", "where", "created_by")


@click.group()
def views() -> None:
    """Saved views of the console: the questions of a team, with names."""


@views.command("list")
@with_client
@json_option
@csv_option
def list_views(client: Local | Remote, as_json: bool, as_csv: bool) -> None:
    """List the views with their addresses."""
    one_of(as_json, as_csv)
    document = _views(client)
    rows = document["views"]
    if as_json:
        print_json(document)
    elif as_csv:
        print_csv(_VIEW, [[row[name] for name in _VIEW] for row in rows])
    elif rows:
        print_table(["NAME", "ADDRESS", "FOR"], [[row["name"], row["address"], row["description"]] for row in rows])
    else:
        say("No views yet. Save one at the foot of a report in the console, or apply a file.")


@views.command()
@with_client
@click.option("-o", "--output", type=_FILE, help="The file to write.  [default: stdout]")
def export(client: Local | Remote, output: Path | None) -> None:
    """Write the views as TOML; the same views are always the same text."""
    if isinstance(client, Remote):
        text = client.text("/api/v1/views.toml", [])
    else:
        from costbearer.console.saved import dumps

        text = dumps(client.views().all())
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputInvalid(f"{output} cannot be written: {error.strerror}") from None
    say(f"The views are in {output}.")


@views.command()
@with_client
@click.argument("file", type=_FILE)
@click.option("--remove", is_flag=True, help="Remove the views that the file does not name.")
@json_option
def apply(client: Local | Remote, file: Path, remove: bool, as_json: bool) -> None:
    """Take the views of a TOML file; what it does not name stays unless --remove is given."""
    changes = _applied(client, file, check=False, remove=remove)
    if as_json:
        print_json({"changes": changes, "applied": True})
    else:
        _print_changes(changes, "Nothing differs; nothing was done.", gone=remove)


@views.command()
@with_client
@click.argument("file", type=_FILE)
@json_option
def diff(client: Local | Remote, file: Path, as_json: bool) -> None:
    """Show what applying a file would change; exit code 1 where anything would."""
    changes = _applied(client, file, check=True, remove=False)
    if as_json:
        print_json({"changes": changes, "applied": False})
    else:
        _print_changes(changes, "Nothing differs.", gone=True)
    if any(change["action"] != "same" for change in changes):
        raise SystemExit(CHANGES_FOUND)


@views.command()
@with_client
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def remove(client: Local | Remote, names: tuple[str, ...]) -> None:
    """Remove views by their names."""
    from urllib.parse import quote

    for name in names:
        if isinstance(client, Remote):
            client.document("DELETE", f"/api/v1/views/{quote(name, safe='')}")
        else:
            kept = client.views()
            kept.get(name)
            kept.remove([name], operator())
    say(f"{len(names)} removed.")


def _views(client: Local | Remote) -> dict[str, Any]:
    if isinstance(client, Remote):
        return client.document("GET", "/api/v1/views")
    from costbearer.console.api_views import view_document

    return {"views": [view_document(view) for view in client.views().all()]}


def _applied(client: Local | Remote, file: Path, *, check: bool, remove: bool) -> list[dict[str, str]]:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if isinstance(client, Remote):
        body = {"content": content, "check": check, "remove": remove}
        changes: list[dict[str, str]] = client.document("POST", "/api/v1/views/apply", body=body)["changes"]
        return changes
    from datetime import UTC, datetime

    from costbearer.app import home_zone
    from costbearer.console.api_views import applied
    from costbearer.console.saved import difference, loads

    kept = client.views(create=not check)
    drafts = loads(content, datetime.now(UTC), home_zone(client.config))
    found = difference(kept.all(), drafts)
    if not check:
        applied(kept, drafts, found, operator(), remove=remove)
    return [change._asdict() for change in found]


def _print_changes(changes: list[dict[str, str]], nothing: str, *, gone: bool) -> None:
    shown = [change for change in changes if change["action"] not in ({"same"} if gone else {"same", "gone"})]
    if not shown:
        say(nothing)
        return
    rows = [[change["action"], change["name"], change["before"] or "-", change["after"] or "-"] for change in shown]
    print_table(["", "NAME", "KEPT", "FILE"], rows)


@click.group("annotations")
def annotated_days() -> None:
    """What happened on a day; it stands on the console's charts."""


@annotated_days.command()
@with_client
@click.argument("day")
@click.argument("text")
@click.option("--where", metavar="DIM=VALUE", help="Only for this; for everything unless given.")
@json_option
def add(client: Local | Remote, day: str, text: str, where: str | None, as_json: bool) -> None:
    """Say what happened on a day such as 2026-11-27."""
    if isinstance(client, Remote):
        body: dict[str, object] = {"day": day, "text": text, **({"where": where} if where else {})}
        made = client.document("POST", "/api/v1/annotations", body=body)
    else:
        from datetime import UTC, datetime

        from costbearer.app import home_zone
        from costbearer.console.api_views import annotation, annotation_document

        found = annotation(day, text, where, datetime.now(UTC), home_zone(client.config))
        made = annotation_document(client.views(create=True).annotate(*found, operator()))
    if as_json:
        print_json(made)
    else:
        say(f"Annotation {made['number']} stands on {made['day']}.")


@annotated_days.command("list")
@with_client
@json_option
@csv_option
def list_annotations(client: Local | Remote, as_json: bool, as_csv: bool) -> None:
    """List the annotations, the oldest day first."""
    one_of(as_json, as_csv)
    if isinstance(client, Remote):
        document = client.document("GET", "/api/v1/annotations")
    else:
        from costbearer.console.api_views import annotation_document

        document = {"annotations": [annotation_document(each) for each in client.views().annotations()]}
    rows = document["annotations"]
    if as_json:
        print_json(document)
    elif as_csv:
        print_csv(_NOTE, [["" if row[name] is None else row[name] for name in _NOTE] for row in rows])
    elif rows:
        shown = [[str(row[name]) if row[name] is not None else "-" for name in _NOTE] for row in rows]
        print_table([name.upper().replace("_", " ") for name in _NOTE], shown)
    else:
        say("No annotations yet. Add one: costbearer annotations add 2026-11-27 'new contract'")


@annotated_days.command("remove")
@with_client
@click.argument("number", type=int)
def remove_annotation(client: Local | Remote, number: int) -> None:
    """Take an annotation away; the audit log keeps it."""
    if isinstance(client, Remote):
        client.document("DELETE", f"/api/v1/annotations/{number}")
    else:
        client.views().remove_annotation(number, operator())
    say(f"Annotation {number} is gone.")
