"""Pretrained ImageNet weights of a backbone: where they are looked for, and how they get into a network."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy.typing as npt

import gluonseg.compat  # noqa: F401  (before mxnet, wherever that is imported)
from gluonseg.errors import ModelError
from gluonseg.models.convert import (
    build_backbone,
    compute_backbone_shapes,
    convert_backbone,
    describe_mismatch,
)
from gluonseg.models.params import check_finite, convert_arrays, read_arrays
from gluonseg.models.registry import find_encoder, get_heads
from gluonseg.models.torch_names import list_namings

CHANNEL = "pretrained"
FOLDER_VARIABLE = "GLUONSEG_PRETRAINED_DIR"
IMAGE_FOLDER = Path("/usr/local/share/gluonseg/pretrained")
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 8.0
_STORE_ERRORS = (OSError, ValueError, RuntimeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

_PUBLIC_NAMES = {"mobilenet-v2": "mobilenet_v2", "resnet-18s": "resnet18-imagenet"}
"""Torchvision's name, and CSAIL's of its file: networks that the Hugging Face hub does not have."""
_log = logging.getLogger(__name__)


def compute_file_patterns(backbone: str) -> tuple[str, ...]:
    """Patterns of the file names that are accepted for ``backbone``, the preferred first."""
    gluoncv = _find_store_name(backbone)
    public = _find_public_name(backbone)
    patterns = [f"{gluoncv}.params", f"{gluoncv}-*.params"] if gluoncv else []
    patterns += [f"{backbone}.params"]
    if list_namings(backbone):
        patterns += [f"{backbone}.safetensors"]
        patterns += [f"{public}.safetensors", f"{public}.*.safetensors", f"{public}-*.safetensors"] if public else []
        patterns += ["model.safetensors"]
    return tuple(patterns)


def _find_public_name(backbone: str) -> str:
    """What torchvision or timm calls the network: timm/resnet50s.gluon_in1k -> resnet50s; empty for none.

    A file name must have it whole: "resnet18*" would take resnet18d, another network.
    """
    public = find_encoder(backbone).public.removeprefix("timm/").partition(".")[0]
    return public or _PUBLIC_NAMES.get(backbone, "")


def _find_store_name(backbone: str) -> str:
    """GluonCV's file name, which is the network's but for HRNets: ``hrnet_w18_c`` is in ``hrnet_w18_cls``."""
    gluoncv = find_encoder(backbone).gluoncv
    return f"{gluoncv}ls" if gluoncv.startswith("hrnet_") else gluoncv


def _list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_file())


def _find_in_folder(folder: Path, backbone: str) -> Path | None:
    """The file in ``folder`` whose name is preferred, see :func:`compute_file_patterns`."""
    names = _list_files(folder)
    matches = (name for pattern in compute_file_patterns(backbone) for name in names if fnmatchcase(name, pattern))
    name = next(matches, None)
    return folder / name if name else None


def _describe_folder(title: str, folder: Path | None) -> str:
    if folder is None:
        return f"{title} (not given)"
    if not folder.is_dir():
        return f"{title} ({folder}: no such folder)"
    names = _list_files(folder)
    return f"{title} ({folder}: {'only ' + ', '.join(names[:3]) if names else 'no files'})"


def _download(url: str, sha1: str, target: Path) -> None:
    """Fetch the zip at ``url``, and move its member ``target.name`` to ``target`` when the sha1 is right."""
    import requests
    from gluoncv.utils import check_sha1

    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response,
        tempfile.TemporaryDirectory(dir=target.parent) as folder,
    ):
        response.raise_for_status()
        archive = Path(folder, "weights.zip")
        with archive.open("wb") as stream:
            stream.writelines(response.iter_content(chunk_size=2**20))
        with zipfile.ZipFile(archive) as bundle:
            weights = bundle.extract(target.name, folder)
        if not check_sha1(weights, sha1):
            raise ValueError(f"{target.name} arrived with another sha1 than GluonCV states")
        os.replace(weights, target)


def _find_in_store(backbone: str, root: Path | None) -> Path:
    """Return the file of GluonCV's own store, downloaded where it is not there yet.

    Names, addresses and sha1 are those of ``gluoncv.model_zoo.model_store.get_model_file``. That function waits
    without end for a network that does not answer, and needs a writable folder even for a file that is there.
    """
    from gluoncv.model_zoo import model_store
    from gluoncv.utils import check_sha1

    name = _find_store_name(backbone)
    if name not in model_store._model_sha1:
        raise ValueError(f"it has no {backbone}")
    sha1 = model_store._model_sha1[name]
    root = root or Path(os.environ.get("MXNET_HOME") or "~/.mxnet", "models")
    target = root.expanduser() / f"{name}-{model_store.short_hash(name)}.params"
    if target.is_file() and check_sha1(str(target), sha1):
        return target
    repository = os.environ.get("MXNET_GLUON_REPO") or model_store.apache_repo_url
    url = f"{repository.rstrip('/')}/gluon/models/{target.stem}.zip"
    _log.info("Fetching the ImageNet weights of %s from %s", backbone, url)
    _download(url, sha1, target)
    return target


def _build_not_found(backbone: str, places: list[str], error: Exception) -> ModelError:
    public = find_encoder(backbone).public
    file = f"model.safetensors of {public}" if public else f"{backbone}.safetensors"
    either = f"{backbone}.params or {file}" if list_namings(backbone) else f"{backbone}.params"
    # A backbone without a name in GluonCV is in no store.
    is_stored = bool(find_encoder(backbone).gluoncv)
    network = "give the job a network (MXNET_GLUON_REPO sets a mirror), or " if is_stored else ""
    failure = f"{type(error).__name__}: {str(error)[:160]}" if is_stored else "which has none"
    return ModelError(
        f"No ImageNet weights for {backbone} (use_pretrained_model=True). Three ways out: "
        f"(1) put {either} into a channel named "
        f"'{CHANNEL}' or a folder named by {FOLDER_VARIABLE}; (2) train with use_pretrained_model=False; (3) "
        f"{network}build the image with the file in {IMAGE_FOLDER}. "
        f"Looked in {'; '.join(places)}; GluonCV's store ({failure})."
    )


def find_backbone_weights(backbone: str, *, channel: Path | None, root: Path | None = None) -> Path:
    """Return the file of ImageNet weights for ``backbone``: ``.params`` or ``.safetensors``.

    Looks in ``channel`` (the folder of the channel ``pretrained``, or None), the folder that
    GLUONSEG_PRETRAINED_DIR names, the image's folder, then GluonCV's store in ``root`` (default
    ``~/.mxnet/models``), which downloads. File names: :func:`compute_file_patterns`; folders inside are
    not entered. Raises ModelError with the places and the ways out.
    """
    if not find_encoder(backbone).gluoncv and backbone not in _PUBLIC_NAMES:
        raise ModelError(f"there are no ImageNet weights for {backbone}; set use_pretrained_model to False")
    named = os.environ.get(FOLDER_VARIABLE)
    folders = (
        (f"the channel '{CHANNEL}'", channel),
        (FOLDER_VARIABLE, Path(named) if named else None),
        ("the image", IMAGE_FOLDER),
    )
    for title, folder in folders:
        found = _find_in_folder(folder, backbone) if folder else None
        if found:
            _log.info("ImageNet weights of %s: %s", backbone, found)
            return found
        if folder and folder != IMAGE_FOLDER:
            _log.warning("No weights for %s in %s", backbone, _describe_folder(title, folder))
    try:
        return _find_in_store(backbone, root)
    except _STORE_ERRORS as error:
        places = [_describe_folder(title, folder) for title, folder in folders]
        raise _build_not_found(backbone, places, error) from error


def _rename_old_style(arrays: Mapping[str, npt.NDArray[Any]], backbone: str) -> dict[str, npt.NDArray[Any]]:
    """Give GluonCV's older names (``resnetv1s_conv0_weight``, with or without the prefix) their structural names."""
    net = build_backbone(backbone)
    structural = {p.name.removeprefix(net.prefix): name for name, p in net._collect_params_with_prefix().items()}
    short = ((name.removeprefix(net.prefix), array) for name, array in arrays.items())
    return {structural.get(name, name): array for name, array in short}


