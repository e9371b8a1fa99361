"""The statements that are timed: as SQL, and what they leave, by plain joins.

Each statement is written down once. `sql` is what Alluvial and Spark run, `sql_in_two` what an engine runs that cannot
delete and update in one MERGE; delta-rs, which has no SQL for it, is called by peers.py. `after` and `changed` are
queries without MERGE or UPDATE, of which the expected results are made: no contender's own writer has a part in them.
"""

from dataclasses import dataclass

ROW_COLUMNS = ("id", "k", "v", "w", "c", "z")


@dataclass(frozen=True)
class Merge:
    """A MERGE of the rows of `source`; conditions name columns by `table` and `source`. `""` is "always", None "never"."""

    columns: tuple[str, ...] = ROW_COLUMNS
    table: str = "target"
    source: str = "changes"
    on: tuple[str, ...] = ("id",)
    delete_when: str | None = None
    update: tuple[str, ...] = ()
    update_when: str = ""
    insert_when: str | None = None
    deletes_by_source: bool = False

    @property
    def condition(self) -> str:
        """The condition of the join."""
        return " AND ".join(f"{self.table}.{key} = {self.source}.{key}" for key in self.on)

    @property
    def assignments(self) -> dict[str, str]:
        """What an update sets."""
        return {name: f"{self.source}.{name}" for name in self.update}

    @property
    def values(self) -> dict[str, str]:
        """What an insert fills."""
        return {name: f"{self.source}.{name}" for name in self.columns}

    @property
    def sql(self) -> str:
        """The statement in one."""
        return self.merge(self.deletes())

    @property
    def sql_in_two(self) -> list[str]:
        """Deletes first where there is something else to do, too."""
        if not (self.update or self.insert_when is not None):
            return [self.sql]
        keys = ", ".join(self.on)
        found = f"SELECT 1 FROM {self.source} WHERE {self.condition}"
        statements = []
        if self.deletes_by_source:
            statements.append(f"DELETE FROM {self.table} WHERE NOT EXISTS ({found})")
        if self.delete_when is not None and len(self.on) == 1:
            rows = f"SELECT {keys} FROM {self.source}{where(self.delete_when)}"
            statements.append(f"DELETE FROM {self.table} WHERE {keys} IN ({rows})")
        elif self.delete_when is not None:
            statements.append(f"DELETE FROM {self.table} WHERE EXISTS ({found}{both(self.delete_when)})")
        return [*statements, self.merge([])]

    def deletes(self) -> list[str]:
        """The clauses that delete."""
        clauses = [] if self.delete_when is None else [f"WHEN MATCHED{both(self.delete_when)} THEN DELETE"]
        return clauses + (["WHEN NOT MATCHED BY SOURCE THEN DELETE"] if self.deletes_by_source else [])

    def merge(self, clauses: list[str]) -> str:
        """The statement with these clauses before those that write rows."""
        clauses = [f"MERGE INTO {self.table} USING {self.source} ON {self.condition}", *clauses]
        if self.update:
            assigned = ", ".join(f"{name} = {value}" for name, value in self.assignments.items())
            clauses.append(f"WHEN MATCHED{both(self.update_when)} THEN UPDATE SET {assigned}")
        if self.insert_when is not None:
            names, values = ", ".join(self.values), ", ".join(self.values.values())
            clauses.append(f"WHEN NOT MATCHED{both(self.insert_when)} THEN INSERT ({names}) VALUES ({values})")
        return " ".join(clauses)

    @property
    def after(self) -> str:
        """All rows as the statement leaves them."""
        gone = [f"({self.matched}{both(self.delete_when)})"] if self.delete_when is not None else []
        gone += [f"NOT ({self.matched})"] if self.deletes_by_source else []
        updated = ", ".join(
            f"CASE WHEN {self.updates} THEN {self.assignments[name]} ELSE {self.table}.{name} END AS {name}"
            if name in self.update else f"{self.table}.{name}" for name in self.columns)
        kept = f"SELECT {updated} FROM {self.table} LEFT JOIN {self.source} ON {self.condition}"
        return kept + where(f"NOT coalesce({' OR '.join(gone)}, false)" if gone else "") + self.inserted

    @property
    def changed(self) -> str:
        """The rows that the statement has to write."""
        values = ", ".join(
            self.assignments.get(name, f"{self.table}.{name}") + f" AS {name}" for name in self.columns)
        kept = f"NOT ({self.delete_when})" if self.delete_when else "true"
        condition = f"{self.condition} AND {kept}{both(self.update_when)}"
        if not self.update:
            condition = "false"
        return f"SELECT {values} FROM {self.table} JOIN {self.source} ON {condition}" + self.inserted

    @property
    def matched(self) -> str:
        """Whether a row of the left join has a partner."""
        return f"{self.source}.{self.on[0]} IS NOT NULL"

    @property
    def updates(self) -> str:
        """Whether a row of the left join is updated."""
        return self.matched + both(self.update_when)

    @property
    def inserted(self) -> str:
        """The second half of a union: rows without a partner in the table."""
        if self.insert_when is None:
            return ""
        absent = f"NOT EXISTS (SELECT 1 FROM {self.table} WHERE {self.condition}){both(self.insert_when)}"
        return f" UNION ALL SELECT {', '.join(self.values.values())} FROM {self.source} WHERE {absent}"


@dataclass(frozen=True)
class Insert:
    """All rows of a source."""

    table: str
    source: str

    @property
    def sql(self) -> str:
        """The statement."""
        return f"INSERT INTO {self.table} SELECT * FROM {self.source}"

    @property
    def sql_in_two(self) -> list[str]:
        """The statement."""
        return [self.sql]

    @property
    def after(self) -> str:
        """All rows as the statement leaves them."""
        return f"SELECT * FROM {self.table} UNION ALL {self.changed}"

    @property
    def changed(self) -> str:
        """The rows that the statement has to write."""
        return f"SELECT * FROM {self.source}"


@dataclass(frozen=True)
class Update:
    """One column of the rows that a condition holds for."""

    column: str
    value: str
    when: str
    table: str = "target"
    columns: tuple[str, ...] = ROW_COLUMNS

    @property
    def sql(self) -> str:
        """The statement."""
        return f"UPDATE {self.table} SET {self.column} = {self.value} WHERE {self.when}"

    @property
    def sql_in_two(self) -> list[str]:
        """The statement."""
        return [self.sql]

    @property
    def after(self) -> str:
        """All rows as the statement leaves them."""
        return self.select(f"CASE WHEN {self.when} THEN {self.value} ELSE {self.column} END")

    @property
    def changed(self) -> str:
        """The rows that the statement has to write."""
        return self.select(self.value) + where(self.when)

    def select(self, value: str) -> str:
        """The table with this in the place of the column."""
        columns = ", ".join(f"{value} AS {name}" if name == self.column else name for name in self.columns)
        return f"SELECT {columns} FROM {self.table}"


Statement = Merge | Insert | Update


def both(condition: str) -> str:
    """The condition as one more of a chain."""
    return f" AND {condition}" if condition else ""


def where(condition: str) -> str:
    """The condition as the only one."""
    return f" WHERE {condition}" if condition else ""
