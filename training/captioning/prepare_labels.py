"""Annotations -> vocabulary, labels and document frequencies. Read `prepare` from top to bottom."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from PIL import Image, UnidentifiedImageError

from evaluation.captions.cider import DocumentFrequency
from models.captioner.vocabulary import Vocabulary
from pairs.annotations import END_WORD, AnnotatedImage, read_annotations
from pairs.label_files import write_hdf5, write_json
from pairs.labels import Labels, make_labels, make_vocabulary
from pairs.splits import TRAIN_SPLITS, VALIDATION
from utils.errors import UserError, check_count, check_option, given_path
from utils.progress_bar import progress_bar

LabelFormat = Literal["hdf5", "json"]
VocabularyFrom = Literal["train", "all"]
DOCUMENT_FREQUENCY = "document_frequency.json"
logger = logging.getLogger(__name__)


def prepare(
    *,
    annotations: str | None,
    output_path: str,
    label_format: LabelFormat = "hdf5",
    vocabulary_from: VocabularyFrom = "train",
    word_count_threshold: int = 5,
    max_length: int = 16,
    document_frequency_from: str = "train",
    image_folder: str | None = None,
    validation_share: float | None = None,
    split_seed: int = 42,
) -> int:
    """Writes the files and prints what is in them; for the options see configs/caption_labels.yaml."""
    check_option("label_format", label_format, get_args(LabelFormat))
    check_option("vocabulary_from", vocabulary_from, get_args(VocabularyFrom))
    check_count("word_count_threshold", word_count_threshold, least=0)
    path = given_path("annotations", annotations, "Karpathy's json, or a csv file with image,caption")
    images = read_annotations(path, validation_share=validation_share, split_seed=split_seed)
    if not any(image.split == VALIDATION for image in images):
        logger.warning(
            "annotations=%s: no images of split %s, which caption_train and caption_grammar need; "
            "validation_share=0.1 holds out a tenth of the training images",
            *(path, VALIDATION),
        )

    counted = of_split(images, vocabulary_from)
    vocabulary = make_vocabulary(images, counted, threshold=word_count_threshold)
    labels = make_labels(images, vocabulary, max_length=max_length)
    if image_folder:
        labels = replace(labels, images=_with_sizes(labels.images, Path(image_folder).expanduser()))
    frequency = document_frequency(of_split(images, document_frequency_from), vocabulary)

    folder = Path(output_path).expanduser()
    paths = (write_hdf5 if label_format == "hdf5" else write_json)(labels, folder)
    frequency.save(folder / DOCUMENT_FREQUENCY)
    print(summary(images, counted, labels))
    print(f"written: {', '.join(map(str, [*paths, folder / DOCUMENT_FREQUENCY]))}")
    return 0


def of_split(images: Sequence[AnnotatedImage], split: str) -> list[AnnotatedImage]:
    """Those of one split; `train` has `restval` with it, `all` is all of them. UserError where there are none."""
    wanted = TRAIN_SPLITS if split == "train" else (split,)
    chosen = [image for image in images if split == "all" or image.split in wanted]
    if not chosen:
        raise UserError(f"no images of split {split}; there are: {', '.join(sorted({i.split for i in images}))}")
    return chosen


def document_frequency(images: Sequence[AnnotatedImage], vocabulary: Vocabulary) -> DocumentFrequency:
    """What CIDEr-D as a reward is based on: complete captions and their end, words that cannot be said as UNK."""
    known = set(vocabulary.words)

    def ended(caption: str) -> list[str]:
        return [*(word if word in known else vocabulary.unk for word in caption.split()), END_WORD]

    return DocumentFrequency.build(list(map(ended, image.captions)) for image in images)


def summary(images: Sequence[AnnotatedImage], counted: Sequence[AnnotatedImage], labels: Labels) -> str:
    """`counted`: the images that the vocabulary is of."""
    words = {word for image in counted for caption in image.captions for word in caption.split()}
    known = set(labels.vocabulary.words)
    dropped = sum(word not in known for word in words)
    lines = [
        f"vocabulary: {len(known)} words; {dropped} of {len(words)} ({_percent(dropped, len(words))}) are too rare",
        f"{'split':<10}{'images':>10}{'captions':>10}{'UNK':>9}{'cut':>9}",
    ]
    for split, count in labels.count_splits().items():
        captions = [caption.split() for image in images if image.split == split for caption in image.captions]
        unknown = sum(word not in known for caption in captions for word in caption)
        cut = sum(len(caption) > labels.max_length for caption in captions)
        shares = _percent(unknown, sum(map(len, captions))), _percent(cut, len(captions))
        lines.append(f"{split:<10}{count:>10}{len(captions):>10}{shares[0]:>9}{shares[1]:>9}")
    return "\n".join([*lines, *_lengths(images)])


def _lengths(images: Sequence[AnnotatedImage]) -> list[str]:
    lengths = Counter(len(caption.split()) for image in images for caption in image.captions)
    total = sum(lengths.values())
    rows = [f"{n:>5}{lengths[n]:>10}{_percent(lengths[n], total):>9}" for n in range(max(lengths) + 1)]
    empty = [f"{lengths[0]} captions without a word are left out"] if lengths[0] else []
    return ["words  captions    share", *rows, *empty]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.2f} %"


def _with_sizes(images: Sequence[AnnotatedImage], folder: Path) -> list[AnnotatedImage]:
    """From the files' headers. COCO's images lie below a folder a split, those of other sets often do not."""
    sized = []
    for image in progress_bar(images, "sizes of the images", passing=True):
        file = folder / image.file_path
        try:
            with Image.open(file if file.is_file() else folder / file.name) as opened:
                sized.append(replace(image, size_px=opened.size))
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"image_folder={folder}: {image.file_path} cannot be read ({error})") from error
    return sized
