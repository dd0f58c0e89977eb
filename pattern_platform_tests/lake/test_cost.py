"""What a run costs, as Dagster is told: every second and every byte once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from pattern_platform import DataOverwriteIOManager, StatefulMergerIOManager
from pattern_platform_tests.lake.tables import range_tags, shared_instance

DAYS = dg.DailyPartitionsDefinition("2024-05-06")
DAY_ONE, DAY_TWO = "2024-05-06", "2024-05-07"
METADATA = {"partition_expr": "day"}


def rows(context: dg.AssetExecutionContext, count: int = 1_000) -> pl.DataFrame:
    days = [day for day in context.partition_keys for _ in range(count)]
    return pl.DataFrame({"day": days, "n": range(len(days))})


@dg.asset(partitions_def=DAYS, metadata=METADATA, backfill_policy=dg.BackfillPolicy.single_run())
def source(context: dg.AssetExecutionContext) -> pl.DataFrame:
    return rows(context)


@dg.asset(partitions_def=DAYS, metadata=METADATA, backfill_policy=dg.BackfillPolicy.single_run())
def doubled(source: pl.LazyFrame) -> pl.LazyFrame:
    return source.with_columns(pl.col("n") * 2)


@dg.asset(partitions_def=DAYS, metadata={**METADATA, "merge_keys": ["n"]}, io_manager_key="stateful")
def merged(context: dg.AssetExecutionContext) -> pl.DataFrame:
    return rows(context, 10)


def costs(
    root: Path, assets: Sequence[dg.AssetsDefinition], tags: Mapping[str, str], **options: Any
) -> dict[str, dict[str, Any]]:
    """What a run told of the cost of each asset; the last partition's, where it ran several."""
    result = dg.materialize(
        [source, doubled, merged],
        selection=list(assets),
        tags=dict(tags),
        instance=shared_instance(),
        resources={
            "io_manager": DataOverwriteIOManager(root_uri=str(root)),
            "stateful": StatefulMergerIOManager(root_uri=str(root)),
        },
        **options,
    )
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {
        made.asset_key.to_user_string(): {
            name.removeprefix("cost/"): value.value for name, value in made.metadata.items() if "cost/" in name
        }
        for made in events
    }


def size(root: Path, table: str) -> int:
    return sum(file.stat().st_size for file in (root / table).rglob("*.parquet") if "_delta_log" not in file.parts)


def test_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    told = costs(tmp_path, [source, doubled], {"dagster/partition": DAY_ONE})
    assert told["source"]["bytes_written"] == told["doubled"]["bytes_read"] == size(tmp_path, "source")
    assert told["doubled"]["bytes_written"] == size(tmp_path, "doubled")
    assert told["source"]["bytes_read"] == 0
    assert all(cost["cpu_seconds"] > 0 for cost in told.values())


def test_only_the_partitions_of_an_input_are_read(tmp_path: Path) -> None:
    costs(tmp_path, [source], {"dagster/partition": DAY_ONE})
    before = size(tmp_path, "source")
    costs(tmp_path, [source], {"dagster/partition": DAY_TWO})
    told = costs(tmp_path, [doubled], {"dagster/partition": DAY_TWO})
    assert told["doubled"]["bytes_read"] == size(tmp_path, "source") - before


def test_a_run_over_several_partitions_writes_once(tmp_path: Path) -> None:
    told = costs(tmp_path, [source], range_tags(DAY_ONE, DAY_TWO))
    assert told["source"]["bytes_written"] == size(tmp_path, "source")


def test_a_restore_writes_what_is_new_alone(tmp_path: Path) -> None:
    """The files of the version that a replay goes back to are named again, and not written again."""
    for day in (DAY_ONE, DAY_TWO):
        costs(tmp_path, [merged], {"dagster/partition": day})
    before = size(tmp_path, "merged")
    told = costs(tmp_path, [merged], {"dagster/partition": DAY_TWO})
    assert told["merged"]["bytes_written"] == size(tmp_path, "merged") - before > 0


def test_seconds_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 101.5, 104.0))
    monkeypatch.setattr("pattern_platform.lake.cost.time.process_time", lambda: next(clock))
    costs(tmp_path, [source], {"dagster/partition": DAY_ONE})
    told = costs(tmp_path, [source, doubled], {"dagster/partition": DAY_TWO})
    assert {asset: cost["cpu_seconds"] for asset, cost in told.items()} == {"source": 1.5, "doubled": 2.5}
