"""What integer-only inference adds to what every method promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qbench.artifact import from_bytes, to_bytes
from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.methods.integer_biases import edge_read_by, with_integer_biases
from qbench.program.encodings import Affine, Float
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.integer.network import IntegerModule
from qbench.program.lower import lower
from qbench.program.materialize import materialize
from qbench.program.transform import fold_batch_norm, quantizable_edges

from .conftest import compress, compressed, images, network

SETTINGS = {
    "defaults": Integer(),
    "per tensor": Integer(granularity="per_tensor"),
    "4 bits": Integer(weight_bits=4, act_bits=4, range="mse", act_range="mse", first_last_bits=8),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_simulation_and_integers_agree(net: str, setting: str) -> None:
    program = compress(SETTINGS[setting], network(net))
    x = images(400, seed=31)
    with torch.inference_mode():
        simulated, integers = materialize(program)(x), IntegerModule(lower(program), check=True)(x)
        exact = materialize(network(net))(x)
    added, cost = ((error).square().mean().sqrt() for error in (integers - simulated, simulated - exact))
    assert float(added) < 0.2 * float(cost)
    assert int((integers.argmax(1) == simulated.argmax(1)).sum()) >= 398  # 99.5 %


def test_everything_is_stored_as_integers(net: str) -> None:
    program = compressed("integer", net)
    assert set(program.edges) == set(quantizable_edges(program))
    assert not [node for node in program.nodes if node.op == "batch_norm"]
    assert all(isinstance(encoding, Affine) for encoding in program.tensors.values())
    for layer in program.layers():
        weight, bias = (program.tensors[f"{layer.name}.{role}"] for role in ("weight", "bias"))
        edge = edge_read_by(program, layer.name)
        assert isinstance(weight, Affine) and isinstance(bias, Affine) and edge is not None and edge.scale is not None
        assert (weight.bits, bias.bits, bias.codes.dtype) == (8, 32, torch.int32)
        assert not bool(weight.zero_point.any()) and not bool(bias.zero_point.any())
        torch.testing.assert_close(bias.scale, weight.scale * edge.scale, rtol=2**-23, atol=0.0)
        float_bias = fold_batch_norm(network(net)).tensors[f"{layer.name}.bias"].decode()
        # half a unit, and one more rounding to float32
        assert bool(((bias.decode() - float_bias).abs() <= 0.5001 * bias.scale + 2**-22 * float_bias.abs()).all())


def test_the_file_gives_the_same_integers(net: str) -> None:
    program = compressed("integer", net)
    loaded = from_bytes(to_bytes(program), "model.qbench")
    assert torch.equal(IntegerModule(lower(loaded))(images()), IntegerModule(lower(program))(images()))


def test_a_channel_that_training_switched_off_keeps_its_bias() -> None:
    """Its weights are so small that 2^31 units of their sums would not reach the bias."""
    program = fold_batch_norm(network("residual"))
    weight, bias = (program.tensors[f"stem.0.{role}"].decode().clone() for role in ("weight", "bias"))
    weight[2] *= 1e-20
    bias[2] = 0.7
    dead = program.with_tensors({"stem.0.weight": Float(weight), "stem.0.bias": Float(bias)})
    made = compress(Integer(), dead)
    assert made.tensors["stem.0.bias"].decode()[2].item() == pytest.approx(0.7, rel=1e-6)
    simulated, integers = materialize(made)(images()), IntegerModule(lower(made))(images())
    torch.testing.assert_close(integers, simulated, rtol=0.0, atol=0.05 * float(simulated.std()))
    # a float bias is treated alike while lowering
    floats = made.with_tensors({"stem.0.bias": Float(bias), "stem.0.weight": Integer().weights.encode(weight, 8)})
    torch.testing.assert_close(IntegerModule(lower(floats))(images()), integers, rtol=0.0, atol=0.05)


def test_a_network_that_integers_cannot_compute_is_refused() -> None:
    program = network("residual")
    nodes = tuple(replace(node, inputs=("stem.0",)) if node.name == "depthwise.0" else node for node in program.nodes)
    with pytest.raises(MethodError, match=r"^stem\.1: is a batch norm that no layer before it can take in"):
        compress(Integer(), replace(program, nodes=nodes))


def test_calibration_images_are_needed() -> None:
    with pytest.raises(MethodError, match=r"^act_bits=8: quantizing activations needs calibration images"):
        Integer().compress(network("mlp"), Context())


def test_biases_need_a_grid_and_symmetric_weights() -> None:
    program = compressed("integer", "mlp")
    layer = program.layers()[0].name
    with pytest.raises(MethodError, match=rf"^{layer}: reads a value that has no static grid"):
        with_integer_biases(replace(program, edges={}))
    floats = program.with_tensors({f"{layer}.weight": Float(program.weight(layer))})
    with pytest.raises(MethodError, match=rf"^{layer}\.weight: is not on a symmetric grid"):
        with_integer_biases(floats)


def test_a_layer_without_bias_stays_so_and_grids_are_seen_through_what_keeps_them() -> None:
    nodes = (
        Node(
            "pool",
            "max_pool2d",
            ("input",),
            {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil_mode": False},
        ),
        Node("flat", "flatten", ("pool",)),
        Node("fc", "linear", ("flat",)),
    )
    weight = Integer().weights.encode(torch.tensor([[1.0, 2.0]]), 8)
    program = Program((2, 2, 2), nodes, {"fc.weight": weight}, {"input": EdgeSpec(8, -128, 127, 0.5, 0)})
    assert edge_read_by(program, "fc") is program.edges["input"]
    assert set(with_integer_biases(program).tensors) == {"fc.weight"}
