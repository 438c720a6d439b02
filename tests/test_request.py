"""Bring your own container: request bodies against botocore's model of SageMaker, and the scripts against moto."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.stub import Stubber
from botocore.validate import ParamValidator
from moto.sagemaker.models import sagemaker_backends

from aws_account import ACCOUNT, REGION, made_up_account, run_byoc
from gluonseg.data.synthetic import prepare_synthetic
from gluonseg.errors import UserError
from gluonseg.hyperparameters import get_specs, parse_hyperparameters
from gluonseg.sagemaker.hosting import (
    Machines,
    Serverless,
    build_endpoint,
    build_endpoint_config,
    build_model,
    build_transform_job,
)
from gluonseg.sagemaker.request import (
    Body,
    Limit,
    Network,
    build_channels,
    build_ranges,
    build_training_job,
    build_tuning_job,
    check_folder,
    check_image,
    check_instance_type,
    check_name,
    check_role,
)

IMAGE = "111122223333.dkr.ecr.us-east-1.amazonaws.com/gluonseg:latest"
ROLE = "arn:aws:iam::111122223333:role/gluonseg"
NEEDED = {
    name: f"s3://bucket/pets/{name}" for name in ("train", "train_annotation", "validation", "validation_annotation")
}
KEY = "arn:aws:kms:us-east-1:111122223333:key/0"
MODEL_DATA = "s3://bucket/runs/pets-1/output/model.tar.gz"
VPC = Network(isolated=True, subnets=["subnet-1"], security_groups=["sg-1"])
TUNABLE = ("learning_rate", "mini_batch_size", "momentum", "optimizer", "weight_decay")


@pytest.fixture(scope="module")
def model() -> Any:
    return botocore.session.get_session().get_service_model("sagemaker")


def _find_faults(shape: Any, value: Any, where: str) -> Iterator[str]:
    """What botocore's own validator leaves to the service: lengths, patterns and listed values."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from _find_faults(shape.members[name], inner, f"{where}.{name}")
    elif shape.type_name == "list":
        yield from (fault for one in value for fault in _find_faults(shape.member, one, where))
    elif shape.type_name == "map":
        yield from (fault for one in value.values() for fault in _find_faults(shape.value, one, where))
    size = value if isinstance(value, int) else len(value)
    if size > shape.metadata.get("max", size) or size < shape.metadata.get("min", size):
        yield f"{where}: size {size}"
    if isinstance(value, str):
        pattern = shape.metadata.get("pattern", "")
        if pattern and r"\p{" not in pattern and not re.fullmatch(pattern, value):
            yield f"{where}: {value!r} is not {pattern}"
        if getattr(shape, "enum", None) and value not in shape.enum:
            yield f"{where}: {value!r} is not listed"


def _check_body(model: Any, operation: str, body: Mapping[str, Any]) -> None:
    shape = model.operation_model(operation).input_shape
    report = ParamValidator().validate(body, shape)
    assert not report.has_errors(), report.generate_report()
    assert list(_find_faults(shape, body, operation)) == []


def _build_job(name: str = "pets-1", **options: Any) -> Body:
    values: dict[str, Any] = {
        "image": IMAGE,
        "role": ROLE,
        "hyperparameters": {"num_classes": 3, "algorithm": "psp", "use_pretrained_model": False},
        "channels": NEEDED,
        "output": "s3://bucket/runs",
        "instance_type": "ml.g4dn.xlarge",
    }
    return build_training_job(name, **{**values, **options})


EVERYTHING: dict[str, Any] = {
    "channels": {**NEEDED, "label_map": "s3://bucket/maps", "model": MODEL_DATA, "pretrained": "s3://bucket/weights/"},
    "input_mode": "FastFile",
    "limit": Limit(max_runtime_s=3600, spot=True, max_wait_s=7200),
    "network": VPC,
    "checkpoints": "s3://bucket/checkpoints/pets-1",
    "volume_kms_key": KEY,
    "output_kms_key": KEY,
    "environment": {"GLUONSEG_MAX_PIXELS": "1000000"},
    "tags": {"project": "pets"},
}


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_training_job_is_what_botocore_takes(model: Any, options: dict[str, Any]) -> None:
    _check_body(model, "CreateTrainingJob", _build_job(**options))


