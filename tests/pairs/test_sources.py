"""What is trained on: every kind of source, the split, the order of batches, augmentation."""

import json
import zipfile
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from media.caption_files import CaptionedFile
from pairs.augment import Augment, erase, fit, jitter, shift
from pairs.batches import InputSize
from pairs.loading import Loading
from pairs.picture_folders import Folder
from pairs.shard_files import find_shards, read_shard
from pairs.sources import class_pairs, csv_pairs, karpathy_pairs, mixed_pairs, scene_pairs
from pairs.splits import held_out_ids, with_validation
from pairs.tar_shards import shard_pairs
from tests.helpers.small_data import COLOURS, caption, eight_pairs, jpeg, write_csv, write_images, write_shard
from utils.errors import UserError

PLAIN = Augment(crop="center")
SIZE = InputSize(16)


def all_rows(pairs):
    return pairs.batch(torch.arange(len(pairs)), SIZE)


def test_csv_is_split_by_image_id_without_leakage(tmp_path):
    splits = csv_pairs(
        path=str(write_csv(tmp_path, count=10, captions_each=5)), images=str(tmp_path / "images"), augment=PLAIN
    )
    train, held_out = splits.train, splits.validation["captions"]
    assert (len(train), len(held_out)) == (40, 10)
    assert set(held_out.ids) == set(held_out_ids(10, 0.2, 42).tolist())
    assert not set(train.ids) & set(held_out.ids)
    assert not set(train.picture_of) & set(held_out.picture_of)
    assert sorted(set(train.ids) | set(held_out.ids)) == list(range(10))


def test_csv_needs_no_ids_and_may_tell_its_splits(tmp_path, caplog):
    caplog.set_level("INFO")
    names = write_images(tmp_path / "images", 6)
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\n" + "".join(f"{name},one\n{name},two\n" for name in names))
    splits = csv_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN, validation_share=0.4)
    assert set(splits.validation["captions"].ids) == set(held_out_ids(6, 0.4, 42).tolist())
    assert (len(splits.train), len(splits.validation["captions"])) == (8, 4)
    assert f"{path} tells no images to validate on: 2 of 6 are held out" in caplog.text
    told = ["train", "val", "test", "", "restval", "val"]
    path.write_text("image,caption,split\n" + "".join(f"{n},a,{t}\n" for n, t in zip(names, told, strict=True)))
    splits = csv_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN)
    assert (splits.train.ids.tolist(), splits.validation["captions"].ids.tolist()) == ([0, 3, 4], [1, 5])
    with pytest.raises(UserError, match=r"validation_split=dev: .*Expected one of val"):
        csv_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN, validation_split="dev")


@given(
    numbers=st.sets(st.integers(0, 10**18), min_size=2, max_size=20), share=st.floats(0.01, 0.5), seed=st.integers(0, 9)
)
def test_a_share_of_the_images_is_held_out_whatever_their_ids(numbers, share, seed):
    listed = [CaptionedFile((f"{number}.jpg",), str(number), number, ()) for number in numbers]
    found = with_validation(listed, share=share, seed=seed, where="x")
    assert [image.id for image in found] == [image.id for image in listed]
    assert sum(image.split == "val" for image in found) == max(1, int(share * len(numbers)))
    assert {image.split for image in found} == {"train", "val"}


