from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import datasets

from qbench.config import AugmentConfig
from qbench.data.augment import eval_batches, train_batches
from qbench.data.cifar10 import Cifar10
from qbench.data.digits import Digits
from qbench.data.mnist import FashionMnist, Mnist
from qbench.data.splits import channel_statistics
from qbench.data.synthetic import Synthetic
from qbench.errors import DataError

IDX = [("MNIST", Mnist), ("FashionMNIST", FashionMnist)]
by_folder = pytest.mark.parametrize("folder, kind", IDX, ids=[folder for folder, _ in IDX])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads fail as they do without a network."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise URLError("name resolution failed")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)


def idx_files(train: int = 12, test: int = 5) -> dict[str, bytes]:
    """Image i of a split is filled with i; its label is i % 10. The format is LeCun's: magic, sizes, bytes."""
    files = {}
    for split, count in (("train", train), ("t10k", test)):
        pixels = b"".join(bytes([index]) * 784 for index in range(count))
        files[f"{split}-images-idx3-ubyte"] = struct.pack(">IIII", 0x803, count, 28, 28) + pixels
        files[f"{split}-labels-idx1-ubyte"] = struct.pack(">II", 0x801, count) + bytes(i % 10 for i in range(count))
    return files


def write_idx(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in idx_files().items():
        (folder / name).write_bytes(content)


@by_folder
def test_idx_files(tmp_path: Path, folder: str, kind: type[Mnist]) -> None:
    write_idx(tmp_path / folder / "raw")
    train, test = kind().load_train(tmp_path, tmp_path), kind().load_test(tmp_path, tmp_path)
    assert train.images.shape == (12, 1, 28, 28) and test.images.shape == (5, 1, 28, 28)
    assert train.images[:, 0, 13, 7].tolist() == list(range(12))
    assert train.labels.tolist() == [*range(10), 0, 1]
    assert len(kind().class_names) == 10


@by_folder
@pytest.mark.parametrize("download", [True, False], ids=["download", "offline"])
def test_missing_idx_files(tmp_path: Path, folder: str, kind: type[Mnist], download: bool) -> None:
    with pytest.raises(DataError, match=rf"{folder}/raw/train-images.*data_dir=FOLDER") as caught:
        kind(download=download).load_train(tmp_path / "data", tmp_path)
    assert ("the download failed" in str(caught.value)) == download
    assert (caught.value.__cause__ is not None) == download
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(idx_files()))
def test_truncated_idx_file(tmp_path: Path, name: str) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    file = tmp_path / "MNIST" / "raw" / name
    file.write_bytes(file.read_bytes()[:-3])
    load = Mnist().load_train if name.startswith("train") else Mnist().load_test
    with pytest.raises(DataError, match=r"mnist: the files in .*raw are damaged or incomplete"):
        load(tmp_path, tmp_path)


