"""What the benchmark of merges measures: its tables, its cases, and what they ought to take.

Only the standard library is imported here: the process that starts the contenders reads this file and must stay small.
merge_data.py makes what is described.
"""

from dataclasses import dataclass, field

from statements import ROW_COLUMNS, Insert, Merge, Statement, Update

EVERYBODY = ("alluvial", "delta-rs", "DuckLake")
DELTA_ONLY = ("alluvial", "delta-rs")
ALONE = ("alluvial",)
# what a contender starts from, for each table; delta-rs cannot write deletion vectors
VARIANTS = {"alluvial": "dv", "delta-rs": "plain", "DuckLake": "lake", "Spark": "dv"}

WIDE_COLUMNS = ("id", *(f"i{n:02}" for n in range(1, 40)), *(f"d{n:02}" for n in range(30)), *(f"s{n:02}" for n in range(30)))
NARROW_COLUMNS = ("id", "k", "v")
TPCH_COLUMNS = {
    "orders": ("o_orderkey", "o_custkey", "o_orderstatus", "o_totalprice", "o_orderdate", "o_orderpriority", "o_clerk",
               "o_shippriority", "o_comment"),
    "lineitem": ("l_orderkey", "l_partkey", "l_suppkey", "l_linenumber", "l_quantity", "l_extendedprice", "l_discount",
                 "l_tax", "l_returnflag", "l_linestatus", "l_shipdate", "l_commitdate", "l_receiptdate", "l_shipinstruct",
                 "l_shipmode", "l_comment"),
}

ROW_CHECK = ("count(*), sum(id), sum(k), sum((id % 1009) * k), sum((id % 1009) * (z % 1000003)), sum(w), "
             "min(v), max(v), count(*) FILTER (WHERE v LIKE 'b-%'), count(*) FILTER (WHERE c = 'red')")
NARROW_CHECK = "count(*), sum(id), sum(k), sum((id % 1009) * k), max(v), count(*) FILTER (WHERE v LIKE 'b-%')"
WIDE_CHECK = ("count(*), sum(id), sum(i07), sum((id % 1009) * i07), sum(i05 % 1000003), sum((id % 1009) * i39), "
              "sum(d01), sum(d29), min(s00), max(s29)")
ORDERS_CHECK = "count(*), sum(o_orderkey), sum((o_orderkey % 1009) * o_custkey), sum(o_totalprice), max(o_orderdate)"
LINES_CHECK = ("count(*), sum(l_orderkey), sum((l_orderkey % 1009) * l_partkey), sum(l_extendedprice), "
               "sum(l_linenumber), max(l_shipdate)")


# ---- tables

@dataclass(frozen=True)
class Base:
    """Tables that a case starts from. `files` names a maker of Parquet files in merge_data.py, by default the base's own."""

    checks: dict[str, str]
    files: str = ""
    has_feed: bool = False
    partition: str = ""
    has_checkpoint: bool = False


BASES = {
    "rows": Base({"target": ROW_CHECK}),
    "fed": Base({"target": ROW_CHECK}, files="rows", has_feed=True),
    "parts": Base({"target": f"{ROW_CHECK}, sum(p * (id % 1009))"}, files="rows", partition="p"),
    "wide": Base({"target": WIDE_CHECK}),
    "small": Base({"target": ROW_CHECK}, has_checkpoint=True),
    "tpch": Base({"orders": ORDERS_CHECK, "lineitem": LINES_CHECK}),
    "narrow-10": Base({"target": NARROW_CHECK}),
    "narrow-50": Base({"target": NARROW_CHECK}),
    "narrow-100": Base({"target": NARROW_CHECK}),
}


@dataclass(frozen=True)
class Sizes:
    """Numbers of rows and files; `scale` 1 is 10 million rows."""

    scale: float

    @property
    def rows(self) -> int:
        """Rows of the target: 20 files, and changes in whole tens."""
        return max(1, round(500 * self.scale)) * 20_000

    @property
    def few(self) -> int:
        """Changes of a sparse merge."""
        return self.rows // 1000

    @property
    def many(self) -> int:
        """Changes of a dense merge, and rows of the wide table."""
        return self.rows // 10

    @property
    def small_files(self) -> int:
        """Files of the table of many files, of ten rows each."""
        return max(100, round(100_000 * self.scale))

    @property
    def orders(self) -> int:
        """Orders, as many as TPC-H has at this scale factor; each has four lines on average."""
        return self.rows * 15 // 100


