"""Fine-tuning of a network that is compressed already: the last step of a pipeline.

Paper: Han, Mao & Dally, "Deep Compression", arXiv:1510.00149, sec. 3.3 (trained centroids).
Idea: zeros, indices and grids stay as they are; shared values, the floats that are kept, batch norms and biases learn
    to make up for what compression broke.
Assumptions: labelled training images.
Cost: ``epochs`` passes over the training images; the file does not grow. The best validation epoch is kept.
Deviations: centroids are trained at the relative speed of single weights (see :mod:`qbench.methods.kmeans_qat`).
"""

from __future__ import annotations

from dataclasses import dataclass

from qbench.errors import MethodError
from qbench.methods.base import Context, Needs, Tuning, check_finite, require_within
from qbench.methods.kmeans_qat import SharedWeight
from qbench.methods.learned_rounding import FixedEdge
from qbench.methods.sparse import KeptWeight, MaskedWeight
from qbench.program.encodings import Affine, Codebook, Encoding, Sparse
from qbench.program.graph import Program
from qbench.training.affine_quantizers import SteppedEdge, SteppedWeight
from qbench.training.trainable import TrainableProgram, WeightQuantizer


@dataclass(frozen=True)
class Tune:
    """Fine-tune what a compressed network can still learn.

    Args:
        epochs: Passes over the training images; 0 leaves the network as it is.
        lr: Peak learning rate.
        batch_size: Images per step.
    """

    epochs: int = 1
    lr: float = 0.005
    batch_size: int = 128

    def __post_init__(self) -> None:
        require_within("epochs", self.epochs, 0, 10_000)

    @property
    def needs(self) -> Needs:
        return Needs(training=self.epochs > 0)

    def compress(self, baseline: Program, context: Context) -> Program:
        """The same program with other values in the same encodings.

        Raises:
            MethodError: A tensor is not finite, weights or edges have no trainable form, or there are no training
                images.
            TrainingError: The loss leaves the numbers.
        """
        if not self.epochs:
            return baseline
        check_finite(baseline)
        tune = context.tuner(f"epochs={self.epochs}")
        network = TrainableProgram(baseline, fold=False)
        for node in baseline.layers():
            key = f"{node.name}.weight"
            quantizer = trainable(baseline.tensors[key], key)
            if quantizer is None:
                continue
            latent = network.tensor(node, "weight")
            if latent is not None and _is_shared(baseline.tensors[key]):
                latent.requires_grad_(False)  # its centroids learn instead
            network.quantize_weight(node.name, quantizer)
        for name, spec in baseline.edges.items():
            if spec.dynamic:
                raise MethodError(name, "is quantized to the range of each image, which fine-tuning has no form of")
            network.quantize_edge(name, FixedEdge(spec) if spec.levels else SteppedEdge(spec, "frozen"))
        tune(network, Tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size))
        return network.program()


def trainable(encoding: Encoding, weight: str) -> WeightQuantizer | None:
    """The quantizer that trains a weight within its encoding; None for plain floats.

    Raises:
        MethodError: There is none for this encoding; names the weight.
    """
    if isinstance(encoding, Sparse):
        inner = trainable(encoding.inner, weight)
        return MaskedWeight(encoding.mask) if inner is None else KeptWeight(encoding.mask, inner)
    if isinstance(encoding, Codebook):
        return SharedWeight(encoding, follow=0.0)
    if isinstance(encoding, Affine):
        if encoding.group_size is not None:
            raise MethodError(weight, "has a scale per group, which fine-tuning has no form of")
        return SteppedWeight(encoding, "frozen")
    return None


def _is_shared(encoding: Encoding) -> bool:
    return isinstance(encoding.inner if isinstance(encoding, Sparse) else encoding, Codebook)
