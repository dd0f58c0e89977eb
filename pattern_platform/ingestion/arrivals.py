"""Files whose names nobody knows beforehand: each becomes a partition when it arrives."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from pattern_platform.ingestion.landing_zone import LandingZone
from pattern_platform.orchestration.tasks import Task


@dataclass(frozen=True)
class Arrival(Task):
    """A file as it was found.

    Args:
        partition: Its partition.
        size: In bytes.
        modified_ns: When it was last changed, in nanoseconds since 1970.
    """

    partition: str
    size: int
    modified_ns: int


def arrivals_sensor(
    asset: dg.AssetKey, partitions: dg.DynamicPartitionsDefinition, pattern: str
) -> dg.SensorDefinition:
    """Make a partition of each file that arrives, and materialize it; again when the file is delivered again.

    The runs are queued together; how many of them start at a time is said by the tags of the asset.

    Args:
        asset: Key of the asset whose partitions they are.
        partitions: The partitions: the names of the files, without their suffix.
        pattern: Where the files are below the landing folder, such as ``page_speed/*.csv``.
    """

    @dg.sensor(
        name=f"{asset.to_python_identifier()}__arrivals",
        description=f"Materializes a partition of {asset.to_user_string()} for each file at {pattern}.",
        target=dg.AssetSelection.assets(asset),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def arrivals(landing: LandingZone) -> dg.SensorResult:
        found = arrived(Path(landing.root), pattern)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=arrival.key, partition_key=arrival.partition, asset_selection=[asset])
                for arrival in found
            ],
            dynamic_partitions_requests=[partitions.build_add_request([arrival.partition for arrival in found])],
        )

    return arrivals


def arrived(landing: Path, pattern: str) -> list[Arrival]:
    """The files that are there, by name.

    Args:
        landing: Folder of all landed files.
        pattern: As of :func:`arrivals_sensor`.
    """
    found = (file for file in sorted(landing.glob(pattern)) if file.is_file() and not file.name.startswith("."))
    files = {file: file.stat() for file in found}
    return [Arrival(file.stem, stat.st_size, stat.st_mtime_ns) for file, stat in files.items()]
