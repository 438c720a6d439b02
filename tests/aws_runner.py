"""Runs commands one after another in AWS accounts that moto plays, under the Python of an SDK, which has no moto.

    PYTHON aws_runner.py PACKAGES CALLS "PROGRAM ARGUMENTS..." ...

PACKAGES is the folder of the packages of the tests' environment; CALLS is the file that gets each call of AWS, as a
line of JSON with the number of the command. A form feed ends a command's output. Requests to SageMaker are held
against the description of its API that comes with botocore, patterns and lengths too, which botocore itself leaves to
AWS.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import jsonschema  # type: ignore[import-untyped]
import numpy as np
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from PIL import Image

from gluonseg.predict.recordio import encode_probabilities

sys.path.append(sys.argv[1])

from moto import mock_aws

BUCKET, LOGS = "amzn-s3-demo-bucket", "/aws/sagemaker/TrainingJobs"
LINE = "#quality_metric. host: algo-1, epoch: 0, validation mIOU: 0.5 ."
_ask_moto = BaseClient._make_api_call
_validate = jsonschema.validate


def find_problems(shape: Any, value: Any, place: str = "") -> Iterator[str]:
    """What AWS would refuse of ``value``."""
    if shape.type_name == "structure":
        for name, item in value.items():
            yield from find_problems(shape.members[name], item, f"{place}.{name}")
    elif shape.type_name in ("list", "map"):
        for item in value.values() if shape.type_name == "map" else value:
            yield from find_problems(shape.value if shape.type_name == "map" else shape.member, item, place)
    limits, size = shape.metadata, len(value) if isinstance(value, (str, bytes, list, dict)) else value
    if ("min" in limits and size < limits["min"]) or ("max" in limits and size > limits["max"]):
        yield f"{place} is {value!r}, not {limits}"
    if isinstance(value, str) and value not in limits.get("enum", [value]):
        yield f"{place} is {value!r}, none of {limits['enum']}"
    pattern = limits.get("pattern", ".*").replace(r"\p{ASCII}", r"[\0-\x7f]")
    if isinstance(value, str) and not re.fullmatch(pattern, value, flags=re.S):
        yield f"{place} is {value!r}, not {limits['pattern']}"


class Account:
    """Answers calls of AWS: with moto, and with its own methods where moto does not know how."""

    def __init__(self, calls: Path, number: int) -> None:
        self._calls, self._number = calls, number
        self._is_asking = False

    def call(self, client: Any, operation: str, given: dict[str, Any]) -> Any:
        """In place of botocore's method of this kind."""
        if self._is_asking:
            return _ask_moto(client, operation, given)
        service = client.meta.service_model.service_name
        with self._calls.open("a") as file:
            file.write(json.dumps([self._number, service, operation, given], default=str) + "\n")
        if service.startswith("sagemaker"):
            problems = list(find_problems(client.meta.service_model.operation_model(operation).input_shape, given))
            assert not problems, f"{operation}: {problems}"
        self._is_asking = True
        try:
            own = getattr(self, f"answer_{operation}", None)
            return own(client, given) if own else _ask_moto(client, operation, given)
        finally:
            self._is_asking = False

    def answer_CreateTrainingJob(self, client: Any, given: dict[str, Any]) -> Any:
        """With the log that the job has in CloudWatch."""
        logs, stream = boto3.client("logs"), f"{given['TrainingJobName']}/algo-1-1"
        with suppress(logs.exceptions.ResourceAlreadyExistsException):  # of an earlier job
            logs.create_log_group(logGroupName=LOGS)
        logs.create_log_stream(logGroupName=LOGS, logStreamName=stream)
        event = {"timestamp": int(1000 * time.time()), "message": LINE}
        logs.put_log_events(logGroupName=LOGS, logStreamName=stream, logEvents=[event])
        return _ask_moto(client, "CreateTrainingJob", given)

    def answer_CreateHyperParameterTuningJob(self, client: Any, given: dict[str, Any]) -> Any:
        """With the training job that moto takes for the best one."""
        definition = given["TrainingJobDefinition"]
        kept = ("AlgorithmSpecification", "RoleArn", "OutputDataConfig", "StoppingCondition")
        best = {name: value for name, value in definition.items() if name in kept}
        machine = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}
        client.create_training_job(**best, TrainingJobName="FakeTrainingJobName", ResourceConfig=machine)
        return _ask_moto(client, "CreateHyperParameterTuningJob", given)

    def answer_CreateTransformJob(self, client: Any, given: dict[str, Any]) -> Any:
        """With a mask for each photo."""
        s3 = boto3.resource("s3")
        bucket, _, photos = given["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"][5:].partition("/")
        _, _, output = given["TransformOutput"]["S3OutputPath"][5:].partition("/")
        for photo in list(s3.Bucket(bucket).objects.filter(Prefix=photos)):
            mask = self.predict(photo.get()["Body"].read(), given["TransformOutput"]["Accept"])
            s3.Object(bucket, f"{output}/{photo.key.rpartition('/')[2]}.out").put(Body=mask)
        return _ask_moto(client, "CreateTransformJob", given)

    def answer_InvokeEndpoint(self, _client: Any, given: dict[str, Any]) -> Any:
        """With a prediction, where moto answers with text."""
        return {"Body": io.BytesIO(self.predict(given["Body"], given["Accept"]))}

    def answer_InvokeEndpointAsync(self, _client: Any, given: dict[str, Any]) -> Any:
        """With a prediction in S3, where moto would lay text."""
        s3 = boto3.resource("s3")
        bucket, key = given["InputLocation"].removeprefix("s3://").split("/", 1)
        mask = self.predict(s3.Object(bucket, key).get()["Body"].read(), given["Accept"])
        s3.Object(bucket, "answers/1.out").put(Body=mask)
        return {"OutputLocation": f"s3://{bucket}/answers/1.out", "FailureLocation": f"s3://{bucket}/refusals/1.out"}

    def predict(self, photo: bytes, accept: str) -> bytes:
        """That all of the photo is of class 0."""
        width, height = Image.open(io.BytesIO(photo)).size
        if accept != "image/png":
            return encode_probabilities(np.zeros((4, height, width), np.float32))
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((height, width), np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    def _stop(self, client: Any, given: dict[str, Any]) -> Any:
        (name,) = given.values()
        raise ClientError({"Error": {"Code": "ValidationException", "Message": f"{name} does not run"}}, "Stop")

    answer_StopTrainingJob = answer_StopHyperParameterTuningJob = answer_StopTransformJob = _stop


def validate_once(config: Any, schema: Any, checked: list[Any]) -> None:
    """What an SDK does with its settings at each use of one, which takes most of its time."""
    if config not in checked:
        _validate(config, schema)
        checked.append(config)


def run_command(command: str, account: Account) -> None:
    """Run the program as if it had been started by itself."""
    sys.argv = shlex.split(command)
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    with mock_aws():
        _ask_moto(boto3.client("s3"), "CreateBucket", {"Bucket": BUCKET})
        BaseClient._make_api_call = lambda *given: account.call(*given)
        runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    """Run each command; the first that fails is the last."""
    calls, commands = Path(sys.argv[2]), sys.argv[3:]
    time.sleep = lambda _seconds: None
    checked: list[Any] = []
    jsonschema.validate = lambda config, schema: validate_once(config, schema, checked)
    for number, command in enumerate(commands):
        run_command(command, Account(calls, number))
        sys.stdout.write("\f")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