def test_validation_here_finds_what_the_service_would_refuse(model: Any) -> None:
    body = _build_job()
    body["ResourceConfig"]["InstanceType"] = "ml.none.xlarge"
    body["RoleArn"] = "arn:aws:iam::1:role/short-account-number"
    shape = model.operation_model("CreateTrainingJob").input_shape
    faults = [fault.partition(":")[0] for fault in _find_faults(shape, body, "job")]
    assert faults == ["job.RoleArn", "job.ResourceConfig.InstanceType"]


def test_a_training_job_says_how_to_read_its_metrics_and_has_one_machine() -> None:
    body = _build_job()
    names = {one["Name"] for one in body["AlgorithmSpecification"]["MetricDefinitions"]}
    assert {"train:loss", "validation:mIOU", "validation:pixel_accuracy"} <= names
    assert body["ResourceConfig"]["InstanceCount"] == 1
    assert body["HyperParameters"] == {"num_classes": "3", "algorithm": "psp", "use_pretrained_model": "False"}
    assert body["EnableManagedSpotTraining"] is False
    assert "VpcConfig" not in body


def test_options_arrive_in_their_fields() -> None:
    body = _build_job(**EVERYTHING)
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    assert body["EnableManagedSpotTraining"] is True
    assert body["EnableNetworkIsolation"] is True
    assert body["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    expected = {"S3Uri": "s3://bucket/checkpoints/pets-1/", "LocalPath": "/opt/ml/checkpoints"}
    assert body["CheckpointConfig"] == expected
    assert body["Tags"] == [{"Key": "project", "Value": "pets"}]


def test_channels_have_types_modes_and_a_slash_at_the_end() -> None:
    channels = {one["ChannelName"]: one for one in build_channels(EVERYTHING["channels"], "FastFile")}
    uris = {name: one["DataSource"]["S3DataSource"]["S3Uri"] for name, one in channels.items()}
    assert uris["train"] == "s3://bucket/pets/train/"
    assert uris["pretrained"] == "s3://bucket/weights/"
    assert uris["model"] == MODEL_DATA
    assert channels["train"]["ContentType"] == "image/jpeg"
    assert channels["train_annotation"]["ContentType"] == "image/png"
    assert channels["model"]["ContentType"] == "application/x-sagemaker-model"
    assert (channels["model"]["InputMode"], channels["train"]["InputMode"]) == ("File", "FastFile")


WRONG = [
    ({"name": "my_job"}, r"name 'my_job'.*hyphens"),
    ({"name": "a" * 64}, r"at most 63"),
    ({"image": "gluonseg:latest"}, r"image 'gluonseg:latest'.*push"),
    ({"role": "gluonseg"}, r"role 'gluonseg' is not the ARN.*arn:aws:iam"),
    ({"output": "/tmp/runs"}, r"output '/tmp/runs'.*s3://BUCKET"),
    ({"output": "https://bucket.s3.amazonaws.com/runs"}, r"output .*s3://BUCKET"),
    ({"checkpoints": "bucket/x"}, r"checkpoints 'bucket/x'"),
    ({"channels": {**NEEDED, "train": "data/train"}}, r"channel train 'data/train' is not an address in S3"),
    ({"channels": {"train": "s3://bucket/train"}}, r"train_annotation, validation, validation_annotation missing"),
    ({"channels": {**NEEDED, "lable_map": "s3://bucket/m"}}, r"'lable_map' is unknown; did you mean label_map"),
    ({"channels": {**NEEDED, "x": "s3://bucket/m"}}, r"'x' is unknown; channels are train"),
    ({"instance_type": "g4dn.xlarge"}, r"must begin with ml\."),
    ({"instance_type": "ml.p5.48xlarge"}, r"no code for its GPU.*ml\.g5"),
    ({"instance_type": "ml.m6g.large"}, r"ARM"),
    ({"volume_gb": 0}, r"volume_gb is 0"),
    ({"input_mode": "Pipe"}, r"input_mode 'Pipe'.*FastFile"),
    ({"limit": Limit(max_runtime_s=0)}, r"max_runtime_s is 0"),
    ({"limit": Limit(spot=True)}, r"max_wait_s is None; spot training needs it"),
    ({"limit": Limit(max_runtime_s=100, spot=True, max_wait_s=99)}, r"max_wait_s is 99.*\(100\)"),
    ({"limit": Limit(max_wait_s=100)}, r"set spot too"),
    ({"network": Network(subnets=["subnet-1"])}, r"both subnets and security_groups"),
    ({"network": Network(security_groups=["sg-1"])}, r"both subnets and security_groups"),
    ({"environment": {"MY-NAME": "1"}}, r"'MY-NAME' is not a variable's name"),
    ({"hyperparameters": {"num_classes": "1", "algoritm": "fcn"}}, r"num_classes must.*did you mean algorithm"),
    ({"hyperparameters": {"num_classes": 254, "class_names": ",".join(f"a-long-name-{i}" for i in range(254))}},
     r"class_names has \d+ characters, SageMaker takes 2500; put class_names.json"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_value_is_named_with_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _build_job(**change)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        "111122223333.dkr.ecr.cn-north-1.amazonaws.com.cn/team/gluonseg:1.0",
        "111122223333.dkr.ecr-fips.us-gov-west-1.amazonaws.com/gluonseg@sha256:" + "0" * 64,
    ],
)
def test_addresses_in_ecr_are_taken(image: str) -> None:
    assert check_image(image) == image


@pytest.mark.parametrize("role", [ROLE, "arn:aws-cn:iam::111122223333:role/service-role/A.b_c@d"])
def test_roles_are_taken(role: str) -> None:
    assert check_role(role) == role


def test_one_slash_ends_a_folder() -> None:
    assert check_folder("x", "s3://bucket") == check_folder("x", "s3://bucket//") == "s3://bucket/"


def test_instance_types_that_the_image_cannot_use_are_refused(model: Any) -> None:
    refused = set()
    for shape in ("TrainingInstanceType", "ProductionVariantInstanceType"):
        for name in model.shape_for(shape).enum:
            try:
                check_instance_type(name)
            except UserError:
                refused.add(name.split(".")[1])
    assert {"p2", "p5", "p5e", "p5en", "p6-b200", "p6e-gb200", "g7", "g7e", "c6g", "m6gd", "c7g", "r8g"} <= refused
    assert not {"m5", "c5", "c5n", "m7i", "r5d", "t3", "p3", "p3dn", "p4d", "g4dn", "g5", "g6", "g6e"} & refused


def test_tuning_job_is_what_botocore_takes(model: Any) -> None:
    job = _build_job(**EVERYTHING, hyperparameters={"num_classes": 3, "momentum": 0.8})
    body = build_tuning_job(job, tune=TUNABLE, max_jobs=20, max_parallel_jobs=2)
    _check_body(model, "CreateHyperParameterTuningJob", body)
    objective = body["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    assert objective == {"Type": "Maximize", "MetricName": "validation:mIOU"}
    assert body["TrainingJobDefinition"]["StaticHyperParameters"] == {"num_classes": "3"}


def test_ranges_are_those_of_the_built_in_algorithm_and_the_container_takes_their_ends() -> None:
    assert tuple(sorted(name for name, one in get_specs().items() if one.tunable)) == TUNABLE
    ranges = build_ranges(TUNABLE)
    found = {one["Name"]: (one["MinValue"], one["MaxValue"]) for one in ranges["ContinuousParameterRanges"]}
    expected = {"learning_rate": ("0.0001", "0.1"), "momentum": ("0.9", "0.999"), "weight_decay": ("0.00001", "0.001")}
    assert found == expected
    whole = {"Name": "mini_batch_size", "MinValue": "1", "MaxValue": "128", "ScalingType": "Auto"}
    assert ranges["IntegerParameterRanges"] == [whole]
    assert ranges["CategoricalParameterRanges"] == [{"Name": "optimizer", "Values": ["sgd", "adam", "adadelta"]}]
    for position in (0, 1):
        ends = {name: pair[position] for name, pair in found.items()}
        parse_hyperparameters({"num_classes": "2", "_tuning_objective_metric": "validation:mIOU", **ends})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": ["epochs"]}, r"'epochs'.*cannot be tuned; choose from learning_rate"),
        ({"tune": []}, r"tune is empty"),
        ({"max_parallel_jobs": 3}, r"max_parallel_jobs is 3; give 1 to max_jobs \(2\)"),
    ],
)
def test_wrong_tuning(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_tuning_job(_build_job(), **{"tune": ["momentum"], "max_jobs": 2, **options})
    with pytest.raises(UserError, match="at most 32"):
        build_tuning_job(_build_job("a" * 33), tune=["momentum"], max_jobs=2)


def test_hosting_bodies_are_what_botocore_takes(model: Any) -> None:
    options: dict[str, Any] = {"environment": {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "image/png"}, "tags": {"a": "b"}}
    body = build_model("m", image=IMAGE, role=ROLE, model_data=MODEL_DATA, network=VPC, **options)
    _check_body(model, "CreateModel", body)
    assert body["EnableNetworkIsolation"] is True
    machines = Machines("ml.m5.xlarge", 2)
    config = build_endpoint_config("c", model="m", machines=machines, async_output="s3://bucket/answers", kms_key=KEY)
    _check_body(model, "CreateEndpointConfig", config)
    output = config["AsyncInferenceConfig"]["OutputConfig"]
    assert output == {"S3OutputPath": "s3://bucket/answers/", "S3FailurePath": "s3://bucket/answers/failed/"}
    _check_body(model, "CreateEndpointConfig", build_endpoint_config("c", model="m", machines=Serverless()))
    _check_body(model, "CreateEndpoint", build_endpoint("e", config="c", tags={"a": "b"}))


def test_transform_job_is_what_botocore_takes(model: Any) -> None:
    body = build_transform_job(
        "t",
        model="m",
        photos="s3://bucket/photos",
        output="s3://bucket/masks",
        instance_type="ml.m5.xlarge",
        instance_count=2,
        max_payload_mb=20,
        volume_kms_key=KEY,
    )
    _check_body(model, "CreateTransformJob", body)
    assert body["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/photos/"
    assert body["TransformOutput"]["Accept"] == "image/png"


def test_wrong_hosting_values_are_named() -> None:
    with pytest.raises(UserError, match=r"no archive"):
        build_model("m", image=IMAGE, role=ROLE, model_data="s3://bucket/runs/")
    with pytest.raises(UserError, match=r"instance_count is 0"):
        Machines("ml.m5.xlarge", 0).build()
    with pytest.raises(UserError, match=r"memory_mb is 1000"):
        Serverless(memory_mb=1000).build()
    with pytest.raises(UserError, match=r"max_concurrency is 201"):
        Serverless(max_concurrency=201).build()
    with pytest.raises(UserError, match=r"no asynchronous inference"):
        build_endpoint_config("c", model="m", machines=Serverless(), async_output="s3://bucket/x")


# --- the scripts, from their options to an account that moto plays


class Byoc:
    """``byoc.py`` in this process, with what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        return run_byoc(self._capsys, *arguments)


@pytest.fixture
def byoc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Byoc]:
    """The script in an account that moto plays."""
    with made_up_account(monkeypatch, tmp_path):
        yield Byoc(capsys)


PLACE = ("--image", IMAGE, "--role", ROLE)
TRAIN = (*PLACE, "--data", "s3://bucket/pets", "--output", "s3://bucket/runs", "--instance_type", "ml.g4dn.xlarge",
         "--num_classes", "3")  # fmt: skip
DEPLOY = (*PLACE, "--name", "pets", "--model_data", MODEL_DATA, "--instance_type", "ml.m5.xlarge")
TRANSFORM = ("transform", *DEPLOY, "--photos", "s3://bucket/photos", "--output", "s3://bucket/masks")
DRY = [
    ("train", *TRAIN, "--spot", "--max_wait", "90000", "--network_isolation", "--channel", "pretrained=s3://bucket/w"),
    ("tune", *TRAIN, "--tune", "learning_rate", "optimizer", "--max_jobs", "4", "--tag", "project=pets"),
    ("deploy", *DEPLOY, "--subnet", "subnet-1", "--security_group", "sg-1", "--env", "GLUONSEG_MAX_PIXELS=1000000"),
    ("deploy", *PLACE, "--model_data", MODEL_DATA, "--serverless", "--memory_mb", "3072"),
    TRANSFORM,
]


@pytest.mark.parametrize("arguments", DRY, ids=["train", "tune", "deploy", "serverless", "transform"])
def test_dry_run_prints_bodies_and_calls_nothing(byoc: Byoc, model: Any, arguments: tuple[str, ...]) -> None:
    code, out, _ = byoc.run(*arguments, "--dry-run")
    assert code == 0
    for operation, body in json.loads(out).items():
        _check_body(model, operation, body)
    client = boto3.client("sagemaker")
    assert client.list_training_jobs()["TrainingJobSummaries"] == []
    assert client.list_models()["Models"] == []


def test_train_starts_a_job_and_reports_it(byoc: Byoc) -> None:
    code, out, err = byoc.run("train", *TRAIN, "--name", "pets-1", "--epochs", "3", "--tag", "project=pets")
    assert (code, err) == (0, "")
    job = boto3.client("sagemaker").describe_training_job(TrainingJobName="pets-1")
    assert job["HyperParameters"] == {"num_classes": "3", "epochs": "3"}
    assert job["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    assert "Completed" in out
    assert re.search(r"train:progress +100", out)
    assert "model: s3://bucket/runs/pets-1/output/model.tar.gz" in out


def test_tune_and_transform_run_to_their_end(byoc: Byoc) -> None:
    assert byoc.run("tune", *TRAIN, "--name", "search", "--tune", "momentum", "--max_jobs", "4")[0] == 0
    client = boto3.client("sagemaker")
    found = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="search")
    assert found["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 4
    code, out, _ = byoc.run(*TRANSFORM)
    assert (code, "masks: s3://bucket/masks/" in out) == (0, True)
    assert client.describe_transform_job(TransformJobName="pets")["ModelName"] == "pets"
    assert client.list_models()["Models"] == []


@pytest.mark.parametrize("extra", [(), ("--serverless",)], ids=["machines", "serverless"])
def test_deploy_then_delete_leaves_nothing(byoc: Byoc, extra: tuple[str, ...]) -> None:
    code, out, _ = byoc.run("deploy", *DEPLOY, *extra)
    client = boto3.client("sagemaker")
    assert (code, "InService" in out) == (0, True)
    assert client.describe_endpoint(EndpointName="pets")["EndpointStatus"] == "InService"
    code, out, _ = byoc.run("delete", "pets")
    assert (code, out) == (0, "removed endpoint pets\nremoved endpoint configuration pets\nremoved model pets\n")
    assert client.list_models()["Models"] == []
    assert client.list_endpoints()["Endpoints"] == []
    assert client.list_endpoint_configs()["EndpointConfigs"] == []
    code, _, err = byoc.run("delete", "pets")
    assert (code, err) == (2, f"byoc: no endpoint, endpoint configuration or model pets in the region {REGION}\n")


def test_upload_copies_what_training_needs(byoc: Byoc, tmp_path: Path) -> None:
    prepare_synthetic(tmp_path / "data", count=6, size=32)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="bucket")
    code, out, _ = byoc.run("upload", tmp_path / "data", "s3://bucket/drawn")
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket="bucket")["Contents"]]
    assert (code, f"copied {len(keys)} files" in out) == (0, True)
    assert "drawn/label_map/class_names.json" in keys
    assert {key.split("/")[1] for key in keys} == {*NEEDED, "label_map"}
    code, _, err = byoc.run("upload", tmp_path, "s3://bucket/drawn")
    assert (code, "has no train, train_annotation" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", *TRAIN, "--num_clases", "3"), "did you mean num_classes?"),
        (("train", *TRAIN, "--learning_rate", "2"), "learning_rate must be a number"),
        (("train", *TRAIN, "--spot"), "max_wait_s is None; spot training needs it"),
        (("train", *TRAIN, "--region", "eu-west-1"), "is not in the region eu-west-1"),
        (("deploy", *DEPLOY[:-2]), "give --instance_type, such as ml.m5.xlarge, or --serverless"),
        (("deploy", *DEPLOY, "--serverless", "--network_isolation"), "neither network isolation nor a VPC"),
        (("stop", "no_such_name"), "job 'no_such_name'"),
    ],
)
def test_what_the_user_can_fix_is_one_line(byoc: Byoc, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = byoc.run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_isolation_without_weights_is_noted(byoc: Byoc) -> None:
    arguments = ("train", *TRAIN, "--network_isolation", "--dry-run")
    assert "the image must hold the backbone's weights" in byoc.run(*arguments)[2]
    assert "the image must hold" in byoc.run(*arguments, "--use_pretrained_model", "True")[2]
    for extra in (
        ("--use_pretrained_model", "False"),
        ("--use_pretrained_model", "0"),
        ("--channel", "model=s3://b-1/m"),
    ):
        assert byoc.run(*arguments, *extra)[::2] == (0, "")


def test_without_a_region_the_message_is_one_line(byoc: Byoc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert byoc.run("train", *TRAIN) == (1, "", "byoc: You must specify a region.\n")


def test_steps_are_shown_once_and_a_failure_has_its_reason(byoc: Byoc, capsys: pytest.CaptureFixture[str]) -> None:
    watch = importlib.import_module("watch").watch
    client = boto3.client("sagemaker")
    when = datetime(2026, 1, 1, 10, 0, tzinfo=timezone.utc)
    steps = [{"Status": name, "StartTime": when, "StatusMessage": "..."} for name in ("Starting", "Training", "Failed")]
    answer: Body = {
        "TrainingJobName": "j", "TrainingJobArn": f"arn:aws:sagemaker:{REGION}:111122223333:training-job/j",
        "ModelArtifacts": {"S3ModelArtifacts": MODEL_DATA}, "SecondaryStatus": "Training", "CreationTime": when,
        "StoppingCondition": {}, "ResourceConfig": {"VolumeSizeInGB": 1},
        "AlgorithmSpecification": {"TrainingInputMode": "File"},
    }  # fmt: skip
    failed = {"TrainingJobStatus": "Failed", "FailureReason": "ClientError: num_classes is required"}
    with Stubber(client) as stub:
        for count, last in ((1, {}), (2, {}), (3, failed)):
            now = {**answer, "TrainingJobStatus": "InProgress", **last, "SecondaryStatusTransitions": steps[:count]}
            stub.add_response("describe_training_job", now, {"TrainingJobName": "j"})
        with pytest.raises(UserError, match=r"j: Failed: ClientError: num_classes is required"):
            watch(client, "TrainingJob", "j", 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["10:00:00 Starting: ...", "InProgress", "10:00:00 Training: ...", "10:00:00 Failed: ...", "Failed"]


def test_invoke_sends_the_photo_and_writes_the_mask(
    byoc: Byoc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[dict[str, Any]] = []

    def answer(params: dict[str, Any], **_: Any) -> None:
        sent.append(params)

    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"as text, because moto takes no other body")
    session = boto3.Session()
    session.events.register("provide-client-params.sagemaker-runtime.InvokeEndpoint", answer)
    monkeypatch.setattr(boto3, "Session", lambda **_: session)
    code, _, _ = byoc.run("invoke", "pets", photo, "--output", tmp_path / "mask.png")
    assert (code, (tmp_path / "mask.png").read_bytes()) == (0, b"body")
    expected = {"EndpointName": "pets", "ContentType": "image/jpeg", "Accept": "image/png", "Body": photo.read_bytes()}
    assert sent == [expected]


# --- what is left over when something goes wrong


def _intercept(monkeypatch: pytest.MonkeyPatch, operation: str, code: str | None = None) -> list[dict[str, Any]]:
    """Answer ``operation`` here instead of in moto: with the error ``code``, or with nothing; returns what was sent."""
    sent: list[dict[str, Any]] = []
    call = BaseClient._make_api_call

    def answer(self: Any, name: str, params: dict[str, Any]) -> Any:
        if name != operation:
            return call(self, name, params)
        sent.append(params)
        if code is not None:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, name)
        return {}

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    return sent


def _list_parts() -> list[str]:
    client = boto3.client("sagemaker")
    endpoints = [f"endpoint {one['EndpointName']}" for one in client.list_endpoints()["Endpoints"]]
    configs = [f"config {one['EndpointConfigName']}" for one in client.list_endpoint_configs()["EndpointConfigs"]]
    return endpoints + configs + [f"model {one['ModelName']}" for one in client.list_models()["Models"]]


def _make_parts(parts: Iterable[str], name: str = "pets") -> None:
    """Parts of a deployment; an endpoint without configuration is what a configuration removed by hand leaves."""
    client = boto3.client("sagemaker")
    machines = Machines("ml.m5.xlarge")
    client.create_model(**build_model(name, image=IMAGE, role=ROLE, model_data=MODEL_DATA))
    client.create_endpoint_config(**build_endpoint_config(name, model=name, machines=machines))
    if "endpoint" in parts:
        client.create_endpoint(**build_endpoint(name, config=name))
    if "config" not in parts:
        client.delete_endpoint_config(EndpointConfigName=name)
    if "model" not in parts:
        client.delete_model(ModelName=name)


def _set_status(kind: str, name: str, status: str) -> None:
    """Moto's jobs are done at once; this puts one back to where a real one is for a while."""
    backend: Any = sagemaker_backends[ACCOUNT][REGION]
    jobs = {"training": "training_jobs", "tuning": "hyper_parameter_tuning_jobs", "transform": "transform_jobs"}[kind]
    field = "hyper_parameter_tuning_job_status" if kind == "tuning" else f"{kind}_job_status"
    setattr(getattr(backend, jobs)[name], field, status)


JOB_COMMANDS = {
    "training": ("train", *TRAIN, "--name", "pets"),
    "tuning": ("tune", *TRAIN, "--name", "pets", "--tune", "momentum", "--max_jobs", "4"),
    "transform": TRANSFORM,
}
OPERATIONS = {"training": "TrainingJob", "tuning": "HyperParameterTuningJob", "transform": "TransformJob"}


@pytest.mark.parametrize(
    ("operation", "undone"),
    [
        ("CreateModel", ""),
        ("CreateEndpointConfig", "removed model pets\n"),
        ("CreateEndpoint", "removed endpoint configuration pets\nremoved model pets\n"),
    ],
)
def test_a_refused_deploy_leaves_nothing(
    byoc: Byoc, monkeypatch: pytest.MonkeyPatch, operation: str, undone: str
) -> None:
    _make_parts(("endpoint", "config", "model"), "other")
    before = _list_parts()
    sent = _intercept(monkeypatch, operation, "ResourceLimitExceeded")
    code, out, err = byoc.run("deploy", *DEPLOY)
    assert (code, out, len(sent)) == (1, undone, 1)
    assert (err.startswith("byoc: "), "ResourceLimitExceeded" in err, err.count("\n")) == (True, True, 1)
    assert _list_parts() == before


def test_a_model_that_was_there_before_is_not_removed(byoc: Byoc, monkeypatch: pytest.MonkeyPatch) -> None:
    _make_parts(("model",))
    _intercept(monkeypatch, "CreateModel", "ValidationException")
    assert byoc.run("deploy", *DEPLOY)[:2] == (1, "")
    assert byoc.run(*TRANSFORM)[:2] == (1, "")
    assert _list_parts() == ["model pets"]


def test_what_cannot_be_undone_is_named(byoc: Byoc, monkeypatch: pytest.MonkeyPatch) -> None:
    _intercept(monkeypatch, "CreateEndpoint", "ResourceLimitExceeded")
    _intercept(monkeypatch, "DeleteModel", "AccessDenied")
    code, _, err = byoc.run("deploy", *DEPLOY)
    first, last = err.splitlines()
    assert (code, _list_parts()) == (1, ["model pets"])
    assert (first.startswith("byoc: note: model pets stays: "), "AccessDenied" in first) == (True, True)
    assert "ResourceLimitExceeded" in last


def test_parts_of_an_endpoint_that_exists_all_the_same_stay(byoc: Byoc, monkeypatch: pytest.MonkeyPatch) -> None:
    call = BaseClient._make_api_call

    def answer(self: Any, name: str, params: dict[str, Any]) -> Any:
        done = call(self, name, params)
        if name == "CreateEndpoint":  # made, but the answer was lost, and the second attempt is refused
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "already existing"}}, name)
        return done

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    code, _, err = byoc.run("deploy", *DEPLOY)
    assert (code, _list_parts()) == (1, ["endpoint pets", "config pets", "model pets"])
    assert "model pets stays: endpoint pets uses it" in err


