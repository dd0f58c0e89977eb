"""Mistakes in declarations are found when definitions load, all at once."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from pattern_platform import DataOverwriteIOManager, validate_definitions
from pattern_platform.errors import InvalidMetadataError

DAYS = dg.DailyPartitionsDefinition("2024-01-01")
REGIONS = dg.StaticPartitionsDefinition(["eu", "us"])


def asset(key: str, metadata: dict[str, Any], partitions: dg.PartitionsDefinition | None = DAYS) -> dg.AssetsDefinition:
    @dg.asset(key=key.split("/"), metadata=metadata, partitions_def=partitions, io_manager_key="delta")
    def declared() -> None: ...

    return declared


def validated(*assets: dg.AssetsDefinition) -> dg.Definitions:
    return validate_definitions(
        dg.Definitions(assets=assets, resources={"delta": DataOverwriteIOManager(root_uri="lake")})
    )


MISTAKES = {
    "no partition_expr": (asset("a", {}), "which column holds the partition"),
    "number": (asset("a", {"partition_expr": 3}), "'partition_expr'"),
    "list": (asset("a", {"partition_expr": ["day"]}), "'partition_expr'"),
    "misspelt": (asset("a", {"partition_exp": "day"}), "write 'partition_expr'"),
    "evolution": (asset("a", {"partition_expr": "day", "schema_evolution": "merge"}), "'schema_evolution'"),
    "partition_by text": (asset("a", {"partition_expr": "day", "partition_by": "region"}), "'partition_by'"),
    "column for two dimensions": (
        asset("a", {"partition_expr": "day"}, dg.MultiPartitionsDefinition({"day": DAYS, "region": REGIONS})),
        "several partition dimensions",
    ),
    "dimensions for one": (asset("a", {"partition_expr": {"day": "day"}}), "one column"),
    "key leaves the root": (asset("a/..", {"partition_expr": "day"}), "'..'"),
    "hidden key": (asset("_a", {"partition_expr": "day"}), "'_a'"),
}


@pytest.mark.parametrize(("mistaken", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_refused_with_its_reason(mistaken: dg.AssetsDefinition, said: str) -> None:
    with pytest.raises(InvalidMetadataError, match="1 declaration") as refusal:
        validated(mistaken)
    assert said in str(refusal.value)


def test_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(InvalidMetadataError, match="3 declaration") as refusal:
        validated(
            asset("first", {}),
            asset("second", {"partition_expr": 1}),
            asset("third", {"partition_expr": "day"}),
            asset("third/inside", {"partition_expr": "day"}),
        )
    for name in ("'first'", "'second'", "'third/inside'"):
        assert name in str(refusal.value)


def test_right_declarations_and_other_io_managers_pass() -> None:
    @dg.asset(partitions_def=DAYS, metadata={"partition_exp": "not ours"})
    def elsewhere() -> None: ...

    defs = validated(
        elsewhere,
        asset("a", {"partition_expr": "day", "team/partition_exp": "theirs"}),
        asset("b", {}, None),
        asset(
            "c",
            {"partition_expr": {"day": "day", "region": "region"}, "partition_by": ["region"]},
            dg.MultiPartitionsDefinition({"day": DAYS, "region": REGIONS}),
        ),
    )
    assert len(list(defs.resolve_all_asset_specs())) == 4
