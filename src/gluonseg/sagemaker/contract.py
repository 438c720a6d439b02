"""The /opt/ml folder of a training job: configuration files in, model and failure file out.

Reads the three JSON files itself before the toolkit does, because the toolkit answers a missing or broken
one with a traceback. Layout:
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gluonseg.data.channel import NEEDED_CHANNELS, OPTIONAL_CHANNELS, SPLITS
from gluonseg.errors import DataError, UserError
from gluonseg.files import find_fix, parse_json_object, read_regular
from gluonseg.sagemaker.spool import find_pipes, read_setting
from gluonseg.text import find_nearest, join_names

BASE_VARIABLE = "SAGEMAKER_BASE_DIR"
DEFAULT_BASE = Path("/opt/ml")
PROGRAM_KEY = "sagemaker_program"
_MAX_CONFIG_BYTES = 16 << 20


@dataclass(frozen=True)
class TrainingContract:
    """What SageMaker laid out for this job; ``checkpoints`` is None for a job that keeps none.

    ``pipes`` are the channels in Pipe mode, whose paths get the number of the epoch; ``channels`` are folders.
    ``hosts`` are the names of all machines of the job, ``host`` that of this one, ``interface`` its network interface
    to them. ``sharded`` has the splits (train, validation) that SageMaker divides between the hosts.
    """

    hyperparameters: Mapping[str, Any]
    channels: Mapping[str, Path]
    pipes: Mapping[str, Path]
    host: str
    hosts: tuple[str, ...]
    interface: str
    sharded: frozenset[str]
    checkpoints: Path | None

    @property
    def has_user_script(self) -> bool:
        """Whether the job brings its own entry point (script mode)."""
        return PROGRAM_KEY in self.hyperparameters


def find_base() -> Path:
    """The folder that stands for /opt/ml: SAGEMAKER_BASE_DIR, or /opt/ml itself."""
    named = os.environ.get(BASE_VARIABLE, "").strip()
    base = Path(named) if named else DEFAULT_BASE
    if not (base / "input" / "config").is_dir():
        raise UserError(
            f"there is no training job in {base}: {base / 'input/config'} is missing; "
            f"mount it at {DEFAULT_BASE}, or set {BASE_VARIABLE} to the folder that holds input/"
        )
    return base


def check_temporary_folder() -> None:
    """Check that there is a folder for temporary files; libraries look for one as soon as they are loaded.

    Raises:
        UserError: no folder for them can be written to.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise UserError(
            "no folder for temporary files can be written to; "
            "give the container a writable /tmp: docker run --tmpfs /tmp"
        ) from None


def check_writable(folder: Path) -> None:
    """Check that files can be made in ``folder`` or, if it is missing, in the nearest folder above that exists.

    Raises:
        UserError: none can be made.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".writable.") as file:
            file.write(b"yes")
    except OSError as error:
        raise _describe_unwritable(nearest, error) from None


def _describe_unwritable(folder: Path, error: OSError) -> UserError:
    fix = find_fix(error)
    if error.errno == errno.EACCES:
        fix += ", or run the container without --user"
    return UserError(f"uid {os.geteuid()} cannot write to the folder {folder}: {error.strerror}; {fix}")


def prepare_folders(base: Path) -> None:
    """Make the folders that the job writes to, and remove what an earlier job in ``base`` said of its end.

    Raises:
        UserError: one of them cannot be written to.
    """
    for folder in (base / "output", base / "output" / "data", base / "model"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _describe_unwritable(folder, error) from None
        check_writable(folder)
    for name in ("failure", "success"):
        (base / "output" / name).unlink(missing_ok=True)


def _read_object(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise UserError(f"{path} is missing; a training job needs it")
        return {}
    try:
        return parse_json_object(read_regular(path, _MAX_CONFIG_BYTES))
    except PermissionError:
        raise UserError(f"{path} cannot be read: let uid {os.geteuid()} read it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a JSON object: {getattr(error, 'strerror', None) or error}") from None


def _check_channel(name: str, config: Any) -> None:
    known = (*NEEDED_CHANNELS, *OPTIONAL_CHANNELS)
    if name not in known:
        nearest = find_nearest(name, known)
        hint = f"did you mean {nearest}?" if nearest else f"channels are {join_names(known, limit=20)}"
        raise DataError(f"unknown channel {name!r}; {hint}")
    mode = config.get("TrainingInputMode", "File") if isinstance(config, dict) else "File"
    if mode not in ("File", "FastFile", "Pipe"):
        raise DataError(f"channel {name}: TrainingInputMode {mode!r} is unknown; give File, FastFile or Pipe")


def read_contract(base: Path) -> TrainingContract:
    """Read and check the configuration of the job in ``base``.

    Raises:
        UserError: a configuration file is missing or broken, or a channel is unknown or cannot be read.
    """
    config = base / "input" / "config"
    hyperparameters = _read_object(config / "hyperparameters.json", required=True)
    has_user_script = PROGRAM_KEY in hyperparameters
    # The toolkit needs these two files.
    resources = _read_object(config / "resourceconfig.json", required=has_user_script)
    inputs = _read_object(config / "inputdataconfig.json", required=has_user_script)
    data = base / "input" / "data"
    names = list(inputs) or sorted(path.name for path in data.glob("*") if path.is_dir())
    channels = {name: data / name for name in names}
    pipes = {}
    if not has_user_script:  # a user's own script may use channels of any name
        for name in channels:
            _check_channel(name, inputs.get(name))
        pipes = {name: channels.pop(name) for name in find_pipes(inputs)}
        for name, folder in channels.items():
            if not folder.is_dir():
                raise DataError(f"channel {name}: the folder {folder} is missing; mount it, or leave the channel out")
    host = str(resources.get("current_host", "algo-1"))
    hosts = resources.get("hosts", [host])
    if not isinstance(hosts, list) or host not in hosts:
        raise UserError(
            f"{config / 'resourceconfig.json'}: current_host {host!r} is not among hosts {hosts!r}; "
            "hosts lists every machine of the job, this one too"
        )
    checkpoints = base / "checkpoints"  # SageMaker mounts it when the job has a CheckpointConfig
    return TrainingContract(
        hyperparameters,
        channels,
        pipes,
        host,
        tuple(hosts),
        str(resources.get("network_interface_name", "")),
        frozenset() if has_user_script else _find_sharded(inputs),
        checkpoints if checkpoints.exists() else None,
    )


def _find_sharded(inputs: Mapping[str, Any]) -> frozenset[str]:
    """The splits whose channels are sharded; raises DataError when of photos and masks only one are."""
    sharded = [name for name in inputs if read_setting(inputs[name], "S3DistributionType", "") == "ShardedByS3Key"]
    for split in SPLITS:
        one_of_two = {split, f"{split}_annotation"}.intersection(inputs)
        if len(one_of_two.intersection(sharded)) not in (0, len(one_of_two)):
            raise DataError(
                f"of the channels {join_names(sorted(one_of_two))} one is ShardedByS3Key, so photos and masks come to "
                "different hosts; give both the same distribution, FullyReplicated"
            )
    return frozenset(SPLITS).intersection(sharded)
