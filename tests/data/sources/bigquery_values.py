"""Types and values of BigQuery's REST protocol, from and to DuckDB's: for the local server of the tests."""

import base64
import datetime as dt
import math
import re

#: BigQuery's types as DuckDB has them, and back where DuckDB's own is enough.
TO_DUCKDB = {
    "STRING": "VARCHAR",
    "BYTES": "BLOB",
    "INTEGER": "BIGINT",
    "FLOAT": "DOUBLE",
    "NUMERIC": "DECIMAL(38,9)",
    "BIGNUMERIC": "DECIMAL(38,12)",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "DATETIME": "TIMESTAMP",
    "TIME": "TIME",
    "TIMESTAMP": "TIMESTAMP WITH TIME ZONE",
    "GEOGRAPHY": "VARCHAR",
    "JSON": "JSON",
    "INTERVAL": "INTERVAL",
}
FROM_DUCKDB = {duckdb_name: name for name, duckdb_name in TO_DUCKDB.items() if name != "GEOGRAPHY"}


def inside(kind):
    return re.fullmatch(r"(ARRAY|STRUCT)<(.*)>", kind)


def members(parts_text):
    """The members of STRUCT<...>: name and type, which may hold commas itself."""
    depth, parts = 0, [""]
    for letter in parts_text:
        depth += {"<": 1, ">": -1}.get(letter, 0)
        parts = [*parts, ""] if letter == "," and not depth else [*parts[:-1], parts[-1] + letter]
    return dict(part.split(None, 1) for part in parts)


def duckdb_type(kind):
    if match := inside(kind):
        if match[1] == "ARRAY":
            return f"{duckdb_type(match[2])}[]"
        return f"STRUCT({', '.join(f'{name} {duckdb_type(part)}' for name, part in members(match[2]).items())})"
    return TO_DUCKDB[kind]


def bigquery_type(kind):
    wider = {"HUGEINT": "BIGINT", "INTEGER": "BIGINT", "FLOAT": "DOUBLE"}
    return FROM_DUCKDB.get(wider.get(kind, kind), "STRING")


def schema_field(name, kind, mode="NULLABLE"):
    match = inside(kind)
    if match and match[1] == "ARRAY":
        return schema_field(name, match[2], "REPEATED")
    if match:
        fields = [schema_field(*member) for member in members(match[2]).items()]
        return {"name": name, "type": "RECORD", "mode": mode, "fields": fields}
    return {"name": name, "type": kind, "mode": mode}


def row_json(row, schema, exact):
    return {"f": [{"v": cell_json(value, field, exact)} for value, field in zip(row, schema, strict=True)]}


def cell_json(value, column, exact):
    if column["mode"] == "REPEATED":
        return [{"v": cell_json(item, {**column, "mode": "NULLABLE"}, exact)} for item in value or ()]
    if value is None:
        return None
    if column["type"] == "RECORD":
        return {"f": [{"v": cell_json(value[f["name"]], f, exact)} for f in column["fields"]]}
    return scalar_json(value, column["type"], exact)


def scalar_json(value, kind, exact):
    if kind == "BOOLEAN":
        return str(value).lower()
    if kind == "BYTES":
        return base64.b64encode(value).decode()
    if kind == "FLOAT" and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if kind == "TIMESTAMP":
        micros = (value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
        return str(micros) if exact else repr(micros / 1e6)
    if kind == "DATETIME":
        return value.isoformat()
    if kind == "INTERVAL":
        return f"0-{value.months} {value.days} 0:0:0"
    return str(value)


def parameter_value(parameter):
    """The value of a query parameter."""

    def cast(text, kind):
        made = {"INT64": int, "FLOAT64": float, "BOOL": lambda t: t == "true", "DATE": dt.date.fromisoformat}
        return made.get(kind, str)(text)

    kind, value = parameter["parameterType"], parameter["parameterValue"]
    if kind["type"] == "ARRAY":
        return [cast(item["value"], kind["arrayType"]["type"]) for item in value["arrayValues"]]
    return cast(value["value"], kind["type"])
