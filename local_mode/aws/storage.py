"""Copying the channels of a data set to S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gluonseg.data.channel import NEEDED_CHANNELS
from gluonseg.errors import UserError, join_names
from gluonseg.sagemaker.request import check_folder


def upload_channels(client: Any, folder: Path, uri: str) -> int:
    """Copy every file below ``folder`` that is not hidden to the S3 folder ``uri``; returns how many."""
    missing = [name for name in NEEDED_CHANNELS if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{folder} has no {join_names(missing)}; docs/data.md says what belongs there")
    bucket, _, prefix = check_folder("target", uri).removeprefix("s3://").partition("/")
    count = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            client.upload_file(str(path), bucket, prefix + "/".join(parts))
            count += 1
    return count
