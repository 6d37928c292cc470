from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from qbench.data import class_folders
from qbench.data.base import ImageSet
from qbench.data.class_folders import Decoding, class_folder_names, load_class_folders
from qbench.data.image_folder import ImageFolder
from qbench.errors import DataError

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}
RGB = Decoding(3, 6, 8, resize=False)


def write_split(folder: Path, images: int = 3, size: tuple[int, int] = (8, 6)) -> None:
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(images):
            image = Image.new("RGB", size, colour)
            image.putpixel((0, 0), (index, index, index))
            image.save(folder / name / f"{index}.png")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_split(tmp_path / "data" / "images" / "train")
    write_split(tmp_path / "data" / "images" / "test", images=1)
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(tree: Path, cache: Path, decoding: Decoding = RGB) -> ImageSet:
    folder = tree / "images" / "train"
    return load_class_folders("pets", folder, class_folder_names("pets", folder), decoding, cache)


def stored(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


def test_order_is_class_then_name_and_pixels_are_exact(tree: Path, cache: Path) -> None:
    images = load(tree, cache)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.images.shape == (6, 3, 6, 8)
    assert images.images[:, :, 0, 0].tolist() == [[i] * 3 for i in (0, 1, 2, 0, 1, 2)]
    assert images.images[:, :, 5, 7].tolist() == [[0, 0, 255]] * 3 + [[255, 0, 0]] * 3


def test_files_that_are_no_images_are_left_out(tree: Path, cache: Path) -> None:
    (tree / "images" / "train" / "red" / "notes.txt").write_text("x")
    (tree / "images" / "train" / "red" / ".hidden.png").write_text("x")
    (tree / "images" / "train" / "readme.md").write_text("x")
    assert len(load(tree, cache)) == 6


def test_second_load_reads_the_cache(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tree, cache)

    def fail(*args: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(class_folders, "decode_files", fail)
    assert torch.equal(load(tree, cache).images, first.images)
    assert len(stored(cache)) == 1 and not list(cache.glob(".writing-*"))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_last_byte, empty], ids=lambda damage: damage.__name__)
def test_a_damaged_cache_is_decoded_again(tree: Path, cache: Path, damage: object) -> None:
    first = load(tree, cache)
    (file,) = stored(cache)
    good = file.read_bytes()
    assert callable(damage)
    damage(file)
    assert torch.equal(load(tree, cache).images, first.images)
    assert file.read_bytes() == good


def test_changed_files_and_settings_are_decoded_anew(tree: Path, cache: Path) -> None:
    load(tree, cache)
    file = tree / "images" / "train" / "red" / "1.png"
    Image.new("RGB", (8, 6), (9, 9, 9)).save(file)
    os.utime(file, ns=(1, 1))
    assert load(tree, cache).images[4, :, 3, 3].tolist() == [9, 9, 9]
    grey = load(tree, cache, Decoding(1, 6, 8, resize=False))
    assert grey.images.shape == (6, 1, 6, 8)
    (tree / "images" / "train" / "red" / "0.png").unlink()
    assert len(load(tree, cache)) == 5
    assert len(stored(cache)) == 4


def test_a_damaged_image_is_named(tree: Path, cache: Path) -> None:
    file = tree / "images" / "train" / "red" / "1.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match=r"red.1\.png cannot be decoded"):
        load(tree, cache)
    assert stored(cache) == []


def test_another_size_is_an_error_or_resized(tree: Path, cache: Path) -> None:
    Image.new("RGB", (20, 10), (40, 50, 60)).save(tree / "images" / "train" / "red" / "2.png")
    with pytest.raises(DataError, match=r"red.2\.png is 20x10, not 8x6"):
        load(tree, cache)
    resized = load(tree, cache, Decoding(3, 6, 8, resize=True))
    assert resized.images[5].unique().tolist() == [40, 50, 60]


def test_an_unusable_cache_folder_is_named(tree: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(DataError, match=r"cannot keep decoded images in .*cache"):
        load(tree, cache)


def test_an_empty_class_folder(tree: Path, cache: Path) -> None:
    (tree / "images" / "train" / "green").mkdir()
    with pytest.raises(DataError, match="green has no images"):
        load(tree, cache)


def test_image_folder_loads_both_splits(tree: Path, cache: Path) -> None:
    dataset = ImageFolder(channels=1, height=4, width=5, num_classes=2)
    with pytest.raises(ValueError, match="once one of its splits has been loaded"):
        _ = dataset.class_names
    assert dataset.load_test(tree, cache).images.shape == (2, 1, 4, 5)
    assert dataset.class_names == ("blue", "red")
    assert dataset.load_train(tree, cache).images.shape == (6, 1, 4, 5)
    absolute = ImageFolder(folder=str(tree / "images"), num_classes=2)
    assert absolute.load_train(Path("elsewhere"), cache).images.shape == (6, 3, 32, 32)


def test_image_folder_splits_must_agree(tree: Path, cache: Path) -> None:
    (tree / "images" / "test" / "red").rename(tree / "images" / "test" / "rot")
    with pytest.raises(DataError, match=r"only in train: \['red'\], only in test: \['rot'\]"):
        ImageFolder(num_classes=2).load_train(tree, cache)


def test_image_folder_counts_classes(tree: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"set dataset\.num_classes=2"):
        ImageFolder().load_train(tree, cache)
    with pytest.raises(DataError, match=r"dataset\.channels=2"):
        ImageFolder(channels=2)


def test_image_folder_missing_empty_or_not_a_folder(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"pets.train is missing.*data_dir=FOLDER"):
        ImageFolder(folder="pets").load_train(tmp_path, cache)
    (tmp_path / "pets" / "train").mkdir(parents=True)
    (tmp_path / "pets" / "test").mkdir()
    with pytest.raises(DataError, match="has no class folders"):
        ImageFolder(folder="pets").load_train(tmp_path, cache)
    (tmp_path / "pets" / "train" / "cat").mkdir()
    (tmp_path / "pets" / "test").rmdir()
    (tmp_path / "pets" / "test").write_text("")
    with pytest.raises(DataError, match="test is not a folder"):
        ImageFolder(folder="pets").load_train(tmp_path, cache)


def test_an_unreadable_class_folder(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, real = tree / "images" / "train" / "red", os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and real(path, mode))
    with pytest.raises(DataError, match=r"red is unreadable \(permission denied\)"):
        load(tree, cache)
