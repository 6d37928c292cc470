"""The schema of a run: frozen dataclasses, filled by :mod:`qbench.resolve`, read by every stage. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qbench import steps


@dataclass(frozen=True)
class Peer:
    """What the YAML of a method says that hands in a file which another library made (``peer:``).

    Attributes:
        runtime: The runtime of that file: a run with such a method has no other.
        packages: Whose versions decide what is in the file.
    """

    runtime: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """One option of a config group: the dotted ``target`` to build and its parameters.

    The parameters are flat, but for the steps of a pipeline (:mod:`qbench.steps`).

    ``variant`` names, for people, the parameters (bits aside) that are not the YAML's defaults; ``peer`` is that of a
    method whose file another library makes.
    """

    name: str
    target: str
    params: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    peer: Peer | None = None

    def identity(self) -> dict[str, Any]:
        """What a content key needs to know: the target and its parameters, not the name of the YAML."""
        order = list(steps.steps(self.params))  # a key is made of sorted mappings, and would not tell it
        return {"target": self.target, "params": dict(self.params), **({"steps": order} if order else {})}

    def bits(self, parameter: str) -> int | None:
        """A bit-width among the parameters; None where it is null or there is none of that name."""
        value = self._parameter(parameter)
        return None if value is None else int(value)

    def _parameter(self, name: str) -> Any:
        key = steps.find(self.params, name)
        return None if key is None else steps.flat(self.params)[key]

    @property
    def act_bits(self) -> int | None:
        """The activation bit-width; None where there is none or ``activations`` is none."""
        return None if self._parameter("activations") == "none" else self.bits("act_bits")

    @property
    def title(self) -> str:
        """How people tell it from its other settings: ``kmeans granularity=per_channel w4``."""
        bits = bits_label(self.bits("weight_bits"), self.act_bits)
        return " ".join(filter(None, [self.name, self.variant, bits]))


NO_TRACKER = Choice("none", "qbench.trackers.base.NoTracker")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images.

    Attributes:
        flip: Mirror half of the images left to right.
        crop_padding: Shift by up to this many pixels in each direction, borders filled by reflection.
        cutout: Side in pixels of a square replaced by the mean colour; its centre lies anywhere in the image, so it
            may be cut off at the border. DeVries and Taylor, "Improved Regularization of Convolutional Neural
            Networks with Cutout", arXiv:1708.04552, sec. 3. 0 leaves images whole.
    """

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop_padding < 0 or self.cutout < 0:
            raise ValueError(f"crop_padding={self.crop_padding} and cutout={self.cutout} must not be negative")


@dataclass(frozen=True)
class DatasetConfig:
    """A data set and how its training split is divided.

    ``fingerprint`` stands for the user's own files, whose content no name fixes; None for the published data sets.
    """

    choice: Choice
    augment: AugmentConfig = AugmentConfig()
    validation_fraction: float = 0.1
    calibration_images: int = 512
    split_seed: int = 0
    fingerprint: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """A network, the smallest input it takes, and where its weights come from (None: they are trained)."""

    choice: Choice
    min_channels: int = 1
    min_size: int = 1
    weights: Path | None = None


@dataclass(frozen=True)
class TrainConfig:
    """The float training recipe.

    ``epochs`` 0 keeps the initial (or given) weights; ``augment`` False trains on the images as they are.
    """

    epochs: int = 16
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_fraction: float = 0.2
    label_smoothing: float = 0.1
    grad_clip: float = 0.0
    ema_decay: float = 0.0
    mixup_alpha: float = 0.0
    precision: str = "auto"
    augment: bool = True


@dataclass(frozen=True)
class TrainerConfig:
    """What a float training runs on; the recipe, its batch size and its precision are those of :class:`TrainConfig`.

    Attributes:
        devices: Processes that train together, each on its share of every batch.
        accumulate: Parts of that share which are computed one after the other.
        sync_batch_norm: Batch norms take their statistics from the whole batch, not from each process's part.
    """

    devices: int = 1
    accumulate: int = 1
    sync_batch_norm: bool = False


@dataclass(frozen=True)
class MeasureConfig:
    """What the profile stage measures and how hard it tries.

    ``agreement`` says when to compare with the integers, ``validation`` whether to score the validation images too.
    """

    latency: bool = True
    memory: bool = True
    batch_sizes: tuple[int, ...] = (1, 32)
    min_rounds: int = 15
    max_seconds: float = 20.0
    turn_seconds: float = 0.1
    ratio_tolerance: float = 0.05
    agreement: str = "deployed"
    validation: bool = False


@dataclass(frozen=True)
class RunConfig:
    """One cell: dataset x model x method on one seed. ``limit_*`` bound the number of images (None: all)."""

    dataset: DatasetConfig
    model: ModelConfig
    method: Choice
    train: TrainConfig
    runtime: Choice
    measure: MeasureConfig
    seed: int
    device: str
    threads: int
    data_dir: Path
    output_dir: Path
    store_dir: Path
    limit_train: int | None = None
    limit_test: int | None = None
    tiny: bool = False
    dry: bool = False
    traceback: bool = False
    trainer: TrainerConfig = TrainerConfig()
    tracker: Choice = NO_TRACKER

    @property
    def label(self) -> str:
        """How messages call this run."""
        return f"{self.dataset.choice.name} {self.model.choice.name} {self.method.title}"

    @property
    def weight_bits(self) -> int | None:
        """The weight bit-width asked of the method; None where the method has none."""
        return self.method.bits("weight_bits")

    @property
    def act_bits(self) -> int | None:
        """The activation bit-width asked of the method; None where activations stay float."""
        return self.method.act_bits


def bits_label(weight_bits: int | None, act_bits: int | None) -> str:
    """``w4``, ``w4a8`` or nothing."""
    parts = (("w", weight_bits), ("a", act_bits))
    return "".join(f"{letter}{bits}" for letter, bits in parts if bits is not None)