# ---- cases

@dataclass(frozen=True)
class Limits:
    """What Alluvial should reach, on two cores at full scale: its peers' times in its own, and figures of its own."""

    times_faster: dict[str, float] = field(default_factory=dict)
    peak_mb: float | None = None
    of_own_size: float | None = None
    seconds: float | None = None
    # another case, and at most how much longer this one may take
    beside: tuple[str, float] | None = None


@dataclass(frozen=True)
class Case:
    """Some statements on one base. `changes` names their sources in merge_data.py, by default the case's own."""

    title: str
    base: str
    statements: tuple[Statement, ...]
    changes: str = ""
    sources: tuple[str, ...] = ("changes",)
    contenders: tuple[str, ...] = EVERYBODY
    limits: Limits = field(default_factory=Limits)
    is_planned_only: bool = False
    memory: str = ""

    @property
    def check(self) -> str:
        """One row that tells the tables' contents."""
        tables = BASES[self.base].checks.items()
        parts = [f"(SELECT {named(checks, table)} FROM {table}) AS of_{table}" for table, checks in tables]
        return f"SELECT * FROM {' CROSS JOIN '.join(parts)}"


def named(expressions: str, prefix: str) -> str:
    """Names for expressions, which some engines demand of a sub-query's columns."""
    depth, parts = 0, [""]
    for letter in expressions:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return ", ".join(f"{part.strip()} AS {prefix}_{number}" for number, part in enumerate(parts))


UPSERT = Merge(delete_when="changes.op = 'd'", update=ROW_COLUMNS[1:], insert_when="changes.op <> 'd'")
SPARSE_LIMITS = Limits({"delta-rs": 15, "DuckLake": 3}, peak_mb=150, of_own_size=1.1)
DENSE_LIMITS = Limits({"delta-rs": 5, "DuckLake": 10}, peak_mb=350, of_own_size=1.1)
UPDATE_LIMITS = Limits({"delta-rs": 1.5}, of_own_size=1.1)
SIZE_LIMIT = Limits(of_own_size=1.1)


def cases(scale: float) -> dict[str, Case]:
    """Every case by its name."""
    sizes = Sizes(scale)
    return upserts(sizes) | single_clauses(sizes) | other_tables(sizes) | on_demand(sizes)


def upserts(sizes: Sizes) -> dict[str, Case]:
    """Merges that update, delete and insert."""
    def feed(of: str) -> Limits:
        return Limits(beside=(of, 1.3))

    few, many = f"merge {sizes.few:,} changes", f"merge {sizes.many:,} changes"
    in_parts = Merge((*ROW_COLUMNS, "p"), on=("p", "id"), delete_when=UPSERT.delete_when, update=UPSERT.update,
                     insert_when=UPSERT.insert_when)
    differs = " OR ".join(f"target.{name} <> changes.{name}" for name in ROW_COLUMNS[1:])
    same = Merge(update=UPSERT.update, update_when=f"({differs})", insert_when="", deletes_by_source=True)
    return {
        "sparse": Case(f"{few} all over the table", "rows", (UPSERT,), limits=SPARSE_LIMITS),
        "sparse-feed": Case(f"{few} all over the table, change feed on", "fed", (UPSERT,), "sparse",
                            contenders=DELTA_ONLY, limits=feed("sparse")),
        "tail": Case(f"{few} in the last 5 % of the keys", "rows", (UPSERT,), limits=SPARSE_LIMITS),
        "dense": Case(f"{many} all over the table", "rows", (UPSERT,), limits=DENSE_LIMITS),
        "dense-feed": Case(f"{many} all over the table, change feed on", "fed", (UPSERT,), "dense",
                           contenders=DELTA_ONLY, limits=feed("dense")),
        "parts": Case(f"{few} in 4 of 20 partitions", "parts", (in_parts,), limits=SIZE_LIMIT),
        "full": Case(f"full sync with {sizes.rows:,} rows, {sizes.few:,} differ", "rows", (same,), limits=SIZE_LIMIT),
    }


