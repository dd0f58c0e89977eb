"""Local Sequencer: what a retry repeats, what readers see meanwhile, and what becomes of what steps leave."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from pattern_platform.errors import InvalidFlowError
from pattern_platform.orchestration.steps import Step, steps_cleanup_asset
from pattern_platform.orchestration.tasks import Task
from pattern_platform.patterns.data_flow.local_sequencer import step_sequence
from pattern_platform_tests.lake.tables import Table, contents, range_tags
from pattern_platform_tests.patterns.data_flow.flows import BY_DAY, DAYS, Calls, Ran, date_of, day, stores, table

DEVICES = pl.DataFrame(
    [
        ("iphone", "X", "iOS 17"),
        ("htc", "Evo", "A 12"),
        ("lenovo", None, "U 22"),
        (None, "Q", "1"),
        ("galaxy", "Galaxy S", None),
    ],
    schema=["type", "full_name", "version"],
    orient="row",
)
WANTED = [("galaxy", "Galaxy S", None), ("iphone", "X iOS 17", "iOS 17")]
KEY = ["aggregated", "names"]


def named(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The book's step."""
    kept = rows.filter(pl.col("type").str.len_chars() > 3, pl.col("full_name").is_not_null())
    return kept.with_columns(full_name=pl.concat_str("full_name", "version", separator=" ", ignore_nulls=True))


@dataclass(frozen=True)
class Sequence:
    """A location over a folder, made anew by whoever runs it."""

    root: Path
    location: Callable[[Path], list[Any]]
    instance: dg.DagsterInstance

    @property
    def calls(self) -> Calls:
        return Calls(self.root / "calls")

    def run(self, partition: str | None = None, last: str | None = None, *, again: Ran | None = None) -> Ran:
        """Run all of it; or what another run did not do, as a retry from its failure."""
        recipe = dg.build_reconstructable_job(
            reconstructor_module_name=__name__,
            reconstructor_function_name=job_of.__name__,
            reconstructable_args=(str(self.root), self.location.__name__),
        )
        tags = range_tags(partition, last) if partition and last else {"dagster/partition": partition or ""}
        options = None
        if again:  # with the tags of the run, as the UI and the daemon launch it
            failed = self.instance.get_run_by_id(again.result.run_id)
            tags = {name: value for name, value in failed.tags.items() if "partition" in name} if failed else {}
            options = dg.ReexecutionOptions.from_failure(again.result.run_id, self.instance)
        with dg.execute_job(
            recipe, instance=self.instance, tags={k: v for k, v in tags.items() if v}, reexecution_options=options
        ) as result:
            return Ran(result)

    def fails(self, name: str, *partitions: str, again: Ran | None = None) -> Ran:
        """Run and fail once at a function."""
        self.calls.fail_once(name)
        ran = self.run(*partitions, again=again)
        assert [failed.rpartition(".")[2] for failed in ran.failed] == [name], ran.errors
        assert not ran.success
        return ran

    def table(self, *key: str) -> Table:
        return table(self.root, *(key or KEY))

    def values(self) -> dict[str, list[int]]:
        """What a reader of the asset finds, by day."""
        rows = self.table().rows().group_by(pl.col("day").cast(pl.String)).agg(pl.col("value").sort())
        return dict(sorted(rows.iter_rows()))

    def steps(self) -> dict[str, bytes]:
        """What the steps left."""
        return contents(self.root / "steps")


@cache
def job_of(root: str, location: str) -> dg.JobDefinition:
    folder = Path(root)
    defs = dg.Definitions(
        globals()[location](folder),
        resources=stores(folder),
        jobs=[dg.define_asset_job("everything", executor_def=dg.in_process_executor)],
    )
    return defs.resolve_job_def("everything")


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


# Between assets -------------------------------------------------------------------------------------------------------


def chain(root: Path) -> list[Any]:
    """Three assets: the input is ready, it is loaded, it is exposed."""
    calls = Calls(root / "calls")

    @dg.asset(output_required=False)
    def ready() -> Iterator[dg.Output]:
        calls.called("ready")
        if (root / "input.parquet").exists():
            yield dg.Output(pl.read_parquet(root / "input.parquet"))

    @dg.asset
    def loaded(ready: pl.LazyFrame) -> pl.LazyFrame:
        calls.called("loaded")
        return ready

    @dg.asset
    def exposed(loaded: pl.LazyFrame) -> pl.LazyFrame:
        calls.called("exposed")
        return named(loaded)

    return [ready, loaded, exposed]


