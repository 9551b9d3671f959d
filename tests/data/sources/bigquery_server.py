"""A local server that speaks BigQuery's REST protocol, version 2, with DuckDB behind it: for tests, over the wire.

After https://cloud.google.com/bigquery/docs/reference/rest: jobs.insert, jobs.get, jobs.getQueryResults, tables.get,
tables.list. SQL is turned from one dialect into the other by sqlglot, which knows most of it, not all. Sizes are
invented: eight bytes a cell. There is no Storage API.
"""

import json
import re
import socket
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import duckdb
import sqlglot
from bigquery_values import FROM_DUCKDB, bigquery_type, duckdb_type, parameter_value, row_json, schema_field
from sqlglot import exp

STATUS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, code, reason, message):
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def body(self):
        error = {"reason": self.reason, "message": self.message, "domain": "global"}
        status = STATUS.get(self.code, "INTERNAL")
        return {"error": {"code": self.code, "message": self.message, "errors": [error], "status": status}}


@dataclass
class Job:
    resource: dict
    schema: list
    rows: list
    polls: int


@dataclass
class Server:
    """Its state; `fail` holds errors for the next requests, `requests` the requests so far.

    Args:
        page: rows a page at most.
        polls: how often a job says that it is not done yet.
        says_kind: whether a dry run tells the kind of its statement, as Google's does.
        sends: rows of a page that really come, where the server is broken.
    """

    project: str = "hospital"
    page: int = 7
    polls: int = 0
    fail: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    tables: dict = field(default_factory=dict)
    jobs: dict = field(default_factory=dict)
    says_kind: bool = True
    sends: int | None = None

    def __post_init__(self):
        self.connection = duckdb.connect()
        self.connection.execute("SET GLOBAL TimeZone = 'UTC'")
        self.lock = threading.Lock()

    # --- what tests do

    def load(self, name, columns, rows=(), kind="TABLE"):
        """A table `dataset.name` of columns {name: type}; a type may be ARRAY<T> or STRUCT<a T>."""
        dataset, table = name.split(".")
        columns_sql = ", ".join(f'"{column}" {duckdb_type(kind)}' for column, kind in columns.items())
        with self.lock:
            self.connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{dataset}"')
            self.connection.execute(f'CREATE OR REPLACE TABLE "{dataset}"."{table}" ({columns_sql})')
            if rows:
                marks = ", ".join("?" * len(columns))
                self.connection.executemany(f'INSERT INTO "{dataset}"."{table}" VALUES ({marks})', rows)
        self._declare(name, columns, kind)

    def load_arrow(self, name, arrow):
        """A table of what an Arrow table holds."""
        dataset, table = name.split(".")
        with self.lock:
            self.connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{dataset}"')
            self.connection.register("_new", arrow)
            self.connection.execute(f'CREATE OR REPLACE TABLE "{dataset}"."{table}" AS SELECT * FROM _new')
            self.connection.unregister("_new")
            described = self.connection.execute(f'DESCRIBE "{dataset}"."{table}"').fetchall()
        kinds = {"INTEGER": "BIGINT", "TINYINT": "BIGINT", "FLOAT": "DOUBLE"}
        self._declare(name, {row[0]: FROM_DUCKDB[kinds.get(row[1], row[1])] for row in described}, "TABLE")

    def execute(self, sql):
        """Change a table, as somebody else would."""
        with self.lock:
            self.connection.execute(sql)
        for table in self.tables.values():
            table["modified"] += 1

    def _declare(self, name, columns, kind):
        before = self.tables.get(name, {"modified": 1_700_000_000_000})
        self.tables[name] = {"columns": columns, "kind": kind, "modified": before["modified"] + 1}

    # --- what the protocol asks

    def answer(self, method, path, query, body):
        self.requests.append((method, path, body))
        if self.fail:
            code, reason = self.fail.pop(0)
            raise RefusedError(code, reason, "the server was made to fail")
        routes = [
            ("POST", r"projects/([^/]+)/jobs", lambda _: self.insert(body)),
            ("GET", r"projects/[^/]+/jobs/([^/]+)", lambda m: self.job(m[1]).resource),
            ("GET", r"projects/[^/]+/queries/([^/]+)", lambda m: self.results(m[1], query)),
            ("GET", r"projects/[^/]+/datasets/([^/]+)/tables", lambda m: self.listed(m[1])),
            ("GET", r"projects/([^/]+)/datasets/([^/]+)/tables/([^/]+)", lambda m: self.table(*m.groups())),
        ]
        for verb, pattern, call in routes:
            if verb == method and (match := re.fullmatch(pattern, path)):
                return call(match)
        raise RefusedError(404, "notFound", f"no such method: {method} {path}")

    def listed(self, dataset):
        names = [name.split(".")[1] for name in self.tables if name.startswith(f"{dataset}.")]
        if not names:
            raise RefusedError(404, "notFound", f"Not found: Dataset {self.project}:{dataset}")
        return {"tables": [{"tableReference": self.reference(f"{dataset}.{name}")} for name in names]}

    def table(self, project, dataset, table):
        name = f"{dataset}.{table}"
        if name not in self.tables or project != self.project:
            raise RefusedError(404, "notFound", f"Not found: Table {project}:{name}")
        stored = self.tables[name]
        return {
            "kind": "bigquery#table",
            "etag": f"e{stored['modified']}",
            "tableReference": self.reference(name),
            "schema": {"fields": [schema_field(column, kind) for column, kind in stored["columns"].items()]},
            "type": stored["kind"],
            "lastModifiedTime": str(stored["modified"]),
            "numBytes": str(self.size(name)),
        }

    def reference(self, name):
        dataset, table = name.split(".")
        return {"projectId": self.project, "datasetId": dataset, "tableId": table}

    def size(self, name):
        dataset, table = name.split(".")
        with self.lock:
            ((rows,),) = self.connection.execute(f'SELECT count(*) FROM "{dataset}"."{table}"').fetchall()
        return rows * len(self.tables[name]["columns"]) * 8

    def insert(self, body):
        query_config = body["configuration"]["query"]
        dry = body["configuration"].get("dryRun", False)
        name = body.get("jobReference", {}).get("jobId", uuid.uuid4().hex)
        resource = {
            "kind": "bigquery#job",
            "configuration": body["configuration"],
            "jobReference": {"projectId": self.project, "jobId": name, "location": "US"},
            "status": {"state": "DONE"},
        }
        tree, used = self.parsed(query_config["query"])
        columns = {column: kind for table in used for column, kind in self.tables[table]["columns"].items()}
        size = sum(map(self.size, used))
        statistics = {
            "totalBytesProcessed": str(size),
            "referencedTables": [self.reference(table) for table in used],
            "schema": {"fields": []},
            **({"statementType": "SELECT" if isinstance(tree, exp.Query) else "SCRIPT"} if self.says_kind else {}),
        }
        resource["statistics"] = {"query": statistics, "totalBytesProcessed": str(size)}
        if not isinstance(tree, exp.Query):
            return resource
        sql = tree.sql("duckdb")
        values = {p["name"]: parameter_value(p) for p in query_config.get("queryParameters", [])}
        schema, rows = self.run(f"SELECT * FROM ({sql}) LIMIT 0" if dry else sql, values, columns, resource)
        statistics["schema"] = {"fields": schema}
        if dry:
            del resource["jobReference"]["jobId"]
            return resource
        if size > int(query_config.get("maximumBytesBilled", size)):
            raise RefusedError(400, "bytesBilledLimitExceeded", f"Query exceeded limit for bytes billed: {size}")
        if self.polls:
            resource["status"], resource["later"] = {"state": "RUNNING"}, resource["status"]
        self.jobs[name] = Job(resource, schema, rows, self.polls)
        return resource

    def parsed(self, sql):
        try:
            trees = sqlglot.parse(sql, read="bigquery")
        except sqlglot.errors.SqlglotError as error:
            raise RefusedError(400, "invalidQuery", f"Syntax error: {str(error).splitlines()[0]}") from None
        if len(trees) != 1:
            return None, []
        common = {cte.alias for cte in trees[0].find_all(exp.CTE)}
        used = {}
        for table in trees[0].find_all(exp.Table):
            # `project.dataset.table` may be quoted as a whole.
            parts = ".".join(part for part in (table.catalog, table.db, table.name) if part).split(".")
            if len(parts) == 1 and parts[0] in common:
                continue
            name = ".".join(parts[-2:])
            if name not in self.tables or (len(parts) == 3 and parts[0] != self.project):
                raise RefusedError(404, "notFound", f"Not found: Table {':'.join([self.project, name])}")
            used[name] = None
            table.set("catalog", None)
            table.set("db", exp.to_identifier(parts[-2], quoted=True))
            table.set("this", exp.to_identifier(parts[-1], quoted=True))
        return trees[0], list(used)

    def run(self, sql, values, columns, resource):
        with self.lock:
            try:
                relation = self.connection.cursor().sql(sql, params=values)
                kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
                rows = [tuple(row.values()) for row in relation.to_arrow_table().to_pylist()]
            except duckdb.DataError as error:  # found while rows are read: the job fails, and quotes the row
                error_body = {"reason": "invalidQuery", "message": str(error)}
                resource["status"] = {"state": "DONE", "errorResult": error_body, "errors": [error_body]}
                return [], []
            except duckdb.Error as error:
                raise RefusedError(400, "invalidQuery", str(error).splitlines()[0]) from None
        return [schema_field(name, columns.get(name) or bigquery_type(kind)) for name, kind in kinds.items()], rows

    def job(self, name):
        if name not in self.jobs:
            raise RefusedError(404, "notFound", f"Not found: Job {self.project}:{name}")
        return self.jobs[name]

    def results(self, name, query):
        job = self.job(name)
        answer = {"jobReference": job.resource["jobReference"], "jobComplete": job.polls <= 0}
        if job.polls > 0:
            job.polls -= 1
            return answer
        job.resource["status"] = job.resource.pop("later", job.resource["status"])
        if "errorResult" in job.resource["status"]:
            error = job.resource["status"]["errorResult"]
            raise RefusedError(400, error["reason"], error["message"])
        start = int(query.get("pageToken", ["0"])[0])
        stop = start + min(self.page, int(query.get("maxResults", [self.page])[0]))
        exact = query.get("formatOptions.useInt64Timestamp", [""])[0] == "True"
        rows = [row_json(row, job.schema, exact) for row in job.rows[start:stop]][: self.sends]
        answer |= {"schema": {"fields": job.schema}, "totalRows": str(len(job.rows)), "cacheHit": False}
        answer |= {"rows": rows} if rows else {}  # Google leaves an empty list out
        return answer | ({"pageToken": str(stop)} if stop < len(job.rows) else {})


def allow_this_machine(monkeypatch):
    """Sockets to this machine, and to no other: over what tests/conftest.py forbids."""
    for name in ("connect", "connect_ex"):
        before = getattr(socket.SocketType, name)

        def connect(self, address, before=before):
            assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", f"a test opened a socket to {address}"
            return before(self, address)

        monkeypatch.setattr(socket.socket, name, connect, raising=False)


def serve(server):
    """Start it in a thread; return the HTTP server, to be shut down, and its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 2**16  # an answer in one packet
        disable_nagle_algorithm = True

        def do_GET(self):
            self.reply("GET")

        def do_POST(self):
            self.reply("POST")

        def reply(self, method):
            url = urlsplit(self.path)
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            server.headers.append(dict(self.headers))
            path = unquote(url.path).removeprefix("/bigquery/v2/")
            try:
                code, answer = 200, server.answer(method, path, parse_qs(url.query), body)
            except RefusedError as error:
                code, answer = error.code, error.body()
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    return http, f"http://127.0.0.1:{http.server_port}"