def test_idx_files_that_disagree(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    labels = raw / "train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">II", 0x801, 11) + bytes(11))
    with pytest.raises(DataError, match="12 images but 11 labels"):
        Mnist().load_train(tmp_path, tmp_path)
    labels.write_bytes(struct.pack(">II", 0x801, 12) + bytes([10] * 12))
    with pytest.raises(DataError, match=r"labels must lie in 0\.\.9, found 10\.\.10"):
        Mnist().load_train(tmp_path, tmp_path)


def test_a_file_where_the_data_dir_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for dataset in (Mnist(), Cifar10()):
        with pytest.raises(DataError, match="not a folder"):
            dataset.load_train(tmp_path / "file", tmp_path)


def test_download_moves_complete_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def deliver(url: str, download_root: str, filename: str, md5: str) -> None:
        calls.append(filename)
        name = filename.removesuffix(".gz")
        (Path(download_root) / name).write_bytes(idx_files()[name])

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", deliver)
    assert len(Mnist().load_train(tmp_path, tmp_path)) == 12
    assert len(Mnist().load_test(tmp_path, tmp_path)) == 5
    assert len(calls) == 4  # the second load found the files
    assert sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(idx_files())
    assert not list(tmp_path.glob(".downloading-*"))


def test_archives_the_user_has_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # torchvision's own code runs; every archive passes its check, so nothing is fetched
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for name, content in idx_files().items():
        packed = gzip.compress(content)
        (raw / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert len(Mnist().load_train(tmp_path, tmp_path)) == 12


def write_batches(root: Path, monkeypatch: pytest.MonkeyPatch, per_file: int = 4) -> Path:
    """CIFAR-10's own format, small; torchvision's list of md5 sums is replaced by those of these files."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    rng = np.random.default_rng(0)
    entries: dict[str, Any] = {
        name: {
            "data": rng.integers(0, 256, (per_file, 3072), dtype=np.uint8),
            "labels": [(number + i) % 10 for i in range(per_file)],
        }
        for number, name in enumerate(names)
    }
    entries["batches.meta"] = {"label_names": list(Cifar10().class_names)}
    md5 = {}
    for name, entry in entries.items():
        content = pickle.dumps(entry)
        (folder / name).write_bytes(content)
        md5[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return folder


def write_cifar_folders(root: Path, splits: tuple[str, ...] = ("train", "test")) -> Path:
    for split in splits:
        for label, name in enumerate(Cifar10().class_names):
            folder = root / "cifar10" / split / name
            folder.mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (32, 32), (label, index, 7)).save(folder / f"{index}.webp", lossless=True)
    return root / "cifar10"


def test_cifar10_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_batches(tmp_path, monkeypatch)
    train, test = Cifar10().load_train(tmp_path, tmp_path), Cifar10().load_test(tmp_path, tmp_path)
    assert train.images.shape == (20, 3, 32, 32) and test.images.shape == (4, 3, 32, 32)
    assert train.labels[:4].tolist() == [0, 1, 2, 3]
    entry = pickle.loads((folder / "data_batch_2").read_bytes())
    assert np.array_equal(train.images[4:8].numpy(), entry["data"].reshape(4, 3, 32, 32))


def test_cifar10_folders(tmp_path: Path) -> None:
    write_cifar_folders(tmp_path)
    for images in (Cifar10().load_train(tmp_path, tmp_path), Cifar10().load_test(tmp_path, tmp_path)):
        assert images.labels.tolist() == [label for label in range(10) for _ in range(2)]
        assert images.images[:, :, 9, 9].tolist() == [[label, index, 7] for label in range(10) for index in range(2)]


def test_cifar10_prefers_the_official_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path, monkeypatch, per_file=3)
    write_cifar_folders(tmp_path)
    assert len(Cifar10().load_train(tmp_path, tmp_path)) == 15


def test_cifar10_truncated_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_batches(tmp_path, monkeypatch) / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match="cifar-10-batches-py are damaged or incomplete"):
        Cifar10().load_train(tmp_path, tmp_path)


@pytest.mark.parametrize("download", [True, False], ids=["download", "offline"])
def test_cifar10_missing(tmp_path: Path, download: bool) -> None:
    pattern = r"cifar10: no readable data in .*cifar-10-batches-py or cifar10/\{train,test\}/CLASS"
    with pytest.raises(DataError, match=pattern) as caught:
        Cifar10(download=download).load_test(tmp_path, tmp_path)
    assert ("the download failed" in str(caught.value)) == download


def test_cifar10_never_mixes_layouts(tmp_path: Path) -> None:
    write_cifar_folders(tmp_path, splits=("train",))
    with pytest.raises(DataError, match="test is missing") as caught:
        Cifar10().load_test(tmp_path, tmp_path)
    assert "the download failed" not in str(caught.value)


def test_cifar10_folders_with_other_classes(tmp_path: Path) -> None:
    folder = write_cifar_folders(tmp_path)
    (folder / "train" / "ship").rename(folder / "train" / "boat")
    with pytest.raises(DataError, match=r"lacks the classes \['ship'\] and has the unknown classes \['boat'\]"):
        Cifar10().load_train(tmp_path, tmp_path)


def test_digits_are_complete_stratified_and_disjoint(tmp_path: Path) -> None:
    train, test = Digits().load_train(tmp_path, tmp_path), Digits().load_test(tmp_path, tmp_path)
    assert train.images.shape == (1437, 1, 32, 32) and test.images.shape == (360, 1, 32, 32)
    share = torch.bincount(train.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert float((share - 0.8).abs().max()) < 0.01  # one image of about 180 a class
    rows = {image.numpy().tobytes() for image in train.images}
    assert not rows & {image.numpy().tobytes() for image in test.images}
    assert int(train.images.max()) == 255 and int(train.images.min()) == 0
    assert torch.equal(train.images, Digits().load_train(tmp_path, tmp_path).images)


def test_synthetic_shapes_balance_and_determinism(tmp_path: Path) -> None:
    dataset = Synthetic(channels=2, height=9, width=5, num_classes=3, train_images=1100, test_images=10)
    train, test = dataset.load_train(tmp_path, tmp_path), dataset.load_test(tmp_path, tmp_path)
    assert train.images.shape == (1100, 2, 9, 5) and test.images.shape == (10, 2, 9, 5)
    assert sorted(torch.bincount(train.labels).tolist()) == [366, 367, 367]
    assert torch.equal(train.images, dataset.load_train(tmp_path, tmp_path).images)
    assert not torch.equal(train.images[:10], test.images)
    assert dataset.class_names == ("template 0", "template 1", "template 2")
    tiny = Synthetic(channels=1, height=1, width=1, num_classes=1, train_images=1, test_images=1)
    assert tiny.load_train(tmp_path, tmp_path).images.shape == (1, 1, 1, 1)


def test_synthetic_noise_counts(tmp_path: Path) -> None:
    clean = Synthetic(noise=0.0, num_classes=1, train_images=200).load_train(tmp_path, tmp_path)
    # One template at 5 x 5 shifts: 25 distinct images.
    assert len({image.numpy().tobytes() for image in clean.images}) == 25
    noisy = Synthetic(noise=0.3, num_classes=1, train_images=200).load_train(tmp_path, tmp_path)
    assert len({image.numpy().tobytes() for image in noisy.images}) == 200


@pytest.mark.parametrize("params", [{"num_classes": 0}, {"train_images": 0}, {"noise": -1.0}], ids=str)
def test_synthetic_refuses_nonsense(params: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"dataset.{next(iter(params))}="):
        Synthetic(**params)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_small_network_learns_synthetic_quickly(tmp_path: Path, one_thread: None) -> None:
    dataset = Synthetic(channels=1, height=12, width=12, train_images=1024, test_images=512)
    train, test = dataset.load_train(tmp_path, tmp_path), dataset.load_test(tmp_path, tmp_path)
    mean, std = channel_statistics(train.images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for epoch in range(4):
        for pixels, labels in train_batches(train, 64, AugmentConfig(), mean, std, 0, epoch, "cpu"):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pixels), labels).backward()
            optimizer.step()
    hits = sum(int((network(x).argmax(1) == y).sum()) for x, y in eval_batches(test, 256, mean, std, "cpu"))
    assert hits / len(test) > 0.9
