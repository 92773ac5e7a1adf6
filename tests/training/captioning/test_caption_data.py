"""Batches: windows of captions, masks, the same again from any point on, shared out among processes."""

import json
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from models.captioner.vocabulary import Vocabulary
from pairs.label_files import read_labels, write_hdf5
from pairs.labels import make_labels
from pairs.loading import Loading, whole_batches
from pairs.photo_set import captioned_photos
from pairs.scenes.scenes import Scenes
from tests.helpers.caption_files import annotated, numbered_labels, numbered_source, write_data_set
from training.captioning.data import CaptionBatch, padded, window, with_ends
from training.captioning.sources import scene_captions, stored_captions
from utils.errors import UserError

SCENES = {"count": 24, "validation_count": 6, "device": "cpu", "resolution": 64, "word_count_threshold": 1}


def same(one: CaptionBatch, other: CaptionBatch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in ((getattr(one, key), getattr(other, key)) for key in vars(one))
    )


def captions_of(batch: CaptionBatch) -> list[list[tuple[int, ...]]]:
    """Per image, the words of its k captions."""
    return [[tuple(row[row > 0].tolist()) for row in rows] for rows in batch.labels]


def test_a_batch_holds_what_belongs_together():
    source = numbered_source(20)
    batch = next(source.batches(Loading(6), epoch=0))
    shapes = {key: tuple(getattr(batch, key).shape) for key in ("grids", "labels", "mask", "embeddings")}
    assert shapes == {"grids": (6, 4, 3), "labels": (6, 5, 18), "mask": (6, 5, 18), "embeddings": (6, 20)}
    assert batch.grids.dtype == batch.mask.dtype == torch.float32
    assert batch.labels.dtype == torch.int64
    assert batch.grid_mask is None
    for row, image_id in enumerate(batch.ids):
        number = int(image_id)
        assert (batch.grids[row] == number).all()
        assert batch.embeddings is not None
        assert batch.embeddings[row].argmax() == number
        assert batch.references[row] == [f"i{number} c{j}" for j in range(7)]
        assert {words[0] for words in captions_of(batch)[row]} == {number + 1}


def test_captions_follow_one_another_from_any_point_on():
    source, starts = numbered_source(40), Counter()
    for epoch in range(20):
        for batch in source.batches(Loading(40), epoch=epoch):
            for rows in captions_of(batch):
                numbers = [words[1] - 41 for words in rows]
                assert numbers == list(range(numbers[0], numbers[0] + 5))
                starts[numbers[0]] += 1
    assert set(starts) == {0, 1, 2}  # 7 captions: three windows of 5
    assert min(starts.values()) > 200  # of 800; 267 expected, standard deviation 13


def test_all_captions_where_there_are_five():
    (batch,) = numbered_source(8, 5).batches(Loading(8), epoch=3)
    assert all([words[1] - 9 for words in rows] == [0, 1, 2, 3, 4] for rows in captions_of(batch))


@pytest.mark.parametrize("captions_each", [1, 3, 4])
def test_drawn_with_return_where_there_are_fewer(captions_each):
    seen, repeated = set(), 0
    source = numbered_source(10, captions_each)
    for epoch in range(30):
        for batch in source.batches(Loading(10), epoch=epoch):
            for rows in captions_of(batch):
                numbers = [words[1] - 11 for words in rows]
                assert len(numbers) == 5
                seen |= set(numbers)
                repeated += len(set(numbers)) < captions_each
    assert seen == set(range(captions_each))
    assert (repeated > 0) == (captions_each > 1)  # drawn, not dealt out


def test_every_batch_has_draws_of_its_own():
    """Row r of all batches together: were their draws the same, so would be the windows."""
    batches = list(numbered_source(100).batches(Loading(5), epoch=0))
    for row in range(5):
        assert len({captions_of(batch)[row][0][1] for batch in batches}) > 1


@pytest.mark.parametrize(("m", "k"), [(5, 5), (7, 5), (3, 5), (1, 1), (1, 3)])
def test_windows_stay_inside_at_the_ends_of_the_draws(m, k):
    rows = np.arange(m)[:, None]
    for draw in (0.0, np.nextafter(1, 0)):
        assert window(rows, np.full(k, draw)).shape == (k, 1)
    assert window(rows, np.full(k, np.nextafter(1, 0)))[-1] == m - 1


