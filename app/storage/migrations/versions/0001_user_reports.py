"""The reports of users; a table that the original left behind is adopted with its rows.

Each step looks first: MySQL commits every change of a table by itself, so that a run which was cut off in the middle
must be able to go on from there.
"""

import sqlalchemy as sa
from alembic import op

from app.errors import StartError

revision = "0001"
down_revision = None

_TABLE = "user_reports"
# The longest prefix of a text column that every server accepts as a key, in characters of four bytes.
_KEY_PREFIX = 191


def _added_columns() -> list[sa.Column[object]]:
    """What a stored report has beyond the original's two columns; NULL in rows that were adopted."""
    return [
        sa.Column("media_type", sa.String(127), nullable=True),
        sa.Column("size", sa.BigInteger, nullable=True),
        sa.Column("digest", sa.String(64), nullable=True),
        sa.Column("modified_ns", sa.BigInteger, nullable=True),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    ]


def upgrade() -> None:
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table(_TABLE):
        _create()
        return
    columns = {column["name"].lower(): column["type"] for column in inspector.get_columns(_TABLE)}
    if not {"user_id", "report_path"} <= set(columns):
        raise StartError("there is a table user_reports without the columns user_id and report_path: it is not adopted")
    for column in _added_columns():
        if column.name not in columns:
            op.add_column(_TABLE, column)
    if not _has_key(inspector):
        prefix = {"user_id": _KEY_PREFIX} if _is_long(columns["user_id"]) else {}
        op.create_index("user_reports_user_id", _TABLE, ["user_id"], mysql_length=prefix)


def _is_long(kind: sa.types.TypeEngine[object]) -> bool:
    """Whether a column holds texts that may be too long for a key."""
    if not isinstance(kind, sa.String | sa.LargeBinary | sa.types.BINARY | sa.types.VARBINARY):
        return False
    return not isinstance(kind, sa.Enum) and (kind.length is None or kind.length > _KEY_PREFIX)


def _create() -> None:
    # Binary: two users whose names differ in case are two users, as in SQLite.
    user_id = sa.String(128).with_variant(sa.String(128, collation="ascii_bin"), "mysql", "mariadb")
    op.create_table(
        _TABLE,
        sa.Column("user_id", user_id, primary_key=True),
        sa.Column("report_path", sa.String(1024), nullable=False),
        *_added_columns(),
        mysql_charset="utf8mb4",
    )


def _has_key(inspector: sa.Inspector) -> bool:
    """Whether some key or index begins with user_id, so that looking a user up does not read the whole table."""
    keys = [inspector.get_pk_constraint(_TABLE)["constrained_columns"]]
    keys += [index["column_names"] for index in inspector.get_indexes(_TABLE)]
    keys += [unique["column_names"] for unique in inspector.get_unique_constraints(_TABLE)]
    return any(key and (key[0] or "").lower() == "user_id" for key in keys)
