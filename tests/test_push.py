"""local_mode/push.py and stop.py: moto plays AWS, a function that keeps its arguments plays Docker."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from subprocess import CompletedProcess
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from aws_account import ACCOUNT, REGION, made_up_account

REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ADDRESS = f"{REGISTRY}/gluonseg:latest"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class DockerStandIn:
    """Stands in for Docker, and runs the program that uses it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[list[str | None]] = []
        self.fails, self.platform = "", "linux/amd64"
        self._monkeypatch = monkeypatch

    def run(self, command: Sequence[str], *, input: str | None, **_: Any) -> CompletedProcess[str]:  # noqa: A002
        """In place of subprocess.run."""
        self.calls.append([*command[1:], input])
        if self.fails == "docker":
            raise FileNotFoundError
        return CompletedProcess(command, int(command[1] == self.fails), self.platform, "the daemon says no")

    def push(self, *arguments: str) -> None:
        self._monkeypatch.setattr(sys, "argv", ["push.py", *arguments])
        importlib.import_module("push").main()

    def fail(self, *arguments: str) -> str:
        """What it ends with."""
        with pytest.raises(SystemExit) as caught:
            self.push(*arguments)
        return str(caught.value)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerStandIn]:
    found = DockerStandIn(monkeypatch)
    with made_up_account(monkeypatch):
        monkeypatch.setattr(importlib.import_module("push").subprocess, "run", found.run)
        yield found


def put_image(repository: str, tag: str, kind: str = DOCKER_MANIFEST) -> None:
    """The image that ``docker push`` would have sent, with a manifest of this type."""
    client = boto3.client("ecr")
    client.create_repository(repositoryName=repository)
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {"digest": "sha256:0", "size": 1}, "layers": []}
    client.put_image(
        repositoryName=repository, imageManifest=json.dumps(manifest), imageManifestMediaType=kind, imageTag=tag
    )


def test_push_logs_in_tags_and_pushes(docker: DockerStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    put_image("gluonseg", "latest")
    docker.push()
    assert capsys.readouterr().out == f"image: {ADDRESS}\n"
    assert docker.calls == [
        ["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", "gluonseg", None],
        ["login", "--username", "AWS", "--password-stdin", REGISTRY, f"{ACCOUNT}-auth-token"],
        ["tag", "gluonseg", ADDRESS, None],
        ["push", ADDRESS, None],
    ]


def test_a_missing_repository_is_made(docker: DockerStandIn) -> None:
    with pytest.raises(boto3.client("ecr").exceptions.ImageNotFoundException):
        # Nothing has really been pushed.
        docker.push("--repository", "team/seg", "--tag", "1.0", "--image", "gluonseg:gpu")
    names = [one["repositoryName"] for one in boto3.client("ecr").describe_repositories()["repositories"]]
    assert names == ["team/seg"]
    assert docker.calls[2] == ["tag", "gluonseg:gpu", f"{REGISTRY}/team/seg:1.0", None]


def test_a_manifest_that_sagemaker_refuses_is_named(docker: DockerStandIn) -> None:
    put_image("gluonseg", "latest", OCI_MANIFEST)
    told = docker.fail()
    assert OCI_MANIFEST in told
    assert "--provenance=false" in told


@pytest.mark.parametrize(
    ("arguments", "state", "told", "calls"),
    [
        ([], {"fails": "image"}, "docker image failed: the daemon says no", 1),
        ([], {"fails": "docker"}, "docker is not installed, or not on the PATH", 1),
        ([], {"platform": "linux/arm64"}, "is for linux/arm64, SageMaker runs linux/amd64", 1),
        (["--repository", "Gluonseg"], {}, "is no name in ECR", 0),
        (["--tag", "a/b"], {}, "is no name in ECR", 0),
    ],
)
def test_what_stops_before_anything_is_sent(
    docker: DockerStandIn, arguments: list[str], state: dict[str, str], told: str, calls: int
) -> None:
    vars(docker).update(state)
    assert told in docker.fail(*arguments)
    assert len(docker.calls) == calls


# --- stop.py


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """boto3's client, in an account with an endpoint ``one``, its configuration and its model."""
    with made_up_account(monkeypatch):
        client = boto3.client("sagemaker")
        role = f"arn:aws:iam::{ACCOUNT}:role/one"
        client.create_model(ModelName="one", ExecutionRoleArn=role, PrimaryContainer={"Image": ADDRESS})
        variant = {"VariantName": "v", "ModelName": "one", "InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 1}
        client.create_endpoint_config(EndpointConfigName="one", ProductionVariants=[variant])
        client.create_endpoint(EndpointName="one", EndpointConfigName="one")
        yield client


def count_parts(client: Any) -> list[int]:
    listed = client.list_endpoints()["Endpoints"], client.list_endpoint_configs()["EndpointConfigs"]
    return [len(parts) for parts in (*listed, client.list_models()["Models"])]


def test_an_endpoint_is_removed_with_its_parts(endpoint: Any) -> None:
    assert count_parts(endpoint) == [1, 1, 1]
    importlib.import_module("stop").remove_endpoint(endpoint, "one")
    assert count_parts(endpoint) == [0, 0, 0]


def test_an_endpoint_that_is_being_made_keeps_its_parts(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: str) -> None:
        raise ClientError({"Error": {"Code": "ValidationException", "Message": "in progress"}}, "DeleteEndpoint")

    monkeypatch.setattr(endpoint, "delete_endpoint", refuse)
    with pytest.raises(SystemExit, match=r"endpoint one costs money and cannot be removed yet \(in progress\)"):
        importlib.import_module("stop").remove_endpoint(endpoint, "one")
    assert count_parts(endpoint) == [1, 1, 1]
