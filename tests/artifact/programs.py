"""Small programs that between them use every encoding, and exact comparison of programs."""

from dataclasses import replace

import torch
from torch import Tensor

from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import EdgeSpec, Node, Program

CONV = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
POOL = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil_mode": False}


def affine(
    shape: tuple[int, ...],
    bits: int = 4,
    axis: int | None = 0,
    group: int | None = None,
    grid: tuple[int, int] | None = None,
    zero: bool = False,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Affine:
    """Random codes over the whole grid, random scales, zero points all zero unless ``zero``."""
    generator = torch.Generator().manual_seed(seed)
    qmin, qmax = grid or (-(1 << bits - 1), (1 << bits - 1) - 1)
    codes = torch.randint(qmin, qmax + 1, shape, generator=generator)
    scale_shape: list[int] = [] if axis is None else [shape[axis]]
    if group is not None:
        scale_shape.append(-(-codes[0].numel() // group))
    scale = torch.rand(scale_shape, generator=generator) + 0.1
    zero_point = torch.randint(qmin, qmax + 1, scale_shape, generator=generator) if zero else torch.zeros(scale_shape)
    dtype = dtype or (torch.int8 if qmin > -129 and qmax < 128 else torch.int16 if qmax < 32768 else torch.int32)
    return Affine(codes.to(dtype), scale, zero_point.to(torch.int32), bits, qmin, qmax, axis, group)


def codebook(shape: tuple[int, ...], bits: int, count: int, per_channel: bool = False, snap: bool = False) -> Codebook:
    """Random indices into ``count`` centroids; ``snap`` quantizes those to 8 bits."""
    generator = torch.Generator().manual_seed(count)
    table_shape = (shape[0], count) if per_channel else (count,)
    centroids = (
        affine(table_shape, 8, 0 if per_channel else None, seed=7)
        if snap
        else Float(torch.randn(table_shape, generator=generator))
    )
    indices = torch.randint(0, count, shape, generator=generator).to(torch.uint8)
    return Codebook(indices, centroids, bits, 0 if per_channel else None)


def mask(shape: tuple[int, ...], seed: int = 3) -> Tensor:
    """About half of the elements."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def floats(*shape: int, seed: int = 1) -> Float:
    return Float(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def conv_program() -> Program:
    """conv (4 bit, per channel) - batch norm - relu - flatten - linear (8 bit, asymmetric), with edges."""
    nodes = (
        Node("features.0", "conv2d", ("input",), CONV),
        Node("features.1", "batch_norm", ("features.0",), {"eps": 1e-3}),
        Node("relu", "relu", ("features.1",)),
        Node("flatten", "flatten", ("relu",)),
        Node("fc", "linear", ("flatten",)),
    )
    tensors: dict[str, Encoding] = {
        "features.0.weight": affine((3, 1, 3, 3)),
        **{
            f"features.1.{role}": floats(3, seed=i)
            for i, role in enumerate(("weight", "bias", "running_mean", "running_var"))
        },
        "fc.weight": affine((2, 12), 8, None, grid=(0, 255), zero=True),
        "fc.bias": floats(2),
    }
    edges = {"input": EdgeSpec(8, 0, 255, 1 / 3, 128), "relu": EdgeSpec(8, 0, 255, None, None)}
    provenance = {"method": "linear", "bits": 4, "mean": [0.1, 0.2], "classes": ["über", "b"], "note": None, "ok": True}
    return Program((1, 2, 2), nodes, tensors, edges, provenance)


def linear_program(**weights: Encoding) -> Program:
    """One linear layer per weight, chained in order; the shapes need not fit each other."""
    names = list(weights)
    inputs = ["input", *names]
    nodes = tuple(Node(name, "linear", (inputs[i],)) for i, name in enumerate(names))
    return Program((1, 1, 6), nodes, {f"{name}.weight": weight for name, weight in weights.items()})


def coded_program() -> Program:
    """Codebook, sparse and group-wise weights."""
    kept = mask((4, 6))
    return linear_program(
        kmeans=codebook((4, 6), 3, 5),
        pruned=Sparse(kept, affine((int(kept.sum()),), 5, None, zero=True)),
        grouped=affine((4, 6), 3, 0, group=4, zero=True),
    )


def coding_program() -> Program:
    """Weights that entropy coding makes smaller: skewed codes and indices, a mask of few ones, one value alone."""
    generator = torch.Generator().manual_seed(5)
    skewed = codebook((16, 24), 4, 16)
    skewed.indices[torch.rand(16, 24, generator=generator) < 0.9] = 3
    bell = affine((16, 24), 8, 0)
    bell.codes.copy_((torch.randn(16, 24, generator=generator) * 3).round())
    kept = torch.rand(16, 40, generator=generator) < 0.05
    program = linear_program(
        skewed=skewed,
        bell=bell,
        pruned=Sparse(kept, affine((int(kept.sum()),), 5, None, zero=True)),
        same=Codebook(torch.full((8, 40), 15, dtype=torch.uint8), floats(16), 4),
        even=affine((8, 40), 4, 0),
    )
    return replace(program, entropy_coding=True)


def graph_program() -> Program:
    """Every op, float only, with branches and every attribute away from its default once."""
    pools = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "ceil_mode": True}
    nodes = (
        Node("a", "conv2d", ("input",), {"stride": (2, 1), "padding": (0, 3), "dilation": (1, 2), "groups": 2}),
        *(
            Node(op, op, ("a",))
            for op in ("relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu", "identity")
        ),
        Node("sum", "add", ("relu", "relu6")),
        Node("product", "mul", ("sum", "a")),
        Node("joined", "concat", ("product", "silu", "gelu"), {"dim": -3}),
        Node("max", "max_pool2d", ("joined",), pools),
        Node("max2", "max_pool2d", ("max",), POOL),
        Node("avg", "avg_pool2d", ("max2",), {**pools, "count_include_pad": False}),
        Node("global", "adaptive_avg_pool2d", ("avg",), {"output_size": (1, 1)}),
        Node("grid", "adaptive_avg_pool2d", ("avg",), {"output_size": (2, 3)}),
        Node("bn", "batch_norm", ("grid",), {"eps": 1e-5}),
        Node("flat", "flatten", ("bn",)),
        Node("größe:~", "linear", ("flat",)),
    )
    bn = {f"bn.{role}": floats(6, seed=i) for i, role in enumerate(("weight", "bias", "running_mean", "running_var"))}
    return Program((2, 8, 8), nodes, {"a.weight": floats(2, 1, 3, 3), **bn, "größe:~.weight": affine((2, 36), 2)})


def assert_same_tensor(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    bits = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
    # Compared as bits: NaN is equal to itself, and -0.0 differs from 0.0.
    assert torch.equal(a.contiguous().view(bits.get(a.dtype, a.dtype)), b.contiguous().view(bits.get(b.dtype, b.dtype)))


def assert_same_encoding(a: Encoding, b: Encoding) -> None:
    assert type(a) is type(b)
    for field in a.__dataclass_fields__:
        one, other = getattr(a, field), getattr(b, field)
        if isinstance(one, Tensor):
            assert_same_tensor(one, other)
        elif hasattr(one, "decode"):
            assert_same_encoding(one, other)
        else:
            assert one == other, field


def assert_same(a: Program, b: Program) -> None:
    """Equal in every value, type and bit."""
    assert (a.input_shape, a.nodes, a.provenance) == (b.input_shape, b.nodes, b.provenance)
    assert a.entropy_coding == b.entropy_coding
    assert a.graph_digest() == b.graph_digest()
    assert set(a.tensors) == set(b.tensors)
    for name, encoding in a.tensors.items():
        assert_same_encoding(encoding, b.tensors[name])
    assert {n: vars(e) for n, e in a.edges.items()} == {n: vars(e) for n, e in b.edges.items()}
