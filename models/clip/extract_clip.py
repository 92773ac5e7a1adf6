"""`feature_type=clip`: videos -> CLIP features with times. Usable without Hydra:

features = ExtractCLIP(model_name="ViT-B/32", extraction_fps=1).extract("video.mp4")
features["clip"], features["fps"], features["timestamps_ms"]  # (t, d), (), (t,)
"""

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from models.clip.encoder import Encoder
from models.clip.layouts import weights_file
from models.clip.precision import Precision
from models.clip.preprocess import Preprocess, PreprocessMode
from models.clip.weights import EMBEDDED, URLS, find_weights, load_model
from models.clip.zero_shot import ShowPredictions, ZeroShot
from utils.batching import Encoded, End, Failed, Sample, Start, encode_batches, prefetch
from utils.errors import UserError, check_count, check_option
from utils.media.reencode import kept_path, through_file
from utils.media.sampling import EveryFrame, sampler_from
from utils.media.video import VideoReader, open_video
from utils.store.provenance import file_sha256, software, source_facts
from utils.types import Features, Handler, Item, Row

logger = logging.getLogger(__name__)

FEATURE_TYPE = "clip"
NO_DAMAGE = "none"
_this_thread = threading.local()
OnError = Literal["skip", "partial", "raise"]


class ExtractCLIP:
    """Reads, preprocesses and encodes; `utils.pipeline` runs it over many items.

    Features are float32 and not L2-normalised unless `normalize`. Where rows are re-timed (`extraction_fps`,
    `extraction_total`), `timestamps_ms` are the rows' own times and `source_timestamps_ms` those of the frames shown.
    """

    def __init__(
        self,
        *,
        model_name: str = "ViT-B/32",
        batch_size: int = 32,
        extraction_fps: float | str | None = None,
        extraction_total: int | None = None,
        device: str = "cuda:0",
        precision: Precision = "auto",
        preprocess: PreprocessMode = "fast",
        normalize: bool = False,
        show_pred: bool = False,
        pred_texts: str | list[str] | None = None,
        keep_tmp_files: bool = False,
        tmp_path: str | Path = "./tmp",
        on_error: OnError = "skip",
        activation: str | None = None,
        download_root: str | Path | None = None,
        offline: bool = False,
    ) -> None:
        check_count("batch_size", batch_size)
        check_option("preprocess", preprocess, get_args(PreprocessMode))
        check_option("on_error", on_error, get_args(OnError))
        _check_flags(normalize=normalize, show_pred=show_pred, keep_tmp_files=keep_tmp_files, offline=offline)
        self.batch_size = batch_size
        self.on_error: OnError = on_error
        self._sampler = sampler_from(extraction_fps, extraction_total)
        self._keep_tmp_files, self._tmp_path = keep_tmp_files, Path(tmp_path)
        self._normalize = normalize
        model_name = str(model_name)
        self._weights = find_weights(model_name, download_root=download_root, offline=offline)
        model = load_model(self._weights, activation=activation)
        self._preprocess = Preprocess.of(model.visual, preprocess)
        self._encoder = Encoder(model, device=usable_device(device), precision=precision)
        self._zero_shot = ZeroShot.from_texts(self._encoder, _as_list(pred_texts)) if show_pred else None
        self.folder = f"{FEATURE_TYPE}/{folder_name(model_name)}"
        self.settings = self._describe(model_name, activation)

    @property
    def handlers(self) -> list[Handler]:
        """Handlers that belong to this extractor's own options."""
        return [ShowPredictions()] if self._zero_shot else []

    def extract(self, path: str | Path) -> dict[str, np.ndarray]:
        """`{"clip": (t, d) float32, "fps": () float64, "timestamps_ms": (t,) float64}`; MediaError if unusable."""
        item = Item(Path(path), Path(path).stem)
        events = prefetch([item], self.read, workers=1, depth=2 * self.batch_size)
        with closing(events):  # pyright: ignore[reportArgumentType]
            (result,) = encode_batches(events, self.encode, self.batch_size)
        if isinstance(result, Failed):
            raise result.error
        features = self.finish(result)
        for handler in self.handlers:
            handler(features)
        return features.arrays

    def read(self, item: Item) -> Iterator[Start | Sample | End]:
        """Decode and preprocess one video; runs in a reading thread."""
        _use_one_thread_here()
        with open_video(item.path, on_damage="keep" if self.on_error == "partial" else "raise") as video:
            source = source_facts(item.path)  # before reading: a file that changes meanwhile is then done again
            yield Start(self._expected_rows(video))
            frame, pixels = None, None
            for row in self._rows(video, item):
                if row.frame is not frame or pixels is None:  # re-timing may show a frame in several rows
                    frame, pixels = row.frame, self._preprocess.frame(row.frame.to_rgb())
                yield Sample(pixels, row.seconds, float(row.frame.seconds))
            yield End(
                fps=self._sampler.fps_of_rows(video),
                facts={"source": source, "video": _video_facts(video), "damage": list(video.damage)},
                warnings=[*video.warnings, *video.damage],
            )

    def encode(self, pixels: Sequence[Tensor]) -> np.ndarray:
        return self._encoder.images(torch.stack(list(pixels)))

    def finish(self, encoded: Encoded) -> Features:
        """Arrays, predictions and provenance of one item."""
        values = encoded.features.astype(np.float32)
        predictions = self._predict(values, encoded.seconds) if self._zero_shot else []
        if self._normalize:
            values = values / np.linalg.norm(values, axis=1, keepdims=True)
        arrays = {
            FEATURE_TYPE: values,
            "fps": np.array(encoded.end.fps, dtype=np.float64),
            "timestamps_ms": np.array(encoded.seconds, dtype=np.float64) * 1000,
        }
        if not isinstance(self._sampler, EveryFrame):
            arrays["source_timestamps_ms"] = np.array(encoded.source_seconds, dtype=np.float64) * 1000
        provenance = {
            **encoded.end.facts,
            "warnings": encoded.end.warnings,
            "rows": len(values),
            "weights": str(self._weights),
            "device": str(self._encoder.device),
            "software": software(),
        }
        settings = self.settings | {"damage": "kept what decodes" if encoded.end.facts["damage"] else NO_DAMAGE}
        return Features(encoded.item, self.folder, arrays, settings, provenance, predictions)

    def _rows(self, video: VideoReader, item: Item) -> Iterator[Row]:
        rows = self._sampler.rows(video)
        if not self._keep_tmp_files or isinstance(self._sampler, EveryFrame):
            return rows
        return through_file(rows, kept_path(self._tmp_path / self.folder, item.name), rate=self._sampler.rate(video))

    def _expected_rows(self, video: VideoReader) -> int | None:
        info = video.info
        if isinstance(self._sampler, EveryFrame):
            return info.num_frames
        return round(info.duration_seconds * self._sampler.rate(video)) if info.duration_seconds else None

    def _predict(self, values: np.ndarray, seconds: list[float]) -> list[dict[str, Any]]:
        assert self._zero_shot is not None
        times = [{"timestamp_ms": time * 1000} for time in seconds]
        return [time | best for time, best in zip(times, self._zero_shot.predict(values), strict=True)]

    def _describe(self, model_name: str, activation: str | None) -> dict[str, Any]:
        """What the numbers depend on. Results on disk count as done only while all of it is unchanged."""
        settings: dict[str, Any] = {
            "feature_type": FEATURE_TYPE,
            "model_name": model_name if model_name in URLS else folder_name(model_name),
            "weights_sha256": file_sha256(weights_file(self._weights)),
            "activation": activation or "as the checkpoint says",
            "precision": self._encoder.precision,
            "preprocess": self._preprocess.mode,
            "resolution_px": self._preprocess.resolution,
            "normalize": self._normalize,
            "sampling": {"rule": type(self._sampler).__name__, **vars(self._sampler)},
        }
        if self.on_error != "partial":
            settings["damage"] = NO_DAMAGE  # what a partial run kept of a damaged file does not count as done
        if self._zero_shot:
            texts = "\n".join(self._zero_shot.texts)
            settings["pred_texts_sha256"] = hashlib.sha256(texts.encode()).hexdigest()
        return settings