def _list_unused(backbone: str) -> tuple[str, ...]:
    """Beginnings of the names of all parameters of GluonCV's classifier; the encoder does without some of them."""
    known = build_backbone(backbone)._collect_params_with_prefix() if find_encoder(backbone).gluoncv else ()
    return ("fc.", *known)


def read_backbone(weights: Path, backbone: str) -> dict[str, npt.NDArray[Any]]:
    """Read the backbone's tensors, without those of its classifier, by structural name from ``weights``.

    ``weights`` is a GluonCV ``.params`` file of the backbone (structural or old names) or of a whole
    segmentation network, or a safetensors file that :func:`convert_backbone` takes. Raises ModelError,
    naming the tensors, when one is missing, left over, of another shape or not finite.
    """
    if weights.suffix == ".safetensors":
        arrays: dict[str, npt.NDArray[Any]] = dict(convert_backbone(weights, backbone))
    else:
        arrays = read_arrays(weights)
        if find_encoder(backbone).gluoncv and not any("." in name for name in arrays):
            arrays = _rename_old_style(arrays, backbone)
    shapes = compute_backbone_shapes(backbone)
    unused = (*_list_unused(backbone), *get_heads())
    body = {name: array for name, array in arrays.items() if name in shapes or not name.startswith(unused)}
    mismatch = describe_mismatch(shapes, {name: array.shape for name, array in body.items()})
    if mismatch:
        gluoncv = find_encoder(backbone).gluoncv
        title = f"{backbone} (GluonCV's {gluoncv})" if gluoncv else backbone
        raise ModelError(
            f"{weights} does not hold the weights of {title}: {mismatch}. "
            "Give the file of that network, or set the hyperparameter backbone to the one that the file is of."
        )
    check_finite(body, weights)
    return body


def load_backbone(net: Any, weights: Path, backbone: str) -> None:
    """Set every backbone parameter of the segmentation network ``net``; its heads keep what they have.

    ``net`` may be initialized or not, on any devices, in any dtype. Nothing is set unless everything
    fits. Raises ModelError as :func:`read_backbone`, or when ``net`` was built on another backbone.
    """
    from gluonseg.models.network import set_parameters

    heads = get_heads()
    parameters = {name: one for name, one in net._collect_params_with_prefix().items() if not name.startswith(heads)}
    arrays = read_backbone(weights, backbone)
    if getattr(net, "encoder_stages", None):  # its encoder has no last stages
        arrays = {name: array for name, array in arrays.items() if name in parameters}
    set_parameters(parameters, convert_arrays(arrays), None)
