"""What k-means weight sharing adds to what every method promises; its solver has tests of its own."""

from __future__ import annotations

import pytest
import torch

from qbench.methods.base import Context
from qbench.methods.kmeans import KMeans
from qbench.program.encodings import Codebook, Float
from qbench.progress import SilentProgress

from .conftest import compress, images, network


def test_known_optima() -> None:
    """[1, 3, 5, 7, 9] shared by two, [10, 20 ... 90] by four of two bits."""
    pair = KMeans().encode(torch.tensor([[1.0, 3.0, 5.0, 7.0, 9.0]]), 1)
    assert pair.centroids.decode().tolist() == [2.0, 7.0]
    assert pair.decode().tolist() == [[2.0, 2.0, 7.0, 7.0, 7.0]]
    four = KMeans().encode(torch.arange(10.0, 91.0, 10.0)[None], 2)
    assert float((four.decode() - torch.arange(10.0, 91.0, 10.0)).square().sum()) == 350.0  # three pairs and a triple


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codebooks_hold_at_most_two_to_the_bits(bits: int) -> None:
    weight = images(4, seed=2)
    layer, channel = KMeans().encode(weight, bits), KMeans(granularity="per_channel").encode(weight, bits)
    assert isinstance(layer, Codebook) and layer.centroids.shape == (1 << bits,) and layer.axis is None
    count = min(1 << bits, weight[0].numel())
    assert channel.centroids.shape == (4, count) and channel.axis == 0
    assert layer.shape == channel.shape == weight.shape
    errors = [float((encoding.decode() - weight).square().sum()) for encoding in (layer, channel)]
    # a codebook for every channel could hold the one of the layer; the solver is within 0.1 % of the optimum
    assert errors[1] <= errors[0] * 1.001


def test_each_weight_takes_its_nearest_centroid() -> None:
    weight = images(4, seed=3)
    encoding = KMeans().encode(weight, 3)
    distances = (weight.flatten()[:, None].double() - encoding.centroids.decode().double()).abs()
    chosen = (weight.double() - encoding.decode().double()).abs().flatten()
    assert torch.equal(chosen, distances.amin(1))


def test_biases_and_batch_norms_stay_float() -> None:
    program = compress(KMeans(), network("residual"))
    for name, encoding in program.tensors.items():
        expected = Codebook if name in {f"{layer.name}.weight" for layer in program.layers()} else Float
        assert isinstance(encoding, expected), name


def test_progress_is_told_of_every_layer() -> None:
    class Counting(SilentProgress):
        begun: tuple[str, int] = ("", 0)
        steps = 0
        ended = False

        def begin(self, label: str, total: int) -> None:
            self.begun = (label, total)

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.steps += steps

        def end(self) -> None:
            self.ended = True

    progress = Counting()
    KMeans().compress(network("residual"), Context(progress=progress))
    assert (progress.begun, progress.steps, progress.ended) == (("k-means", 3), 3, True)
