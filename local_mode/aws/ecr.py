"""Pushing the image to Amazon ECR: with Docker and boto3 alone, so that the aws command need not be installed."""

from __future__ import annotations

import base64
import re
import subprocess
from typing import Any

from gluonseg.errors import UserError

PLATFORM = "linux/amd64"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
"""SageMaker's CreateModel refuses images whose manifest has one of the newer OCI types."""

_PART = r"[a-z0-9]+([._-][a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def _run_docker(*arguments: str, text: str | None = None, quiet: bool = True) -> str:
    """Run docker; returns what it printed, or shows it at once when not ``quiet``."""
    pipe = subprocess.PIPE if quiet else None
    try:
        done = subprocess.run(["docker", *arguments], input=text, stdout=pipe, stderr=pipe, text=True, check=False)
    except FileNotFoundError:
        raise UserError("docker is not installed, or not on the PATH; pushing needs it") from None
    if done.returncode:
        raise UserError(f"docker {arguments[0]} failed: {(done.stderr or 'see above').strip()}")
    return (done.stdout or "").strip()


def _check_local_image(image: str) -> None:
    try:
        platform = _run_docker("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image)
    except UserError as error:
        raise UserError(f"image {image} cannot be used ({error}); docker/build.sh builds it") from None
    if platform != PLATFORM:
        hint = f"build it with docker/build.sh --platform {PLATFORM}"
        raise UserError(f"image {image} is for {platform}, SageMaker runs {PLATFORM}; {hint}")


def _check_manifest(client: Any, repository: str, tag: str) -> None:
    found = client.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
    kind = found["imageDetails"][0].get("imageManifestMediaType", MANIFEST)
    if kind != MANIFEST:
        raise UserError(
            f"the image was pushed, but with a manifest that SageMaker refuses ({kind}); "
            "build it anew with docker/build.sh --provenance=false --output type=docker, then push again"
        )


def _provide_repository(client: Any, name: str) -> str:
    """The address of the repository, which is made if there is none."""
    try:
        found = client.describe_repositories(repositoryNames=[name])["repositories"][0]
    except client.exceptions.RepositoryNotFoundException:
        found = client.create_repository(repositoryName=name)["repository"]
    uri: str = found["repositoryUri"]
    return uri


def _log_in(client: Any, registry: str) -> None:
    token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    _run_docker("login", "--username", user, "--password-stdin", registry, text=password)


def push_image(client: Any, image: str, repository: str, tag: str) -> str:
    """Push the local ``image`` with boto3's ``ecr`` client; returns the address that jobs and models take.

    Raises:
        UserError: no such image, one for another processor, one that SageMaker would refuse, or docker failed.
    """
    if not _REPOSITORY.fullmatch(repository) or not 2 <= len(repository) <= 256:
        raise UserError(f"repository {repository!r}: take small letters and digits, with . _ - / between them")
    if not _TAG.fullmatch(tag):
        raise UserError(f"tag {tag!r}: take letters, digits, . _ and -, at most 128")
    _check_local_image(image)
    uri = _provide_repository(client, repository)
    _log_in(client, uri.partition("/")[0])
    _run_docker("tag", image, f"{uri}:{tag}")
    _run_docker("push", f"{uri}:{tag}", quiet=False)
    _check_manifest(client, repository, tag)
    return f"{uri}:{tag}"
