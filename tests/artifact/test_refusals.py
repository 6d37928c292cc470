"""What each kind of wrong file is told: messages are part of the interface."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from qbench.artifact import from_bytes, to_bytes
from qbench.errors import ArtifactError
from qbench.program.encodings import Sparse
from qbench.program.graph import EdgeSpec
from qbench.quant.packing import pack

from .forging import close_up, edited, open_up, rearranged
from .programs import affine, codebook, coded_program, conv_program, linear_program

CONV, CODED = to_bytes(conv_program()), to_bytes(coded_program())
LEVELS = to_bytes(replace(conv_program(), edges={"relu": EdgeSpec(2, 0, 1, None, None, (0.0, 1.0))}))
EMPTY = to_bytes(linear_program(fc=Sparse(torch.zeros(2, 3, dtype=torch.bool), affine((0,), axis=0))))
SNAPPED = to_bytes(linear_program(fc=codebook((3, 5), 4, 16, snap=True)))
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000")
START = 8 + int.from_bytes(CONV[:8], "little")


def entry_changed(name: str, key: str, value: Any) -> bytes:
    content, entries, body = open_up(CONV)
    entries[name][key] = value
    return close_up(content, entries, body)


def entry_added(begin: int, size: int) -> bytes:
    """An array of bytes that lies that far behind the end of the others."""
    content, entries, body = open_up(CONV)
    begin += len(body)
    added = {"dtype": "U8", "shape": [size], "data_offsets": [begin, begin + size]}
    return close_up(content, {"codes:more": added, **entries}, body)


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a qbench artefact: the file is empty"),
    "few bytes": (b"abc", "not a qbench artefact: it does not start"),
    "png": (PNG, "not a qbench artefact: it does not start"),
    "foreign safetensors": (safetensors.torch.save({"w": torch.ones(2)}), "not a qbench artefact: it does not start"),
    "safetensors with our key": (
        safetensors.torch.save({"w": torch.ones(2)}, {"qbench": "{}"}),
        "not a qbench artefact: its header does not end with the checksum's entry",
    ),
    "header beyond the file": ((50_000).to_bytes(8, "little") + CONV[8:], r"truncated: the header takes 50008 bytes"),
    "header beyond reason": (b"\xff" * 8 + CONV[8:], "a header of 18446744073709551615 bytes is implausible"),
    "cut in the header": (CONV[:500], r"truncated: the header takes \d+ bytes, the file has 500"),
    "cut in the data": (CONV[:-1], rf"truncated: {len(CONV) - 1} of {len(CONV)} bytes"),
    "appended": (CONV + b"xy", "2 bytes too many"),
    "bit in the header": (CONV.replace(b"relu", b"relv", 1), "checksum mismatch"),
    "bit in the data": (CONV[:START] + bytes([CONV[START] ^ 1]) + CONV[START + 1 :], "checksum mismatch"),
    "bit in the checksum": (CONV[:-1] + bytes([CONV[-1] ^ 1]), "checksum mismatch"),
    "dtype": (entry_changed("float:fc.bias", "dtype", "F64"), "has dtype F64, expected one of"),
    "dtype number": (entry_changed("float:fc.bias", "dtype", 3), "the dtype of 'float:fc.bias' must be a string"),
    "entry key": (entry_changed("float:fc.bias", "zz", 3), "the entry of 'float:fc.bias' has the unknown key 'zz'"),
    "overlap": (entry_changed("float:features.1.bias", "data_offsets", [0, 12]), "its arrays do not add up"),
    "offsets beyond": (entry_changed("float:fc.bias", "data_offsets", [0, 10**9]), "its arrays do not add up"),
    "offset number": (entry_changed("float:fc.bias", "data_offsets", [0, 1.5]), "an offset of 'float:fc.bias' must be"),
    "behind the end": (entry_added(0, 4), r"its arrays do not add up: they take \d+ of \d+ bytes"),
    "behind a gap": (entry_added(1, 4), "its arrays do not add up: 'codes:more' takes bytes"),
    "empty axis": (entry_changed("float:fc.bias", "shape", [0, 3]), "must be an integer in"),
    "huge axis": (entry_changed("float:fc.bias", "shape", [2**40]), "must be an integer in"),
    "shape against bytes": (entry_changed("float:fc.bias", "shape", [3]), "its arrays do not add up"),
    "not json": (close_up("{oops", *open_up(CONV)[1:]), "not valid JSON: Expecting property name"),
    "not an object": (close_up("[1]", *open_up(CONV)[1:]), "the qbench header must be an object"),
    "nan": (close_up('{"format":NaN}', *open_up(CONV)[1:]), "NaN is not allowed"),
    "beyond double": (close_up('{"format":1,"provenance":1e999}', *open_up(CONV)[1:]), "the number 1e999 is out"),
    "long number": (close_up('{"format":' + "9" * 5000 + "}", *open_up(CONV)[1:]), "not valid JSON: Exceeds the limit"),
    "repeated key": (close_up('{"format":1,"format":1}', *open_up(CONV)[1:]), "the key 'format' appears twice"),
    "nesting bomb": (close_up("[" * 100_000, *open_up(CONV)[1:]), "nested too deeply"),
    "future": (
        edited(CONV, lambda c: c.update(format=4, news={})),
        r"written by a newer qbench \(format 4\); this one reads up to 3",
    ),
    "no version": (edited(CONV, lambda c: c.pop("format")), "the format version must be an integer"),
    "version true": (edited(CONV, lambda c: c.update(format=True)), "the format version must be an integer"),
}

EDITS: dict[str, tuple[bytes, Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (CONV, lambda c: c.update(zz=1), "the qbench header has the unknown key 'zz'"),
    "no graph": (CONV, lambda c: c.pop("graph"), "the qbench header lacks 'graph'"),
    "no nodes": (CONV, lambda c: c["graph"].update(nodes=[]), "the nodes must be an array"),
    "input of two axes": (CONV, lambda c: c["graph"].update(input=[1, 2]), "the input shape must be an array of 3"),
    "huge input": (CONV, lambda c: c["graph"].update(input=[1, 2, 2**20]), "the input shape must be an integer"),
    "unknown op": (CONV, lambda c: c["graph"]["nodes"].append(["x", "exec"]), "unknown op 'exec' in node 'x'"),
    "op is a list": (CONV, lambda c: c["graph"]["nodes"].append(["x", ["relu"]]), "the op of node 5 must be a string"),
    "same name": (CONV, lambda c: c["graph"]["nodes"].append(["fc", "relu"]), "two nodes are called 'fc'"),
    "forward input": (
        CONV,
        lambda c: c["graph"]["nodes"].insert(0, ["x", "relu", {}, ["fc"]]),
        "node 'x' reads 'fc', which no earlier node makes",
    ),
    "two inputs": (CONV, lambda c: c["graph"]["nodes"].append(["x", "relu", {}, ["fc", "fc"]]), "has 2 inputs"),
    "unknown attribute": (CONV, lambda c: c["graph"]["nodes"].append(["x", "relu", {"a": 1}]), "unknown key 'a'"),
    "missing attribute": (
        CONV,
        lambda c: c["graph"]["nodes"].append(["x", "max_pool2d"]),
        "lacks the attribute 'kernel",
    ),
    "zero stride": (
        CONV,
        lambda c: c["graph"]["nodes"][0][2].update(stride=[0, 1]),
        "stride of node 'features.0' must",
    ),
    "float stride": (
        CONV,
        lambda c: c["graph"]["nodes"][0][2].update(stride=[1.0, 1]),
        "stride of node 'features.0' must",
    ),
    "single stride": (CONV, lambda c: c["graph"]["nodes"][0][2].update(stride=1), "must be a pair"),
    "groups": (
        CONV,
        lambda c: c["graph"]["nodes"][0][2].update(groups=2),
        "groups 2 of node 'features.0' do not divide 3",
    ),
    "integer eps": (CONV, lambda c: c["graph"]["nodes"][1][2].update(eps=1), "eps of node 'features.1'"),
    "linear as conv": (CONV, lambda c: c["graph"]["nodes"].__setitem__(4, ["fc", "conv2d"]), "expected 4 axes"),
    "spec of nothing": (CONV, lambda c: c["tensors"].update({"x.weight": {}}), "tensor 'x.weight' belongs to no node"),
    "spec of a float": (
        CONV,
        lambda c: c["tensors"].update({"fc.bias": {"affine": {"bits": 1, "shape": [1]}}}),
        "missing",
    ),
    "no spec": (CONV, lambda c: c["tensors"].pop("fc.weight"), "tensor 'fc.weight' is missing|belongs to no tensor"),
    "unknown kind": (CONV, lambda c: c["tensors"].update({"fc.weight": {"pickle": {}}}), "unknown key 'pickle'"),
    "no kind": (CONV, lambda c: c["tensors"].update({"fc.weight": {}}), "needs exactly one kind"),
    "two kinds": (CONV, lambda c: c["tensors"]["fc.weight"].update(codebook={}), "needs exactly one kind"),
    "another shape": (CONV, lambda c: _affine(c).update(shape=[2, 13]), "24 packed bytes, expected 26"),
    "absurd shape": (CONV, lambda c: _affine(c).update(shape=[2**31 - 1] * 8), "24 packed bytes, expected"),
    "empty shape": (
        CONV,
        lambda c: _affine(c).update(shape=[0, 12]),
        "the shape of tensor 'fc.weight' must be an integer",
    ),
    "no shape": (CONV, lambda c: _affine(c).pop("shape"), "tensor 'fc.weight' lacks 'shape'"),
    "other bits": (CONV, lambda c: _affine(c).update(bits=7, grid=[0, 100]), "24 packed bytes, expected 21"),
    "bits 33": (
        CONV,
        lambda c: _affine(c).update(bits=33),
        r"bits of tensor 'fc.weight' must be an integer in \[1, 32\]",
    ),
    "32 bits, unsigned": (
        CONV,
        lambda c: _affine(c).update(bits=32, grid=[0, 255]),
        r"qmin of tensor 'fc.weight' must be an integer in \[-2147483648, -2147483648\]",
    ),
    "wide grid": (CONV, lambda c: _affine(c).update(grid=[0, 256]), "qmax of tensor 'fc.weight'"),
    "narrow grid": (
        CONV,
        lambda c: _affine(c).update(grid=[0, 9]),
        r"array 'codes:fc.weight' has the value \d+, above 9",
    ),
    "short dtype": (
        CONV,
        lambda c: _affine(c).update(dtype="int8"),
        "dtype 'int8' of tensor 'fc.weight' does not hold",
    ),
    "other dtype": (CONV, lambda c: _affine(c).update(dtype="float16"), "dtype 'float16' of tensor"),
    "axis added": (CONV, lambda c: _affine(c).update(axis=0), r"scale has shape \(\), expected \(2,\)"),
    "axis beyond": (CONV, lambda c: _affine(c).update(axis=2), "axis 2 is outside"),
    "group of zero": (CODED, lambda c: c["tensors"]["grouped.weight"]["affine"].update(group=0), "the group of tensor"),
    "group of billions": (
        to_bytes(linear_program(fc=affine((4, 6), group=100))),
        lambda c: _affine(c).update(group=10**9),
        "group_size 1000000000 of tensor 'fc.weight' is out of proportion",
    ),
    "index bits": (
        CODED,
        lambda c: c["tensors"]["kmeans.weight"]["codebook"].update(bits=2),
        "9 packed bytes, expected 6",
    ),
    "codebook axis": (CODED, lambda c: c["tensors"]["kmeans.weight"]["codebook"].update(axis=0), "axis 0 does not fit"),
    "inner shape": (
        CODED,
        lambda c: _inner(c)["affine"].update(shape=[3]),
        "tensor 'pruned.weight' has the unknown key",
    ),
    "groups of nothing": (
        EMPTY,
        lambda c: c["tensors"]["fc.weight"]["sparse"]["inner"]["affine"].update(group=2),
        "tensor 'fc.weight' has groups but no elements",
    ),
    "inner sparse": (CODED, lambda c: _inner(c).update(sparse=_inner(c).pop("affine")), "unknown key 'sparse'"),
    "mask of another shape": (
        CODED,
        lambda c: c["tensors"]["pruned.weight"]["sparse"].update(shape=[5, 6]),
        "array 'mask:",
    ),
    "centroids of another kind": (
        SNAPPED,
        lambda c: c["tensors"]["fc.weight"]["codebook"].update(centroids={}),
        "lacks 'aff",
    ),
    "edge of nothing": (CONV, lambda c: c["edges"].update(zz=[8, 0, 255]), "edge 'zz' belongs to no node"),
    "edge of four": (
        CONV,
        lambda c: c["edges"].update(relu=[8, 0, 255, 1.0]),
        "edge 'relu' must hold bits, qmin, qmax",
    ),
    "edge of integers": (CONV, lambda c: c["edges"].update(relu=[8, 0, 255, 1, 0]), "edge 'relu' must hold bits"),
    "edge scale": (CONV, lambda c: c["edges"].update(relu=[8, 0, 255, 0.0, 0]), "scale of edge 'relu' is 0.0"),
    "edge grid": (CONV, lambda c: c["edges"].update(relu=[8, 0, 256]), "qmax of edge 'relu'"),
    "levels in an old format": (CONV, lambda c: c["edges"].update(relu=[2, [0.0, 1.0]]), "format version does not fit"),
    "no levels in format 3": (CONV, lambda c: c.update(format=3), "format version does not fit"),
    "levels of integers": (
        LEVELS,
        lambda c: c["edges"].update(relu=[2, [0, 1]]),
        "levels of edge 'relu' must be",
    ),
    "levels that fall": (
        LEVELS,
        lambda c: c["edges"].update(relu=[2, [1.0, 0.0]]),
        "edge 'relu' must ascend",
    ),
    "double levels": (LEVELS, lambda c: c["edges"].update(relu=[2, [0.0, 0.1]]), "no finite float32 number"),
    "more levels than bits": (LEVELS, lambda c: c["edges"].update(relu=[1, [0.0, 1.0, 2.0]]), "qmax of edge 'relu'"),
    "no levels": (LEVELS, lambda c: c["edges"].update(relu=[1, []]), "levels of edge 'relu'"),
    "coded by a wrong word": (LEVELS, lambda c: c.update(entropy_coding=1), "entropy_coding must be true or absent"),
    "coded in an old format": (CONV, lambda c: c.update(entropy_coding=True), "unknown key 'entropy_coding'"),
    "edges as array": (CONV, lambda c: c.update(edges=[]), "edges must be an object"),
    "provenance as array": (CONV, lambda c: c.update(provenance=[1]), "provenance must be an object"),
}


def _affine(content: dict[str, Any]) -> dict[str, Any]:
    return content["tensors"]["fc.weight"]["affine"]


def _inner(content: dict[str, Any]) -> dict[str, Any]:
    return content["tensors"]["pruned.weight"]["sparse"]["inner"]


ARRAYS: dict[str, tuple[bytes, Callable[[dict[str, Tensor]], object], str]] = {
    "missing codes": (CONV, lambda a: a.pop("codes:fc.weight"), "array 'codes:fc.weight' is missing"),
    "missing scale": (CONV, lambda a: a.pop("scale:fc.weight"), "array 'scale:fc.weight' is missing"),
    "missing batch norm": (CONV, lambda a: a.pop("float:features.1.bias"), "tensor 'features.1.bias' is missing"),
    "left over": (CONV, lambda a: a.update({"float:x": torch.ones(1)}), "array 'float:x' belongs to no tensor"),
    "both coded and float": (CONV, lambda a: a.update({"float:fc.weight": torch.ones(2, 12)}), "belongs to no tensor"),
    "half scale": (CONV, lambda a: a.update({"scale:fc.weight": torch.tensor(1.0).half()}), "has dtype torch.float16"),
    "packed floats": (
        CONV,
        lambda a: a.update({"float:fc.bias": torch.ones(2, dtype=torch.uint8)}),
        "has dtype torch.uint8",
    ),
    "float codes": (CONV, lambda a: a.update({"codes:fc.weight": torch.ones(24)}), "packed codes must be uint8"),
    "codes with axes": (
        CONV,
        lambda a: a.update({"codes:fc.weight": a["codes:fc.weight"].reshape(2, 12)}),
        "with one axis",
    ),
    "zero scale": (
        CONV,
        lambda a: a["scale:fc.weight"].zero_(),
        "a scale of tensor 'fc.weight' is not a finite number",
    ),
    "nan scale": (
        CONV,
        lambda a: a["scale:features.0.weight"][1].fill_(torch.nan),
        "a scale of tensor 'features.0.weight'",
    ),
    "infinite centroid": (
        CODED,
        lambda a: a["centroids:kmeans.weight"][1].fill_(torch.inf),
        "centroid of tensor 'kmeans",
    ),
    "index beyond K": (
        CODED,
        lambda a: a.update({"indices:kmeans.weight": pack(torch.full((24,), 5), 3)}),
        r"indices of tensor 'kmeans.weight' span \[5, 5\], outside \[0, 4\]",
    ),
    "padding": (CONV, lambda a: a["codes:features.0.weight"][-1].bitwise_or_(0x80), "4 padding bits"),
    "mask keeps more": (CODED, lambda a: a["mask:pruned.weight"].fill_(255), "array 'codes:pruned.weight': "),
    "bias length": (CONV, lambda a: a.update({"float:fc.bias": torch.ones(3)}), "bias of node 'fc' has shape"),
    "batch norm length": (
        CONV,
        lambda a: a.update({"float:features.1.running_var": torch.ones(4)}),
        "running_var of node 'features.1' has shape",
    ),
}


@pytest.mark.parametrize(("data", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_artefact(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=rf"\AFILE: .*{message}"):
        from_bytes(data, "FILE")


@pytest.mark.parametrize(("data", "edit", "message"), EDITS.values(), ids=EDITS)
def test_a_header_that_makes_no_sense(data: bytes, edit: Callable[..., object], message: str) -> None:
    with pytest.raises(ArtifactError, match=rf"\AFILE: invalid content: .*({message})"):
        from_bytes(edited(data, edit), "FILE")


@pytest.mark.parametrize(("data", "edit", "message"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_make_no_sense(data: bytes, edit: Callable[..., object], message: str) -> None:
    with pytest.raises(ArtifactError, match=rf"\AFILE: invalid content: .*{message}"):
        from_bytes(rearranged(data, edit), "FILE")


@pytest.mark.parametrize("data", [CONV, CODED, SNAPPED], ids=["conv", "coded", "snapped"])
def test_the_forging_itself_is_harmless(data: bytes) -> None:
    assert edited(data, lambda _: None) == data
    assert rearranged(data, lambda _: None) == data


def test_floats_may_be_anything() -> None:
    data = rearranged(CONV, lambda arrays: arrays["float:fc.bias"].fill_(torch.nan))
    assert bool(from_bytes(data, "FILE").tensors["fc.bias"].decode().isnan().all())