@pytest.mark.parametrize("words", [0, 1, 15, 16])
def test_mask_ends_with_the_zero_that_ends_the_caption(words):
    """For 16 words that is the column behind the row."""
    row = np.array([[*range(1, words + 1), *[0] * (16 - words)]], np.uint32)
    labels, mask = with_ends(row)
    assert labels.shape == mask.shape == (1, 18)
    assert labels[0].tolist() == [0, *row[0].tolist(), 0]
    assert mask[0].tolist() == [1.0] * (words + 2) + [0.0] * (16 - words)


def test_long_captions_end_at_sixteen_words():
    long = [f"w{k}" for k in range(20)]
    labels = make_labels([annotated(0, [" ".join(long)])], Vocabulary(long))
    source = replace(numbered_source(1), labels=labels, references=labels.whole_captions)
    (batch,) = source.batches(Loading(1), epoch=0)
    assert batch.labels[0, 0].tolist() == [0, *range(1, 17), 0]
    assert batch.mask.sum() == 5 * 18
    assert batch.references == [[" ".join(long)]]
    (known,) = replace(source, references=labels.known_captions).batches(Loading(1), epoch=0)
    assert known.references == [[" ".join(long[:16])]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_goes_on_from_any_batch(start, workers):
    source, loading = numbered_source(25), Loading(6, seed=5)
    whole = list(source.batches(loading, epoch=2))
    rest = list(source.batches(replace(loading, workers=workers), epoch=2, start=start))
    assert len(whole) == whole_batches(len(source), loading) == 4
    assert len(rest) == 4 - start
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize("changed", [{"epoch": 1}, {"seed": 1}])
def test_epochs_and_seeds_differ(changed):
    source = numbered_source(30)

    def first(seed: int = 0, epoch: int = 0) -> CaptionBatch:
        return next(source.batches(Loading(10, seed=seed), epoch=epoch))

    assert same(first(), first())
    assert first().ids != first(**changed).ids


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_out_the_batches_of_one(world):
    source = numbered_source(38)
    alone = list(source.batches(Loading(12), epoch=1))
    shares = [list(source.batches(Loading(12 // world, rank=r, world=world), epoch=1)) for r in range(world)]
    for number, batch in enumerate(alone):
        assert [i for share in shares for i in share[number].ids] == batch.ids
        assert torch.equal(torch.cat([share[number].labels for share in shares]), batch.labels)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (3, 0), (3, 2)])
def test_in_order_shows_every_image_once(world, workers):
    source = numbered_source(11)
    found = [list(source.in_order(Loading(2, rank=r, world=world, workers=workers))) for r in range(world)]
    ids = [[image_id for batch in share for image_id in batch.ids] for share in found]
    assert ids == [[str(i) for i in range(r, 11, world)] for r in range(world)]
    assert all(len(batch) <= 2 for share in found for batch in share)


def test_too_few_images_for_a_batch():
    with pytest.raises(UserError, match="lower batch_size"):
        whole_batches(len(numbered_source(5)), Loading(3, world=2))


class Recorded(dict):
    """Grids that remember what was read."""

    def __init__(self, grids) -> None:
        super().__init__(grids)
        self.read: list[str] = []

    def __getitem__(self, image_id: str) -> np.ndarray:
        self.read.append(image_id)
        return super().__getitem__(image_id)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_features_are_read_when_they_are_needed_and_not_far_ahead(workers):
    source = numbered_source(100)
    grids = Recorded(source.grids)
    source = replace(source, grids=grids)
    list(source.all_references())
    batches = source.batches(Loading(5, workers=workers), epoch=0)
    assert not grids.read
    next(batches)
    in_advance = 5 * (workers + 1)
    deadline = time.monotonic() + 10
    while len(grids.read) < in_advance and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # for more than there should be
    assert len(grids.read) == in_advance
    batches.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_reading_threads_arrive(workers):
    source = numbered_source(20)
    grids = {image_id: grid for image_id, grid in source.grids.items() if image_id != "13"}
    with pytest.raises(KeyError, match="13"):
        list(replace(source, grids=grids).batches(Loading(5, workers=workers), epoch=0))


def test_grids_of_several_sizes_are_padded_with_a_mask():
    grids = [np.full((n, 2), n, np.float16) for n in (3, 1, 2)]
    together, mask = padded(grids, ["a", "b", "c"])
    assert mask is not None
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert together[..., 0].tolist() == [[3, 3, 3], [1, 0, 0], [2, 2, 0]]
    assert torch.equal(together[mask][:, 0], torch.tensor([3.0, 3, 3, 1, 2, 2]))


def test_grids_of_different_models_are_refused():
    with pytest.raises(UserError, match=r"differ in width: \[2, 3\]"):
        padded([np.ones((4, 2)), np.ones((4, 3))], ["a", "b"])


def test_parts_of_a_batch_must_match():
    (batch,) = numbered_source(4).batches(Loading(4), epoch=0)
    with pytest.raises(ValueError, match="differ in length"):
        replace(batch, ids=["1"])


def test_embeddings_may_be_absent():
    (batch,) = numbered_source(4, embeddings=None).batches(Loading(4), epoch=0)
    assert batch.embeddings is None


def test_captions_per_image():
    (batch,) = numbered_source(4, captions_per_image=2).batches(Loading(4), epoch=0)
    assert batch.labels.shape == (4, 2, 18)
    with pytest.raises(UserError, match="captions_per_image=0"):
        numbered_source(4, captions_per_image=0)


def test_karpathy_trains_on_train_and_restval(tmp_path):
    paths = write_data_set(tmp_path)
    data = stored_captions(**paths, embeddings_path=paths["grids_path"])
    assert (len(data.train), len(data.validation)) == (2, 1)
    (batch,) = data.train.batches(Loading(2), epoch=0)
    assert sorted(batch.ids) == ["0", "1"]
    assert batch.references == [["a b UNK", "b a"]] * 2  # what a captioner can say
    (held_out,) = data.validation.in_order(Loading(8))
    assert held_out.references == [["a b c2", "b a"]]  # what people said
    assert held_out.embeddings is not None
    assert held_out.embeddings.tolist() == [[0.5] * 4]
    assert list(data.vocabulary.words) == ["a", "b", "UNK"]


def test_karpathy_needs_no_features_of_images_it_does_not_use(tmp_path):
    paths = write_data_set(tmp_path)
    (tmp_path / "features" / "3.npz").unlink()  # the test split
    assert len(stored_captions(**paths).validation) == 1
    (tmp_path / "features" / "2.npz").unlink()
    with pytest.raises(UserError, match="no grids of 1 of 3 images: 2 or 000002"):
        stored_captions(**paths)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels_path": None}, "labels_path: expected"),
        ({"grids_path": None}, "grids_path: expected"),
        ({"grids_path": "nowhere"}, "nowhere: expected a folder of grids"),
        (
            {"validation_split": "dev"},
            r"labels_path=.*: no images of split dev; there are train: 1, restval: 1, val: 1, .*validation_share=0.1",
        ),
    ],
)
def test_users_mistakes_are_one_line(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        stored_captions(**write_data_set(tmp_path) | changed)


def test_scenes_are_split_by_what_they_show():
    train = list(Scenes(200, split="train", size_px=16, max_groups=1).draw("train"))
    held_out = list(Scenes(60, seed=1, split="test", unique=True, size_px=16, max_groups=1).draw("test"))
    assert all(len(scene.facts) == 1 for scene in [*train, *held_out])
    assert not {scene.facts for scene in train} & {scene.facts for scene in held_out}
    assert len({scene.facts for scene in held_out}) == 60


def test_more_different_scenes_than_there_are(monkeypatch):
    monkeypatch.setattr("pairs.scenes.scenes._ATTEMPTS", 20)
    with pytest.raises(UserError, match="500 different scenes of up to 1 group"):
        Scenes(500, split="test", max_groups=1, unique=True)


def test_scenes_come_with_features_and_all_their_words(tmp_path):
    data = scene_captions(**SCENES, cache_path=str(tmp_path))
    (batch,) = data.train.batches(Loading(24), epoch=0)
    assert batch.grids.shape == (24, 4, 768)  # tiny makes a 2 x 2 map of 64 pixels
    assert batch.embeddings is not None
    torch.testing.assert_close(batch.embeddings.norm(dim=1), torch.ones(24))
    assert torch.isfinite(batch.grids).all()
    assert len(batch.grids.flatten(1).unique(dim=0)) == 24
    assert all(len(captions) == 5 for captions in batch.references)
    assert batch.mask.sum(dim=2).max() <= 2 + 13
    assert len(list(tmp_path.glob("scenes-*.npz"))) == 2
    (again,) = scene_captions(**SCENES, cache_path=str(tmp_path)).train.batches(Loading(24), epoch=0)
    assert same(batch, again)


def test_embeddings_of_scenes_find_their_captions():
    """tiny's text tower agrees: rows of features, captions and ids belong together."""
    from models.clip.weights import find_weights, load_model

    data = scene_captions(**SCENES | {"validation_count": 30})
    (batch,) = data.validation.in_order(Loading(30))
    model = load_model(find_weights("tiny"))
    with torch.inference_mode():
        texts = model.encode_text(model.tokenize([captions[0] for captions in batch.references]))
    assert batch.embeddings is not None
    scores = batch.embeddings @ torch.nn.functional.normalize(texts.float(), dim=1).t()
    assert (scores.argmax(dim=1) == torch.arange(30)).float().mean() > 0.5  # by chance 0.03


def test_a_kept_file_of_other_settings_is_not_taken(tmp_path):
    scene_captions(**SCENES, cache_path=str(tmp_path))
    (batch,) = scene_captions(**SCENES | {"resolution": 96}, cache_path=str(tmp_path)).train.batches(
        Loading(24), epoch=0
    )
    assert batch.grids.shape == (24, 9, 768)
    assert len(list(tmp_path.glob("scenes-*.npz"))) == 4


def test_a_damaged_kept_file_is_named(tmp_path):
    scene_captions(**SCENES, cache_path=str(tmp_path))
    for file in tmp_path.glob("scenes-*.npz"):
        file.write_bytes(b"PK")
    with pytest.raises(UserError, match="delete the file"):
        scene_captions(**SCENES, cache_path=str(tmp_path))


def test_numbers_of_labels_survive_json(tmp_path):
    """Ids are texts here and numbers in the files: leading zeros and names stay what they are."""
    labels = numbered_labels(4)
    images = [replace(image, id=name) for image, name in zip(labels.images, ["7", "007", "x7", "0"], strict=True)]
    words, rows = write_hdf5(replace(labels, images=images), tmp_path)
    assert [image["id"] for image in json.loads(words.read_text())["images"]] == [7, "007", "x7", 0]
    assert [image.id for image in read_labels(rows, words).images] == ["7", "007", "x7", "0"]


def test_photos_beside_scenes(tmp_path):
    for number, kind in enumerate(("airplane", "polar_bear")):
        (tmp_path / kind).mkdir()
        for k in range(4):
            Image.new("RGB", (32, 32), (60 * k, 120 * number, 9)).save(tmp_path / kind / f"{k}.png")
    templates = ["{article} {label}", "a photo of {article} {label}"]
    photos = partial(captioned_photos, path=str(tmp_path), count=5, templates=templates)
    data = scene_captions(**SCENES | {"count": 8, "validation_count": 3}, photos=photos)
    assert (len(data.train), len(data.validation)) == (8 + 5, 3 + 3)
    seen = {}
    for source in (data.train, data.validation):
        for batch in source.in_order(Loading(4)):
            for image_id, grid, references in zip(batch.ids, batch.grids, batch.references, strict=True):
                seen[image_id] = (grid, references)
    texts = {image_id: captions for image_id, (_, captions) in seen.items() if image_id.endswith(".png")}
    assert len(texts) == 8
    bear = ["a polar bear", "a photo of a polar bear"]
    assert texts["polar_bear/0.png"] == bear
    assert texts["airplane/1.png"] == ["an airplane", "a photo of an airplane"]
    grids = torch.stack([grid for image_id, (grid, _) in seen.items() if image_id.endswith(".png")])
    assert len({grid.numpy().tobytes() for grid in grids}) == 8  # every photo has its own
    assert grids.shape[1:] == next(iter(seen.values()))[0].shape
