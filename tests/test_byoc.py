"""docs/byoc.md: its commands and programs with both SDKs in an account that moto plays, and what is refused before."""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import re
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
import pytest

from aws_account import CommandRun, made_up_account, run_on_aws
from docker_engine import FindSdk
from gluonseg import METRIC_DEFINITIONS
from gluonseg.data.channel import SPLITS
from gluonseg.errors import UserError
from gluonseg.sagemaker.spool import find_pipes
from gluonseg.serve.settings import read_settings
from repository import ROOT, read_blocks, read_commands

PAGE = "docs/byoc.md"
BUCKET = "amzn-s3-demo-bucket"
COMMANDS = read_commands(PAGE)
PROGRAM = re.compile(r"\.venv-sdk-v2/bin/python (local_mode/(\w+)\.py .*)")
CommandRuns = Mapping[str, CommandRun]


def test_every_command_is_covered() -> None:
    others = [command for command in COMMANDS if not PROGRAM.match(command) and not re.match(r"\w+=", command)]
    assert [command.split()[0] for command in others] == ["export", "docker/build.sh"]


def list_commands() -> dict[str, str]:
    """The page's commands that call AWS, with its variables filled in, by the option that tells them apart."""
    variables: dict[str, str] = {}
    found = {}
    for command in COMMANDS:
        text = string.Template(command).safe_substitute(variables)
        if assigned := re.fullmatch(r"(\w+)=\"?(.*?)\"?", text):
            variables[assigned[1]] = assigned[2]
        elif (program := PROGRAM.match(text)) and program[2] != "push":
            options = [option for option in ("--tune", "--spot", "--async", "--keep_endpoint") if option in program[1]]
            found[options[0] if options else program[2]] = f"{ROOT}/{program[1]}"
    return found


