"""What the runs of the demo did, and the table that says so."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table

from pattern_platform.errors import FileNotArrivedError
from pattern_platform.lake.snapshot import open_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    import dagster as dg

    from pattern_platform.lake.object_path import LakePath


@dataclass
class Report:
    """What the runs did, by asset."""

    partitions: dict[dg.AssetKey, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[dg.AssetKey, float] = field(default_factory=lambda: defaultdict(float))
    rows: dict[dg.AssetKey, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    passed: dict[dg.AssetKey, int] = field(default_factory=lambda: defaultdict(int))
    checks: dict[dg.AssetKey, int] = field(default_factory=lambda: defaultdict(int))
    not_arrived: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, result: dg.ExecuteInProcessResult, partition: str) -> None:
        """Take in one run."""
        made = defaultdict(list)
        for event in result.get_asset_materialization_events():
            self.partitions[event.materialization.asset_key] += 1
            made[event.step_key].append(event.materialization.asset_key)
            self._count(event.materialization, partition)
        for event in result.get_step_success_events():
            for key in made[event.step_key]:
                self.seconds[key] += event.step_success_data.duration_ms / 1000 / len(made[event.step_key])
        for check in result.get_asset_check_evaluations():
            self.checks[check.asset_key] += 1
            self.passed[check.asset_key] += check.passed
        for event in result.get_step_failure_events():
            error = event.step_failure_data.error
            if error and error.cls_name == FileNotArrivedError.__name__:
                self.not_arrived.append(partition)
            elif error:
                self.failures.append(f"{event.step_key}, partition {partition}: {error.message.strip()}")

    def _count(self, made: dg.AssetMaterialization, partition: str) -> None:
        """Note the rows of a table, or of one of its partitions."""
        for name, place in (("dagster/row_count", ""), ("dagster/partition_row_count", partition)):
            if name in made.metadata:
                self.rows[made.asset_key][place] = int(str(made.metadata[name].value))

    def table(self, keys: Iterable[dg.AssetKey], lake: LakePath) -> Table:
        """What there is now of the assets that ran.

        Args:
            keys: The assets, in the order in which they are shown.
            lake: Folder of the Delta tables.
        """
        table = Table("asset", "partitions", "rows", "checks passed", "seconds", title="What there is now")
        for column in table.columns[1:]:
            column.justify = "right"
        for key in keys:
            if not self.partitions[key]:
                continue
            snapshot = open_table(lake.joinpath(*key.path))
            counted = int(snapshot.files["num_records"].sum()) if snapshot else sum(self.rows[key].values())
            rows = f"{counted:,}" if snapshot or self.rows[key] else "-"
            checks = f"{self.passed[key]} of {self.checks[key]}" if self.checks[key] else "-"
            table.add_row(key.to_user_string(), str(self.partitions[key]), rows, checks, f"{self.seconds[key]:.1f}")
        return table
