"""What the programs of this folder have found, each in its smallest form."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from media.ending import Reach
from media.images import open_image
from models.clip.layouts import read_checkpoint
from pairs.label_files import open_labels
from utils.errors import MediaError, UserError


def test_avif_without_its_content_is_a_damaged_image(tmp_path: Path) -> None:
    """Pillow's decoder raises RuntimeError."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "AVIF")
    data = buffer.getvalue()
    content = data.index(b"mdat") + 4
    (tmp_path / "a.avif").write_bytes(data[:content] + bytes(len(data) - content))
    with pytest.raises(MediaError, match=r"a\.avif: a damaged image"):
        open_image(tmp_path / "a.avif")


def test_avif_without_a_clock_is_a_damaged_image(tmp_path: Path) -> None:
    """Pillow divides by its time scale."""
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "AVIF", save_all=True, append_images=frames[1:], duration=200)
    data = bytearray(buffer.getvalue())
    scale = data.index(b"mdhd") + 4 + 4 + 16  # version 1: two times of 8 bytes
    data[scale : scale + 4] = bytes(4)
    (tmp_path / "a.avif").write_bytes(data)
    with pytest.raises(MediaError, match=r"a\.avif: a damaged image"):
        open_image(tmp_path / "a.avif")


def test_a_stream_that_turns_up_on_the_way_ends_nothing() -> None:
    """PyAV's demuxer then raises IndexError behind the last packet, in some runs and not in others."""
    mine, other = object(), object()

    def demux():
        for number, stream in enumerate([mine, other, mine]):
            index = 0 if stream is mine else 1
            yield SimpleNamespace(stream=stream, stream_index=index, pts=number, duration=1, size=1, is_discard=False)
        raise IndexError("list index out of range")

    reach = Reach()
    container = SimpleNamespace(demux=demux)
    packets = list(reach.packets(container, mine))  # pyright: ignore[reportArgumentType]
    assert [packet.pts for packet in packets] == [0, 2]
    assert reach.latest_ticks == {0: 3, 1: 2}


def test_a_checkpoint_whose_archive_lost_its_end_is_named(tmp_path: Path) -> None:
    """zipfile.BadZipFile is of no usual kind."""
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.zeros(4)}, path)
    data = path.read_bytes()
    directory = data.rindex(b"PK\1\2")
    path.write_bytes(data[:directory] + b"XX" + data[directory + 2 :])
    with pytest.raises(UserError, match=r"a\.pt: not a readable "):
        read_checkpoint(path)


def test_a_file_that_is_no_text_is_not_told_in_whole(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_bytes(b'{"words": "' + b"\xff" * 100_000 + b'"}')
    with pytest.raises(UserError, match=r"labels\.json: expected ") as caught:
        open_labels(str(tmp_path / "labels.json"))
    assert len(str(caught.value)) < 1000
