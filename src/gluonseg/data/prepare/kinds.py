"""The kinds of data that ``gluonseg prepare`` knows, by the names of its commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gluonseg.data.prepare.ade20k import find_ade20k
from gluonseg.data.prepare.camvid import find_camvid
from gluonseg.data.prepare.cityscapes import find_cityscapes
from gluonseg.data.prepare.coco import find_coco
from gluonseg.data.prepare.core import DataSet
from gluonseg.data.prepare.cvat import find_cvat
from gluonseg.data.prepare.folders import find_folders
from gluonseg.data.prepare.ground_truth import find_ground_truth
from gluonseg.data.prepare.labelme import find_labelme
from gluonseg.data.prepare.voc import find_voc

FINDERS: Mapping[str, Callable[..., DataSet]] = {
    "folders": find_folders,
    "voc": find_voc,
    "cityscapes": find_cityscapes,
    "camvid": find_camvid,
    "ade20k": find_ade20k,
    "coco": find_coco,
    "labelme": find_labelme,
    "cvat": find_cvat,
    "ground-truth": find_ground_truth,
}
"""Kind -> the function that looks through a source; the options of the command are its arguments."""