@pytest.mark.parametrize(
    "parts",
    [("model",), ("config",), ("config", "model"), ("endpoint", "model"), ("endpoint", "config"), ("endpoint",)],
    ids="+".join,
)
def test_delete_takes_what_there_is(byoc: Byoc, parts: tuple[str, ...]) -> None:
    _make_parts(parts)
    assert len(_list_parts()) == len(parts)
    code, out, err = byoc.run("delete", "pets")
    assert (code, err, _list_parts()) == (0, "", [])
    assert [line.split()[-2] for line in out.splitlines()] == [
        {"config": "configuration"}.get(part, part) for part in parts
    ]


def test_delete_finds_names_that_differ(byoc: Byoc) -> None:
    _make_parts(("config", "model"), "sdk-1")
    boto3.client("sagemaker").create_endpoint(**build_endpoint("pets", config="sdk-1"))
    assert byoc.run("delete", "pets")[0] == 0
    assert _list_parts() == []


@pytest.mark.parametrize("operation", ["DescribeEndpoint", "DeleteEndpoint"])
def test_delete_stops_at_a_refusal(byoc: Byoc, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    _make_parts(("endpoint", "config", "model"))
    before = _list_parts()
    with monkeypatch.context() as patch:
        _intercept(patch, operation, "AccessDeniedException")
        code, out, err = byoc.run("delete", "pets")
    assert (code, out, "AccessDeniedException" in err) == (1, "", True)
    assert _list_parts() == before


@pytest.mark.parametrize("kind", JOB_COMMANDS)
def test_stop_finds_the_job_that_runs(byoc: Byoc, model: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for command in JOB_COMMANDS.values():
        assert byoc.run(*command)[0] == 0
    operation = f"Stop{OPERATIONS[kind]}"  # moto has none of the three
    sent = _intercept(monkeypatch, operation)
    states = "; ".join(f"{one} job pets is Completed" for one in JOB_COMMANDS)
    assert byoc.run("stop", "pets") == (2, "", f"byoc: nothing to stop: {states}\n")
    _set_status(kind, "pets", "InProgress")
    code, out, err = byoc.run("stop", "pets")
    assert (code, err, sent) == (0, "", [{f"{OPERATIONS[kind]}Name": "pets"}])
    assert out.startswith(f"{kind} job pets is stopping; ")
    _check_body(model, operation, sent[0])


def test_stop_asks_which_of_two_jobs(byoc: Byoc, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("training", "transform"):
        assert byoc.run(*JOB_COMMANDS[kind])[0] == 0
        _set_status(kind, "pets", "InProgress")
    sent = _intercept(monkeypatch, "StopTransformJob")
    code, _, err = byoc.run("stop", "pets")
    assert (code, sent, "add --kind training or --kind transform" in err) == (2, [], True)
    assert byoc.run("stop", "pets", "--kind", "transform")[0] == 0
    assert sent == [{"TransformJobName": "pets"}]
    code, _, err = byoc.run("stop", "pets", "--kind", "tuning")
    assert (code, err) == (2, f"byoc: nothing to stop: no tuning job pets in the region {REGION}\n")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (JOB_COMMANDS["training"], "job pets, if it has started, goes on and costs money; to end it: byoc.py stop"),
        (JOB_COMMANDS["tuning"], "to end it and its training jobs: byoc.py stop"),
        (TRANSFORM, "transform job pets, if it has started, goes on and costs money; to end it: byoc.py stop"),
        (("deploy", *DEPLOY), "endpoint pets, if it was made, stays and costs money; to remove it once it is no longer "
         "Creating: byoc.py delete"),
    ],
    ids=["train", "tune", "transform", "deploy"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (ReadTimeoutError(endpoint_url="https://..."), 1)],
    ids=["ctrl-c", "lost"],
)
def test_who_stops_watching_is_told_what_goes_on(
    byoc: Byoc,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    advice: str,
    error: BaseException,
    code: int,
) -> None:
    def interrupt(*_: Any) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("action"), "watch", interrupt)
    found, _, err = byoc.run(*arguments, "--region", REGION)
    assert (found, err.endswith(f"{advice} pets --region {REGION}\n")) == (code, True)
    words = err.split("byoc.py ")[-1].split()
    assert importlib.import_module("byoc").build_parser().parse_args(words).region == REGION


