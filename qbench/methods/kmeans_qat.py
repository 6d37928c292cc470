"""Fine-tuning of shared weights: the centroids of k-means are trained, together with batch norms and biases.

Paper: Han, Mao & Dally, "Deep Compression", arXiv:1510.00149, sec. 3.3.
Idea: every weight is a centroid, so a centroid's gradient is the sum of those of its members; training moves the few
    shared values to where the network works best. With ``reassign_steps`` each weight also keeps a float value of its
    own that gradients reach straight through, and every so many steps it joins the centroid that is nearest by then.
Assumptions: labelled training images. Only indices and centroids are stored, as ``method=kmeans`` stores them.
Cost: a step takes 1.1 to 1.4 times a float one; a few epochs.
Deviations: a centroid is learned as a multiple of (K / N)^(1/4), N weights of K centroids, so that SGD moves it at the
    relative speed of a single weight and one learning rate suits all (the gradient scale 1 / sqrt(N) of learned step
    sizes, Esser et al., arXiv:1902.08153, sec. 2.2). Between assignments the loss does not see where a float value
    goes, so its gradient is divided by sqrt(reassign_steps); in the last fifth of the steps assignments stay. The paper
    keeps the first assignment (``reassign_steps=0``). The best validation epoch is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from qbench.errors import MethodError
from qbench.methods.base import (
    Context,
    Needs,
    Tuning,
    check_effect,
    check_finite,
    require_one_of,
    require_within,
)
from qbench.methods.kmeans import GRANULARITIES, SNAPS, WEIGHTINGS, KMeans
from qbench.methods.layer_bits import bits_by_layer
from qbench.methods.static_edges import with_static_edges
from qbench.program.encodings import Affine, Codebook, Encoding, Float
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.program.transform import fold_batch_norm
from qbench.quant.codebook import nearest_indices, shared_values, snap_to_grid
from qbench.training.affine_quantizers import SteppedEdge
from qbench.training.trainable import TrainableProgram, WeightQuantizer

REASSIGNED = 0.8
"""Share of the steps in which weights may change centroids; in the rest the centroids settle in their last clusters."""


class SharedWeight(WeightQuantizer):
    """A weight whose elements are trained centroids.

    Args:
        initial: The codebook to start from, float or on an int8 grid; on a grid, it stays on one.
        follow: Share of the gradient that also reaches the latent weight, for :meth:`reassign`; 0 is none.
    """

    def __init__(self, initial: Codebook, *, follow: float) -> None:
        super().__init__()
        centroids = initial.centroids.decode()
        self.bits, self.axis, self.follow = initial.bits, initial.axis, follow
        self.on_grid = isinstance(initial.centroids, Affine)
        self.unit: float = (centroids.numel() / initial.indices.numel()) ** 0.25
        self._table_shape = centroids.shape
        self.learned = nn.Parameter((centroids / self.unit).flatten())  # one axis: spared from weight decay
        self.entries: Tensor
        self.register_buffer("entries", self._flat(initial.indices))

    def _flat(self, indices: Tensor) -> Tensor:
        """Indices into the flattened codebooks, int32."""
        flat = indices.int()
        if self.axis is None:
            return flat
        first = torch.arange(len(indices), dtype=torch.int32, device=indices.device) * self._table_shape[1]
        return flat + first.view([-1] + [1] * (indices.dim() - 1))

    def centroids(self) -> Tensor:
        """The shared values, float32, [K] or [C, K], differentiable; rounded to their grid straight through."""
        centroids = (self.learned * self.unit).view(self._table_shape)
        if not self.on_grid:
            return centroids
        return centroids + (self._stored().decode() - centroids).detach()

    def _stored(self) -> Float | Affine:
        centroids = (self.learned.detach() * self.unit).view(self._table_shape)
        if not self.on_grid:
            return Float(centroids)
        codes, qparams = snap_to_grid(centroids)
        return Affine(codes, qparams.scale, qparams.zero_point, 8, -127, 127, self.axis)

    def forward(self, latent: Tensor) -> Tensor:
        if not self.training:
            return shared_values(self._stored().decode().flatten(), self.entries)
        weight = shared_values(self.centroids().flatten(), self.entries)
        return weight + self.follow * (latent - latent.detach()) if self.follow else weight

    @torch.no_grad()
    def reassign(self, latent: Tensor) -> None:
        """Give every latent weight its nearest centroid."""
        centroids = self.centroids().detach()
        ordered, order = centroids.sort(dim=-1)
        places = nearest_indices(latent.reshape(len(latent), -1), ordered).long()
        chosen = order[places] if self.axis is None else order.gather(1, places)
        self.entries.copy_(self._flat(chosen.reshape(latent.shape)))

    def encode(self, latent: Tensor) -> Encoding:
        indices = self.entries if self.axis is None else self.entries % self._table_shape[1]
        stored = self._stored()
        if isinstance(stored, Float):
            centroids: Float | Affine = Float(stored.values.cpu())
        else:
            parts = stored.codes.cpu(), stored.scale.cpu(), stored.zero_point.cpu()
            centroids = Affine(*parts, stored.bits, stored.qmin, stored.qmax, stored.axis)
        return Codebook(indices.to(torch.uint8).cpu(), centroids, self.bits, self.axis)


@dataclass(frozen=True)
class KMeansQAT:
    """k-means weight sharing with trained centroids.

    Args:
        weight_bits: Bits per index, 1..8.
        act_bits: Bits per activation, 2..16, with learned steps; None keeps activations float.
        granularity: per_layer (one codebook) or per_channel (one per output channel).
        weighting: Of the clustering that training starts from, as for ``method=kmeans``.
        snap: none, or int8: centroids stay on a symmetric int8 grid.
        fold_batch_norm: Cluster the weights with the batch norms behind them merged in.
        epochs: Passes over the training images.
        lr: Peak learning rate.
        batch_size: Images per step.
        reassign_steps: Steps between assignments of weights to their nearest centroid; 0 keeps the first one.
        distillation: Share of the loss that is the divergence from the float network, 0..1.
        first_last_bits: Bits of the first and last layer; None treats them like the others.
        overrides: Layer name pattern -> bits (0: float).
    """

    weight_bits: int = 4
    act_bits: int | None = None
    granularity: str = "per_layer"
    weighting: str = "none"
    snap: str = "none"
    fold_batch_norm: bool = False
    epochs: int = 3
    lr: float = 0.001
    batch_size: int = 128
    reassign_steps: int = 10
    distillation: float = 0.0
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    largest_bits: ClassVar[int] = 8

    def __post_init__(self) -> None:
        require_one_of("granularity", self.granularity, GRANULARITIES)
        require_one_of("weighting", self.weighting, WEIGHTINGS)
        require_one_of("snap", self.snap, SNAPS)
        require_within("weight_bits", self.weight_bits, 1, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, 16)
        require_within("first_last_bits", self.first_last_bits, 1, self.largest_bits)
        require_within("epochs", self.epochs, 1, 10_000)
        require_within("reassign_steps", self.reassign_steps, 0, 1_000_000)
        require_within("distillation", self.distillation, 0.0, 1.0)

    @property
    def needs(self) -> Needs:
        return Needs(calibration=self.weighting != "none" or self.act_bits is not None, training=True)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Cluster, then train.

        Raises:
            MethodError: Nothing to quantize, a tensor that is not finite, an override that matches no layer, no
                training images, or no calibration images where the parameters ask for some.
            TrainingError: The loss leaves the numbers.
        """
        check_finite(baseline)
        if self.act_bits is not None and not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        tune = context.tuner("method=kmeans_qat")
        program = fold_batch_norm(baseline) if self.fold_batch_norm else baseline
        layers = bits_by_layer(program, self.weight_bits, self.overrides, self.first_last_bits, self.largest_bits)
        start = KMeans(granularity=self.granularity, weighting=self.weighting, snap=self.snap)
        clustered = start.cluster(program, layers, context)
        if self.act_bits is not None:  # on float weights, whose ranges training comes back to
            clustered = replace(clustered, edges=with_static_edges(program, context, self.act_bits).edges)
        check_effect(program, clustered)
        network = self._network(baseline, clustered)
        teacher = materialize(baseline, channels_last=True) if self.distillation > 0 else None

        def reassign(step: int, total: int) -> None:
            if self.reassign_steps and step and step % self.reassign_steps == 0 and step < REASSIGNED * total:
                _reassign(network, clustered)

        tune(network, self._tuning(), teacher=teacher, before_step=reassign)
        return network.program()

    def _network(self, baseline: Program, clustered: Program) -> TrainableProgram:
        network = TrainableProgram(baseline, fold=self.fold_batch_norm)
        # Until the next assignment a latent weight moves unseen by the loss: the longer that is, the shorter its steps.
        follow = self.reassign_steps**-0.5 if self.reassign_steps else 0.0
        for node in clustered.layers():
            encoding = clustered.tensors[f"{node.name}.weight"]
            if isinstance(encoding, Codebook):
                latent = network.tensor(node, "weight")
                if latent is not None:
                    latent.requires_grad_(self.reassign_steps > 0)
                network.quantize_weight(node.name, SharedWeight(encoding, follow=follow))
        for name, spec in clustered.edges.items():
            network.quantize_edge(name, SteppedEdge(spec, "learned"))
        return network

    def _tuning(self) -> Tuning:
        return Tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, distillation=self.distillation)


def _reassign(network: TrainableProgram, clustered: Program) -> None:
    for node in clustered.layers():
        quantizer = network.weight_quantizer(node.name)
        if isinstance(quantizer, SharedWeight):
            quantizer.reassign(network.latent(node.name))