def test_images_that_are_not_trained_on_are_never_held_out():
    listed = [CaptionedFile((f"{k}.jpg",), str(k), k // 2, (), split) for k, split in enumerate(["test", ""] * 8)]
    listed += [CaptionedFile(("x.jpg",), "x", 99, (), "restval")]
    found = with_validation(listed, share=0.5, seed=0, where="x")
    assert [image.split for image in found[:16:2]] == ["test"] * 8
    assert sum(image.split == "val" for image in found) == 4
    for share, message in ((1, "none to train on"), (0, "none to validate on"), (2, "1 at most"), ("a", "a number")):
        with pytest.raises(UserError, match=rf"validation_share={share}.*{message}"):
            with_validation(listed, share=share, seed=0, where="x")


def test_held_out_ids_are_those_of_seed_1():
    np.random.seed(42)
    expected = np.random.choice(np.arange(0, 8092), size=int(0.2 * 8092), replace=False)
    assert held_out_ids(8092, 0.2, 42).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\na.jpg,b\n", "validation_share=0.2 leaves none to train on.*images by split: train: 1"),
        ("image,caption,split\na.jpg,b,val\n", "data_path: no images of split train or restval; found val: 1"),
        ("image,caption,id\n", "no captions below the header"),
    ],
)
def test_csv_mistakes_are_named(tmp_path, text, message):
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        csv_pairs(path=str(tmp_path / "captions.csv"), images=str(tmp_path), augment=PLAIN)


def test_the_first_ids_are_seed_1s_debug_subset(tmp_path):
    path = write_csv(tmp_path, count=12, captions_each=1)
    splits = csv_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN, first_ids=10)
    held_out = held_out_ids(10, 0.2, 42).tolist()
    assert splits.validation["captions"].ids.tolist() == sorted(held_out)
    assert splits.train.ids.tolist() == [number for number in range(10) if number not in held_out]
    path.write_text("image,caption,id\n000.jpg,a square,391895\n")
    with pytest.raises(UserError, match=r"data\.first_ids=100: no image in .*captions\.csv has an id below 100"):
        csv_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN, first_ids=100)
    with pytest.raises(UserError, match=r"data\.first_ids=0: expected a whole number"):
        csv_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN, first_ids=0)


def test_missing_images_are_counted_before_the_first_batch(tmp_path, caplog):
    path = write_csv(tmp_path, count=10, captions_each=2)
    for number in (1, 3, 4):
        (tmp_path / f"images/{number:03}.jpg").unlink()
    given = {"path": str(path), "images": str(tmp_path / "images"), "augment": PLAIN}
    counted = "images: 3 of 10 images are not there: 001.jpg, 003.jpg, 004.jpg"
    with pytest.raises(UserError, match=f"{counted}; data.skip_missing=true leaves them out"):
        csv_pairs(**given)
    splits = csv_pairs(**given, skip_missing=True)
    assert counted in caplog.text
    held_out = set(held_out_ids(10, 0.2, 42).tolist())  # the split is that of the whole file
    train, validation = splits.train.ids.tolist(), splits.validation["captions"].ids.tolist()
    assert set(train) == {0, 2, 5, 6, 7, 8, 9} - held_out
    assert set(validation) == held_out - {1, 3, 4}
    assert len(all_rows(splits.train).images) == len(train) == 2 * len(set(train))
    for number in held_out:
        (tmp_path / f"images/{number:03}.jpg").unlink(missing_ok=True)
    with pytest.raises(
        UserError, match="captions: of the images that are there, 12 rows are trained on and 0 held out"
    ):
        csv_pairs(**given, skip_missing=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="10 of 10 images are not there"):
        csv_pairs(**given | {"images": str(tmp_path / "empty")}, skip_missing=True)


def write_karpathy(folder, with_cocoid: bool):
    names = write_images(folder / "images/val", 6)
    parts = ["train", "restval", "val", "test", "train", "train"]
    images = [
        {"filename": name, "filepath": "val", "split": part, "imgid": k, "sentences": [{"raw": caption(k)}] * 5}
        | ({"cocoid": 100 + k} if with_cocoid else {})
        for k, (name, part) in enumerate(zip(names, parts, strict=True))
    ]
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images}))
    return path


