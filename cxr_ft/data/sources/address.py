"""Parse the address of a source: a path, a URL, or a database.

A database is `duckdb:///file.db?table=t` or `bigquery://project/dataset.table`, or has `?sql=SELECT ...`.

A database without a table is treated as a folder of tables. Options follow the `?`, joined by `&`:

    table=t                      one table; schema.t in DuckDB
    sql=SELECT ...               or sql=@query.sql, a file: one SELECT statement instead of a table
    root=DIR                     where the images lie, which are in no database
    billing=my-project           BigQuery: the project that pays, if not your credentials' own
    maximum_bytes_billed=N       BigQuery: the most that one query may read; 10 GB by default
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote

from cxr_ft.errors import UsageError, unknown

SCHEMES = ("duckdb", "bigquery")
OPTIONS = {
    "duckdb": ("table", "sql", "root"),
    "bigquery": ("table", "sql", "root", "billing", "maximum_bytes_billed"),
}
FORMS = {
    "duckdb": "duckdb:///file.db?table=NAME",
    "bigquery": "bigquery://project/dataset.table",
}
#: A table, schema or data set. Columns may bear any name; they are looked up before they are used.
NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
#: A Google Cloud project, with its domain where it has one.
PROJECT = r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]*"


def is_database(source: str) -> bool:
    """Return True for the address of a database, or of a table in one."""
    return source.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def is_url(source: str) -> bool:
    """Return True for any address with a scheme, a database's included, except file://, which is a local path."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source)) and not source.lower().startswith("file://")


def is_web(source: str) -> bool:
    """Return True for a source on a web server."""
    return source.lower().startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True)
class Address:
    """A database, or a table or query in it.

    Args:
        scheme: duckdb or bigquery.
        at: the absolute path of a file; "project" or "project/dataset".
        options: those behind the question mark, checked.
    """

    scheme: str
    at: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the URL in normal form."""
        options, where = dict(self.options), self.bare
        if self.scheme == "bigquery" and "/" in self.at and "table" in options:
            # BigQuery's own form of a table; only a database without a data set needs the option.
            where += f".{options.pop('table')}"
        # SQL may hold & and =, which must come back from `parse` unchanged.
        query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in options.items())
        return f"{where}?{query}" if query else where

    @property
    def bare(self) -> str:
        """Return the URL of the database itself."""
        return f"{self.scheme}://{quote(self.at, safe='/:')}"

    @property
    def shown(self) -> str:
        """Return the address for messages, without its SQL, which may name a patient."""
        return f"{self.bare} (sql)" if "sql" in self.options else str(self)

    @property
    def is_table(self) -> bool:
        """Return True for a table or a query, False for the database."""
        return bool(self.options.keys() & {"table", "sql"})

    def table(self, name: str) -> "Address":
        """Return the address of the table `name` of this database."""
        return self.with_options(table=name)

    def database(self) -> "Address":
        """Return the address of the database that this is a table of."""
        return replace(self, options={k: v for k, v in self.options.items() if k not in {"table", "sql"}})

    def with_options(self, **more: str) -> "Address":
        """Return this address with other options."""
        return replace(self, options={**self.options, **more})


def parse(source: str) -> Address:
    """Parse the URL of a database or of a table in one.

    Raises:
        UsageError: for an unknown option, a name that is none, a table and a query at once.
    """
    scheme, _, rest = source.partition("://")
    scheme = scheme.lower()
    path, _, query = rest.partition("?")
    options = _options(scheme, query)
    where = f"{scheme}://{path}"
    if scheme == "duckdb":
        at = _file(unquote(path), where)
    else:
        at, table = _project(unquote(path).rstrip("/"), where)
        options = {**options, **_table_option(table, options, where)}
    if {"table", "sql"} <= options.keys():
        raise UsageError(f"{where} names a table and has sql: give one of them")
    if "table" in options and not re.fullmatch(rf"{NAME}(?:\.{NAME})?", options["table"]):
        raise UsageError(f"{where}: {options['table']!r} is no table's name: it may have letters, digits, _ and -")
    return Address(scheme=scheme, at=at, options=options)


def query_of(address: Address) -> str:
    """Return the SQL of an address, read from its file if it names one, without a final semicolon; "" if none.

    Raises:
        UsageError: where the file cannot be read.
    """
    sql = address.options.get("sql", "")
    if sql.startswith("@"):
        try:
            sql = Path(sql[1:]).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{address.bare}: sql file {sql[1:]} cannot be read: {error}") from None
    return sql.strip().rstrip(";").rstrip()


def _options(scheme: str, query: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if name not in OPTIONS[scheme]:
            hint = " (write & in SQL as %26)" if "sql" in out else ""
            raise unknown(f"option{hint}", name, OPTIONS[scheme], FORMS[scheme])
        # Of a repeated option one would be dropped silently.
        if name in out or not (equals and value):
            raise UsageError(f"{FORMS[scheme]}: option {name} needs one value, once")
        out[name] = _decoded(value)
    return out


def _decoded(value: str) -> str:
    # Forms write a space as +, people write SQL with spaces and mean a plus: it cannot be both in one value.
    return unquote(value if re.search(r"\s|%20", value) else value.replace("+", " "))


def _file(path: str, where: str) -> str:
    if not path.strip("/"):
        raise UsageError(f"{where} names no file: write {FORMS['duckdb']}")
    file = Path("/", path.lstrip("/")) if path.startswith("/") else Path(path).expanduser()
    # duckdb:///file.db is, to some tools, beside the working folder and, to others, from the root: whichever is there.
    in_working_folder = Path(path.lstrip("/"))
    return str((in_working_folder if not file.exists() and in_working_folder.exists() else file).absolute())


def _project(path: str, where: str) -> tuple[str, str]:
    """Return project or project/dataset, and the table behind them or ""."""
    match = re.fullmatch(rf"({PROJECT})(?:/({NAME})(?:\.({NAME}))?)?", path)
    if match is None:
        raise UsageError(f"{where} is no project, data set and table: write {FORMS['bigquery']}")
    project, dataset, table = match.groups()
    return (f"{project}/{dataset}" if dataset else project), table or ""


def _table_option(table: str, options: Mapping[str, str], where: str) -> dict[str, str]:
    if table and "table" in options:
        raise UsageError(f"{where} names two tables: give one")
    return {"table": table} if table else {}