def single_clauses(sizes: Sizes) -> dict[str, Case]:
    """Statements that only update, only delete or only insert."""
    update = Merge(update=UPSERT.update)
    delete = Merge(delete_when="")
    insert = Merge(insert_when="")
    half = Update("w", "w + 1", "id % 4 = 0")
    return {
        "update": Case(f"merge {sizes.rows // 2:,} updates", "rows", (update,), limits=UPDATE_LIMITS),
        "update-where": Case(f"UPDATE of {sizes.rows // 2:,} rows", "rows", (half,), sources=(), limits=UPDATE_LIMITS),
        "delete-few": Case(f"merge {sizes.few:,} deletes", "rows", (delete,)),
        "delete-many": Case(f"merge {sizes.many:,} deletes", "rows", (delete,)),
        "insert-new": Case(f"merge {sizes.many:,} inserts after all keys", "rows", (insert,), limits=SIZE_LIMIT),
        "insert-between": Case(f"merge {sizes.many:,} inserts between the keys", "rows", (insert,), limits=SIZE_LIMIT),
    }


def other_tables(sizes: Sizes) -> dict[str, Case]:
    """Wide tables, tables of many files, TPC-H's refreshes."""
    one_column = Merge(WIDE_COLUMNS, update=("i07",))
    upsert = Merge(update=UPSERT.update, insert_when="")
    meeting = f"1,000 changes that meet 10 of {sizes.small_files:,} files"
    inserts = tuple(Insert(table, f"new_{table}") for table in TPCH_COLUMNS)
    deletes = tuple(Merge(columns, table, f"old_{table}", columns[:1], delete_when="") for table, columns in TPCH_COLUMNS.items())
    refreshed = f"{max(1, sizes.orders // 1000):,} of {sizes.orders:,} orders and their lines"
    return {
        "wide": Case(f"update 1 of 100 columns of {sizes.few:,} in {sizes.many:,} rows", "wide", (one_column,),
                     limits=SIZE_LIMIT),
        "small": Case(f"merge {meeting}", "small", (upsert,), limits=SIZE_LIMIT),
        "small-plan": Case(f"EXPLAIN MERGE of {meeting}", "small", (upsert,), "small", contenders=ALONE,
                           limits=Limits(seconds=1.0), is_planned_only=True),
        "refresh-insert": Case(f"TPC-H RF1, insert {refreshed}", "tpch", inserts, sources=("new_orders", "new_lineitem"),
                               limits=SIZE_LIMIT),
        "refresh-delete": Case(f"TPC-H RF2, delete {refreshed}", "tpch", deletes, sources=("old_orders", "old_lineitem")),
    }


def on_demand(sizes: Sizes) -> dict[str, Case]:
    """Cases whose tables are large; they run if they are named."""
    upsert = Merge(NARROW_COLUMNS, delete_when=UPSERT.delete_when, update=NARROW_COLUMNS[1:], insert_when=UPSERT.insert_when)
    in_files = f"merge {sizes.few:,} changes in 4 files"
    return {
        "growth-10": Case(f"{in_files} of {sizes.rows:,} rows", "narrow-10", (upsert,), "growth"),
        "growth-100": Case(f"{in_files} of {10 * sizes.rows:,} rows", "narrow-100", (upsert,), "growth",
                           limits=Limits(beside=("growth-10", 1.25))),
        "memory": Case(f"merge {5 * sizes.many:,} changes into {5 * sizes.rows:,} rows with -m 512m", "narrow-50", (upsert,),
                       contenders=ALONE, memory="512m"),
    }


GROUPS = {"growth": ("growth-10", "growth-100")}
DEFAULT = tuple(name for name in cases(1) if name not in on_demand(Sizes(1)))


def chosen(names: str) -> list[str]:
    """The names of cases in a list in which a group stands for its cases."""
    return [case for name in names.split(",") for case in GROUPS.get(name, (name,))]
