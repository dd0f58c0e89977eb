"""A process of the orchestration cases: imports, or one run of the example's ingestion in an instance on the disk."""

from __future__ import annotations

import sys
from importlib import import_module


def _import_bare() -> None:
    import dagster  # noqa: F401, PLC0415
    import dagster_deltalake  # noqa: F401, PLC0415
    import deltalake  # noqa: F401, PLC0415
    import duckdb  # noqa: F401, PLC0415
    import polars  # noqa: F401, ICN001, PLC0415


def _run(first: str, last: str) -> None:
    import dagster as dg  # noqa: PLC0415

    from pattern_platform.definitions import defs  # noqa: PLC0415
    from pattern_platform.orchestration.partition_tags import partition_tags  # noqa: PLC0415

    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey(["raw", "visits"])],
            tags=partition_tags(first, last),
            instance=instance,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    if not result.success:
        sys.exit(1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["import", *more]:
            _import_bare()
            for module in more:
                import_module(module)
        case ["run", first, last]:
            _run(first, last)
