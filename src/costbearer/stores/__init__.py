"""The stores: control (SQLAlchemy), ledger (DuckDB) and the price archive. SQL and engines live here alone."""
