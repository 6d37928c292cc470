"""One training on several devices: torch starts the processes and averages their gradients; nothing here does.

    this process   torch's elastic launcher (what torchrun is): starts, watches and stops the others
      rank 0       trains on its share of every batch; validates, writes checkpoints and the result, tells its progress
      rank 1 ...   the same on their shares, in silence

Every process draws the same batches with the same augmentation and takes its share, and DistributedDataParallel adds
the gradients up (gloo on CPUs, nccl on GPUs): what comes out is what one process makes of the whole batch, sums in
another order. Batch norms see the share alone; see ``docs/training.md``.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, cast

import torch
from torch import Tensor, nn

from qbench import errors
from qbench.errors import ConfigError, QBenchError, TrainingError
from qbench.progress import Progress, SilentProgress

GRACE_SECONDS = 2.0  # a process that lost another dies of it; the launcher is to see the other's death first
COLLECTIVE_TIMEOUT = timedelta(days=1)  # rank 0 validates while the others wait; a death is seen by the launcher
UNUSED = "find_unused_parameters"  # of torch's advice where a parameter has no part in the loss
LAUNCHER_LOGS = ("torch.distributed.elastic", "torch.distributed.launcher")


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together: ``rank`` of ``count``."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates, saves and tells."""
        return self.rank == 0

    def shared(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module to call in training: one that averages gradients over the processes, itself if it is alone."""
        if self.count == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        # its buffers (running statistics) are rank 0's at the beginning of every forward pass
        return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)

    def without_exchange(self, net: nn.Module) -> AbstractContextManager[None]:
        """Within it, gradients of ``net`` (of :meth:`shared`) add up in this process alone."""
        return nullcontext() if self.count == 1 else cast(Any, net).no_sync()

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in its place."""
        if self.count > 1:
            torch.distributed.all_reduce(value)
        return value

    @contextmanager
    def own_randomness(self, seed: int, step: int, device: torch.device) -> Iterator[None]:
        """Numbers drawn within it (dropout) are this process's own; those drawn outside stay the same in all."""
        if self.count == 1:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(((seed * 100_003 + step) * self.count + self.rank) % 2**63)
            yield


def check_devices(devices: int, device: torch.device) -> None:
    """Raise ConfigError unless this machine has as many GPUs as are asked for (processes share a CPU)."""
    there = torch.cuda.device_count() if device.type == "cuda" else devices
    if device.type not in ("cpu", "cuda") or there < devices:
        found = f"this machine has {there} GPU{'s' if there != 1 else ''}" if device.type == "cuda" else "cpu or cuda"
        raise ConfigError(f"trainer.devices={devices}: not with device={device}: {found}")


def run_together(
    entry: Callable[..., None],
    arguments: Sequence[Any],
    *,
    devices: int,
    device: torch.device,
    threads: int,
    progress: Progress,
) -> None:
    """Call ``entry(*arguments, ranks=, device=, progress=)`` in as many processes, and wait for them.

    Args:
        entry: What each does; a function of a module, because it is sent to them by name.
        arguments: The same for all; they are pickled.
        devices: How many processes; on GPUs each has its own, the first ones of the machine.
        device: cpu or cuda.
        threads: Of all together; each process has its share of them, and one at least.
        progress: Told what rank 0 tells.

    Raises:
        ConfigError: This machine has too few GPUs.
        QBenchError: What a process raised, if it was one.
        OSError: A process could not write.
        TrainingError: A process failed otherwise, or was killed; names it.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    check_devices(devices, device)
    with tempfile.TemporaryDirectory(prefix="qbench-ranks-") as folder, _silent_launcher(), _signals_kept():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        with _relayed(progress) as sender:
            try:
                of_each = max(1, threads // devices)
                elastic_launch(config, _in_rank)(entry, tuple(arguments), device.type, of_each, sender)
            except ChildFailedError as error:
                raise _failure(error, devices) from error
            except SignalException as error:  # what the launcher makes of Ctrl-C and SIGTERM, the others stopped
                raise KeyboardInterrupt from error


def _in_rank(
    entry: Callable[..., None], arguments: tuple[Any, ...], kind: str, threads: int, sender: Connection
) -> None:
    """What runs in each process."""
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(threads)
    if not ranks.leads:
        logging.disable(logging.WARNING)  # rank 0 has the same to say
    # of weights that lie channels last in memory; costs a copy
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        entry(*arguments, ranks=ranks, device=device, progress=_Told(sender) if ranks.leads else SilentProgress())
    except RuntimeError as error:
        if UNUSED in str(error):
            raise TrainingError(
                "a parameter of the network has no part in its output: train it on one device, or set its "
                "requires_grad to False"
            ) from error
        time.sleep(GRACE_SECONDS)
        raise
    torch.distributed.destroy_process_group()


class _Told:
    """The progress of rank 0, as messages to the process that shows it."""

    def __init__(self, sender: Connection) -> None:
        self.sender = sender

    def begin(self, label: str, total: int) -> None:
        self.sender.send(("begin", (label, total)))

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.sender.send(("advance", (steps, note)))

    def line(self, text: str) -> None:
        self.sender.send(("line", (text,)))

    def end(self) -> None:
        self.sender.send(("end", ()))


@contextmanager
def _relayed(progress: Progress) -> Iterator[Connection]:
    """The end of a pipe for :class:`_Told`; what comes through it is told to ``progress``."""
    receiver, sender = get_context("spawn").Pipe(duplex=False)

    def relay() -> None:
        while (message := receiver.recv()) is not None:
            getattr(progress, message[0])(*message[1])

    listener = threading.Thread(target=relay, name="qbench-progress", daemon=True)
    listener.start()
    try:
        yield sender
    finally:
        sender.send(None)
        listener.join()
        receiver.close()
        sender.close()
        progress.end()  # of a process that could not


@contextmanager
def _silent_launcher() -> Iterator[None]:
    """Keep the launcher's own lines off the terminal: what they say is in the error that follows."""
    loggers = [logging.getLogger(name) for name in LAUNCHER_LOGS]
    before = [(logger, logger.propagate) for logger in loggers]
    silence = logging.NullHandler()
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(silence)
    try:
        yield
    finally:
        for logger, propagates in before:
            logger.propagate = propagates
            logger.removeHandler(silence)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Give signals back to whoever had them: the launcher takes them and keeps them."""
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in handled}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _failure(error: Any, devices: int) -> Exception:
    """What the first process to fail died of: as it raised it where qbench has that error, else named by its rank."""
    rank, failure = error.get_first_failure()
    who = f"rank {rank} of {devices} training processes"
    told = failure.message
    if not isinstance(told, dict):
        ended = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
        return TrainingError(f"{who} {ended}; the same command goes on from the last whole epoch")
    name, _, text = str(told["message"]).partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, QBenchError) and kind is not errors.MethodError:
        return kind(text)
    if (found := re.match(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?$", text)) is not None:
        return OSError(int(found[1]), found[2], found[3])
    return TrainingError(f"{who} failed: {name}: {text}")
