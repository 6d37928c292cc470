"""Magnitude pruning: the smallest weights become zeros, at once or gradually while the network is fine-tuned.

Papers: Han et al., "Learning both Weights and Connections", arXiv:1506.02626; Zhu & Gupta, "To prune, or not to prune",
arXiv:1710.01878 (the cubic schedule); Mishra et al., arXiv:2104.08378 (N:M).
Idea: a weight's magnitude stands for its use. A file holds a mask and the weights that stay, as floats; a later step of
    a pipeline may quantize these.
Assumptions: layers are comparable (scope=global: one threshold for all) or alike in redundancy (per_layer).
Cost: without training no data and seconds. With it ``epochs`` passes over the training images; the masks are chosen
    anew about fifty times until ``ramp_fraction`` of the steps, then stay.
Deviations: thresholds by exact count, ties to the first weight; a layer left with none keeps its largest weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import Context, Needs, Tuning, check_effect, check_finite, require_one_of, require_within
from qbench.methods.sparse import MaskedWeight, sparse_float
from qbench.program.encodings import Encoding, Float, Sparse
from qbench.program.graph import Program
from qbench.quant.pruning import cubic_share, group_mask, sparse_masks
from qbench.training.trainable import TrainableProgram

SCOPES = ("global", "per_layer")
LARGEST_SPARSITY = 0.99
UPDATES = 50  # how often masks are chosen anew while sparsity rises


@dataclass(frozen=True)
class Prune:
    """Magnitude pruning.

    Args:
        sparsity: Share of the weights that become zero, 0..0.99; without effect where ``pattern`` says it.
        scope: global (the smallest weights of the network) or per_layer (the same share of every layer).
        pattern: none, or N:M, "2:4": of every M consecutive weights of an output channel (in stored order; the last
            group may be shorter) at most N stay.
        first_last_sparsity: Sparsity of the first and last layer, 0 leaves them whole; None treats them like the
            others.
        overrides: Layer name pattern -> its own sparsity, 0 leaves it whole. The last matching one wins. Beside a
            pattern, 0 is the only one.
        epochs: Passes over the training images; 0 prunes without training.
        lr: Peak learning rate of the fine-tuning.
        batch_size: Images per step of the fine-tuning.
        ramp_fraction: Share of the steps over which sparsity rises.
    """

    sparsity: float = 0.5
    scope: str = "global"
    pattern: str = "none"
    first_last_sparsity: float | None = None
    overrides: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    lr: float = 0.02
    batch_size: int = 128
    ramp_fraction: float = 0.5

    def __post_init__(self) -> None:
        require_within("sparsity", self.sparsity, 0.0, LARGEST_SPARSITY)
        require_one_of("scope", self.scope, SCOPES)
        require_within("first_last_sparsity", self.first_last_sparsity, 0.0, LARGEST_SPARSITY)
        require_within("epochs", self.epochs, 0, 10_000)
        require_within("ramp_fraction", self.ramp_fraction, 0.0, 1.0)
        _ = self.group

    @property
    def group(self) -> tuple[int, int] | None:
        """N and M of the pattern."""
        if self.pattern == "none":
            return None
        parts = re.fullmatch(r"(\d{1,4}):(\d{1,4})", str(self.pattern))
        if parts is None:
            raise ValueError(f"pattern={self.pattern!r}: allowed are none and N:M, such as '2:4' (in quotes in a YAML)")
        keep, group = int(parts[1]), int(parts[2])
        if not 1 <= keep < group:
            raise ValueError(f"pattern={self.pattern}: N must be at least 1 and below M")
        return keep, group

    @property
    def needs(self) -> Needs:
        return Needs(training=self.epochs > 0)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Prune, and fine-tune where ``epochs`` asks for it. Sparsity 0 everywhere gives the network as it is.

        Raises:
            MethodError: No layers, a weight that is not finite or already quantized, an override that matches no
                layer, overrides that leave every layer whole, or no training images where ``epochs`` needs them.
            TrainingError: The loss leaves the numbers.
        """
        check_finite(baseline)
        targets = self.targets(baseline)
        for layer in targets:
            _check_float(baseline, layer)
        if not targets and (self.sparsity > 0 or self.group or not baseline.layers()):
            check_effect(baseline, baseline)  # says what is wrong
        if self.epochs:
            return self._tuned(baseline, targets, context)
        masks = self.masks({layer: baseline.weight(layer) for layer in targets}, targets)
        pruned: dict[str, Encoding] = {
            f"{layer}.weight": sparse_float(baseline.weight(layer), mask & _mask_of(baseline, layer))
            for layer, mask in masks.items()
        }
        return baseline.with_tensors(pruned)

    def targets(self, program: Program) -> dict[str, float | None]:
        """The layers that are pruned -> their own sparsity, None where it is the method's.

        Raises:
            MethodError: An override matches no layer or is out of range.
        """
        names = [node.name for node in program.layers()]
        chosen: dict[str, float | None] = dict.fromkeys(names)
        if self.first_last_sparsity is not None and names:
            chosen[names[0]] = chosen[names[-1]] = self.first_last_sparsity
        for pattern, own in self.overrides.items():
            where = f"method.overrides[{pattern!r}]"
            matching = [name for name in names if fnmatchcase(name, pattern)]
            if not matching:
                raise MethodError(where, f"matches no layer; layers are {', '.join(names)}")
            if isinstance(own, bool) or not isinstance(own, int | float) or not 0 <= own <= LARGEST_SPARSITY:
                raise MethodError(where, f"is {own!r}; allowed are 0 (whole) to {LARGEST_SPARSITY}")
            chosen.update(dict.fromkeys(matching, float(own)))
        if self.group is not None and any(chosen.values()):
            key = "method.first_last_sparsity" if self.first_last_sparsity else "method.overrides"
            raise MethodError(key, f"beside pattern={self.pattern} a layer is left whole (0) or not")
        return {name: own for name, own in chosen.items() if own != 0 and (own or self.sparsity or self.group)}

    def masks(
        self, weights: Mapping[str, Tensor], targets: Mapping[str, float | None], share: float = 1.0
    ) -> dict[str, Tensor]:
        """The mask of each layer when ``share`` of its final sparsity is due; a pattern is due at once."""
        if self.group is not None:
            return {layer: group_mask(weight, *self.group) for layer, weight in weights.items()}
        alone = {layer: own for layer, own in targets.items() if own is not None or self.scope == "per_layer"}
        together = [layer for layer in targets if layer not in alone]
        found: dict[str, Tensor] = {}
        if together:
            found.update(zip(together, sparse_masks([weights[layer] for layer in together], share * self.sparsity)))
        for layer, own in alone.items():
            (found[layer],) = sparse_masks([weights[layer]], share * (self.sparsity if own is None else own))
        return {layer: found[layer] for layer in targets}

    def _tuned(self, baseline: Program, targets: Mapping[str, float | None], context: Context) -> Program:
        tune = context.tuner(f"epochs={self.epochs}")
        network = TrainableProgram(baseline, fold=False)
        earlier = {layer: _mask_of(baseline, layer) for layer in targets}
        masked = {layer: MaskedWeight(mask) for layer, mask in earlier.items()}
        for layer, quantizer in masked.items():
            network.quantize_weight(layer, quantizer)

        def prune_further(step: int, total: int) -> None:
            ramp = min(round(self.ramp_fraction * total), total - 1)
            if masked and step <= ramp and (step == ramp or step % max(1, ramp // UPDATES) == 0):
                weights = {layer: network.latent(layer) * earlier[layer].to(context.device) for layer in masked}
                for layer, mask in self.masks(weights, targets, cubic_share(step, ramp)).items():
                    masked[layer].mask.copy_(mask & earlier[layer].to(context.device))

        # the last epoch, not the best one: that may have been validated before all was pruned
        tuning = Tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, keep="last")
        tune(network, tuning, before_step=prune_further)
        return network.program()


def _check_float(program: Program, layer: str) -> None:
    encoding = program.tensors[f"{layer}.weight"]
    if not isinstance(encoding.inner if isinstance(encoding, Sparse) else encoding, Float):
        raise MethodError(f"{layer}.weight", "is quantized already; prune before")


def _mask_of(program: Program, layer: str) -> Tensor:
    """What an earlier step kept, or everything."""
    encoding = program.tensors[f"{layer}.weight"]
    return encoding.mask if isinstance(encoding, Sparse) else encoding.decode().isfinite()
