"""Orders and their lines as TPC-H describes them: its columns, types, sparse keys and number of lines; cheaper texts."""

import numpy as np
import pyarrow as pa

from data import hex_strings, splitmix64

STATUS = pa.array(["F", "O", "P"])
PRIORITIES = pa.array(["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"])
CLERKS = pa.array([f"Clerk#{n:09}" for n in range(1000)])
FLAGS = pa.array(["A", "N", "R"])
INSTRUCTIONS = pa.array(["COLLECT COD", "DELIVER IN PERSON", "NONE", "TAKE BACK RETURN"])
MODES = pa.array(["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"])
# 1992-01-01, and the days until the last order
FIRST_DAY, DAYS = 8035, 2405


def old_keys(numbers: np.ndarray) -> np.ndarray:
    """The keys of orders that are there: eight of each 32."""
    return numbers // 8 * 32 + numbers % 8 + 1


def new_keys(numbers: np.ndarray) -> np.ndarray:
    """Keys among them that are free."""
    return old_keys(numbers) + 8


def orders(keys: np.ndarray) -> pa.Table:
    """Orders with these keys."""
    hashes = splitmix64(keys.astype(np.uint64))
    return pa.table({
        "o_orderkey": pa.array(keys, pa.int64()),
        "o_custkey": whole(hashes, 1, 150_000),
        "o_orderstatus": one_of(STATUS, hashes),
        "o_totalprice": money(hashes, 100_000, 50_000_000),
        "o_orderdate": day(hashes, 0),
        "o_orderpriority": one_of(PRIORITIES, hashes >> np.uint64(8)),
        "o_clerk": one_of(CLERKS, hashes >> np.uint64(12)),
        "o_shippriority": pa.array(np.zeros(len(keys), np.int32)),
        "o_comment": hex_strings("carefully final requests ", splitmix64(hashes)),
    })


def lines(keys: np.ndarray) -> pa.Table:
    """The lines of the orders with these keys, one to seven each."""
    counts = (splitmix64(keys.astype(np.uint64)) % np.uint64(7)).astype(np.int64) + 1
    order = np.repeat(keys, counts)
    number = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    hashes = splitmix64((order * 8 + number).astype(np.uint64))
    return pa.table({
        "l_orderkey": pa.array(order, pa.int64()),
        "l_partkey": whole(hashes, 1, 200_000),
        "l_suppkey": whole(hashes >> np.uint64(4), 1, 10_000),
        "l_linenumber": pa.array(number.astype(np.int32)),
        "l_quantity": money(hashes >> np.uint64(8), 100, 5_000),
        "l_extendedprice": money(hashes >> np.uint64(12), 90_000, 10_000_000),
        "l_discount": money(hashes >> np.uint64(16), 0, 10),
        "l_tax": money(hashes >> np.uint64(20), 0, 8),
        "l_returnflag": one_of(FLAGS, hashes >> np.uint64(24)),
        "l_linestatus": one_of(STATUS.slice(0, 2), hashes >> np.uint64(28)),
        "l_shipdate": day(hashes, 30),
        "l_commitdate": day(hashes, 60),
        "l_receiptdate": day(hashes, 45),
        "l_shipinstruct": one_of(INSTRUCTIONS, hashes >> np.uint64(32)),
        "l_shipmode": one_of(MODES, hashes >> np.uint64(36)),
        "l_comment": hex_strings("quickly ", splitmix64(hashes)),
    })


def whole(hashes: np.ndarray, least: int, most: int) -> pa.Array:
    """Numbers from `least` to `most`."""
    return pa.array((hashes % np.uint64(most - least + 1)).astype(np.int64) + least)


def money(hashes: np.ndarray, least: int, most: int) -> pa.Array:
    """Amounts in hundredths from `least` to `most`, as `decimal(15, 2)`: 128 bits, of which the upper ones are zero."""
    bits = np.zeros((len(hashes), 2), np.int64)
    bits[:, 0] = (hashes % np.uint64(most - least + 1)).astype(np.int64) + least
    return pa.Array.from_buffers(pa.decimal128(15, 2), len(hashes), [None, pa.py_buffer(bits)])


def day(hashes: np.ndarray, later: int) -> pa.Array:
    """Days of the years of TPC-H."""
    days = (hashes >> np.uint64(40)) % np.uint64(DAYS)
    return pa.array(days.astype(np.int32) + (FIRST_DAY + later)).cast(pa.date32())


def one_of(values: pa.Array, hashes: np.ndarray) -> pa.Array:
    """One of some values for each row."""
    return values.take(pa.array((hashes % np.uint64(len(values))).astype(np.int32)))
