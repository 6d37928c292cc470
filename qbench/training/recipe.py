"""Optimizer, learning-rate schedule, precision: the parts of training that are pure functions of the recipe."""

from __future__ import annotations

import torch
from torch import nn

from qbench.config import TrainConfig
from qbench.errors import ConfigError


def one_cycle_lr(step: int, total_steps: int, peak: float, warmup_fraction: float) -> float:
    """Triangular one-cycle schedule: linear from peak/25 up to ``peak``, then linear down to (almost) zero.

    A function of the step alone, so a resumed run needs no scheduler state.

    Source: Smith & Topin, "Super-Convergence", arXiv:1708.07120. Deviation: linear instead of cosine arms.
    """
    position = (step + 0.5) / total_steps
    if position < warmup_fraction:
        return peak * (0.04 + 0.96 * position / warmup_fraction)
    return peak * (1.0 - position) / (1.0 - warmup_fraction)


def make_optimizer(module: nn.Module, recipe: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW. Weight decay spares biases and batch-norm parameters (one axis or none)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


def resolve_device(device: str) -> torch.device:
    """The torch device of that name; ConfigError where this machine has none."""
    kind = device.split(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise ConfigError(f"device={device}: not available to this torch {torch.__version__}; available here: {usable}")
    return torch.device(device)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype of a run, None for plain float32.

    ``auto`` takes bfloat16 where the hardware multiplies it natively: a CPU with AVX512-BF16 or AMX, a recent GPU.
    Elsewhere bfloat16 is emulated and slower than float32.
    """
    if precision == "float32":
        return None
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.bfloat16 if device.type == "cpu" and probe is not None and probe() else None


class ExponentialAverage:
    """Exponential moving average of a module's floating state; integer buffers are copied.

    The decay warms up as (1 + t) / (10 + t), so that the first steps do not pin the average to the initial weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1.0 - decay)
            else:
                self.state[name].copy_(value)
