"""Building what a config names: data sets, networks, methods, runtimes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from qbench.config import Choice, ModelConfig, RunConfig
from qbench.data.base import Dataset, ImageSet, TrainingData
from qbench.data.splits import fit_images, limit_images, split_training
from qbench.errors import ConfigError
from qbench.models.build import build_model
from qbench.steps import TARGET, is_step, undescribed


def instantiate(group: str, choice: Choice) -> Any:
    """Import the choice's target and call it with its parameters.

    Raises:
        ConfigError: The target cannot be imported or does not take the parameters; names the group and the target.
    """
    return _built(f"{group}={choice.name}", choice.target, choice.params)


def _built(where: str, target: str, params: Mapping[str, Any]) -> Any:
    """Build the steps among the parameters, then the target itself."""
    built = {
        name: _built(f"{where} {name}", value[TARGET], undescribed(value)) if is_step(value) else value
        for name, value in params.items()
    }
    module_name, _, attribute = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}: cannot import _target_ {target!r}: {error}") from error
    try:
        return made(**built)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {target}: {error}") from error


def load_training_data(config: RunConfig) -> TrainingData:
    """The three training parts, shaped for the network; kept for the next stage of the same data."""
    return _remembered("train", config, _load_training_data)


def load_test_images(config: RunConfig) -> ImageSet:
    """The test split, shaped for the network. Only scoring calls this."""
    return _remembered("test", config, _load_test_images)


_Loaded = TypeVar("_Loaded", TrainingData, ImageSet)
_memory: dict[str, tuple[str, Any]] = {}  # "train" and "test" -> (what was loaded last, its images)


def _remembered(part: str, config: RunConfig, load: Callable[[RunConfig], _Loaded]) -> _Loaded:
    """The stages of a sweep read the same images again and again: keep the last ones of each part."""
    limits = (config.limit_train, config.limit_test)
    wanted = repr((config.dataset, config.model.min_channels, config.model.min_size, limits, config.data_dir))
    if _memory.get(part, ("", None))[0] != wanted:
        _memory.pop(part, None)
        _memory[part] = (wanted, load(config))
    loaded: _Loaded = _memory[part][1]
    return loaded


def _load_training_data(config: RunConfig) -> TrainingData:
    dataset: Dataset = instantiate("dataset", config.dataset.choice)
    images = dataset.load_train(config.data_dir, config.store_dir / "data")
    return split_training(
        _fitted(images, config.model),
        dataset.class_names,
        validation_fraction=config.dataset.validation_fraction,
        calibration_images=config.dataset.calibration_images,
        limit=config.limit_train,
        seed=config.dataset.split_seed,
    )


def _load_test_images(config: RunConfig) -> ImageSet:
    dataset: Dataset = instantiate("dataset", config.dataset.choice)
    images = dataset.load_test(config.data_dir, config.store_dir / "data")
    return limit_images(_fitted(images, config.model), config.limit_test, config.dataset.split_seed)


def make_network(config: RunConfig, data: TrainingData) -> nn.Module:
    """The network at its initial weights, or at ``model.weights``.

    Raises:
        ConfigError: The weights file is not safetensors or does not fit the network; names the first mismatch.
    """
    _, channels, height, width = data.train.images.shape
    choice = config.model.choice
    network = build_model(
        choice.target, choice.params, channels, height, width, len(data.class_names), seed=config.seed
    )
    if config.model.weights is not None:
        try:
            network.load_state_dict(load_file(config.model.weights))
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"model.weights={config.model.weights}: does not fit model={choice.name}: {reason}"
            ) from error
    return network


def _fitted(images: ImageSet, model: ModelConfig) -> ImageSet:
    channels = max(model.min_channels, images.images.shape[1])
    return fit_images(images, channels, model.min_size)


def pin_threads(threads: int) -> None:
    """Make torch use this many threads for one operation."""
    torch.set_num_threads(threads)
