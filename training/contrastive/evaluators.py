"""Measurements during training, beside the held-out loss: each is called with the model and gives numbers by name."""

import copy

from evaluation.clip.zero_shot import ZeroShotClassification
from evaluation.subject import Subject
from extraction.encoder import Encoder
from extraction.preprocess import Preprocess
from models.clip.model import CLIP


class ZeroShot:
    """Top-1 accuracy (0..100) on a folder with a folder of images for each class, as the evaluation job has it.

    For watching only: what is reported is measured by that job, on images no decision was made with.
    """

    def __init__(self, *, class_images_path: str, templates: str = "photo", batch_size: int = 256) -> None:
        self._classification = ZeroShotClassification(class_images_path=class_images_path, templates=templates)
        self._batch_size = batch_size

    def __call__(self, model: CLIP) -> dict[str, float]:
        device = next(model.parameters()).device
        encoder = Encoder(copy.deepcopy(model), device=device, precision="fp32")  # it changes what it is given
        subject = Subject(encoder, Preprocess.of(model.visual), self._batch_size, facts={})
        return {"zero_shot/top1_percent": self._classification(subject).metrics["top1_percent"]}