@pytest.fixture(scope="module", params=["v2", "v3"])
def runs(
    request: pytest.FixtureRequest, find_sdk: FindSdk, few_photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> CommandRuns:
    """The commands of the page on few photos with an SDK, and with SDK v2 the code of the page, as ``page``."""
    folder = tmp_path_factory.mktemp("byoc")
    commands = list_commands()
    for name in commands.keys() - {"stop"}:
        commands[name] = commands[name].replace("deploy_v2", f"deploy_{request.param}") + f" --data {few_photos}"
    if request.param == "v2":
        (folder / "photo.jpg").write_bytes(next((few_photos / "validation").iterdir()).read_bytes())
        (folder / "page.py").write_text("\n".join(read_blocks(PAGE, "python")), encoding="utf-8")
        commands["page"] = str(folder / "page.py")
    found = run_on_aws(find_sdk(request.param), folder, commands)
    if request.param == "v2":
        job, streamed = found["page"].find("CreateTrainingJob")
        assert job["AlgorithmSpecification"]["MetricDefinitions"] == METRIC_DEFINITIONS
        train, validation, label_map = (one | one["DataSource"]["S3DataSource"] for one in streamed["InputDataConfig"])
        modes = {one["ChannelName"]: one | {"TrainingInputMode": one["InputMode"]} for one in (train, validation)}
        assert find_pipes(modes) == list(SPLITS)
        assert train["AttributeNames"] == ["source-ref", "mask-ref"]
        assert "InputMode" not in label_map
        assert (folder / "mask.png").stat().st_size
    return found


def test_a_run_ends_with_equal_masks_and_leaves_nothing_that_costs(runs: CommandRuns) -> None:
    run = runs["train_deploy_v2"]
    assert "image/png = application/x-protobuf = batch transform" in run.output
    assert "mIOU of the last epoch 0.500" in run.output
    for part in ("Model", "EndpointConfig", "Endpoint"):
        made = {sent[f"{part}Name"] for sent in run.find(f"Create{part}")}
        assert made
        assert made == {sent[f"{part}Name"] for sent in run.find(f"Delete{part}")}


def test_what_a_training_job_is_told(runs: CommandRuns) -> None:
    (job,) = runs["train_deploy_v2"].find("CreateTrainingJob")
    channels = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"] for one in job["InputDataConfig"]}
    assert list(channels) == ["train", "train_annotation", "validation", "validation_annotation", "label_map"]
    # Without the slash the channel train would hold train_annotation, too.
    assert all(uri.endswith(f"/data/{name}/") for name, uri in channels.items())
    assert job["AlgorithmSpecification"]["MetricDefinitions"] == METRIC_DEFINITIONS
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    assert job["ResourceConfig"]["InstanceType"] == "ml.g4dn.xlarge"
    assert job["HyperParameters"]["num_training_samples"] == "12"
    (endpoint,) = runs["train_deploy_v2"].find("CreateEndpointConfig")
    assert endpoint["ProductionVariants"][0]["InstanceType"] == "ml.m5.xlarge"


def test_spot_training_has_checkpoints(runs: CommandRuns) -> None:
    (job,) = runs["--spot"].find("CreateTrainingJob")
    assert job["EnableManagedSpotTraining"]
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    assert job["CheckpointConfig"]["S3Uri"].endswith("/checkpoints")
    assert job["CheckpointConfig"].get("LocalPath", "/opt/ml/checkpoints") == "/opt/ml/checkpoints"


def test_a_search_has_the_ranges_of_the_built_in_and_deploys_the_best(runs: CommandRuns) -> None:
    run = runs["--tune"]
    (job,) = run.find("CreateHyperParameterTuningJob")
    config = job["HyperParameterTuningJobConfig"]
    assert config["HyperParameterTuningJobObjective"] == {"Type": "Maximize", "MetricName": "validation:mIOU"}
    ranges = {one["Name"]: (float(one["MinValue"]), float(one["MaxValue"]))
              for one in config["ParameterRanges"]["ContinuousParameterRanges"]}  # fmt: skip
    assert ranges == {"learning_rate": (1e-4, 0.1), "weight_decay": (1e-5, 1e-3)}
    definition = job["TrainingJobDefinition"]
    assert definition["AlgorithmSpecification"]["MetricDefinitions"] == METRIC_DEFINITIONS
    assert not ranges.keys() & definition["StaticHyperParameters"].keys()
    best = run.find("CreateModel")[0]["PrimaryContainer"]["ModelDataUrl"]
    assert best.endswith("/FakeTrainingJobName/output/model.tar.gz")


def test_an_endpoint_of_a_model_that_is_there_stays(runs: CommandRuns) -> None:
    run = runs["--keep_endpoint"]
    assert run.find("CreateTrainingJob") == run.find("DeleteEndpoint") == []
    (endpoint,) = run.find("CreateEndpoint")
    assert run.output.splitlines()[-1].endswith(f"/local_mode/stop.py {endpoint['EndpointName']}")
    assert endpoint["EndpointName"] not in [sent["ModelName"] for sent in run.find("DeleteModel")]


def test_an_asynchronous_endpoint_of_a_model_folder(runs: CommandRuns) -> None:
    run = runs["--async"]
    (model,) = (sent["PrimaryContainer"] for sent in run.find("CreateModel"))
    folder = "s3://amzn-s3-demo-bucket/runs/gluonseg-drawn/output/model/"
    source = {"S3Uri": folder, "S3DataType": "S3Prefix", "CompressionType": "None"}
    assert (model["ModelDataSource"], "ModelDataUrl" in model) == ({"S3DataSource": source}, False)
    (endpoint,) = run.find("CreateEndpointConfig")
    output = endpoint["AsyncInferenceConfig"]["OutputConfig"]
    assert output["S3OutputPath"].startswith("s3://amzn-s3-demo-bucket/gluonseg-")
    asked = run.find("InvokeEndpointAsync")
    assert {sent["Accept"] for sent in asked} == {"image/png", "application/x-protobuf"}
    # Nothing that SageMaker still waits for is refused by the container.
    settings = read_settings(model["Environment"])
    assert all(settings.deadline_s >= sent["InvocationTimeoutSeconds"] == 3600 for sent in asked)
    at_a_time = endpoint["AsyncInferenceConfig"]["ClientConfig"]["MaxConcurrentInvocationsPerInstance"]
    assert settings.max_places > at_a_time > 1
    assert settings.max_payload_mb == 1000
    assert run.find("CreateTransformJob") == run.find("InvokeEndpoint") == []
    assert "image/png = application/x-protobuf, " in run.output


def test_stop_shows_what_aws_says(runs: CommandRuns) -> None:
    output = runs["stop"].output
    assert output.count("gluonseg-drawn: ") == 6
    assert "hyper parameter tuning job gluonseg-drawn: gluonseg-drawn does not run" in output
    assert "\nmodel gluonseg-drawn: Could not find model" in output


# --- the policies


def read_policies() -> list[dict[str, Any]]:
    return [json.loads(text) for text in read_blocks(PAGE, "json")]


def list_actions(policy: dict[str, Any]) -> set[str]:
    actions = [statement["Action"] for statement in policy["Statement"]]
    return {one for action in actions for one in ([action] if isinstance(action, str) else action)}


def test_the_user_may_do_what_the_programs_do(runs: CommandRuns) -> None:
    calls = [call for name, run in runs.items() if name != "page" for call in run.calls]
    renamed = {"sagemaker-runtime": "sagemaker", "ListObjectsV2": "ListBucket", "HeadObject": "GetObject"}
    used = {f"{renamed.get(one.service, one.service)}:{renamed.get(one.operation, one.operation)}" for one in calls}
    used -= {"sts:GetCallerIdentity"}  # which needs no right
    assert "sagemaker:CreateTransformJob" in used
    allowed = list_actions(read_policies()[2])
    assert [one for one in used if not any(fnmatch.fnmatchcase(one, action) for action in allowed)] == []


def test_policies_name_operations_that_exist() -> None:
    session = botocore.session.get_session()
    policies = read_policies()
    assert len(policies) == 3
    for service, operation in (action.split(":") for policy in policies for action in list_actions(policy)):
        # S3's and IAM's permissions are not all named like operations.
        if service in ("ecr", "logs", "cloudwatch") and operation not in ("*", "BatchCheckLayerAvailability"):
            assert operation in session.get_service_model(service).operation_names, f"{service}:{operation}"


# --- what is refused before anything is sent


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "local_mode"))
    return importlib.import_module("cloud")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--instance_type", "g4dn.xlarge"], "they begin with ml."),
        (["--instance_type", "ml.p5.48xlarge"], "MXNet 1.9.1 has no code for its GPU"),
        (["--endpoint_type", "ml.c7g.large"], "its processor is ARM"),
        (["--role", ""], "give --role and --bucket"),
        (["--model", "file:///model.tar.gz"], "on AWS a model must be in S3"),
        (["--image", "gluonseg"], "is not in Amazon ECR"),
        (["--name", "my_job"], "with hyphens between them"),
        (["--name", "a-name-of-19-letters"], "at most 18"),
        (["--max_parallel_jobs", "5"], "give 1 to max_jobs"),
        (["--tune", "epochs"], "it cannot be tuned; choose from learning_rate"),
        (["--tune", "momentum", "--spot"], "leave out --spot"),
    ],
)
def test_options_that_aws_would_not_take(cloud: Any, options: list[str], told: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--image")
    parser.add_argument("--instance_type")
    parser.add_argument("--model")
    cloud.add_options(parser)
    good = ["--image", "1.dkr.ecr.us-east-1.amazonaws.com/gluonseg", "--instance_type", "ml.g5.xlarge"]
    good += ["--role", "arn:aws:iam::1:role/r", "--bucket", "b"]
    for machine in ("ml.g4dn.xlarge", "ml.g6e.xlarge", "ml.p4d.24xlarge", "ml.p3dn.24xlarge", "ml.m5.xlarge"):
        cloud.check_options(parser.parse_args([*good, "--instance_type", machine]))
    with pytest.raises(UserError, match=re.escape(told)):
        cloud.check_options(parser.parse_args([*good, *options]))


def test_an_image_of_another_region_is_refused(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cloud.CONFIG_VARIABLE, "mine.yaml")
    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "true")
    session = SimpleNamespace(boto_region_name="eu-west-1")
    with pytest.raises(UserError, match="not in the region eu-west-1"):
        cloud.connect(lambda: session, "1.dkr.ecr.us-east-1.amazonaws.com/gluonseg")
    assert cloud.connect(lambda: session, "1.dkr.ecr.eu-west-1.amazonaws.com/gluonseg") is session


