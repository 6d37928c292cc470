"""Images per second of whole training steps: torchvision's usual loop against qbench's batched pipeline.

Loops compared, on the same network, images, batch size, optimizer and random changes (mirror, shift by 4 pixels):
  dataloader_w0, dataloader_w2   PIL transforms per image, torch DataLoader with 0 or 2 workers, float32
  qbench_float32                 whole-batch tensor augmentation, float32
  qbench_bf16                    what qbench trains with: channels-last tensors, bfloat16 autocast, and the weight
                                 gradient of qbench.training.small_maps on small feature maps

Each round runs every loop once, in a rotating order, in one process; the figure is the median over rounds. The first
round is warm-up (it starts the workers) and is not counted.

    python benchmarks/data_pipeline.py --model cnn_282k --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from qbench.config import AugmentConfig
from qbench.data.augment import train_batches
from qbench.data.base import ImageSet
from qbench.data.cifar10 import Cifar10
from qbench.data.splits import limit_images
from qbench.machine import cpu_model
from qbench.models.build import build_model
from qbench.training.small_maps import fast_small_maps

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Batches = Iterable[tuple[Tensor, Tensor]]


class PilImages(Dataset[tuple[Tensor, int]]):
    """What torchvision.datasets.CIFAR10 does: arrays in memory, a PIL image and its transforms per item."""

    def __init__(self, images: ImageSet) -> None:
        self.arrays = images.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


class TrainingLoop:
    """One network with its optimizer; calling it trains on all batches and returns images per second."""

    def __init__(self, model: str, batches: Callable[[int], Batches], *, channels_last: bool, bf16: bool) -> None:
        self.network = build_model(f"qbench.models.{MODELS[model]}", {}, 3, 32, 32, 10, seed=0)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)
        self.loss = nn.CrossEntropyLoss()
        self.batches = batches
        self.bf16 = bf16
        self.epoch = 0

    def __call__(self) -> float:
        with fast_small_maps(self.network, enabled=self.bf16):
            return self._epoch()

    def _epoch(self) -> float:
        images, start = 0, time.perf_counter()
        for pixels, labels in self.batches(self.epoch):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                loss = self.loss(self.network(pixels), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            images += len(labels)
        self.epoch += 1
        return images / (time.perf_counter() - start)


MODELS = {"cnn_282k": "small.cnn_282k", "vgg16": "vgg.vgg16"}


def make_loops(model: str, images: ImageSet, batch_size: int) -> dict[str, TrainingLoop]:
    def loader(workers: int) -> Callable[[int], Batches]:
        made: Batches = DataLoader(
            PilImages(images),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        return lambda epoch: made

    def batched(channels_last: bool) -> Callable[[int], Batches]:
        spec = AugmentConfig(flip=True, crop_padding=4)
        return lambda epoch: train_batches(
            images, batch_size, spec, MEAN, STD, 0, epoch, "cpu", channels_last=channels_last
        )

    return {
        "dataloader_w0": TrainingLoop(model, loader(0), channels_last=False, bf16=False),
        "dataloader_w2": TrainingLoop(model, loader(2), channels_last=False, bf16=False),
        "qbench_float32": TrainingLoop(model, batched(False), channels_last=False, bf16=False),
        "qbench_bf16": TrainingLoop(model, batched(True), channels_last=True, bf16=True),
    }


def measure(loops: dict[str, TrainingLoop], rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rate = loops[name]()
            if turn > 0:
                rates[name].append(rate)
    return rates


def load_images(data_dir: Path | None, count: int) -> ImageSet:
    if data_dir is None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, torch.randint(0, 10, (count,), generator=generator))
    with tempfile.TemporaryDirectory() as cache:
        return limit_images(Cifar10(download=False).load_train(data_dir, Path(cache)), count, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="cnn_282k")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; random pixels without it")
    parser.add_argument("--images", type=int, default=5120, help="images per loop and round")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the training process")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    load_before = os.getloadavg()[0]
    images = load_images(arguments.data_dir, arguments.images)
    rates = measure(make_loops(arguments.model, images, arguments.batch_size), arguments.rounds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best_loader = max(medians["dataloader_w0"], medians["dataloader_w2"])
    result = {
        "model": arguments.model,
        "data": "random" if arguments.data_dir is None else "cifar10",
        "images_per_round": arguments.images,
        "batch_size": arguments.batch_size,
        "rounds": arguments.rounds,
        "images_per_s_median": medians,
        "images_per_s": rates,
        "ratio_to_faster_dataloader": {name: rate / best_loader for name, rate in medians.items()},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        # Work of other programs before the start, in cores: well below 1 on a quiet machine.
        "load_before": load_before,
        "bf16_hardware": bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cpu": cpu_model(),
    }
    for name, rate in medians.items():
        print(f"{name:16s} {rate:10.0f} images/s   {rate / best_loader:5.2f}x the faster DataLoader loop")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
