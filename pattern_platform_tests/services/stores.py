"""Real object stores for the tests: SeaweedFS, and moto, which is lighter and checks no signatures."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from dagster_deltalake import S3Config
from dagster_deltalake.config import ClientConfig
from deltalake import DeltaTable

from pattern_platform.lake.location import options_of
from pattern_platform.lake.object_path import ObjectPath
from pattern_platform_tests.services.servers import _HOST, Server, _folder, _installed, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "lake"
REGION = "us-east-1"
KEY, SECRET = "access-of-the-tests", "secret-of-the-tests-" + "x" * 12
READER = "reader-of-the-tests"  # an identity that may read alone, with the same secret


@dataclass(frozen=True)
class ObjectStore:
    """A folder of a bucket, and how it is reached.

    Args:
        endpoint: URL of the server.
        root: URI of the folder.
        key: Who asks.
        secret: Its password.
    """

    endpoint: str
    root: str = f"s3://{BUCKET}"
    key: str = KEY
    secret: str = SECRET

    @property
    def storage(self) -> S3Config:
        return S3Config(access_key_id=self.key, secret_access_key=self.secret, region=REGION, endpoint=self.endpoint)

    @property
    def client(self) -> ClientConfig:
        return ClientConfig(allow_http=True)

    @property
    def options(self) -> dict[str, str]:
        """How engines are told to reach it."""
        return options_of(self.storage, self.client) or {}

    @property
    def arguments(self) -> dict[str, Any]:
        """What an IO manager is told."""
        return {"root_uri": self.root, "storage": self.storage, "client_options": self.client}

    @property
    def path(self) -> ObjectPath:
        return ObjectPath.of(self.root, self.options)

    def fresh(self) -> ObjectStore:
        """A folder that nobody has used."""
        return replace(self, root=f"{self.root}/{uuid4().hex[:12]}")

    def table(self, *key: str, version: int | None = None) -> DeltaTable:
        """A table, as delta-rs opens it."""
        return DeltaTable("/".join([self.root, *key]), version=version, storage_options=self.options)


def answers(url: str) -> None:
    """Raises unless the server answers, be it with a refusal."""
    try:
        urlopen(url, timeout=5).close()  # noqa: S310 - of this host
    except HTTPError as error:
        error.close()


def make_bucket(store: ObjectStore, name: str = BUCKET) -> None:
    """Make a bucket, unless it is there.

    Raises:
        OSError: The server does not do it, or not yet.
    """
    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        aws_access_key_id=store.key,
        aws_secret_access_key=store.secret,
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}),
    )
    try:
        if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name)
        # A store that begins lists its buckets before it can keep an object, or give one back.
        client.put_object(Bucket=name, Key="begun", Body=b"begun")
        client.get_object(Bucket=name, Key="begun")["Body"].read()
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error
    finally:
        client.close()


def _program(name: str) -> str:
    """A program of a Python package."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return str(_installed(name, [Path(found)] if found else []))


@contextmanager
def seaweed_server(host: str = _HOST) -> Iterator[Server]:
    """SeaweedFS with an empty bucket; all of it listens on one address, and it says nothing to anybody else."""
    ports = {
        name: free_port()
        for name in (
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port",
            "s3.port.grpc",
        )
    }
    with _folder() as folder:
        everything, reading = ["Admin", "Read", "Write", "List", "Tagging"], ["Read", "List"]
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": SECRET}], "actions": actions}
            for key, actions in ((KEY, everything), (READER, reading))
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()
        command = [_program("weed"), "server", f"-dir={folder / 'data'}", f"-ip={host}", f"-ip.bind={host}"]
        command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=40", "-filer", "-s3"]
        command += [f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [
            "-s3.autoCreateBucket=false",
            "-volume.preStopSeconds=0",
            "-s3.iam=false",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]
        url = f"http://{host}:{ports['s3.port']}"
        # In good order it ends in 15 seconds.
        with Server(url, folder, command, _with_bucket, signal.SIGKILL) as server:
            yield server


def _with_bucket(url: str) -> None:
    answers(url)
    make_bucket(ObjectStore(url))


@contextmanager
def moto_server() -> Iterator[Server]:
    """Moto, in memory alone, with an empty bucket."""
    port = free_port()
    with _folder() as folder:
        command = [_program("moto_server"), "--host", _HOST, "--port", str(port)]
        with Server(f"http://{_HOST}:{port}", folder, command, _with_bucket, signal.SIGTERM) as server:
            yield server