def test_data_in_s3_is_not_copied(cloud: Any, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    cloud.add_options(parser)
    options = parser.parse_args(["--bucket", "b", "--role", "r", "--s3_data", "s3://other/data"])
    job = importlib.import_module("job").SdkJob("image", {}, {"train": "file:///train"}, "file:///out")
    moved = cloud.move_to_s3(None, job, tmp_path, options)
    assert moved.channels == {"train": "s3://other/data/train/"}


# --- asynchronous inference

RESULTS = f"s3://{BUCKET}/results"


@pytest.fixture
def ask_by_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], bytes]]:
    """Asks an endpoint that keeps the request in its queue."""
    with made_up_account(monkeypatch):
        job = importlib.import_module("job")
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        asked = {"OutputLocation": f"{RESULTS}/1.out", "FailureLocation": f"{RESULTS}/1.error"}
        session = SimpleNamespace(
            boto_session=boto3.Session(),
            upload_data=lambda *given: "/".join(given),
            sagemaker_runtime_client=SimpleNamespace(invoke_endpoint_async=lambda **_: asked),
        )
        sdk_job = job.SdkJob("image", {}, {}, f"s3://{BUCKET}/gluonseg-1", is_async=True)
        yield partial(job.build_ask(session, sdk_job), tmp_path / "photo.jpg", "image/png")


@pytest.mark.parametrize(
    ("key", "told"), [("1.out", None), ("1.error", "the endpoint refused: text"), (None, "no answer at .*/1.out after")]
)
def test_an_answer_in_s3_is_waited_for(
    key: str | None, told: str | None, ask_by_s3: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if key and len(waits) == 3:
            boto3.client("s3").put_object(Bucket=BUCKET, Key=f"results/{key}", Body=b"text")

    monkeypatch.setattr(importlib.import_module("job"), "time", SimpleNamespace(sleep=wait))
    with pytest.raises(RuntimeError, match=told) if told else nullcontext():
        assert ask_by_s3() == b"text"
    assert sum(waits) == (3 * waits[0] if key else 3600)
