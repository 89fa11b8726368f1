"""Jobs, the instances that run them, and the answers that are kept by an idempotency key.

Each step looks first, as in the migrations before.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    there = set(sa.inspect(op.get_bind()).get_table_names())
    for name, columns in (("jobs", _jobs()), ("instances", _instances()), ("idempotency_keys", _idempotency_keys())):
        if name not in there:
            op.create_table(name, *columns, mysql_charset="utf8mb4")
    _index("jobs", "jobs_owner", ["owner", "state"])
    _index("jobs", "jobs_expires", ["expires"])
    _index("idempotency_keys", "idempotency_keys_expires", ["expires"])


def _jobs() -> list[sa.Column[object]]:
    return [
        sa.Column("id", _name(32), primary_key=True),
        sa.Column("task", sa.String(128), nullable=False),
        sa.Column("state", _name(16), nullable=False),
        # Rises with each change that a client sees.
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("owner", _name(32), nullable=False),
        sa.Column("cancel_requested", sa.SmallInteger, nullable=False),
        # What it is run again with; NULL where it is not.
        sa.Column("call", _bytes(), nullable=True),
        sa.Column("done", sa.Double, nullable=False),
        sa.Column("total", sa.Double, nullable=True),
        sa.Column("message", sa.Text, nullable=False),
        # Seconds since the epoch.
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("started", sa.Double, nullable=True),
        sa.Column("finished", sa.Double, nullable=True),
        sa.Column("expires", sa.Double, nullable=True),
        # JSON; that of a large result is in a file of this name.
        sa.Column("result", _bytes(), nullable=True),
        sa.Column("result_file", _name(64), nullable=True),
        sa.Column("error", _bytes(), nullable=True),
    ]


def _instances() -> list[sa.Column[object]]:
    return [
        sa.Column("id", _name(32), primary_key=True),
        # Rises while the instance lives.
        sa.Column("beat", sa.BigInteger, nullable=False),
    ]


def _idempotency_keys() -> list[sa.Column[object]]:
    return [
        # SHA-256 of the route and the key, in hex; and that of the request.
        sa.Column("id", _name(64), primary_key=True),
        sa.Column("fingerprint", _name(64), nullable=False),
        sa.Column("owner", _name(32), nullable=False),
        # NULL while the request is being answered.
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("fields", _bytes(), nullable=True),
        sa.Column("body", _bytes(), nullable=True),
        sa.Column("expires", sa.Double, nullable=False),
    ]


def _name(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="ascii_bin"), "mysql", "mariadb")


def _bytes() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def _index(table: str, name: str, columns: list[str]) -> None:
    if not any(index["name"] == name for index in sa.inspect(op.get_bind()).get_indexes(table)):
        op.create_index(name, table, columns)
