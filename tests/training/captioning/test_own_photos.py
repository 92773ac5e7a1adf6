"""The recipe of training/captioning/README.md: five commands from photos and a csv file to a captioner."""

import re
import shutil

import pytest

from pairs.annotations import in_words, read_annotations
from tests.helpers.documented import PROGRAM, blocks, commands, run_here
from tests.helpers.shared_data import ROOT

README = (ROOT / "training" / "captioning" / "README.md").read_text(encoding="utf-8")


def recipe() -> list[list[str]]:
    (section,) = re.findall(r"^## Caption my own photos$(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    (block,) = blocks(section, "bash")
    return commands(block)


def test_the_photos_that_were_learned_are_captioned_as_their_people_did(tmp_path, monkeypatch, capfd):
    shutil.copytree(ROOT / "sample", tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    given = recipe()
    assert len(given) == 5
    for words in given:
        assert words[:2] == PROGRAM
        assert run_here(words[2:], monkeypatch) == 0
    said = dict(re.findall(r"^sample/(\w+)\.jpg +(.*?)  \(CLIP-S", capfd.readouterr().out, re.MULTILINE))
    images = {image.id: image for image in read_annotations(ROOT / "sample" / "captions.csv", validation_share=0.25)}
    assert set(said) == set(images)
    held_out = {image_id for image_id, image in images.items() if image.split == "val"}
    assert held_out == {"coffee"}  # as the README says
    for image_id in set(images) - held_out:
        assert said[image_id] in map(in_words, images[image_id].captions)


@pytest.mark.parametrize("command", recipe()[:1])
def test_without_images_to_validate_on_it_says_so(command, tmp_path, monkeypatch, capfd):
    shutil.copytree(ROOT / "sample", tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    assert run_here([word for word in command[2:] if "validation_share" not in word], monkeypatch) == 0
    assert "no images of split val" in capfd.readouterr().err
