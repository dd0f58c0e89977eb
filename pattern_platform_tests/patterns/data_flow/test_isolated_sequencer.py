"""Isolated Sequencer: which commits of another team's table are reported, which runs follow, what is as promised."""

import datetime as dt
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from pattern_platform import after_job, delta_commit_sensor
from pattern_platform.errors import BrokenContractError, TornCommitError
from pattern_platform.patterns.data_flow.isolated_sequencer import UPSTREAM_RUN, promised
from pattern_platform_tests.lake.tables import range_tags, shared_instance

PARTNER = dg.AssetKey(["partner", "clicks"])
DAYS = dg.DailyPartitionsDefinition("2024-02-01", end_date="2024-02-10")
DAY = "2024-02-02"


# Data-based: the commits of a table -----------------------------------------------------------------------------------


class Partner:
    """A table that someone else writes, and a sensor that looks at it."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self.sensor = delta_commit_sensor(PARTNER, table)
        self.cursor: str | None = None

    @property
    def handle(self) -> DeltaTable:
        return DeltaTable(self.table)

    @property
    def version(self) -> int:
        return self.handle.version()

    @property
    def log(self) -> Path:
        return self.table / "_delta_log"

    def append(self, *values: int, times: int = 1) -> None:
        for _ in range(times):
            write_deltalake(self.table, pl.DataFrame({"value": values}, {"value": pl.Int64}), mode="append")

    def tick(self) -> list[int]:
        """The versions that a look at the table reports."""
        context = dg.build_sensor_context(cursor=self.cursor, instance=shared_instance(), sensor_name=self.sensor.name)
        result: Any = self.sensor(context)
        if isinstance(result, dg.SkipReason):
            return []
        self.cursor = result.cursor
        for event in result.asset_events:
            assert isinstance(event, dg.AssetMaterialization)
            assert event.asset_key == PARTNER
            assert event.partition is None
            assert event.tags == {"dagster/data_version": str(event.metadata["delta/version"].value)}
        return [event.metadata["delta/version"].value for event in result.asset_events]

    def ticks(self, count: int) -> list[list[int]]:
        return [self.tick() for _ in range(count)]

    def commit_file(self, version: int) -> Path:
        return self.log / f"{version:020}.json"

    def make_anew(self, *, commits: int) -> None:
        """The table is dropped, and another takes its place."""
        for file in sorted(self.table.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        self.append(7, times=commits)

    def clean_up(self, before: int) -> None:
        """The log is cleaned up, as engines do behind a checkpoint."""
        self.handle.create_checkpoint()
        for version in range(before):
            self.commit_file(version).unlink(missing_ok=True)


@pytest.fixture
def partner(tmp_path: Path) -> Partner:
    return Partner(tmp_path / "clicks")


def test_reports_nothing_while_there_is_no_table(partner: Partner) -> None:
    """IS-1: the consumer is not requested before there is data."""
    assert partner.ticks(3) == [[], [], []]
    partner.table.mkdir()
    assert partner.tick() == []
    partner.log.mkdir()
    assert partner.tick() == []
    partner.append(1)
    assert partner.ticks(2) == [[0], []]


def test_reports_nothing_of_a_table_that_never_had_a_row(partner: Partner) -> None:
    schema = pl.DataFrame({"value": []}, {"value": pl.Int64}).to_arrow().schema
    DeltaTable.create(partner.table, schema)
    assert partner.ticks(3) == [[], [], []]
    partner.append(1)
    assert partner.ticks(2) == [[1], []]


def test_the_first_look_yields_one_event_what_the_table_is_now(partner: Partner) -> None:
    partner.append(1, times=4)
    assert partner.ticks(2) == [[3], []]


def test_the_first_look_passes_over_what_changed_no_row_since(partner: Partner) -> None:
    partner.append(1, times=3)
    partner.handle.optimize.compact()
    assert partner.version == 3
    assert partner.ticks(2) == [[2], []]


def test_reports_each_commit_once_however_often_it_looks(partner: Partner) -> None:
    """IS-2: one request for each marker; five more ticks, none more."""
    partner.append(1)
    assert partner.tick() == [0]
    assert partner.ticks(5) == [[]] * 5
    partner.append(2)
    assert partner.tick() == [1]
    partner.append(3, times=3)
    assert partner.tick() == [2, 3, 4]
    assert partner.ticks(5) == [[]] * 5


def _delete(partner: Partner) -> None:
    partner.handle.delete("value = 1")


def _update(partner: Partner) -> None:
    partner.handle.update(updates={"value": "value + 1"}, predicate="value = 2")


def _merge(partner: Partner) -> None:
    source = pl.DataFrame({"value": [2, 9]}).to_arrow()
    merge = partner.handle.merge(source, "target.value = source.value", source_alias="source", target_alias="target")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()


def _overwrite(partner: Partner) -> None:
    write_deltalake(partner.table, pl.DataFrame({"value": [5]}), mode="overwrite")


def _overwrite_with_nothing(partner: Partner) -> None:
    write_deltalake(partner.table, pl.DataFrame({"value": []}, {"value": pl.Int64}), mode="overwrite")


def _restore(partner: Partner) -> None:
    partner.handle.restore(0)


@pytest.mark.parametrize("change", [_delete, _update, _merge, _overwrite, _overwrite_with_nothing, _restore])
def test_reports_a_commit_that_changes_rows(partner: Partner, change: Callable[[Partner], None]) -> None:
    partner.append(1, 2)
    partner.append(3)
    assert partner.tick() == [1]
    change(partner)
    assert partner.version == 2
    assert partner.ticks(2) == [[2], []]


def _optimize(partner: Partner) -> None:
    partner.handle.optimize.compact()


def _z_order(partner: Partner) -> None:
    partner.handle.optimize.z_order(["value"])


def _vacuum(partner: Partner) -> None:
    # The files of an overwrite go; that is why it is not the table of the first look.
    partner.handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)


def _set_property(partner: Partner) -> None:
    partner.handle.alter.set_table_properties({"delta.appendOnly": "false"})


def _add_constraint(partner: Partner) -> None:
    partner.handle.alter.add_constraint({"positive": "value > 0"})


def _append_nothing(partner: Partner) -> None:
    partner.append()


def _commit_nothing(partner: Partner) -> None:
    properties = CommitProperties(custom_metadata={"note": "nothing"})
    partner.handle.create_write_transaction([], "append", partner.handle.schema(), commit_properties=properties)


QUIET_CHANGES = [_optimize, _z_order, _vacuum, _set_property, _add_constraint, _append_nothing, _commit_nothing]


@pytest.mark.parametrize("change", QUIET_CHANGES)
def test_reports_no_commit_that_leaves_the_rows_as_they_are(
    partner: Partner, change: Callable[[Partner], None]
) -> None:
    partner.append(1)
    _overwrite(partner)
    partner.append(2)
    assert partner.tick() == [2]
    change(partner)
    assert partner.version > 2
    assert partner.ticks(2) == [[], []]
    partner.append(3)
    assert partner.ticks(2) == [[partner.version], []]


def test_a_checkpoint_is_no_commit(partner: Partner) -> None:
    partner.append(1, times=2)
    assert partner.tick() == [1]
    partner.handle.create_checkpoint()
    assert partner.tick() == []


def test_reports_what_changed_rows_among_what_did_not(partner: Partner) -> None:
    partner.append(1)
    assert partner.tick() == [0]
    partner.append(2)
    _optimize(partner)
    _delete(partner)
    _set_property(partner)
    assert partner.version == 4
    assert partner.ticks(2) == [[1, 3], []]


def test_many_commits_are_reported_a_hundred_a_tick_and_each_once(partner: Partner) -> None:
    partner.append(1)
    assert partner.tick() == [0]
    partner.append(1)
    text = partner.commit_file(1).read_text()
    for version in range(2, 251):  # as if written by another engine, which is much faster than to write them
        partner.commit_file(version).write_text(text.replace("part-", f"part-{version}-"))
    reported = partner.ticks(4)
    assert [len(versions) for versions in reported] == [100, 100, 50, 0]
    assert [version for versions in reported for version in versions] == list(range(1, 251))


def test_exactly_a_hundred_commits_fit_in_a_tick(partner: Partner) -> None:
    partner.append(1)
    assert partner.tick() == [0]
    partner.append(1)
    text = partner.commit_file(1).read_text()
    for version in range(2, 101):
        partner.commit_file(version).write_text(text)
    assert [len(versions) for versions in partner.ticks(2)] == [100, 0]


def test_commits_that_came_between_two_batches_are_reported_too(partner: Partner) -> None:
    partner.append(1)
    assert partner.tick() == [0]
    partner.append(1)
    text = partner.commit_file(1).read_text()
    for version in range(2, 120):
        partner.commit_file(version).write_text(text)
    assert partner.tick() == list(range(1, 101))
    partner.commit_file(120).write_text(text)
    assert partner.ticks(2) == [list(range(101, 121)), []]


# The log is not what it was -------------------------------------------------------------------------------------------


def test_a_log_that_was_cleaned_up_beyond_the_cursor_yields_one_event(partner: Partner) -> None:
    partner.append(1, times=2)
    assert partner.tick() == [1]
    partner.append(2, times=6)
    partner.clean_up(before=6)
    assert partner.ticks(2) == [[7], []]
    partner.append(3)
    assert partner.ticks(2) == [[8], []]


def test_a_log_that_was_cleaned_up_beyond_the_cursor_yields_an_event_also_where_what_is_left_changed_no_row(
    partner: Partner,
) -> None:
    partner.append(1)
    assert partner.tick() == [0]
    partner.append(2, times=3)
    _optimize(partner)
    partner.clean_up(before=4)
    assert partner.ticks(2) == [[4], []]


@pytest.mark.parametrize("before", [2, 3, 4])
def test_a_log_that_was_cleaned_up_to_the_cursor_hides_nothing(partner: Partner, before: int) -> None:
    partner.append(1, times=4)
    assert partner.tick() == [3]
    partner.append(2, times=3)
    partner.clean_up(before=before)
    assert partner.ticks(2) == [[4, 5, 6], []]


def test_a_first_look_at_a_cleaned_up_log_yields_one_event(partner: Partner) -> None:
    partner.append(1, times=5)
    partner.clean_up(before=4)
    assert partner.ticks(2) == [[4], []]
    partner.append(1)
    assert partner.ticks(2) == [[5], []]


def test_a_log_that_delta_rs_cleans_up_by_itself_hides_nothing(partner: Partner) -> None:
    partner.append(1, times=3)
    assert partner.tick() == [2]
    partner.handle.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC).timestamp()
    for version in range(partner.version):
        os.utime(partner.commit_file(version), (long_ago, long_ago))
    partner.handle.create_checkpoint()
    partner.handle.cleanup_metadata()
    assert not partner.commit_file(0).exists()
    assert partner.tick() == []
    partner.append(1, 2)
    assert partner.ticks(2) == [[4], []]


@pytest.mark.parametrize("commits", [1, 3, 5])
def test_a_table_in_the_place_of_another_yields_one_event(partner: Partner, commits: int) -> None:
    """Whether it has fewer commits than the one before, as many, or more."""
    partner.append(1, times=3)
    assert partner.tick() == [2]
    partner.make_anew(commits=commits)
    assert partner.ticks(2) == [[commits - 1], []]
    partner.append(2)
    assert partner.ticks(2) == [[commits], []]


def test_a_table_in_the_place_of_one_whose_log_was_cleaned_up_yields_an_event(partner: Partner) -> None:
    partner.append(1, times=3)
    partner.clean_up(before=2)
    assert partner.tick() == [2]
    partner.make_anew(commits=4)
    assert partner.ticks(2) == [[3], []]


def test_a_table_that_is_gone_is_no_error_and_yields_an_event_when_it_is_back(partner: Partner) -> None:
    partner.append(1, times=3)
    assert partner.tick() == [2]
    partner.make_anew(commits=0)
    assert partner.ticks(2) == [[], []]
    partner.append(1)
    assert partner.ticks(2) == [[0], []]


@pytest.mark.parametrize("torn", [3, 4, 5])
def test_an_empty_commit_is_an_error_not_silence_wherever_it_is(partner: Partner, torn: int) -> None:
    partner.append(1, times=3)
    assert partner.tick() == [2]
    partner.append(1, times=3)
    whole, cursor = partner.commit_file(torn).read_text(), partner.cursor
    partner.commit_file(torn).write_text("")
    for _ in range(2):
        with pytest.raises(TornCommitError, match=f"commit {torn} "):
            partner.tick()
    assert partner.cursor == cursor
    partner.commit_file(torn).write_text(whole)
    assert partner.ticks(2) == [[3, 4, 5], []]


def test_an_empty_commit_is_an_error_at_the_first_look_too(partner: Partner) -> None:
    partner.append(1, times=3)
    partner.commit_file(2).write_text("")
    with pytest.raises(TornCommitError):
        partner.tick()


@pytest.mark.parametrize("cut", [3, 4])
def test_a_commit_that_is_cut_is_an_error_not_silence(partner: Partner, cut: int) -> None:
    partner.append(1, times=3)
    assert partner.tick() == [2]
    partner.append(1, times=2)
    text = partner.commit_file(cut).read_text()
    partner.commit_file(cut).write_text(text[: len(text) // 2])
    with pytest.raises((dg.Failure, json.JSONDecodeError)):
        partner.tick()


def test_looks_at_the_log_alone(partner: Partner) -> None:
    """Data files may be anywhere, or gone: what is reported is that there was a commit."""
    partner.append(1)
    for file in partner.table.glob("*.parquet"):
        file.unlink()
    assert partner.tick() == [0]


def test_the_sensor_is_named_after_its_asset_and_runs_by_default(partner: Partner) -> None:
    sensor = delta_commit_sensor(PARTNER, partner.table, minimum_interval_seconds=7)
    assert sensor.name == "partner__clicks__commits"
    assert sensor.minimum_interval_seconds == 7
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


# Task-based: runs after a job of another location ---------------------------------------------------------------------


def provider_job(partitions: dg.PartitionsDefinition | None) -> Any:
    """The job of the other team; it does not know that it is followed."""

    @dg.asset(name="arrivals_raw", partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def raw() -> None: ...

    job = dg.define_asset_job("provide", [raw])
    return dg.Definitions([raw], jobs=[job]).resolve_job_def("provide")


def consumer(partitions: dg.PartitionsDefinition | None) -> tuple[dg.Definitions, Any]:
    """The other location: it has the name of the job alone."""

    @dg.asset(partitions_def=partitions)
    def dashboard() -> None: ...

    job = dg.define_asset_job("draw", [dashboard])
    sensor = after_job("provide", job, location="provider", partitions=partitions)
    return dg.Definitions([dashboard], jobs=[job], sensors=[sensor]), sensor


def followed(partitions: dg.PartitionsDefinition | None, **run: Any) -> tuple[dg.DagsterRun, list[dg.RunRequest]]:
    """A run of the provider, and the requests that follow it."""
    instance = shared_instance()
    result = provider_job(partitions).execute_in_process(instance=instance, **run)
    assert result.success
    _, sensor = consumer(partitions)
    return result.dagster_run, requests_after(result, sensor)


def requests_after(result: dg.ExecuteInProcessResult, sensor: Any) -> list[dg.RunRequest]:
    """What the sensor requests when it learns of a run."""
    (success,) = [event for event in result.all_events if event.event_type_value == "PIPELINE_SUCCESS"]
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_instance=shared_instance(),
        dagster_run=result.dagster_run,
        dagster_event=success,
    )
    return list(sensor(context))


def test_is_8_runs_the_same_partition_with_the_id_of_the_run_it_follows() -> None:
    run, (request,) = followed(DAYS, partition_key=DAY)
    assert request.partition_key == DAY
    assert request.tags[UPSTREAM_RUN] == run.run_id
    assert run.run_id in (request.run_key or "")


def test_is_10_runs_each_partition_of_a_range_once() -> None:
    run, requests = followed(DAYS, tags=range_tags("2024-02-02", "2024-02-04"))
    assert [request.partition_key for request in requests] == ["2024-02-02", "2024-02-03", "2024-02-04"]
    assert len({request.run_key for request in requests}) == 3
    assert {request.tags[UPSTREAM_RUN] for request in requests} == {run.run_id}


def test_a_range_of_static_partitions_follows_their_order() -> None:
    regions = dg.StaticPartitionsDefinition(["north", "east", "south", "west"])
    _, requests = followed(regions, tags=range_tags("north", "south"))
    assert [request.partition_key for request in requests] == ["north", "east", "south"]


def test_a_job_without_partitions_is_followed_once() -> None:
    run, (request,) = followed(None)
    assert request.partition_key is None
    assert request.tags[UPSTREAM_RUN] == run.run_id


def test_a_run_is_followed_again_with_the_same_run_key_and_another_run_with_another() -> None:
    """Dagster drops a request whose run key it has seen: a tick that is repeated starts nothing twice."""
    instance, (_, sensor) = shared_instance(), consumer(DAYS)
    keys = []
    for _ in range(2):
        result = provider_job(DAYS).execute_in_process(instance=instance, partition_key=DAY)
        for _ in range(2):
            keys += [request.run_key for request in requests_after(result, sensor)]
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert keys[0] != keys[2]


def test_what_is_requested_can_be_run() -> None:
    definitions, _ = consumer(DAYS)
    _, (request,) = followed(DAYS, partition_key=DAY)
    result = definitions.resolve_job_def("draw").execute_in_process(
        partition_key=request.partition_key, tags=dict(request.tags), instance=shared_instance()
    )
    assert result.success


def test_is_7_either_location_loads_without_the_other() -> None:
    definitions, sensor = consumer(DAYS)
    dg.Definitions.validate_loadable(definitions)
    assert sensor.name == "draw_after_provide"
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert provider_job(DAYS).name == "provide"


# The contract ---------------------------------------------------------------------------------------------------------


class Clicks(dy.Schema):
    """What the consumer was promised."""

    page = dy.String()
    clicks = dy.Int64(min=0)
    device = dy.Enum(["phone", "desk"], nullable=True)


KEPT = pl.DataFrame(
    {"page": ["/a", "/secret-page"], "clicks": [1, 2], "device": ["phone", None]},
    {"page": pl.String, "clicks": pl.Int64, "device": pl.String},
)


def test_rows_that_are_as_promised_pass() -> None:
    assert promised(KEPT.lazy(), Clicks, PARTNER).equals(KEPT)
    assert promised(KEPT.clear().lazy(), Clicks, PARTNER).equals(KEPT.clear())


def test_columns_beyond_the_promise_are_left_out_and_their_order_is_that_of_the_promise() -> None:
    rows = KEPT.with_columns(note=pl.lit("new")).select("note", "device", "clicks", "page")
    assert promised(rows.lazy(), Clicks, PARTNER).equals(KEPT)


def refusals() -> Sequence[Any]:
    return [
        pytest.param(KEPT.drop("clicks"), "clicks", id="a missing column"),
        pytest.param(KEPT.rename({"clicks": "Clicks"}), "clicks", id="a renamed column"),
        pytest.param(KEPT.with_columns(pl.col("clicks").cast(pl.Int32)), "clicks", id="another type"),
        pytest.param(KEPT.with_columns(pl.col("clicks").cast(pl.String)), "clicks", id="a number as text"),
        pytest.param(KEPT.with_columns(clicks=pl.Series([4_711, -4_711])), "clicks|min", id="a broken rule"),
        pytest.param(KEPT.with_columns(page=pl.Series(["/secret-page", None])), "page|nullability", id="a null"),
        pytest.param(KEPT.with_columns(device=pl.Series(["secret-page", None])), "device", id="an unknown value"),
        pytest.param(pl.DataFrame(), "page", id="nothing at all"),
    ]


@pytest.mark.parametrize(("rows", "culprit"), refusals())
def test_rows_that_are_not_as_promised_are_refused_without_telling_what_is_in_them(
    rows: pl.DataFrame, culprit: str
) -> None:
    with pytest.raises(BrokenContractError) as caught:
        promised(rows.lazy(), Clicks, PARTNER)
    message = str(caught.value)
    assert culprit in message
    assert "partner/clicks" in message
    assert "secret" not in message
    assert "4711" not in message


def test_is_12_nothing_is_written_and_no_retry_is_made_when_the_promise_is_broken() -> None:
    attempts = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
    def dashboard() -> None:
        attempts.append(1)
        promised(KEPT.drop("page").lazy(), Clicks, PARTNER)

    result = dg.materialize([dashboard], instance=shared_instance(), raise_on_error=False)
    assert not result.success
    assert attempts == [1]
