"""The contact sheet that ``gluonseg predict --html`` writes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import ExifTags, Image

from gluonseg.cli import main
from gluonseg.models.folder.card import build_card
from gluonseg.predict.formats import compute_shares
from gluonseg.predict.sheet import MAX_SIDE, ContactSheet
from picture import draw_noise

Capture = pytest.CaptureFixture[str]


def test_command(trained_model: Path, drawn_channels: Mapping[str, Path], tmp_path: Path, capsys: Capture) -> None:
    photo, out = min(drawn_channels["validation"].iterdir()), tmp_path / "out"
    photos = [Path(shutil.copy(photo, tmp_path / name)) for name in ("plain.jpg", "<b> #1 100%.jpg")]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    command = ["predict", *map(str, (*photos, tmp_path / "broken.jpg")), "--model", str(trained_model)]
    assert main([*command, "--output", str(out), "--html", "--palette", "camvid"]) == 2
    assert capsys.readouterr().out == f"wrote 2 masks to {out}\nthe page is {out / 'index.html'}\n"
    page = (out / "index.html").read_text()
    links = [out / unquote(link) for link in re.findall(r'(?:src|href)="([^"#]+)"', page)]
    assert len(links) == 6
    assert {path for path in out.rglob("*.*") if path.name != "index.html"} == set(links)
    assert "<h2>&lt;b&gt; #1 100%.jpg</h2>" in page
    assert "<b> #1" not in page
    assert "background:rgb(128,128,128)" in page, "CamVid's first colour"
    assert f"<li>{tmp_path / 'broken.jpg'} is not a picture" in page


def test_a_turned_picture_of_many_classes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image, mask = draw_noise(200, 400), np.zeros((200, 400), dtype=np.uint8)
    mask[:, :20] = np.arange(20)
    Image.fromarray(image).save(tmp_path / "photo.jpg", exif=exif)
    card = build_card("unet", "mobilenet-v2", 20)
    sheet = ContactSheet(tmp_path, card, card.colours)
    sheet.add(tmp_path / "photo.jpg", image, mask, compute_shares(mask, card.class_names), {})
    sheet.write()
    page = (tmp_path / "index.html").read_text()
    assert "1 picture and its mask: UNet on mobilenet-v2, 20 classes" in page
    assert "upright by its EXIF orientation" in page
    assert 'width="160" height="320"' in page
    with Image.open(tmp_path / "thumbnails" / "photo_overlay.jpg") as overlay:
        assert overlay.size == (MAX_SIDE // 2, MAX_SIDE)
    legend = re.findall(r"<li.*>(.+) <b>(.+)&nbsp;%</b></li>", page)
    assert legend[0] == (card.class_names[0], "95.2")
    assert legend[-1] == ("12 more", "3.0")
    assert len(legend) == 9
