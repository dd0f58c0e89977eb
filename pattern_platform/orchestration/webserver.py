"""What a running Dagster webserver is asked for, over the GraphQL that its own UI speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests

from pattern_platform.errors import BackfillError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIMEOUT_SECONDS = 60
_MOST_RUNS = 5_000
_ASSET = """
query Asset($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    __typename
    ... on AssetNode {
      isMaterializable partitionKeys dependencyKeys { path }
      backfillPolicy { policyType maxPartitionsPerRun }
      repository { name location { name } }
    }
  }
}"""
_RUNS = """
query Runs($tags: [ExecutionTag!], $limit: Int) {
  runsOrError(filter: {tags: $tags}, limit: $limit) {
    __typename
    ... on Runs { results { runId status tags { key value } } }
    ... on PythonError { message }
  }
}"""
_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""


@dataclass(frozen=True)
class Asset:
    """An asset as the webserver knows it.

    Args:
        key: As a user writes it.
        location: Its code location and repository.
        partitions: All partition keys, in their order.
        per_run: How many partitions one run may take; None where it may take any number.
        rests_on_itself: Whether a partition depends on an earlier one.
    """

    key: str
    location: tuple[str, str]
    partitions: list[str]
    per_run: int | None
    rests_on_itself: bool


@dataclass(frozen=True)
class Run:
    """A run: its id, its status as Dagster writes it, and its tags."""

    run_id: str
    status: str
    tags: Mapping[str, str]


class Webserver:
    """A webserver.

    Args:
        url: Where it is, such as ``http://127.0.0.1:3000``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def asset(self, key: str) -> Asset:
        """Look up an asset.

        Raises:
            BackfillError: There is none of this key that could be materialized.
        """
        path = key.split("/")
        node = self._ask(_ASSET, key={"path": path})["assetNodeOrError"]
        if node["__typename"] != "AssetNode" or not node["isMaterializable"]:
            raise BackfillError(
                f"asset {key!r} was refused", why="no code location materializes it", mend="see the assets in the UI"
            )
        policy, repository = node["backfillPolicy"], node["repository"]
        return Asset(
            key=key,
            location=(repository["location"]["name"], repository["name"]),
            partitions=node["partitionKeys"],
            per_run=policy["maxPartitionsPerRun"] if policy else 1,
            rests_on_itself={"path": path} in node["dependencyKeys"],
        )

    def runs(self, tags: Mapping[str, str]) -> list[Run]:
        """The runs with some tags, the newest first."""
        found = self._ask(_RUNS, tags=_listed(tags), limit=_MOST_RUNS)["runsOrError"]
        return [
            Run(run["runId"], run["status"], {tag["key"]: tag["value"] for tag in run["tags"]})
            for run in found["results"]
        ]

    def launch(self, assets: Sequence[Asset], tags: Mapping[str, str]) -> str:
        """Put a run into the queue.

        Args:
            assets: What it materializes, of one code location.
            tags: Its tags; they say which partitions.

        Returns:
            Its id.

        Raises:
            BackfillError: It was not accepted.
        """
        location, repository = assets[0].location
        selector = {
            "pipelineName": "__ASSET_JOB",
            "repositoryLocationName": location,
            "repositoryName": repository,
            "assetSelection": [{"path": asset.key.split("/")} for asset in assets],
        }
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": _listed(tags)}}
        launched = self._ask(_LAUNCH, params=params)["launchPipelineExecution"]
        if launched["__typename"] != "LaunchRunSuccess":
            why = launched.get("message") or "; ".join(error["message"] for error in launched.get("errors", ()))
            raise BackfillError(
                f"a run of {', '.join(asset.key for asset in assets)} was refused",
                why=why or launched["__typename"],
                mend="select assets that one run can materialize",
            )
        return launched["run"]["runId"]

    def _ask(self, document: str, **variables: Any) -> dict[str, Any]:  # noqa: ANN401 - what GraphQL takes
        try:
            answer = requests.post(
                f"{self.url}/graphql", json={"query": document, "variables": variables}, timeout=_TIMEOUT_SECONDS
            )
            body = answer.json()  # also where the status is an error: it says which
        except requests.RequestException as error:
            raise BackfillError(
                f"the webserver at {self.url} was asked in vain",
                why=str(error),
                mend="start it (`make dev`), or say where it is with --url",
            ) from error
        errors = body.get("errors") if isinstance(body, dict) else None
        if errors or not isinstance(body, dict) or not body.get("data"):
            raise BackfillError(
                f"the webserver at {self.url} refused a query",
                why=errors[0]["message"] if errors else "it answers, but not as Dagster does",
                mend="see its log, or say where Dagster is with --url",
            )
        return body["data"]


def _listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]