@pytest.mark.parametrize("with_cocoid", [True, False])
def test_karpathy_splits_by_its_field_and_restval_joins_train(tmp_path, with_cocoid):
    path = write_karpathy(tmp_path, with_cocoid)
    splits = karpathy_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN, cache=True)
    first = 100 if with_cocoid else 0
    assert set(splits.train.ids - first) == {0, 1, 4, 5}
    assert set(splits.validation["captions"].ids - first) == {2}
    assert len(splits.train) == 20
    assert all_rows(splits.train).images.shape == (20, 3, 16, 16)
    (tmp_path / "images/val/003.jpg").unlink()  # of the test split, which no training needs
    karpathy_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN)
    (tmp_path / "images/val/001.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 5 images are not there: val/001\.jpg; data\.skip_missing=true"):
        karpathy_pairs(path=str(path), images=str(tmp_path / "images"), augment=PLAIN)
    with pytest.raises(UserError, match="validation_split=vla: did you mean val"):
        karpathy_pairs(path=str(path), images=str(tmp_path), augment=PLAIN, validation_split="vla")


def test_class_folders_in_a_folder_and_in_a_zip_are_the_same(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for part in ("train", "test"):
            for number in range(20):
                name = f"{part}/{('polar_bear', 'cat')[number % 2]}/{number:04}.jpg"
                archive.writestr(name, jpeg(number))
        archive.extractall(tmp_path)
    sources = [
        class_pairs(
            root=str(root), templates=["a photo of a {}", "the {}"], augment=PLAIN, validation_share=0.2, cache=cache
        )
        for root, cache in ((tmp_path / "photos.zip/train", True), (tmp_path / "train", False))
    ]
    zipped, plain = (all_rows(source.train) for source in sources)
    assert zipped.images.equal(plain.images)
    assert zipped.captions == plain.captions
    assert set(zipped.captions) == {"a photo of a polar bear", "a photo of a cat"}
    assert set(zipped.ids.tolist()) == {0, 1}
    assert len(zipped.ids) == 16
    drawn = sources[0].train.batch(torch.arange(16), SIZE, torch.Generator().manual_seed(0))
    assert "the polar bear" in drawn.captions  # a template is drawn each time
    with pytest.raises(UserError, match="no such folder or zip"):
        Folder(tmp_path / "nothing.zip")


def test_scenes_held_out_show_facts_never_trained_on():
    splits = scene_pairs(count=60, validation_count=20, size_px=32, augment=PLAIN)
    assert not set(splits.train.ids) & set(splits.validation["scenes"].ids)
    assert len(set(splits.validation["scenes"].ids)) == 20
    assert all_rows(splits.train).images.shape == (60, 3, 16, 16)


def test_mixture_shows_rows_by_weight_and_keeps_ids_apart():
    one, two = eight_pairs(), scene_pairs(count=20, validation_count=4, size_px=32, augment=PLAIN)
    mixed = mixed_pairs(sources=[one, two], weights=[2.5, 0.5])
    assert len(mixed.train) == 20 + 10
    order = mixed.train.order(torch.Generator().manual_seed(0))
    times = torch.bincount(order, minlength=28)
    assert set(times[:8].tolist()) == {2, 3}
    assert times[8:].max() == 1
    assert times.sum() == 30
    batch = next(mixed.train.batches(SIZE, Loading(30), epoch=0))
    assert set((batch.ids >> 40).tolist()) == {0, 1}
    assert set(mixed.validation) == {"squares", "scenes"}
    with pytest.raises(UserError, match="a weight for each source"):
        mixed_pairs(sources=[one], weights=[1.0, 1.0])


def flat(lists: list[list[int]]) -> list[int]:
    return [value for part in lists for value in part]


def rows_of(batches) -> list[list[int]]:
    return [batch.ids.tolist() for batch in batches]


def test_batches_can_be_asked_for_from_any_point():
    pairs = eight_pairs(Augment("shift", flip=True, colour=0.3, erase=0.5)).train
    loading = Loading(2, seed=3)
    whole = list(pairs.batches(SIZE, loading, epoch=1))
    later = list(pairs.batches(SIZE, loading, epoch=1, start=2))
    assert len(whole) == 4
    for one, other in zip(whole[2:], later, strict=True):
        assert one.images.equal(other.images)
        assert one.captions == other.captions
    assert sorted(flat(rows_of(whole))) == list(range(8))
    assert rows_of(whole) != rows_of(pairs.batches(SIZE, loading, epoch=2))
    assert rows_of(whole) != rows_of(pairs.batches(SIZE, Loading(2, seed=4), epoch=1))


def test_processes_share_a_batch_without_overlap():
    pairs = eight_pairs().train
    alone = rows_of(pairs.batches(SIZE, Loading(4), epoch=0))
    shares = [rows_of(pairs.batches(SIZE, Loading(2, rank=rank, world=2), epoch=0)) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == alone


def test_workers_change_nothing():
    pairs = eight_pairs(Augment("resized", scale=(0.3, 1.0))).train
    alone = list(pairs.batches(SIZE, Loading(2), epoch=0))
    ahead = list(pairs.batches(SIZE, Loading(2, workers=2), epoch=0))
    assert all(a.images.equal(b.images) and a.captions == b.captions for a, b in zip(alone, ahead, strict=True))


def write_shards(folder, count: int = 8, each: int = 6, **options) -> str:
    for shard in range(count):
        write_shard(folder / f"{shard:05}.tar", range(shard * each, (shard + 1) * each), **options)
    return str(folder)


def consumed(stream, loading: Loading, consumer: int, consumers: int, count: int) -> list[int]:
    return [sample.id for sample in islice(stream.samples(loading, consumer, consumers, 0), count)]


def test_shards_are_shared_among_ranks_and_workers_without_overlap(tmp_path):
    path = write_shards(tmp_path, count=9)
    stream = shard_pairs(path=path, augment=PLAIN, buffer=5).train
    assert stream.samples_per_epoch == 48
    shares = [consumed(stream, Loading(2), consumer, 4, 12) for consumer in range(4)]
    assert sorted(flat(shares)) == list(range(48))  # the ninth is held out
    with pytest.raises(UserError, match=r"8 shards for 3 process\(es\) with 3 worker"):
        stream.batches(InputSize(32), Loading(1, world=3, workers=3), epoch=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_goes_on_from_any_batch(tmp_path, workers):
    stream = shard_pairs(
        path=write_shards(tmp_path, broken=(3, 20)), augment=Augment("square", flip=True), buffer=7, validation_shards=2
    ).train
    loading = Loading(4, seed=1, workers=workers)
    whole = list(stream.batches(SIZE, loading, epoch=0))
    later = list(stream.batches(SIZE, loading, epoch=0, start=3))
    assert len(whole) == 9
    for one, other in zip(whole[3:], later, strict=True):
        assert one.images.equal(other.images)
        assert one.captions == other.captions
    assert 1 <= sum(batch.unreadable for batch in whole) <= 6  # a stand-in can be broken too
    assert rows_of(whole) != rows_of(stream.batches(SIZE, loading, epoch=1))
    assert not set(flat(rows_of(whole))) & {3, 20}


def test_shard_samples_and_their_captions(tmp_path):
    write_shard(tmp_path / "0.tar", range(3))
    samples = list(read_shard(tmp_path / "0.tar", "txt"))
    assert [(sample.id, sample.caption) for sample in samples] == [(i, caption(i)) for i in range(3)]
    assert [sample.caption for sample in read_shard(tmp_path / "0.tar", "json.top_caption")] == [
        "top 0",
        "top 1",
        "top 2",
    ]
    assert list(read_shard(tmp_path / "0.tar", "json.nothing")) == []


def test_a_shard_cut_short_is_used_as_far_as_it_goes(tmp_path, caplog):
    write_shard(tmp_path / "0.tar", range(3))
    data = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(data[: len(data) // 2])
    assert len(list(read_shard(tmp_path / "0.tar", "txt"))) in (1, 2)
    assert "the rest of this shard cannot be read" in caplog.text


def test_shards_are_found(tmp_path):
    write_shards(tmp_path, count=3)
    names = [f"{i:05}.tar" for i in range(3)]
    for path in (str(tmp_path), f"{tmp_path}/*.tar", f"{tmp_path}/{{00000..00002}}.tar"):
        assert [file.name for file in find_shards(path)] == names
    with pytest.raises(UserError, match=r"\{00003\.\.00007\}\.tar: no such tar shards"):
        find_shards(f"{tmp_path}/{{00003..00007}}.tar")
    (tmp_path / "00000_stats.json").unlink()
    with pytest.raises(UserError, match=r"give data\.samples_per_epoch"):
        shard_pairs(path=str(tmp_path), augment=PLAIN)


def test_gaps_in_numbered_shards_are_told(tmp_path, caplog):
    write_shards(tmp_path, count=8)
    for number in (1, 4, 5, 6):
        (tmp_path / f"{number:05}.tar").unlink()
    found = find_shards(f"{tmp_path}/{{00000..00011}}.tar")
    assert [file.name for file in found] == [f"{number:05}.tar" for number in (0, 2, 3, 7)]
    assert "8 of 12 shards are not there and left out: 00001, 00004..00006, 00008..00011" in caplog.text
    path = f"{tmp_path}/{{00000..00011}}.tar"
    splits = shard_pairs(path=path, augment=PLAIN)
    assert set(splits.validation["shards"].ids) == set(range(42, 48))  # of those that are there, the last


def test_a_wrong_caption_key_is_answered_with_those_that_are_there(tmp_path):
    path = write_shards(tmp_path, count=2)
    there = r"its first sample has jpg, txt, json\.top_caption$"
    for key in ("json.caption", "text", "json"):
        with pytest.raises(UserError, match=rf"data\.caption_key={key}: .* in .*00001\.tar; {there}"):
            shard_pairs(path=path, augment=PLAIN, caption_key=key)
    write_shard(tmp_path / "00001.tar", range(6, 9), broken=(6, 7, 8))
    with pytest.raises(UserError, match=r"00001\.tar: no readable image with a caption \(txt\) to hold out"):
        shard_pairs(path=path, augment=PLAIN)


def noise(height: int, width: int, count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("crop", ["square", "resized", "shift", "center"])
@pytest.mark.parametrize("size", [(20, 33), (33, 20), (16, 16), (5, 7)])
def test_every_crop_fits_the_tower_and_follows_its_generator(crop, size):
    augment = Augment(crop, flip=True, colour=0.4, erase=0.5)
    one, other = (augment(list(noise(*size)), 16, "crop", torch.Generator().manual_seed(5)) for _ in range(2))
    assert one.shape == (4, 3, 16, 16)
    assert one.dtype == torch.uint8
    assert one.equal(other)


def test_evaluation_view_is_clips_own_preprocessing():
    from extraction.preprocess import Preprocess

    image = noise(50, 81, 1)
    rgb = image[0].permute(1, 2, 0).contiguous().numpy()
    for resize in ("crop", "squash"):
        expected = Preprocess(32, "fast", resize).frame(rgb)
        assert (fit(image, 32, resize)[0].int() - expected.int()).abs().max() <= 1


def test_shift_moves_whole_images():
    images = noise(6, 6, 50)
    moved = shift(images, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for before, after in zip(padded, moved, strict=True):
        windows = [before[:, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
        assert any(after.equal(window) for window in windows)


def test_colour_and_erase_keep_the_range():
    images = noise(8, 8, 64)
    changed = jitter(images, 0.5, torch.Generator().manual_seed(0))
    assert changed.dtype == torch.uint8
    assert jitter(images, 0.0, torch.Generator()).equal(images)
    erased = erase(images, 1.0, torch.Generator().manual_seed(0))
    assert ((erased == 128) | (erased == images)).all()
    assert erase(images, 0.0, torch.Generator()).equal(images)


def test_captions_of_the_eight_pairs_name_their_colours():
    assert all(colour in text for colour, text in zip(COLOURS, all_rows(eight_pairs().train).captions, strict=True))
