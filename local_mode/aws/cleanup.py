"""Finding, stopping and removing what other commands have made, also where only a part of it exists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError
from watch import RUNNING, Answer, note, say

from gluonseg.errors import UserError

JOBS = {"training": "TrainingJob", "tuning": "HyperParameterTuningJob", "transform": "TransformJob"}

_TITLES = {"Endpoint": "endpoint", "EndpointConfig": "endpoint configuration", "Model": "model"}
_OUTCOMES = {
    "training": "its best model so far goes to its output folder",
    "tuning": "its running training jobs stop too; models of finished ones stay",
    "transform": "SageMaker stores no masks of a stopped job",
}


def find(client: Any, kind: str, name: str) -> Answer | None:
    """SageMaker's description of the Endpoint, EndpointConfig, Model or job ``name``, or None if there is none."""
    try:
        answer: Answer = getattr(client, f"describe_{xform_name(kind)}")(**{f"{kind}Name": name})
    except ClientError as error:
        # Most kinds answer ValidationException when they are missing; the name, all that is sent, was checked before.
        if error.response["Error"]["Code"] in ("ResourceNotFound", "ValidationException"):
            return None
        raise
    return answer


def remove(client: Any, kind: str, name: str) -> bool:
    """Remove the Endpoint, EndpointConfig or Model ``name`` and say so; False if there is none."""
    if find(client, kind, name) is None:
        return False
    getattr(client, f"delete_{xform_name(kind)}")(**{f"{kind}Name": name})
    say(f"removed {_TITLES[kind]} {name}")
    return True


@contextmanager
def undo_if_refused(client: Any, kind: str, name: str) -> Iterator[None]:
    """Remove ``name``, just made, again if SageMaker refuses what is asked for inside."""
    try:
        yield
    except ClientError:
        try:
            # A request that was repeated after a time-out is refused although the endpoint is being made.
            endpoint = find(client, "Endpoint", name)
            if endpoint and endpoint["EndpointConfigName"] == name:
                note(f"{_TITLES[kind]} {name} stays: endpoint {name} uses it")
            else:
                remove(client, kind, name)
        except (BotoCoreError, ClientError) as error:
            note(f"{_TITLES[kind]} {name} stays: {error}")
        raise


def remove_deployment(client: Any, name: str) -> None:
    """Remove the endpoint ``name``, its configuration and its models, or those of them that there are.

    Raises:
        UserError: nothing has that name, or a transform job needs the model.
    """
    endpoint = find(client, "Endpoint", name)
    if endpoint is None:
        _check_no_transform(client, name)
    config_name = (endpoint or {}).get("EndpointConfigName", name)
    config = find(client, "EndpointConfig", config_name)
    variants: Iterable[Answer] = config["ProductionVariants"] if config else [{"ModelName": name}]
    models = dict.fromkeys(one["ModelName"] for one in variants if "ModelName" in one)
    # The endpoint goes first: SageMaker refuses while it is being made, and then it needs the others.
    parts = [("Endpoint", name), ("EndpointConfig", config_name), *(("Model", one) for one in models)]
    if not sum(remove(client, kind, one) for kind, one in parts):
        raise UserError(f"no endpoint, endpoint configuration or model {name} in the region {client.meta.region_name}")


def _check_no_transform(client: Any, name: str) -> None:
    job = find(client, "TransformJob", name)
    if job and job["TransformJobStatus"] in RUNNING:
        status = job["TransformJobStatus"]
        raise UserError(f"transform job {name} is {status} and needs its model; stop it, or wait, then delete again")


def remove_transform_model(client: Any, name: str, command: str) -> None:
    """Remove the model of the transform job ``name``, or say that ``command`` does it once the job is over."""
    try:
        job = find(client, "TransformJob", name)
        if job is None or job["TransformJobStatus"] not in RUNNING:
            client.delete_model(ModelName=name)
            return
        reason = f"the job is {job['TransformJobStatus']} and needs it"
    except (BotoCoreError, ClientError) as error:
        reason = str(error)
    note(f"model {name} stays: {reason}; when the job is over: {command}")


def stop_job(client: Any, name: str, kinds: Iterable[str]) -> None:
    """Stop the job ``name``, whichever of ``kinds`` (keys of JOBS) it is.

    Raises:
        UserError: none of them runs, or several do.
    """
    answers = {kind: find(client, JOBS[kind], name) for kind in kinds}
    states = {kind: answer[f"{JOBS[kind]}Status"] for kind, answer in answers.items() if answer}
    running = [kind for kind, status in states.items() if status == "InProgress"]
    if len(running) > 1:
        raise UserError(f"{name} is a {' job and a '.join(running)} job; add --kind {' or --kind '.join(running)}")
    if not running:
        found = "; ".join(f"{kind} job {name} is {status}" for kind, status in states.items())
        missing = f"no {' or '.join(answers)} job {name} in the region {client.meta.region_name}"
        raise UserError(f"nothing to stop: {found or missing}")
    kind = running[0]
    getattr(client, f"stop_{xform_name(JOBS[kind])}")(**{f"{JOBS[kind]}Name": name})
    say(f"{kind} job {name} is stopping; {_OUTCOMES[kind]}")