def monolith(root: Path) -> list[Any]:
    """The counter-example: all of it in one function."""
    calls = Calls(root / "calls")

    @dg.asset
    def exposed() -> pl.DataFrame:
        calls.called("ready")
        rows = pl.read_parquet(root / "input.parquet")
        calls.called("loaded")
        loaded = rows.lazy()
        calls.called("exposed")
        return named(loaded).collect()

    return [exposed]


def of_assets(root: Path, instance: dg.DagsterInstance, location: Callable[[Path], list[Any]] = chain) -> Sequence:
    DEVICES.write_parquet(root / "input.parquet")
    return Sequence(root, location, instance)


def exposed(sequence: Sequence) -> list[tuple[Any, ...]]:
    return sorted(sequence.table("exposed").rows().rows())


def test_ls_1_each_asset_is_made_of_the_one_before(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    sequence = of_assets(tmp_path, instance)
    assert sequence.run().success
    assert exposed(sequence) == WANTED
    assert sequence.table("loaded").rows().height == 5


def test_ls_2_a_retry_repeats_only_the_asset_that_failed(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    sequence = of_assets(tmp_path, instance)
    retried = sequence.run(again=sequence.fails("exposed"))
    assert retried.success, retried.errors
    assert retried.materialized == [("exposed", None)]
    assert sequence.calls.of("ready", "loaded", "exposed") == [1, 1, 2]
    assert exposed(sequence) == WANTED


def test_ls_3_a_failure_stops_the_rest_and_leaves_what_was_exposed(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    sequence = of_assets(tmp_path, instance)
    sequence.run()
    before = contents(tmp_path / "lake/exposed")
    DEVICES.clear().write_parquet(tmp_path / "input.parquet")
    sequence.fails("loaded")
    assert sequence.calls.of("ready", "loaded", "exposed") == [2, 2, 1]
    assert contents(tmp_path / "lake/exposed") == before
    assert exposed(sequence) == WANTED


def test_ls_4_nothing_is_loaded_until_the_input_is_ready(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    sequence = Sequence(tmp_path, chain, instance)
    ran = sequence.run()
    assert ran.success
    assert ran.skipped == ["exposed", "loaded"]
    assert ran.materialized == []
    assert not (tmp_path / "lake").exists()
    DEVICES.write_parquet(tmp_path / "input.parquet")
    assert sequence.run().success
    assert sequence.calls.of("ready", "loaded", "exposed") == [2, 1, 1]


def test_ls_5_in_one_function_a_retry_repeats_all(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    sequence = of_assets(tmp_path, instance, monolith)
    failed = sequence.fails("exposed")
    assert sequence.run(again=failed).success
    assert sequence.calls.of("ready", "loaded", "exposed") == [2, 2, 2]
    assert exposed(sequence) == WANTED


# Inside an asset ------------------------------------------------------------------------------------------------------


def numbers(root: Path) -> dg.AssetsDefinition:
    """The input: a number for each day, read anew from a file by every run of the first step."""

    @dg.asset(partitions_def=DAYS, metadata=BY_DAY)
    def numbers(context: dg.AssetExecutionContext) -> pl.DataFrame:
        value = int((root / "value").read_text())
        return pl.DataFrame({"day": [date_of(key) for key in context.partition_keys], "value": value})

    return numbers


def three_steps(root: Path) -> list[Any]:
    """Input, an asset in three steps, and what a happening in the middle of the second one does."""
    calls = Calls(root / "calls")

    def clean(rows: pl.LazyFrame) -> pl.LazyFrame:
        calls.called("clean")
        return rows

    def rank(rows: pl.LazyFrame) -> pl.LazyFrame:
        calls.called("rank")
        if (root / "happening").exists():
            (root / "happening").unlink()
            happening(root)
        return rows

    def publish(rows: pl.DataFrame) -> pl.DataFrame:
        calls.called("publish")
        return rows

    source = numbers(root)
    steps = step_sequence(
        dg.AssetIn(source.key),
        [clean, rank, publish],
        key=dg.AssetKey(KEY),
        io_manager_key="io_manager",
        partitions_def=DAYS,
        metadata=BY_DAY,
    )
    return [source, steps]


def happening(root: Path) -> None:
    """Another run of the same day, of another value, from the beginning to its end."""
    (root / "value").write_text("99")
    with dg.DagsterInstance.ephemeral() as other:
        assert Sequence(root, three_steps, other).run(day(1)).success


@pytest.fixture
def sequence(tmp_path: Path, instance: dg.DagsterInstance) -> Sequence:
    (tmp_path / "value").write_text("1")
    return Sequence(tmp_path, three_steps, instance)


def test_ls_2_a_retry_repeats_no_step_that_succeeded(sequence: Sequence) -> None:
    failed = sequence.fails("publish", day(1))
    (sequence.root / "value").write_text("2")  # whoever read the input anew would find it
    retried = sequence.run(again=failed)
    assert retried.success, retried.errors
    assert sequence.calls.of("clean", "rank", "publish") == [1, 1, 2]
    assert sequence.values() == {day(1): [1]}
    assert retried.materialized == [("aggregated/names", day(1))]


def test_a_retry_of_a_retry_goes_on_where_the_last_one_stopped(sequence: Sequence) -> None:
    first = sequence.fails("rank", day(1))
    second = sequence.fails("publish", again=first)
    third = sequence.fails("publish", again=second)
    assert sequence.run(again=third).success
    assert sequence.calls.of("clean", "rank", "publish") == [1, 2, 3]
    assert sequence.values() == {day(1): [1]}


def test_a_retry_of_a_retry_still_has_what_the_first_run_made(sequence: Sequence) -> None:
    first = sequence.fails("rank", day(1))
    second = sequence.fails("rank", again=first)
    assert sequence.run(again=second).success
    assert sequence.calls.of("clean", "rank", "publish") == [1, 3, 1]


def test_ls_3_what_readers_see_is_as_it_was_until_the_last_step(sequence: Sequence) -> None:
    sequence.run(day(1))
    before = contents(sequence.root / "lake" / KEY[0])
    (sequence.root / "value").write_text("2")
    for step, calls in (("clean", [2, 1, 1]), ("rank", [3, 2, 1]), ("publish", [4, 3, 2])):
        failed = sequence.fails(step, day(1))
        assert sequence.calls.of("clean", "rank", "publish") == calls
        assert contents(sequence.root / "lake" / KEY[0]) == before
        assert sequence.values() == {day(1): [1]}
    assert sequence.run(again=failed).success
    assert sequence.values() == {day(1): [2]}


def test_ls_4_no_step_runs_before_the_upstream_asset_is_there(tmp_path: Path) -> None:
    sequence = three_steps(tmp_path)
    result = dg.materialize(
        sequence, selection=[dg.AssetKey(KEY)], partition_key=day(1), resources=stores(tmp_path), raise_on_error=False
    )
    assert not result.success
    assert "MissingTableError" in Ran(result).errors
    assert Calls(tmp_path / "calls").of("clean", "rank", "publish") == [0, 0, 0]
    assert contents(tmp_path) == {}


def test_days_have_steps_of_their_own(sequence: Sequence) -> None:
    failed = sequence.fails("publish", day(1))
    (sequence.root / "value").write_text("2")
    assert sequence.run(day(2)).success
    assert sequence.run(again=failed).success
    assert sequence.values() == {day(1): [1], day(2): [2]}


def test_a_step_that_another_run_made_anew_is_refused_and_not_mixed(sequence: Sequence) -> None:
    failed = sequence.fails("rank", day(1))
    (sequence.root / "value").write_text("2")
    newer = sequence.fails("publish", day(1))
    refused = sequence.run(again=failed)
    assert not refused.success
    assert "StaleStepError" in refused.errors
    assert "a later run made it anew" in refused.errors
    assert sequence.calls.of("clean", "rank", "publish") == [2, 2, 1]
    assert not (sequence.root / "lake" / KEY[0]).exists()
    assert sequence.run(again=newer).success
    assert sequence.values() == {day(1): [2]}


def test_a_run_meanwhile_does_not_change_what_a_step_was_given(sequence: Sequence) -> None:
    """Another run of the same day replaces what the step reads, after it was given and before it is read."""
    (sequence.root / "happening").touch()
    ran = sequence.run(day(1))
    if ran.success:
        assert sequence.values() == {day(1): [1]}
    else:
        assert "StaleStepError" in ran.errors
        assert sequence.values() == {day(1): [99]}
    assert sequence.calls.of("clean", "rank") == [2, 2]


def test_a_run_over_several_days_is_refused_at_its_first_step(sequence: Sequence) -> None:
    """Its retry could put back a day that was made anew meanwhile: no step would be of that day."""
    ran = sequence.run(day(1), day(2))
    assert "InvalidFlowError" in ran.errors
    assert not list((sequence.root / "steps").glob("*"))
    assert not sequence.calls.of("rank", "publish")[0]


def interrupted(root: Path) -> list[Any]:
    """A first step whose rows end in an error, or in the death of the process, while they are written."""

    def half(batch: pl.DataFrame) -> pl.DataFrame:
        if (root / "kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (root / "raise").exists():
            message = "half of it"
            raise RuntimeError(message)
        return batch

    def first(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.map_batches(half, schema=rows.collect_schema(), streamable=True)

    def second(rows: pl.LazyFrame) -> pl.LazyFrame:
        Calls(root / "calls").called("second")
        return rows

    source = numbers(root)
    steps = step_sequence(
        dg.AssetIn(source.key),
        [first, second],
        key=dg.AssetKey(KEY),
        io_manager_key="io_manager",
        partitions_def=DAYS,
        metadata=BY_DAY,
    )
    return [source, steps]


KILLED = f"""
import sys
from pathlib import Path
import dagster as dg
from {__name__} import Sequence, day, interrupted
Sequence(Path(sys.argv[1]), interrupted, dg.DagsterInstance.ephemeral()).run(day(1))
"""


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_step_that_is_interrupted_leaves_what_was_there(
    tmp_path: Path, instance: dg.DagsterInstance, how: str
) -> None:
    (tmp_path / "value").write_text("1")
    sequence = Sequence(tmp_path, interrupted, instance)
    failed = sequence.fails("second", day(1))
    before = sequence.steps()
    assert len(before) == 1
    (tmp_path / how).touch()
    (tmp_path / "value").write_text("2")
    if how == "kill":
        died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, capture_output=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert seen(sequence) == before
    else:
        assert "half of it" in sequence.run(day(1)).errors
        assert sequence.steps() == before
    (tmp_path / how).unlink()
    assert sequence.run(again=failed).success
    assert sequence.values() == {day(1): [1]}


# Clean-up -------------------------------------------------------------------------------------------------------------


def clean_up(sequence: Sequence) -> tuple[list[str], list[str]]:
    """Which steps it removed, and which it kept."""
    asset = steps_cleanup_asset("steps", key=["steps"])
    before = seen(sequence)
    told = Ran(dg.materialize([asset], instance=sequence.instance, resources=stores(sequence.root))).metadata("steps")
    removed = [name for name in told["removed"] if not name.startswith(".")]
    assert (len(before) - len(removed), len(seen(sequence))) == (len(told["kept"]), len(told["kept"]))
    return sorted(removed), sorted(told["kept"])


def seen(sequence: Sequence) -> dict[str, bytes]:
    """The files of steps, without those that were never finished."""
    return {name: held for name, held in sequence.steps().items() if not name.startswith(".")}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sequence]:
    """A sequence with an instance of its own: the clean-up asks it what was materialized."""
    (tmp_path / "value").write_text("1")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Sequence(tmp_path, three_steps, instance)


def left(number: int, *steps: str) -> list[str]:
    return sorted(f"aggregated/names/{step}/{day(number)}" for step in steps)


def test_clean_up_keeps_what_a_failed_run_needs_and_removes_it_afterwards(own: Sequence) -> None:
    assert clean_up(own) == ([], [])
    failed = own.fails("publish", day(1))
    assert clean_up(own) == ([], left(1, "clean", "rank"))
    own.run(day(2))
    assert clean_up(own) == (left(2, "clean", "rank"), left(1, "clean", "rank"))
    assert own.run(again=failed).success
    assert own.calls.of("clean", "rank", "publish") == [2, 2, 3]
    assert clean_up(own) == (left(1, "clean", "rank"), [])
    assert own.values() == {day(1): [1], day(2): [1]}


def test_clean_up_keeps_what_failed_after_an_earlier_success(own: Sequence) -> None:
    own.run(day(1))
    failed = own.fails("rank", day(1))
    assert clean_up(own) == (left(1, "clean", "rank"), left(1, "clean"))
    assert own.run(again=failed).success


def test_a_retry_of_what_was_cleaned_up_is_refused(own: Sequence) -> None:
    failed = own.fails("publish", day(1))
    own.run(day(1))
    clean_up(own)
    refused = own.run(again=failed)
    assert "StaleStepError" in refused.errors
    assert "it was cleaned up" in refused.errors
    assert own.run(day(1)).success


def test_clean_up_removes_what_a_killed_run_left_unfinished_long_ago(own: Sequence) -> None:
    own.run(day(1))
    file, other = sorted((own.root / "steps").glob("*.parquet"))
    old, new = (path.with_name(f".{path.name}.{'0123456789abcdef' * 2}") for path in (file, other))
    for unfinished in (old, new):
        unfinished.write_bytes(file.read_bytes()[:100])
    os.utime(old, (0, 0))
    clean_up(own)
    assert list(own.steps()) == [new.name]


# Declarations ---------------------------------------------------------------------------------------------------------


def same(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


def twice(rows: pl.LazyFrame) -> pl.LazyFrame:
    return pl.concat([rows, rows])


@pytest.mark.parametrize(("steps", "culprit"), [([], "there are none"), ([same, twice, same], "same, twice, same")])
def test_steps_that_are_none_are_refused(steps: list[Any], culprit: str) -> None:
    with pytest.raises(InvalidFlowError, match=culprit):
        step_sequence(dg.AssetIn("rows"), steps, key=dg.AssetKey("out"), io_manager_key="io_manager")


def test_sequences_may_share_steps_and_need_no_partitions(tmp_path: Path) -> None:
    @dg.asset
    def rows() -> pl.DataFrame:
        return pl.DataFrame({"v": [1, 2]})

    both = [
        step_sequence(dg.AssetIn("rows"), steps, key=dg.AssetKey(["a-b", name]), io_manager_key="io_manager")
        for name, steps in {"one": [same], "two": [same, twice], "four": [twice, same]}.items()
    ]
    assert dg.materialize([rows, *both], resources=stores(tmp_path)).success
    assert [table(tmp_path, "a-b", name).rows().height for name in ("one", "two", "four")] == [2, 4, 4]
    assert len(list((tmp_path / "steps").iterdir())) == 2


def test_a_step_is_repeated_by_its_retry_policy_and_the_one_before_is_not(tmp_path: Path) -> None:
    calls = Calls(tmp_path / "calls")

    @dg.asset
    def rows() -> pl.DataFrame:
        return pl.DataFrame({"v": [1, 2]})

    def first(rows: pl.LazyFrame) -> pl.LazyFrame:
        calls.called("first")
        return rows

    def second(rows: pl.DataFrame) -> pl.DataFrame:
        calls.called("second")
        return rows

    steps = step_sequence(
        dg.AssetIn("rows"),
        [first, second],
        key=dg.AssetKey("out"),
        io_manager_key="io_manager",
        retry_policy=dg.RetryPolicy(max_retries=1),
    )
    calls.fail_once("second")
    assert dg.materialize([rows, steps], resources=stores(tmp_path)).success
    assert calls.of("first", "second") == [1, 2]
    assert table(tmp_path, "out").rows().height == 2


# Keys -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load(Task):
    """A task with every kind of parameter."""

    asset: str
    step: str | int
    partition: str | tuple[str, ...] | None


def test_the_key_of_a_task_is_the_digest_of_its_parameters_in_every_process() -> None:
    step = Step("aggregated/names", "rank", "2024-02-01 é日")
    text = '["Step", {"asset": "aggregated/names", "partition": "2024-02-01 é日", "step": "rank"}]'
    assert step.key == sha256(text.encode()).hexdigest()
    command = [sys.executable, "-c", f"from pattern_platform.orchestration.steps import Step; print({step!r}.key)"]
    elsewhere = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True, capture_output=True, text=True
    )
    assert elsewhere.stdout.strip() == step.key


def test_other_parameters_and_other_kinds_of_task_have_other_keys() -> None:
    tasks = [
        Step("a", "b", "c"),
        Step("a", "c", "b"),
        Step("a/b", "c", None),
        Step("a", "b/c", None),
        Step("a", "b", None),
        Step("a", "b", "None"),
        Step("a", "b", ""),
        Step('a", "partition": "c', "b", None),
        Load("a", "b", "c"),
        Load("a", "b", ("c",)),
        Load("a", "b", ("c", "d")),
        Load("a", "b", ("d", "c")),
        Load("a", "b", ("c, d",)),
        Load("a", "1", "c"),
        Load("a", 1, "c"),
    ]
    assert all(one.key != other.key for one, other in combinations(tasks, 2))
    assert Step("a", "b", "c").key == Step(partition="c", step="b", asset="a").key
    assert all(len(task.key) == 64 and task.key.isalnum() for task in tasks)
