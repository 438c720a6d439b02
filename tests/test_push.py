"""Pushing the image to ECR: moto plays the registry's API, an executable that keeps its arguments plays Docker."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore import xform_name

from aws_account import ACCOUNT, REGION, SCRIPTS, made_up_account, run_byoc
from repository import read_blocks

PAGE = "docs/byoc.md"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ADDRESS = f"{REGISTRY}/gluonseg:latest"
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
    """The stand-in for Docker, what it was asked for, and the script that uses it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.log = folder / "log"
        self._capfd = capfd

    def read_calls(self) -> list[list[str]]:
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def push(self, *arguments: str) -> tuple[int, str, str]:
        return run_byoc(self._capfd, "push", *arguments)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Docker]:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER.format(python=sys.executable))
    program.chmod(0o755)
    found = Docker(tmp_path, capfd)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("DOCKER_LOG", str(found.log))
    with made_up_account(monkeypatch, tmp_path):
        yield found


def _put_image(kind: str) -> None:
    """The image that ``docker push`` would have sent, with a manifest of this type."""
    client = boto3.client("ecr")
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {"digest": "sha256:0", "size": 1}, "layers": []}
    client.put_image(
        repositoryName="gluonseg", imageManifest=json.dumps(manifest), imageManifestMediaType=kind, imageTag="latest"
    )


DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def _make_repository(kind: str = DOCKER_MANIFEST) -> None:
    boto3.client("ecr").create_repository(repositoryName="gluonseg")
    _put_image(kind)


def test_push_logs_in_tags_and_pushes(docker: Docker) -> None:
    _make_repository()
    code, out, err = docker.push()
    assert (code, out, err) == (0, f"image: {ADDRESS}\n", "")
    assert docker.read_calls() == [
        ["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", "gluonseg", ""],
        ["login", "--username", "AWS", "--password-stdin", REGISTRY, "123456789012-auth-token"],
        ["tag", "gluonseg", ADDRESS, ""],
        ["push", ADDRESS, ""],
    ]


def test_a_missing_repository_is_made(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    ecr = importlib.import_module("ecr")
    monkeypatch.setattr(ecr, "_check_manifest", lambda *_: None)  # nothing has really been pushed
    code, out, _ = docker.push("--repository", "team/seg", "--image_tag", "1.0", "--local_image", "gluonseg:gpu")
    assert (code, out) == (0, f"image: {REGISTRY}/team/seg:1.0\n")
    names = [one["repositoryName"] for one in boto3.client("ecr").describe_repositories()["repositories"]]
    assert names == ["team/seg"]
    assert docker.read_calls()[2] == ["tag", "gluonseg:gpu", f"{REGISTRY}/team/seg:1.0", ""]


def test_a_manifest_that_sagemaker_refuses_is_named(docker: Docker) -> None:
    _make_repository(OCI_MANIFEST)
    code, _, err = docker.push()
    assert (code, OCI_MANIFEST in err, "--provenance=false" in err) == (2, True, True)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("image", "image gluonseg cannot be used (docker image failed: the daemon says no); docker/build.sh builds it"),
        ("login", "docker login failed: the daemon says no"),
        ("push", "docker push failed: see above"),
    ],
)
def test_what_docker_says_is_passed_on(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, step: str, message: str
) -> None:
    _make_repository()
    monkeypatch.setenv("DOCKER_FAILS", step)
    code, out, err = docker.push()
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"byoc: {message}"
    assert "auth-token" not in err


def test_an_image_for_another_processor_is_not_pushed(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_PLATFORM", "linux/arm64")
    code, _, err = docker.push()
    assert (code, "is for linux/arm64, SageMaker runs linux/amd64" in err) == (2, True)
    assert len(docker.read_calls()) == 1
    assert boto3.client("ecr").describe_repositories()["repositories"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--repository", "Gluonseg"), "repository 'Gluonseg'"), (("--image_tag", "a/b"), "tag 'a/b'")],
)
def test_wrong_names_call_nothing(docker: Docker, arguments: tuple[str, str], message: str) -> None:
    code, _, err = docker.push(*arguments)
    assert (code, message in err, docker.read_calls()) == (2, True, [])


def test_without_docker_the_message_says_so(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(docker.log.parent))
    code, _, err = docker.push()
    assert (code, "docker is not installed" in err) == (2, True)


# --- the page


def _read_policies() -> list[dict[str, Any]]:
    return [policy for policy in map(json.loads, read_blocks(PAGE, "json")) if "Statement" in policy]


def test_policies_on_the_page_name_operations_that_exist() -> None:
    session = botocore.session.get_session()
    policies = _read_policies()
    assert len(policies) == 4
    actions: list[str] = []
    for statement in (one for policy in policies for one in policy["Statement"]):
        assert statement["Effect"] == "Allow"
        assert ("Principal" in statement) != ("Resource" in statement)
        actions += [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
    for service, operation in (action.split(":") for action in actions):
        assert "*" not in operation
        # S3's and IAM's permissions are not all named like operations, and those to invoke are in a service apart.
        if service in ("sagemaker", "ecr", "ec2", "logs", "cloudwatch") and not operation.startswith("Invoke"):
            known = session.get_service_model(service).operation_names
            permission_only = {"BatchCheckLayerAvailability", "CreateNetworkInterfacePermission"}
            assert operation in {*known, *permission_only}, f"{service}:{operation}"


def test_policies_on_the_page_are_taken_by_iam(docker: Docker) -> None:
    iam = boto3.client("iam")
    trust, *others = [json.dumps(policy) for policy in _read_policies()]
    iam.create_role(RoleName="gluonseg-sagemaker", AssumeRolePolicyDocument=trust)
    for number, policy in enumerate(others):
        iam.create_policy(PolicyName=f"p{number}", PolicyDocument=policy)


def test_the_user_may_do_what_the_scripts_do(docker: Docker) -> None:
    allowed = json.dumps(_read_policies())
    source = "".join(path.read_text() for path in SCRIPTS.glob("*.py"))
    used = set(re.findall(r"client\.([a-z]+(?:_[a-z]+)+)\(", source)) - {"upload_file"}
    assert {"create_training_job", "describe_images", "create_endpoint_config"} <= used
    kinds = importlib.import_module("cleanup").JOBS.values()
    used |= {f"{verb}_{xform_name(kind)}" for verb in ("describe", "stop") for kind in kinds}
    parts = ("Endpoint", "EndpointConfig", "Model")
    used |= {f"{verb}_{xform_name(part)}" for verb in ("describe", "delete") for part in parts}
    for operation in used:
        name = operation.title().replace("_", "").replace("Hyperparameter", "HyperParameter")
        assert f':{name}"' in allowed, name


def test_commands_on_the_page_have_options_that_exist(docker: Docker) -> None:
    parser = importlib.import_module("byoc").build_parser()
    lines = "\n".join(read_blocks(PAGE)).replace("\\\n", " ").splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("local_mode/aws/byoc.py")]
    assert {words[0] for words in commands} >= {"push", "upload", "train", "tune", "deploy", "invoke", "delete"}
    for words in commands:
        assert parser.parse_known_args(words)[1] == []


def test_python_on_the_page_runs(docker: Docker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_text("moto takes text only")
    for text in read_blocks(PAGE, "python"):
        exec(compile(text, PAGE, "exec"), {})
    job = boto3.client("sagemaker").describe_training_job(TrainingJobName="gluonseg-drawn-2")
    assert job["HyperParameters"]["backbone"] == "resnet-18"
    assert (tmp_path / "mask.png").read_text() == "body"