def _use_one_thread_here() -> None:
    """Keep the resizing of this (reading) thread out of OpenMP.

    Every thread that uses OpenMP gets a team of its own whose members wait by spinning; with readers and encoder on
    the same cores that made runs ten times slower (figures in benchmarks/results.md).
    """
    if not getattr(_this_thread, "limited", False):
        torch.get_num_threads()  # PyTorch sets up a thread's OpenMP on first use, which would undo the limit
        threadpool_limits(limits=1, user_api="openmp")
        _this_thread.limited = True


def _check_flags(**flags: object) -> None:
    """Words such as `no` and `off` reach us as texts, and a text counts as true."""
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{key}={value}: expected true or false")


def usable_device(device: str) -> torch.device:
    """The device asked for; the CPU, with a warning, where it needs CUDA and there is none."""
    try:
        wanted = torch.device(str(device))
    except RuntimeError as error:
        raise UserError(f"device={device}: expected a PyTorch device such as cuda:0 or cpu") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        logger.warning("device=%s: CUDA is not available here, running on the CPU (device=cpu says so itself)", device)
        return torch.device("cpu")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: this machine has {torch.cuda.device_count()} GPU(s), counted from cuda:0")
    return wanted


def folder_name(model_name: str) -> str:
    """`ViT-B/32` -> `ViT-B_32`; a checkpoint given by its path stands there by its stem."""
    path = Path(model_name).expanduser().absolute()
    if model_name in {**URLS, **EMBEDDED} or not path.exists():
        return model_name.replace("/", "_")
    return path.name if path.is_dir() else path.stem


def _video_facts(video: VideoReader) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Fraction) else value for key, value in asdict(video.info).items()}


def _as_list(texts: str | Sequence[str] | None) -> list[str] | None:
    if texts is None:
        return None
    texts = [str(text) for text in texts] if isinstance(texts, list | tuple) else [str(texts)]
    if not texts:
        raise UserError("pred_texts=[]: expected texts, or null for the 400 classes of Kinetics")
    return texts
