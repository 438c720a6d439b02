"""local_mode/push.py and stop.py: moto plays AWS, an executable that keeps its arguments plays Docker."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from aws_account import ACCOUNT, REGION, made_up_account, run_on_aws
from repository import ROOT

REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ADDRESS = f"{REGISTRY}/gluonseg:latest"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER = """#!{python}
import json, os, sys
given = "" if sys.argv[1] != "login" else sys.stdin.read()
with open(os.environ["DOCKER_LOG"], "a") as log:
    log.write(json.dumps([*sys.argv[1:], given]) + "\\n")
if sys.argv[1] == os.environ.get("DOCKER_FAILS"):
    sys.exit("the daemon says no")
if sys.argv[1:3] == ["image", "inspect"]:
    print(os.environ.get("DOCKER_PLATFORM", "linux/amd64"))
"""


class Docker:
    """The stand-in for Docker, and the program that uses it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = folder / "log"
        self._monkeypatch = monkeypatch

    def read_calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def push(self, *arguments: str) -> None:
        self._monkeypatch.setattr(sys, "argv", ["push.py", *arguments])
        importlib.import_module("push").main()

    def fail(self, *arguments: str) -> str:
        """What it ends with."""
        with pytest.raises(SystemExit) as caught:
            self.push(*arguments)
        return str(caught.value)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Docker]:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER.format(python=sys.executable))
    program.chmod(0o755)
    found = Docker(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("DOCKER_LOG", str(found.log))
    with made_up_account(monkeypatch):
        yield found


def put_image(repository: str, tag: str, kind: str = DOCKER_MANIFEST) -> None:
    """The image that ``docker push`` would have sent, with a manifest of this type."""
    client = boto3.client("ecr")
    client.create_repository(repositoryName=repository)
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {"digest": "sha256:0", "size": 1}, "layers": []}
    client.put_image(
        repositoryName=repository, imageManifest=json.dumps(manifest), imageManifestMediaType=kind, imageTag=tag
    )


def test_push_logs_in_tags_and_pushes(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    put_image("gluonseg", "latest")
    docker.push()
    assert capsys.readouterr().out == f"image: {ADDRESS}\n"
    assert docker.read_calls() == [
        ["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", "gluonseg", ""],
        ["login", "--username", "AWS", "--password-stdin", REGISTRY, f"{ACCOUNT}-auth-token"],
        ["tag", "gluonseg", ADDRESS, ""],
        ["push", ADDRESS, ""],
    ]


def test_a_missing_repository_is_made(docker: Docker) -> None:
    with pytest.raises(boto3.client("ecr").exceptions.ImageNotFoundException):
        # Nothing has really been pushed.
        docker.push("--repository", "team/seg", "--tag", "1.0", "--image", "gluonseg:gpu")
    names = [one["repositoryName"] for one in boto3.client("ecr").describe_repositories()["repositories"]]
    assert names == ["team/seg"]
    assert docker.read_calls()[2] == ["tag", "gluonseg:gpu", f"{REGISTRY}/team/seg:1.0", ""]


def test_a_manifest_that_sagemaker_refuses_is_named(docker: Docker) -> None:
    put_image("gluonseg", "latest", OCI_MANIFEST)
    told = docker.fail()
    assert OCI_MANIFEST in told
    assert "--provenance=false" in told


@pytest.mark.parametrize(("step", "told"), [("image", "the daemon says no"), ("push", "see above")])
def test_what_docker_says_is_passed_on(docker: Docker, monkeypatch: pytest.MonkeyPatch, step: str, told: str) -> None:
    monkeypatch.setenv("DOCKER_FAILS", step)
    assert docker.fail() == f"docker {step} failed: {told}"


def test_an_image_for_another_processor_is_not_pushed(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_PLATFORM", "linux/arm64")
    assert "is for linux/arm64, SageMaker runs linux/amd64" in docker.fail()
    assert len(docker.read_calls()) == 1


@pytest.mark.parametrize("arguments", [("--repository", "Gluonseg"), ("--tag", "a/b")])
def test_wrong_names_call_nothing(docker: Docker, arguments: tuple[str, str]) -> None:
    assert "is no name in ECR" in docker.fail(*arguments)
    assert docker.read_calls() == []


def test_without_docker_the_message_says_so(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(docker.log.parent))
    assert "docker is not installed" in docker.fail()


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


def test_stop_shows_what_aws_says(tmp_path: Path) -> None:
    run = run_on_aws(Path(sys.executable), tmp_path, ROOT / "local_mode" / "stop.py", "one")
    assert run.code == 0, run.output
    assert len(run.output.splitlines()) == 6
    assert "hyper parameter tuning job one: one does not run" in run.output
    assert "\nmodel one: Could not find model" in run.output
