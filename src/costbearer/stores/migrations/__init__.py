"""The control store's migrations: run from inside the package, in the caller's transaction, without a settings file."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def upgrade(connection: Connection, version: str) -> None:
    """Bring the database to a version. The steps and the record that they ran commit, or vanish, together."""
    settings = _settings()
    settings.attributes["connection"] = connection
    command.upgrade(settings, version)


def newest() -> str | None:
    """The version of the newest migration in the package."""
    return ScriptDirectory.from_config(_settings()).get_current_head()


def versions() -> list[str]:
    """Every version this package can start from."""
    return [script.revision for script in ScriptDirectory.from_config(_settings()).walk_revisions()]


def _settings() -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return settings
