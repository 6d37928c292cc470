"""The verb evaluate: how often an artefact is right on a data set's test images, from the file alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.catalog import options
from qbench.console import make_console
from qbench.errors import ConfigError, DataError
from qbench.locate import find_artifact
from qbench.words import take_option

if TYPE_CHECKING:
    from qbench.config import RunConfig
    from qbench.data.base import ImageSet
    from qbench.program.graph import Program

KEYS = ("dataset", "runtime", "threads", "limit_test", "data_dir", "store_dir")
SCORE_BATCH = 250


def evaluate(words: Sequence[str]) -> int:
    """``qbench evaluate FILE dataset=NAME [KEY=VALUE ...] [--config-dir DIR]``: accuracy of a file on test images."""
    folder, rest = take_option("--config-dir", words)
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder.")
    if not rest or rest[0].startswith("-") or _is_override(rest[0]):
        raise ConfigError("evaluate: give one artefact, then dataset=NAME and what else to set (runtime=integer ...).")
    path = find_artifact("evaluate", rest[0])
    config = configure("evaluate", rest[1:], Path(folder) if folder else None, needed="dataset")
    return _print_accuracy(path, config)


def configure(verb: str, overrides: Sequence[str], config_dir: Path | None, needed: str | None = None) -> RunConfig:
    """The config of a verb that only reads an artefact.

    Args:
        verb: For the messages.
        overrides: ``KEY=VALUE`` each.
        config_dir: The user's own config folder.
        needed: A group whose option must be named.

    Raises:
        ConfigError: A key that has no effect here, a value out of bounds, data that is not there; all problems at once.
    """
    from qbench.compose import compose_cells

    keys = [word.partition("=")[0] for word in overrides]
    without_effect = [key for key in keys if key.split(".")[0] not in KEYS]
    if without_effect:
        raise ConfigError([f"{verb}: {key} has no effect; keys are {', '.join(KEYS)}." for key in without_effect])
    if needed is not None and needed not in keys:
        raise ConfigError(f"{verb}: {needed}=NAME is missing. Known: {', '.join(options(needed, config_dir))}.")
    (cell,) = compose_cells(overrides, config_dir)
    assert cell.config is not None  # a single cell is configured or refused
    return cell.config


def _is_override(word: str) -> bool:
    return word.partition("=")[0].split(".")[0] in KEYS and "=" in word


def scored_images(config: RunConfig, program: Program, path: Path) -> tuple[ImageSet, tuple[str, ...]]:
    """The test images of a data set, shaped for the network, and the names of their classes.

    Raises:
        DataError: The images or the number of classes are not those of the network.
    """
    from qbench.assets import instantiate
    from qbench.data.splits import limit_images
    from qbench.deployed import fitted, num_logits

    source = f"dataset={config.dataset.choice.name}"
    dataset: Any = instantiate("dataset", config.dataset.choice)
    images = fitted(dataset.load_test(config.data_dir, config.store_dir / "data"), program, path, source)
    names: tuple[str, ...] = dataset.class_names
    if len(names) != num_logits(program):
        raise DataError(f"{source} has {len(names)} classes, {path} tells {num_logits(program)} apart")
    return limit_images(images, config.limit_test, config.dataset.split_seed), names


def _print_accuracy(path: Path, config: RunConfig) -> int:
    import torch
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from qbench.artifact import load
    from qbench.data.augment import eval_batches
    from qbench.deployed import normalisation
    from qbench.measure.accuracy import Predictions
    from qbench.measure.intervals import wilson_interval
    from qbench.runtime import load_runtime

    program = load(path)
    mean, std = normalisation(program, path)
    images, names = scored_images(config, program, path)
    executable = load_runtime(config.runtime.target, config.runtime.params).load(path, threads=config.threads)
    batches = eval_batches(images, SCORE_BATCH, mean, std, "cpu")
    found = Predictions(torch.cat([executable(batch) for batch, _ in batches]), images.labels)
    low, high = wilson_interval(int(found.correct.sum()), len(images))
    top5 = "" if found.top5_percent is None else f"{found.top5_percent:.2f}"
    row = {
        "dataset": config.dataset.choice.name,
        "runtime": config.runtime.name,
        "kernel": executable.kind,
        "images": f"{len(images):,}",
        "top-1 % [95 %]": f"{found.top1_percent:.2f} [{low:.2f}, {high:.2f}]",
        "top-5 %": top5,
        "loss": f"{found.loss:.4f}",
    }
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for heading in row:
        table.add_column(escape(heading), no_wrap=True)
    table.add_row(*map(escape, row.values()))
    console = make_console()
    console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    own = program.provenance.get("classes")
    if own and list(own) != list(names):
        text = f"note: the file's classes are {_few(own)}, the data set's {_few(names)}: labels may not mean the same"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
