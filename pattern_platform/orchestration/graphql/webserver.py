"""What a running Dagster webserver is asked for, over the GraphQL that its own UI speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

from pattern_platform.errors import WebserverError
from pattern_platform.orchestration.graphql import documents
from pattern_platform.orchestration.graphql.answers import (
    Asset,
    Job,
    Materialization,
    Names,
    Run,
    expected,
    message_of,
    value_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIMEOUT_SECONDS = 60
_MOST_RUNS = 5_000
_OF_ALL_ASSETS = "__ASSET_JOB"  # what Dagster calls the job of assets that are launched by themselves


class Webserver:
    """A webserver.

    Args:
        url: Where it is, such as ``http://127.0.0.1:3000``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def names(self) -> Names:
        """What all code locations offer.

        Raises:
            WebserverError: It does not tell.
        """
        found = expected(self._ask(documents.NAMES)["repositoriesOrError"], "RepositoryConnection", "the definitions")
        jobs = [
            (job["name"], (node["location"]["name"], node["name"]))
            for node in found["nodes"]
            for job in node["jobs"]
            if job["name"] != _OF_ALL_ASSETS
        ]
        assets = [
            "/".join(a["assetKey"]["path"]) for n in found["nodes"] for a in n["assetNodes"] if a["isMaterializable"]
        ]
        return Names(jobs, assets)

    def asset(self, key: str) -> Asset:
        """Look up an asset.

        Raises:
            WebserverError: There is none of this key that could be materialized.
        """
        path = key.split("/")
        node = self._ask(documents.ASSET, key={"path": path})["assetNodeOrError"]
        if node["__typename"] != "AssetNode" or not node["isMaterializable"]:
            raise WebserverError(
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

    def job(self, name: str, location: tuple[str, str]) -> Job:
        """Look up a job.

        Args:
            name: Its name.
            location: Its code location and repository.

        Raises:
            WebserverError: There is none.
        """
        answer = self._ask(documents.JOB, params=_selector(name, location))["pipelineOrError"]
        return Job(
            name, location, expected(answer, "Pipeline", f"job {name!r}")["partitionKeysOrError"]["partitionKeys"]
        )

    def runs(self, tags: Mapping[str, str]) -> list[Run]:
        """The runs with some tags, the newest first."""
        return self._runs({"tags": _listed(tags)})

    def run(self, run_id: str) -> Run:
        """A run.

        Raises:
            WebserverError: There is none of this id, or not any more.
        """
        found = self._runs({"runIds": [run_id]})
        if not found:
            raise WebserverError(
                f"run {run_id!r} was refused", why="Dagster does not hold it", mend="see the runs in the UI"
            )
        return found[0]

    def materializations(self, run_id: str) -> list[Materialization]:
        """What a run made so far, in its order.

        Raises:
            WebserverError: There is no such run.
        """
        found = expected(self._ask(documents.MADE, run=run_id)["runOrError"], "Run", f"run {run_id!r}")
        return [
            Materialization(
                "/".join(made["assetKey"]["path"]),
                made["partition"],
                {entry["label"]: value for entry in made["metadataEntries"] if (value := value_of(entry)) is not None},
            )
            for made in found["assetMaterializations"]
        ]

    def failures(self, run_id: str) -> dict[str, str]:
        """What the steps that failed said first, by step; what the run said, under its empty name.

        Raises:
            WebserverError: There is no such run.
        """
        said: dict[str, str] = {}
        after, has_more = None, True
        while has_more:
            answer = self._ask(documents.FAILURES, run=run_id, after=after)["runOrError"]
            page = expected(answer, "Run", f"run {run_id!r}")["eventConnection"]
            after, has_more = page["cursor"], page["hasMore"]
            for event in page["events"]:
                if "error" in event:
                    said.setdefault(event.get("stepKey", ""), message_of(event["error"]) or event.get("message", ""))
        return said

    def launch(self, assets: Sequence[Asset], tags: Mapping[str, str], config: Mapping[str, Any] | None = None) -> str:
        """Put a run of assets into the queue.

        Args:
            assets: What it materializes, of one code location.
            tags: Its tags; they say which partitions.
            config: Its run config, as the launchpad of the UI takes it.

        Returns:
            Its id.

        Raises:
            WebserverError: It was not accepted.
        """
        selection = {"assetSelection": [{"path": asset.key.split("/")} for asset in assets]}
        selector = {**_selector(_OF_ALL_ASSETS, assets[0].location), **selection}
        return self._launch(", ".join(asset.key for asset in assets), selector, tags, config)

    def launch_job(self, job: Job, tags: Mapping[str, str], config: Mapping[str, Any] | None = None) -> str:
        """Put a run of a job into the queue; as :meth:`launch`."""
        return self._launch(job.name, _selector(job.name, job.location), tags, config)

    def _launch(
        self, what: str, selector: Mapping[str, Any], tags: Mapping[str, str], config: Mapping[str, Any] | None
    ) -> str:
        params = {"selector": selector, "runConfigData": config or {}, "executionMetadata": {"tags": _listed(tags)}}
        launched = self._ask(documents.LAUNCH, params=params)["launchPipelineExecution"]
        if launched["__typename"] != "LaunchRunSuccess":
            why = launched.get("message") or "; ".join(error["message"] for error in launched.get("errors", ()))
            raise WebserverError(
                f"a run of {what} was refused",
                why=why or launched["__typename"],
                mend="select what one run can take, and configure it as its definitions say",
            )
        return launched["run"]["runId"]

    def _runs(self, which: Mapping[str, Any]) -> list[Run]:
        answer = self._ask(documents.RUNS, filter=which, limit=_MOST_RUNS)["runsOrError"]
        return [
            Run(run["runId"], run["status"], {tag["key"]: tag["value"] for tag in run["tags"]})
            for run in expected(answer, "Runs", "the runs")["results"]
        ]

    def _ask(self, document: str, **variables: Any) -> dict[str, Any]:  # noqa: ANN401 - what GraphQL takes
        try:
            answer = requests.post(
                f"{self.url}/graphql", json={"query": document, "variables": variables}, timeout=_TIMEOUT_SECONDS
            )
            body = answer.json()  # also where the status is an error: it says which
        except requests.RequestException as error:
            raise WebserverError(
                f"the webserver at {self.url} was asked in vain",
                why=str(error),
                mend="start it (`make dev`), or say where it is (--url of a command), as http://127.0.0.1:3000",
            ) from error
        errors = body.get("errors") if isinstance(body, dict) else None
        if errors or not isinstance(body, dict) or not body.get("data"):
            raise WebserverError(
                f"the webserver at {self.url} refused a query",
                why=errors[0]["message"] if errors else "it answers, but not as Dagster does",
                mend="see its log, or say where Dagster is (--url of a command)",
            )
        return body["data"]


def _listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _selector(job: str, location: tuple[str, str]) -> dict[str, Any]:
    return {"pipelineName": job, "repositoryLocationName": location[0], "repositoryName": location[1]}
