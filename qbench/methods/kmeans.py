"""k-means weight sharing: each layer's weights are replaced by the nearest of 2^bits shared centroids.

Paper: Han, Mao & Dally, "Deep Compression", arXiv:1510.00149, sec. 3; weighted by importance after Choi et al.,
"Towards the Limit of Network Quantization", arXiv:1612.01543, sec. 3 (Hessian-weighted k-means).
Idea: minimise sum h (w - c[index])^2 over codebook and indices; store indices at their real width, the codebook once.
Assumptions: the squared error of weights, each times its importance h, stands for the error of the network. Biases and
    batch norm stay float.
Cost: no data with the defaults; seconds for 15 M weights. ``weighting=activation`` takes a pass over the calibration
    images, ``fisher`` one forward and backward, a correction two; none needs labels.
Deviations: the one-dimensional problem is solved to (within 0.1 % of) its optimum instead of by Lloyd iterations from
    an initialisation, so there is nothing random; a codebook per output channel is an option, and so are corrections of
    what the error does to the channels' statistics (:mod:`qbench.methods.corrections`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import Context, Needs, check_effect, check_finite, require_one_of, require_within
from qbench.methods.corrections import correct_biases, match_statistics, reestimate_batch_norm
from qbench.methods.importance import IMPORTANCES, importance
from qbench.methods.layer_bits import bits_by_layer
from qbench.methods.sparse import kept_values, with_kept
from qbench.methods.static_edges import with_shared_edges, with_static_edges
from qbench.program.encodings import Affine, Codebook, Encoding, Float
from qbench.program.graph import Program
from qbench.program.transform import fold_batch_norm
from qbench.quant.codebook import nearest_indices, snap_to_grid
from qbench.quant.kmeans import kmeans_1d, kmeans_rows

GRANULARITIES = ("per_layer", "per_channel")
WEIGHTINGS = ("none", *IMPORTANCES)
CORRECTIONS = ("none", "statistics", "batch_norm", "bias")
SNAPS = ("none", "int8")
ACT_LEVELS = ("uniform", "kmeans")


@dataclass(frozen=True)
class KMeans:
    """Weight sharing by optimal one-dimensional k-means.

    Args:
        weight_bits: Bits per index, 1..8; 2^bits centroids (fewer where a layer has fewer distinct weights).
        act_bits: Bits per activation, 2..16; None keeps activations float.
        act_levels: The values an activation can take: uniform (an evenly spaced grid) or kmeans (shared values of any
            spacing, 8 bits at most; no integer kernel computes with those, so they are simulated).
        granularity: per_layer (one codebook) or per_channel (one per output channel).
        weighting: How much a weight's error counts: none (all alike), activation (the mean square of the inputs it
            multiplies) or fisher (the mean squared gradient of the network's own log-likelihood).
        correction: Of what the errors do to the network: none, statistics (channels get the mean and deviation they
            have in the float network), batch_norm (running statistics are re-estimated) or bias (means only).
        snap: none, or int8: centroids on a symmetric int8 grid of one scale per codebook, so that an integer kernel
            can compute with them.
        fold_batch_norm: Merge batch norms into the layers before clustering.
        first_last_bits: Bits of the first and last layer; None treats them like the others.
        overrides: Layer name pattern -> bits (0: float).
    """

    weight_bits: int = 4
    act_bits: int | None = None
    act_levels: str = "uniform"
    granularity: str = "per_layer"
    weighting: str = "none"
    correction: str = "none"
    snap: str = "none"
    fold_batch_norm: bool = False
    first_last_bits: int | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    largest_bits: ClassVar[int] = 8

    def __post_init__(self) -> None:
        require_one_of("act_levels", self.act_levels, ACT_LEVELS)
        require_one_of("granularity", self.granularity, GRANULARITIES)
        require_one_of("weighting", self.weighting, WEIGHTINGS)
        require_one_of("correction", self.correction, CORRECTIONS)
        require_one_of("snap", self.snap, SNAPS)
        require_within("weight_bits", self.weight_bits, 1, self.largest_bits)
        require_within("act_bits", self.act_bits, 2, 16)
        if self.act_levels == "kmeans" and self.act_bits is not None and self.act_bits > 8:
            raise ValueError(f"act_bits={self.act_bits} with act_levels=kmeans: shared values take 8 bits at most")
        require_within("first_last_bits", self.first_last_bits, 1, self.largest_bits)
        if self.correction == "batch_norm" and self.fold_batch_norm:
            raise ValueError("correction=batch_norm has no batch norm left to re-estimate: set fold_batch_norm=false")

    @property
    def needs(self) -> Needs:
        weights_alone = self.weighting == "none" and self.correction == "none" and self.act_bits is None
        return Needs(calibration=not weights_alone)

    def compress(self, baseline: Program, context: Context) -> Program:
        """Cluster the weights of every layer, then correct statistics, then quantize activations.

        Raises:
            MethodError: Nothing to quantize, a weight that is not finite, an override that matches no layer, or no
                calibration images where the parameters ask for some.
        """
        check_finite(baseline)
        self._check_images(context)
        program = fold_batch_norm(baseline) if self.fold_batch_norm else baseline
        layers = bits_by_layer(program, self.weight_bits, self.overrides, self.first_last_bits, self.largest_bits)
        clustered = self.cluster(program, layers, context)
        if self.act_bits is None:
            check_effect(program, clustered)
            return self._corrected(clustered, program, context)
        with_edges = with_shared_edges if self.act_levels == "kmeans" else with_static_edges
        compressed = with_edges(self._corrected(clustered, program, context), context, self.act_bits)
        check_effect(program, compressed)
        return compressed

    def cluster(self, program: Program, layers: Mapping[str, int], context: Context) -> Program:
        """The program with the weights of ``layers`` (name -> bits; 0 stays float) in codebooks."""
        shared = {layer: bits for layer, bits in layers.items() if bits}
        weights: dict[str, Tensor] = {}
        if self.weighting != "none":
            weights = importance(self.weighting, program, shared, context)
        changed: dict[str, Encoding] = {}
        context.progress.begin("k-means", len(layers))
        for layer in layers:
            if layer in shared:
                key, own = f"{layer}.weight", weights.get(layer)
                before = program.tensors[key]  # of a pruned layer, what is kept is clustered
                kept = None if own is None else kept_values(before, own)
                changed[key] = with_kept(before, self.encode(kept_values(before), shared[layer], kept), key)
            context.progress.advance(1, layer)
        context.progress.end()
        return program.with_tensors(changed)

    def encode(self, weight: Tensor, bits: int, importance: Tensor | None = None) -> Codebook:
        """Cluster one weight tensor, float32 [C, ...]; ``importance`` >= 0 of its shape, None for ones."""
        if self.granularity == "per_channel":
            own = None if importance is None else importance.reshape(len(weight), -1)
            rows = kmeans_rows(weight.reshape(len(weight), -1), 1 << bits, own)
            encoding = Codebook(rows.indices.reshape(weight.shape), Float(rows.centroids), bits, axis=0)
        else:
            result = kmeans_1d(weight, 1 << bits, importance)
            encoding = Codebook(result.indices.reshape(weight.shape), Float(result.centroids), bits)
        return snapped(encoding, weight) if self.snap == "int8" else encoding

    def _corrected(self, compressed: Program, reference: Program, context: Context) -> Program:
        if self.correction == "statistics":
            return match_statistics(compressed, reference, context)
        if self.correction == "batch_norm":
            return reestimate_batch_norm(compressed, context)
        return correct_biases(compressed, reference, context) if self.correction == "bias" else compressed

    def _check_images(self, context: Context) -> None:
        if self.act_bits is not None and not context.calibration:
            raise MethodError(f"act_bits={self.act_bits}", "quantizing activations needs calibration images")
        if self.correction != "none" and not context.calibration:
            raise MethodError(f"correction={self.correction}", "needs calibration images")


def snapped(encoding: Codebook, weight: Tensor) -> Codebook:
    """The codebook with centroids on a symmetric int8 grid, and each weight at the nearest of these.

    Args:
        encoding: Float centroids, ascending.
        weight: What it encodes, float32.
    """
    codes, qparams = snap_to_grid(encoding.centroids.decode())
    centroids = Affine(codes, qparams.scale, qparams.zero_point, 8, -127, 127, encoding.axis)
    indices = nearest_indices(weight.reshape(len(weight), -1), centroids.decode()).reshape(weight.shape)
    return replace(encoding, indices=indices, centroids=centroids)