def test_ctrl_c_where_nothing_goes_on_gives_no_advice(byoc: Byoc, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("action"), "upload_channels", interrupt)
    assert byoc.run("upload", ".", "s3://bucket/x") == (130, "", "byoc: interrupted\n")


@pytest.mark.parametrize(
    ("status", "error", "left"),
    [
        ("InProgress", KeyboardInterrupt(), ["model pets"]),
        ("Stopping", KeyboardInterrupt(), ["model pets"]),
        ("Failed", UserError("pets: Failed"), []),
        ("Stopped", None, []),
        ("Completed", None, []),
    ],
)
def test_transform_removes_its_model_once_it_is_not_needed(
    byoc: Byoc, monkeypatch: pytest.MonkeyPatch, status: str, error: BaseException | None, left: list[str]
) -> None:
    def end(*_: Any) -> Body:
        _set_status("transform", "pets", status)
        if error:
            raise error
        return {"TransformJobStatus": status}

    monkeypatch.setattr(importlib.import_module("action"), "watch", end)
    _, out, err = byoc.run(*TRANSFORM)
    assert (_list_parts(), "masks: " in out) == (left, status == "Completed")
    if left:
        advice = f"note: model pets stays: the job is {status} and needs it; when the job is over: byoc.py delete pets"
        assert advice in err
        code, _, err = byoc.run("delete", "pets")
        assert (code, f"transform job pets is {status} and needs its model" in err) == (2, True)
        _set_status("transform", "pets", "Stopped")
        assert byoc.run("delete", "pets")[:2] == (0, "removed model pets\n")


def test_a_refused_transform_leaves_no_model(byoc: Byoc, monkeypatch: pytest.MonkeyPatch) -> None:
    _intercept(monkeypatch, "CreateTransformJob", "ResourceLimitExceeded")
    code, _, err = byoc.run(*TRANSFORM)
    assert (code, "ResourceLimitExceeded" in err, _list_parts()) == (1, True, [])


def test_names() -> None:
    assert check_name("name", "a--b-1") == "a--b-1"
    for name in ("", "-a", "a-", "a.b", "a\n"):
        with pytest.raises(UserError, match="name"):
            check_name("name", name)
