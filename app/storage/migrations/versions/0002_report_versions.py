"""The versions of reports, and indexes by which a file's row is found.

Each step looks first, as in the migration before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NEWEST = "user_reports"
_VERSIONS = "report_versions"
# Of a path, in characters of four bytes: what every server accepts as a key. Paths that we give are shorter.
_KEY_PREFIX = 191


def upgrade() -> None:
    if not sa.inspect(op.get_bind()).has_table(_VERSIONS):
        _create()
    for table in (_NEWEST, _VERSIONS):
        _index_paths(table)


def _create() -> None:
    # As exact as the ids that may be stored, whatever an adopted table of newest reports makes of them.
    user_id = sa.String(128).with_variant(sa.String(128, collation="ascii_bin"), "mysql", "mariadb")
    op.create_table(
        _VERSIONS,
        sa.Column("user_id", user_id, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("report_path", sa.Text, nullable=False),  # an adopted one may be of any length
        sa.Column("media_type", sa.String(127), nullable=True),
        sa.Column("size", sa.BigInteger, nullable=True),
        sa.Column("digest", sa.String(64), nullable=True),
        sa.Column("modified_ns", sa.BigInteger, nullable=True),
        mysql_charset="utf8mb4",
    )


def _index_paths(table: str) -> None:
    inspector = sa.inspect(op.get_bind())
    if any((index["column_names"][0] or "").lower() == "report_path" for index in inspector.get_indexes(table)):
        return
    kinds = {column["name"].lower(): column["type"] for column in inspector.get_columns(table)}
    prefix = {"report_path": _KEY_PREFIX} if _is_long(kinds["report_path"]) else {}
    op.create_index(f"{table}_report_path", table, ["report_path"], mysql_length=prefix)


def _is_long(kind: sa.types.TypeEngine[object]) -> bool:
    """Whether a column holds texts that may be too long for a key."""
    if not isinstance(kind, sa.String | sa.LargeBinary | sa.types.BINARY | sa.types.VARBINARY):
        return False
    return not isinstance(kind, sa.Enum) and (kind.length is None or kind.length > _KEY_PREFIX)
