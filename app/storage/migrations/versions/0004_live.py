"""Topics of live events, and the events that are kept of them.

Each step looks first, as in the migrations before.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    there = set(sa.inspect(op.get_bind()).get_table_names())
    for name, columns in (("live_topics", _topics()), ("live_events", _events())):
        if name not in there:
            op.create_table(name, *columns, mysql_charset="utf8mb4")


def _topics() -> list[sa.Column[object]]:
    return [
        sa.Column("topic", _name(128), primary_key=True),
        # New with each row: what tells the sequence of this one from that of an earlier one.
        sa.Column("epoch", _name(16), nullable=False),
        # Of the newest event, and the bytes of all that there ever were.
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        # When something was published last, in seconds since the epoch.
        sa.Column("published", sa.Double, nullable=False),
    ]


def _events() -> list[sa.Column[object]]:
    return [
        sa.Column("topic", _name(128), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("data", _bytes(), nullable=False),
        # Those of the topic up to this one: so what a history holds is a difference, not a sum.
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    ]


def _name(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="ascii_bin"), "mysql", "mariadb")


def _bytes() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
