"""Decoded frames to RGB, to the bit as the ffmpeg program does it (turned as displayed)."""

import threading
from array import array
from dataclasses import dataclass, field

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type

Filters = tuple[tuple[str, str], ...]  # (filter, arguments) ...
_UNKNOWN_TO_PYAV = range(28, 36)  # kinds of side data; EXIF, of JPEG with an orientation, is 31
_WITH_MATRIX = (
    ("sidedata", "mode=select:type=DISPLAYMATRIX"),
    ("sidedata", "mode=delete:type=ICC_PROFILE"),
    *(("sidedata", f"mode=delete:type={kind}") for kind in _UNKNOWN_TO_PYAV),
)


@dataclass(eq=False)
class RgbConverter:
    """Converts frames through a filter graph: buffer -> turn -> format=rgb24 -> sink.

    Why not `frame.to_ndarray(format="rgb24")`: it differs from the ffmpeg program on odd sizes, on 10-bit and on
    interlaced video by up to 127 of 255 levels (its scaler is set up without the frame's chroma handling).
    The graph is kept while the frames stay alike. One lock, as frames may be converted on other threads.
    """

    turn: Filters = ()  # as `turn_of` finds it for the first frame
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _key: tuple[object, ...] = ()
    _graph: Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 (h, w, 3), a fresh array."""
        key = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range)
        with self._lock:
            graph = self._graph
            if graph is None or key != self._key:
                graph = _build_graph(frame, (*self.turn, ("format", "pix_fmts=rgb24")))
                self._graph, self._key = graph, key
            graph.vpush(frame)
            return graph.vpull().to_ndarray()


def _build_graph(frame: av.VideoFrame, filters: Filters) -> Graph:
    graph = Graph()
    graph.threads = 1  # one frame at a time is not worth a thread pool for each open video
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(frame.time_base or "1/1000000"),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    nodes = [graph.add(name, arguments or None) for name, arguments in filters]
    graph.link_nodes(source, *nodes, graph.add("buffersink")).configure()
    return graph


def turn_of(first: av.VideoFrame) -> Filters | None:
    """Filters that show the video upright, as its first frame's display matrix says; None for a turn we do not apply.

    To be asked of one frame a video: looking at its side data ties a PyAV frame into a reference cycle, so that its
    picture stays in memory until the garbage collector comes round (250 MB within 200 frames of 720p).

    And looking at an ICC profile, which a PNG in a video may carry, ends the process: PyAV 18 frees its name a second
    time with the frame. So FFmpeg looks first: only a frame with a display matrix comes through, without its profile
    and without what PyAV does not know, at which it raises.
    """
    graph = _build_graph(first, _WITH_MATRIX)
    graph.vpush(first)
    try:
        data = graph.vpull().side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # PyAV's stub wants str
    except BlockingIOError:  # nothing came through
        return ()
    numbers = array("i")  # int32 in the machine's order, as FFmpeg keeps it: 3x3, fixed point, row by row
    numbers.frombytes(bytes(data)[:36])
    return turn_filters(tuple(numbers)) if len(numbers) == 9 else ()


def turn_filters(matrix: tuple[int, ...]) -> Filters | None:
    """FFmpeg filters that show the frame as its display matrix says; None for turns that are no multiple of 90.

    With (x', y') = (a x + c y, b x + d y), a stored frame is displayed upright if a, d are its diagonal; with
    a = d = 0 rows and columns trade places. Signs tell the flips. Applied before the conversion to RGB, as the
    ffmpeg program does.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if a and d and not _counts(b, a) and not _counts(c, d):
        return (("hflip", ""),) * (a < 0) + (("vflip", ""),) * (d < 0)
    if b and c and not _counts(a, b) and not _counts(d, c):
        direction = {(True, False): "clock", (False, True): "cclock", (True, True): "cclock_flip"}
        return (("transpose", f"dir={direction.get((b > 0, c > 0), 'clock_flip')}"),)
    return None


def _counts(small: int, large: int) -> bool:
    """More than the ffmpeg program's one degree off the axis?"""
    return abs(small) * 57 > abs(large)
