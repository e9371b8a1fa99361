"""The text of a row that is the same in every reader, as module `canonical` in ../run.rs describes it."""

import datetime
import decimal
import json

import pyarrow as pa


def canonical_rows(table):
    columns = [[canonical(value, column.type) for value in column.to_pylist()] for column in table.columns]
    return [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in zip(*columns)]


def canonical(value, kind):
    """The value as plain JSON; an empty map is `[]`, as in the golden tables' hashes."""
    if value is None:
        return None
    if pa.types.is_map(kind):
        entries = {key_text(canonical(key, kind.key_type)): canonical(item, kind.item_type) for key, item in value}
        return dict(sorted(entries.items())) if entries else []
    if pa.types.is_struct(kind):
        return {field.name: canonical(value[field.name], field.type) for field in sorted(kind, key=lambda f: f.name)}
    if isinstance(value, list):
        return [canonical(item, kind.value_type) for item in value]
    return canonical_scalar(value)


def key_text(key):
    return key if isinstance(key, str) else json.dumps(key)


def canonical_scalar(value):
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return "x" + value.hex()
    if isinstance(value, datetime.datetime):
        utc = value.astimezone(datetime.timezone.utc) if value.tzinfo else value
        return utc.replace(tzinfo=None).isoformat(timespec="microseconds")
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value
