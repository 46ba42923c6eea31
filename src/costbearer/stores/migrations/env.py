"""What Alembic runs around the migrations; it is given the connection whose transaction they belong to."""

from __future__ import annotations

from alembic import context

from costbearer.stores.control_schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite's DDL is transactional once the driver's own BEGIN is out of the way, which the control store sees to.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
