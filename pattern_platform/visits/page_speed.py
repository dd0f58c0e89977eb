"""How fast pages load, measured in regions that come and go: a file of a region is a partition.

landing/page_speed -> raw/page_speed
"""

from pathlib import Path

import dagster as dg
import polars as pl

from pattern_platform.errors import FileNotArrivedError, UnreadableFileError
from pattern_platform.ingestion.arrivals import arrivals_sensor
from pattern_platform.ingestion.landing_zone import LandingZone
from pattern_platform.lake.schema import described
from pattern_platform.runners import PAGE_SPEED, TEAM_WEB

PATTERN = "page_speed/*.csv"
REGIONS = dg.DynamicPartitionsDefinition(name="regions")
_SCHEMA = pl.Schema({"page": pl.String, "load_ms": pl.Int64})


@dg.asset(
    key=["raw", "page_speed"],
    description="Measured loads of the blog's pages in a region.",
    group_name="raw",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "concurrent_runner", **PAGE_SPEED.tags, **TEAM_WEB.tags},
    kinds={"polars", "deltalake"},
    code_version="1",
    partitions_def=REGIONS,
    io_manager_key="data_overwrite",
    metadata={
        "partition_expr": "region",
        "dagster/column_schema": described(
            region="Where it was measured.", page="Which page.", load_ms="How long it took to load, in milliseconds."
        ),
    },
)
def page_speed(context: dg.AssetExecutionContext, landing: LandingZone) -> pl.LazyFrame:
    """Read the file of the region."""
    region = context.partition_key
    file = Path(landing.root, PATTERN.replace("*", region))
    if not file.exists():
        raise FileNotArrivedError(
            f"region {region!r} was refused",
            why=f"there is no file {file.name}",
            mend="materialize it once it is there",
        )
    try:
        rows = pl.read_csv(file, schema=_SCHEMA, glob=False)
    except pl.exceptions.PolarsError as error:
        raise UnreadableFileError(
            f"region {region!r} was refused", why=f"{file.name} is no file of pages and loads", mend="deliver it again"
        ) from error
    if sum(rows.null_count().row(0)):
        raise UnreadableFileError(
            f"region {region!r} was refused", why=f"a line of {file.name} breaks off", mend="deliver it again"
        )
    return rows.lazy().select(pl.lit(region).alias("region"), *_SCHEMA)


ASSETS = [page_speed]
ARRIVALS = arrivals_sensor(page_speed.key, REGIONS, PATTERN)
