"""The flow patterns as the blog uses them: approximate, in two stores, in one of two, in steps, apart."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable

from pattern_platform.visits import archive, estimate, likes, migration, page_speed
from pattern_platform.visits import assets as visits
from pattern_platform.visits.archive import MOVED, REFERRALS
from pattern_platform.visits.assets import HOURS
from pattern_platform.visits.estimate import ESTIMATE
from pattern_platform.visits.migration import visits_file, visits_table
from pattern_platform.visits.page_speed_files import PAGES, write_regions
from pattern_platform_tests.lake.tables import contents
from pattern_platform_tests.platform import Platform, errors, told
from pattern_platform_tests.visits.blog import MONDAY, TUESDAY, assets_of, ingest, succeeded, written_visits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Row = tuple[Any, ...]


def stored(platform: Platform, *key: str) -> list[dict[str, Any]]:
    """The rows of a table, as delta-rs hands them to PyArrow."""
    return pl.DataFrame(DeltaTable(platform.lake.joinpath(*key)).to_pyarrow_table()).to_dicts()


def by_text(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=str)


# The estimate: the cube of a day before its last hour is in -----------------------------------------------------------

CUBE, PUBLISHED = ("aggregated", "visits_cube"), ("aggregated", "visits_estimate")
COMPLETENESS, FALLBACK = ("aggregated", "visits_estimate__completeness"), ("aggregated", "visits_estimate__fallback")
LATE = 13


def views(hour: int) -> list[tuple[str, str]]:
    """User and page of each visit of an hour."""
    return [(f"u{number % 3}", f"page-{(number + hour) % 2}") for number in range(hour % 4 + 1)]


def cube_by_hand(hours: Iterable[int]) -> list[Row]:
    """Page, user and visits; None stands for all."""
    counted: Counter[tuple[str | None, str | None]] = Counter()
    for user, page in (view for hour in hours for view in views(hour)):
        counted.update([(page, user), (page, None), (None, user), (None, None)])
    return by_text((*group, count) for group, count in counted.items())


class Estimate(Platform):
    """A Monday of which some hours have come in; the estimate knows what became of the others."""

    def __init__(self, folder: Path, hours: Iterable[int] = ()) -> None:
        super().__init__(folder, assets_of([visits, estimate]))
        self.instance = dg.DagsterInstance.ephemeral()
        self.come_in(hours)

    def come_in(self, hours: Iterable[int]) -> None:
        """Land hours and ingest them, those that follow each other in one run."""
        landed = sorted(hours)
        for hour in landed:
            self.land_visits(hour, views(hour))
        ends = [hour for hour in landed if hour + 1 not in landed]
        for first, last in zip((hour for hour in landed if hour - 1 not in landed), ends, strict=True):
            ingest(self, f"{MONDAY}-{first:02}:00", f"{MONDAY}-{last:02}:00")

    def estimate(self, day: str = MONDAY, **config: Any) -> dg.ExecuteInProcessResult:
        configs = {"aggregated__visits_estimate": config} if config else None
        return succeeded(self.run(list(ESTIMATE.keys), day, config=configs))

    def published(self) -> list[Row]:
        return by_text((row["page"], row["user_id"], row["visits"]) for row in stored(self, *PUBLISHED))

    def completeness(self) -> dict[str, Any]:
        (row,) = stored(self, *COMPLETENESS)
        return row


def made(result: dg.ExecuteInProcessResult) -> set[tuple[str, ...]]:
    """What a run materialized."""
    return {tuple(event.materialization.asset_key.path) for event in result.get_asset_materialization_events()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_23_hours_are_their_cube_and_are_said_to_be_23(tmp_path: Path) -> None:
    there = [hour for hour in range(24) if hour != LATE]
    blog = Estimate(tmp_path, there)
    failed = blog.run([dg.AssetKey(["raw", "visits"])], f"{MONDAY}-{LATE}:00")
    assert errors(failed)[0].startswith("FileNotArrivedError")
    assert errors(blog.run([visits.visits_cube.key], MONDAY))[0].startswith("MissingPartitionsError")

    result = blog.estimate()
    assert made(result) == {PUBLISHED, COMPLETENESS}
    assert blog.published() == cube_by_hand(there)
    assert {(row["completeness"], row["is_approximate"]) for row in stored(blog, *PUBLISHED)} == {(23 / 24, True)}
    row = blog.completeness()
    assert (row["expected"], row["present"], row["missing"], row["stale"]) == (24, 23, [f"{MONDAY}-{LATE}:00"], [])
    assert row["is_published"]
    assert checks(result) == {"is_complete": False, "something_arrived": True, "is_published": True}

    # Then the last hour comes in.
    blog.come_in([LATE])
    result = blog.estimate()
    succeeded(blog.run([visits.visits_cube.key], MONDAY))
    assert blog.published() == cube_by_hand(range(24))
    exact = [{**row, "completeness": 1.0, "is_approximate": False} for row in stored(blog, *CUBE)]
    assert by_text(map(itemgetter(*exact[0]), stored(blog, *PUBLISHED))) == by_text(map(itemgetter(*exact[0]), exact))
    row = blog.completeness()
    assert (row["present"], row["completeness"], row["missing"]) == (24, 1.0, [])
    assert checks(result) == {"is_complete": True, "something_arrived": True, "is_published": True}

    # And its rerun fails, two assets before what fans in: nobody knows whether its rows are still true.
    blog.landed(LATE, MONDAY).write_bytes(b"no gzip")
    assert not blog.run([dg.AssetKey(["raw", "visits"])], f"{MONDAY}-{LATE}:00").success
    blog.estimate()
    assert blog.published() == cube_by_hand(there)
    assert blog.completeness()["stale"] == [f"{MONDAY}-{LATE}:00"]


def test_below_the_floor_nothing_is_published_and_what_was_stays(tmp_path: Path) -> None:
    blog = Estimate(tmp_path, range(11))
    result = blog.estimate()
    assert made(result) == {COMPLETENESS}
    assert not blog.lake.joinpath(*PUBLISHED).exists()
    row = blog.completeness()
    assert (row["present"], row["is_published"], row["floor"]) == (11, False, 0.5)
    assert row["missing"] == [f"{MONDAY}-{hour:02}:00" for hour in range(11, 24)]
    assert checks(result)["something_arrived"]

    blog.come_in([11])  # half of them are enough
    assert PUBLISHED in made(blog.estimate())
    assert blog.published() == cube_by_hand(range(12))
    assert made(blog.estimate(floor=0.9)) == {COMPLETENESS}
    assert blog.published() == cube_by_hand(range(12))
    assert not blog.completeness()["is_published"]


def test_where_nothing_arrived_the_fallback_stands_and_the_check_fails(tmp_path: Path) -> None:
    blog = Estimate(tmp_path)
    result = blog.estimate()
    assert made(result) == {FALLBACK, COMPLETENESS}
    reason = told(result, dg.AssetKey(FALLBACK))["reason"]
    assert reason == "none of the 24 partitions of aggregated/visits_by_hour is there"
    assert not checks(result)["something_arrived"]
    assert not blog.lake.joinpath(*PUBLISHED).exists()
    assert (blog.completeness()["present"], blog.completeness()["is_published"]) == (0, False)


# Visits in a log that a test writes -----------------------------------------------------------------------------------

LOG = {
    **dict.fromkeys(("visit_id", "user_id", "page", "referral", "ad_id", "browser"), pl.String),
    "append_time": pl.Datetime("us", "UTC"),
}
Visit = dict[str, Any]


def seen(number: int, day: str = MONDAY, hour: int = 10, **changes: str | None) -> Visit:
    moment = dt.datetime.fromisoformat(f"{day}T{hour:02}:00:00+00:00") + dt.timedelta(minutes=number, microseconds=7)
    visit = {"visit_id": f"{day}-{hour}-{number}", "user_id": f"u{number % 2}", "page": "home", "append_time": moment}
    return {**visit, "referral": "direct", "ad_id": None, "browser": "Firefox", **changes}


class Log(Platform):
    """Assets that are made of clean visits."""

    def __init__(self, folder: Path, definitions: Sequence[Any], log: Sequence[Visit]) -> None:
        self.written = written_visits(HOURS, lambda: pl.DataFrame(self.log, schema=LOG))
        super().__init__(folder, [self.written, *definitions])
        self.append(log, f"{MONDAY}-00:00", f"{TUESDAY}-23:00")

    def append(self, log: Sequence[Visit], first: str, last: str) -> None:
        self.log = log
        succeeded(self.run_range([self.written.key], first, last))


# The migration: files as ever, and the table that takes their place ---------------------------------------------------

VISITS = [seen(number, browser="Chrome" if number % 3 else "Firefox") for number in range(5)]
# What a CSV file or JSON in it may lose, if anything does.
ODD = [
    seen(10, page='say "hi", twice'),
    seen(11, page="two\nlines"),
    seen(12, page=" blanks ", user_id="ü"),
    seen(13, page="null", user_id="NA"),
    seen(14, referral=None, ad_id=None, browser=None),
    seen(15, referral="", ad_id='{"a": 1}', browser="a,b\\n"),
    seen(16, page="1.0", user_id="007"),
    {**seen(17), "append_time": dt.datetime(2024, 5, 6, tzinfo=dt.UTC)},
]
FILE = f"exports/visits/{MONDAY}.csv"


def migrating(folder: Path, log: Sequence[Visit] = VISITS) -> Log:
    return Log(folder, [*migration.ASSETS, *migration.CHECKS], log)


def agreement(blog: Platform) -> tuple[bool, dict[str, Any]]:
    evaluation = blog.evaluate(migration.CHECKS[0], MONDAY)
    return evaluation.passed, {name: value.value for name, value in evaluation.metadata.items()}


BRANCHES = [visits_file.key, visits_table.key]


def test_the_files_and_the_table_agree(tmp_path: Path) -> None:
    blog = migrating(tmp_path, [*VISITS, *ODD, seen(0, TUESDAY)])
    result = succeeded(blog.run(BRANCHES, MONDAY))
    assert checks(result) == {"agrees_with_exports__visits": True}
    assert agreement(blog) == (True, {"rows": 13, "only_here": 0, "only_there": 0})
    names = ("referral", "ad_id", "browser")
    columns = ("visit_id", "user_id", "page", "append_time")
    rows = [{**{c: v[c] for c in columns}, "context": {n: v[n] for n in names}} for v in [*VISITS, *ODD]]
    assert sorted(stored(blog, "serving", "visits"), key=itemgetter("visit_id")) == sorted(
        rows, key=itemgetter("visit_id")
    )
    lines = pl.read_csv(tmp_path / FILE, infer_schema=False)
    assert {line["visit_id"]: json.loads(line["context"]) for line in lines.to_dicts()} == {
        row["visit_id"]: row["context"] for row in rows
    }
    before = stored(blog, "serving", "visits"), (tmp_path / FILE).read_bytes()
    succeeded(blog.run(BRANCHES, MONDAY))  # again: the same
    assert (stored(blog, "serving", "visits"), (tmp_path / FILE).read_bytes()) == before


def _changed(text: str) -> str:
    return text.replace("home", "about", 1)


def _shorter(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-1])


def _twice(text: str) -> str:
    return text + text.splitlines(keepends=True)[-1]


def test_a_tampered_file_is_found(tmp_path: Path) -> None:
    blog = migrating(tmp_path)
    succeeded(blog.run(BRANCHES, MONDAY))
    file = tmp_path / FILE
    whole = file.read_text()
    # A row that is not there as often is another one in either branch.
    for tamper, only_here, only_there in ((_changed, 1, 1), (_shorter, 1, 0), (_twice, 1, 1)):
        file.write_text(tamper(whole))
        passed, found = agreement(blog)
        assert not passed, tamper
        assert (found["only_here"], found["only_there"]) == (only_here, only_there), tamper
    succeeded(blog.run([visits_file.key], MONDAY))
    assert agreement(blog)[0]
    assert file.read_text() == whole


@pytest.mark.parametrize(("failing", "place"), [(0, "exports/visits"), (1, "lake/serving")])
def test_one_branch_fails_alone_and_is_run_again_alone(tmp_path: Path, failing: int, place: str) -> None:
    blog = migrating(tmp_path)
    obstacle = tmp_path / place
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("a file where a folder should be")
    result = blog.run(BRANCHES, MONDAY)
    assert not result.success
    assert len(errors(result)) == 1
    assert made(result) == {tuple(BRANCHES[1 - failing].path)}
    if failing == 0:
        evaluation = blog.evaluate(migration.CHECKS[0], MONDAY)
        assert not evaluation.passed
        assert evaluation.severity is dg.AssetCheckSeverity.WARN
        assert evaluation.description == "the legacy branch is not there yet"
    obstacle.unlink()
    assert made(succeeded(blog.run([BRANCHES[failing]], MONDAY))) == {tuple(BRANCHES[failing].path)}
    assert agreement(blog)[0]


# The archive: files until the table took over -------------------------------------------------------------------------

REFERRED = [
    *[seen(number, MONDAY, referral="Medium" if number % 2 else None) for number in range(5)],
    *[seen(number, TUESDAY, hour=0, referral="newsletter" if number % 3 else "direct") for number in range(7)],
]
FILES, TABLE = "archive/referrals_csv", ("archive", "referrals_delta")


def archiving(folder: Path) -> Log:
    return Log(folder, [*archive.ASSETS, *archive.CHECKS], REFERRED)


def choice(blog: Log, day: str) -> dg.ExecuteInProcessResult:
    return blog.run(list(REFERRALS.keys), day)


def referrals(day: str) -> list[Row]:
    counted = Counter(visit["referral"] for visit in REFERRED if visit["append_time"].date().isoformat() == day)
    return by_text((dt.date.fromisoformat(day), *count) for count in counted.items())


def in_table(blog: Log) -> list[Row]:
    return by_text((row["day"], row["referral"], row["visits"]) for row in stored(blog, *TABLE))


def in_file(blog: Log, day: str) -> list[Row]:
    lines = pl.read_csv(blog.folder / FILES / f"{day}.csv", try_parse_dates=True)
    return by_text(lines.select("day", "referral", "visits").rows())


def test_each_day_is_in_the_store_of_its_side_of_the_boundary(tmp_path: Path) -> None:
    assert dt.date.fromisoformat(TUESDAY) == MOVED
    blog = archiving(tmp_path)
    before, since = succeeded(choice(blog, MONDAY)), succeeded(choice(blog, TUESDAY))
    assert made(before) == {("archive", "referrals"), ("archive", "referrals_csv")}
    assert made(since) == {("archive", "referrals"), TABLE}
    assert {**told(before, dg.AssetKey(["archive", "referrals"]))} == {
        "decision": "csv",
        "reason": f"{MONDAY} is before {MOVED}",
    }
    assert told(since, dg.AssetKey(["archive", "referrals"]))["decision"] == "delta"
    assert in_file(blog, MONDAY) == referrals(MONDAY)
    assert in_table(blog) == referrals(TUESDAY)
    assert [file.name for file in (tmp_path / FILES).iterdir()] == [f"{MONDAY}.csv"]
    assert checks(before) == checks(since) == {"one_branch_has_it": True}

    # Again, in the other order: the same.
    found = contents(tmp_path / FILES), in_table(blog)
    for day in (TUESDAY, MONDAY):
        succeeded(choice(blog, day))
    assert (contents(tmp_path / FILES), in_table(blog)) == found

    # The negative control of the check: a day that is in both.
    (check,) = archive.CHECKS
    (tmp_path / FILES / f"{TUESDAY}.csv").write_bytes((tmp_path / FILES / f"{MONDAY}.csv").read_bytes())
    assert not blog.evaluate(check, TUESDAY).passed
    assert blog.evaluate(check, MONDAY).passed


def test_a_run_over_the_boundary_is_refused(tmp_path: Path) -> None:
    blog = archiving(tmp_path)
    (error,) = errors(blog.run_range(list(REFERRALS.keys), MONDAY, TUESDAY))
    assert error.startswith("UndecidedChoiceError")
    assert not (tmp_path / FILES).exists()
    assert not blog.lake.joinpath(*TABLE).exists()


# Likes: whose posts are liked best ------------------------------------------------------------------------------------

# Likes of the posts of each author. The fourth post counts for nothing; of fewer than three, all count.
LIKED = {
    "anna": (5, 4, 3, 1),  # 4
    "bert": (6, 6),  # 6
    "cleo": (4,),  # 4
    "dora": (1, 7, 1),  # 3
    "emil": (2, 2, 2, 2),  # 2
    "fred": (1,),  # 1
    "gina": (1, 5, 1, 5),  # 11 / 3
    "hugo": (3,),  # 3
    "ida": (1, 1, 1, 1, 1),  # 1
    "jane": (2, 1),  # 1.5
    "karl": (1,),  # 1, the eleventh
    "lena": (1, 1),  # 1
}
RANKED = [
    *[(1, "bert", 6.0), (2, "anna", 4.0), (3, "cleo", 4.0), (4, "gina", 11 / 3), (5, "dora", 3.0), (6, "hugo", 3.0)],
    *[(7, "emil", 2.0), (8, "jane", 1.5), (9, "fred", 1.0), (10, "ida", 1.0)],
]
FEW = {"zoe": (2,), "abe": (1, 2, 3)}
LIKE_KEYS = [key for definition in likes.ASSETS for key in definition.keys]


def lines_of(liked: Mapping[str, Sequence[int]], day: str) -> list[str]:
    """A line for each like."""
    posts = [(author, f"{author}-{n}", times) for author, counts in liked.items() for n, times in enumerate(counts)]
    each = [(author, post) for author, post, times in posts for _ in range(times)]
    return [f"{day}-{n},{day}T{n % 24:02}:00:00Z,u{n % 7},{post},{author}" for n, (author, post) in enumerate(each)]


def land_likes(blog: Platform, lines: Sequence[str], day: str) -> None:
    file = blog.landing / f"likes/date={day}/likes.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in (",".join(likes.LIKES.dataset.header), *lines)))


def ranking(blog: Platform, day: str) -> list[Row]:
    rows = [row for row in stored(blog, "aggregated", "top_authors") if row["day"].isoformat() == day]
    return sorted((row["rank"], row["author"], row["mean_likes"]) for row in rows)


def likes_of_posts(blog: Platform, day: str) -> dict[str, list[int]]:
    rows = [row for row in stored(blog, "aggregated", "likes_by_post") if row["day"].isoformat() == day]
    found: dict[str, list[int]] = {}
    for row in sorted(rows, key=itemgetter("author", "post")):
        assert row["post"].startswith(row["author"])
        found.setdefault(row["author"], []).append(row["likes"])
    return found


def test_the_best_liked_authors_from_landed_likes_on(tmp_path: Path) -> None:
    blog = Platform(tmp_path, [*likes.ASSETS, *likes.CHECKS])
    good = lines_of(LIKED, MONDAY)
    dirt = [good[0], f"x,{MONDAY}T01:00:00Z,u1,,anna", f"y,{TUESDAY}T01:00:00Z,u1,anna-0,anna"]
    land_likes(blog, [*good, *dirt], MONDAY)
    land_likes(blog, lines_of(FEW, TUESDAY), TUESDAY)
    for day in (MONDAY, TUESDAY):
        result = succeeded(blog.run(LIKE_KEYS, day))
        assert all(checks(result).values())
    assert len(stored(blog, "quarantine", "likes")) == len(dirt)
    assert likes_of_posts(blog, MONDAY) == {author: [*counts] for author, counts in LIKED.items()}
    assert ranking(blog, MONDAY) == RANKED  # ties are by name, and the eleventh is out
    assert ranking(blog, TUESDAY) == [(1, "abe", 2.0), (2, "zoe", 2.0)]

    # Both days in one run: its steps are of one day, and of both at once none is kept.
    (error,) = errors(blog.run_range([likes.top_authors.key], MONDAY, TUESDAY))
    assert error.startswith("InvalidFlowError")
    assert (ranking(blog, MONDAY), ranking(blog, TUESDAY)) == (RANKED, [(1, "abe", 2.0), (2, "zoe", 2.0)])

    # A correction: nobody liked anything.
    land_likes(blog, [], MONDAY)
    succeeded(blog.run(LIKE_KEYS, MONDAY))
    assert ranking(blog, MONDAY) == []
    assert likes_of_posts(blog, MONDAY) == {}
    assert len(ranking(blog, TUESDAY)) == 2


# Page speed: regions that come and go ---------------------------------------------------------------------------------


class Regions(Platform):
    """Files of regions that have arrived, and are partitions."""

    def __init__(self, folder: Path, **files: str) -> None:
        super().__init__(folder, page_speed.ASSETS)
        self.instance = dg.DagsterInstance.ephemeral()
        (self.landing / "page_speed").mkdir(parents=True)
        for region, text in files.items():
            self.deliver(region, text)

    def deliver(self, region: str, text: str) -> None:
        (self.landing / f"page_speed/{region}.csv").write_text(text)
        self.instance.add_dynamic_partitions("regions", [region])

    def measure(self, region: str) -> dg.ExecuteInProcessResult:
        return self.run([page_speed.page_speed.key], region)

    def loads(self) -> list[Row]:
        if not (self.lake / "raw/page_speed").exists():
            return []
        return sorted(map(itemgetter("region", "page", "load_ms"), stored(self, "raw", "page_speed")))


GOOD = "page,load_ms\nhome,12\n"


def test_a_region_with_a_broken_file_fails_alone(tmp_path: Path) -> None:
    blog = Regions(tmp_path, north=GOOD, south="page,load_ms\nhome,fast\n", east=GOOD)
    results = {region: blog.measure(region) for region in ("north", "south", "east")}
    assert [region for region, result in results.items() if not result.success] == ["south"]
    (error,) = errors(results["south"])
    assert error.startswith("UnreadableFileError")
    assert "'south'" in error
    assert "south.csv" in error
    assert "fast" not in error.split("why:")[1].splitlines()[0]  # data is not quoted
    assert blog.loads() == [("east", "home", 12), ("north", "home", 12)]
    blog.deliver("south", GOOD)
    succeeded(blog.measure("south"))
    assert [region for region, *_ in blog.loads()] == ["east", "north", "south"]


def test_a_region_delivered_again_replaces_its_own_rows_alone(tmp_path: Path) -> None:
    blog = Regions(tmp_path, **{"eu.central, 1": GOOD, "north": GOOD})
    for region in ("eu.central, 1", "north", "north"):
        succeeded(blog.measure(region))
    blog.deliver("eu.central, 1", "page,load_ms\nabout,30\nhome,31\n")
    succeeded(blog.measure("eu.central, 1"))
    assert blog.loads() == [("eu.central, 1", "about", 30), ("eu.central, 1", "home", 31), ("north", "home", 12)]
    blog.deliver("north", "page,load_ms\n")
    succeeded(blog.measure("north"))
    assert {region for region, *_ in blog.loads()} == {"eu.central, 1"}


def test_a_region_that_nobody_delivered_is_refused(tmp_path: Path) -> None:
    blog = Regions(tmp_path, north=GOOD)
    (blog.landing / "page_speed/north.csv").unlink()
    for region in ("north", "nowhere"):  # a partition whose file is gone, and none at all
        (error,) = errors(blog.measure(region))
        assert error.startswith("FileNotArrivedError")
        assert f"'{region}'" in error
        assert f"{region}.csv" in error
    assert blog.loads() == []


WRONG = {
    "other names": "seite,dauer\nhome,12\n",
    "no header": "home,12\nabout,13\n",
    "a column more": "page,load_ms,browser\nhome,12,Firefox\n",
    "a column fewer": "page\nhome\n",
    "nothing": "",
    "a longer line": "page,load_ms\nhome,12,13\n",
    "a line that breaks off": "page,load_ms\nabout,11\nhome\n",
    "an open quote": 'page,load_ms\n"home,12\n',
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_with_a_wrong_header_or_broken_lines_is_refused(tmp_path: Path, name: str) -> None:
    blog = Regions(tmp_path, north=WRONG[name])
    (error,) = errors(blog.measure("north"))
    assert error.startswith("UnreadableFileError")
    assert blog.loads() == []


def test_columns_in_another_order_are_told_by_their_names(tmp_path: Path) -> None:
    blog = Regions(tmp_path, north="load_ms,page\n12,home\n")
    succeeded(blog.measure("north"))
    assert blog.loads() == [("north", "home", 12)]


def test_the_made_up_regions_come_in(tmp_path: Path) -> None:
    blog = Regions(tmp_path)
    write_regions(blog.landing, ["north", "south"], loads=3)
    blog.instance.add_dynamic_partitions("regions", ["north", "south"])
    for region in ("north", "south"):
        succeeded(blog.measure(region))
    assert Counter((region, page) for region, page, _ in blog.loads()) == dict.fromkeys(
        ((region, page) for region in ("north", "south") for page in PAGES), 3
    )
