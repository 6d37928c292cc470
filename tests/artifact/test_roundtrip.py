import hashlib
import json
import math
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from qbench.artifact import from_bytes, load, save, size_report, to_bytes
from qbench.errors import ArtifactError
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import EdgeSpec, Node, Program

from . import independent_reader
from .forging import open_up
from .programs import (
    affine,
    assert_same,
    codebook,
    coded_program,
    coding_program,
    conv_program,
    floats,
    graph_program,
    linear_program,
    mask,
)

KEPT = mask((5, 7))
COUNT = int(KEPT.sum())
NOTHING = torch.zeros(2, 3, dtype=torch.bool)
ENCODINGS: dict[str, Encoding] = {
    "float32": floats(3, 5),
    "float16": Float(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).half()),
    "bfloat16": Float(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()),
    "float specials": Float(torch.tensor([[math.nan, math.inf, -math.inf, -0.0, 1e-45]])),
    "transposed": Float(torch.arange(6.0).reshape(2, 3).t()),
    **{f"affine {bits} bit": affine((3, 5), bits, seed=bits) for bits in range(1, 17)},
    **{f"unsigned {bits} bit": affine((3, 5), bits, grid=(0, (1 << bits) - 1), zero=True) for bits in (1, 8, 16)},
    **{f"affine {bits} bit": affine((3, 5), bits, seed=bits) for bits in (17, 31, 32)},
    "32 bit with zero points": affine((3, 5), 32, zero=True),
    "per tensor": affine((3, 5), 8, None),
    "axis 1": affine((3, 5), 8, 1, zero=True),
    "narrow": affine((3, 5), 8, 0, grid=(-127, 127)),
    "odd grid": affine((3, 5), 3, 0, grid=(5, 9), zero=True),
    "wide dtype": affine((3, 5), 4, 0, dtype=torch.int32),
    "groups": affine((3, 10), 4, 0, group=4, zero=True),
    "group longer than a row": affine((3, 5), 4, 0, group=128),
    "codebook": codebook((3, 5), 4, 11),
    "binary": codebook((3, 5), 1, 2),
    "one centroid": codebook((3, 5), 8, 1),
    "codebook per channel": codebook((3, 5), 2, 3, per_channel=True),
    "snapped codebook": codebook((3, 5), 4, 16, snap=True),
    "snapped per channel": codebook((3, 5), 2, 3, per_channel=True, snap=True),
    "half centroids": Codebook(torch.ones(3, 5, dtype=torch.uint8), Float(torch.ones(2).half()), 1),
    "sparse float": Sparse(KEPT, floats(COUNT)),
    "sparse affine": Sparse(KEPT, affine((COUNT,), 5, None)),
    "sparse affine per value": Sparse(KEPT, affine((COUNT,), 5, 0, zero=True)),
    "sparse codebook": Sparse(KEPT, codebook((COUNT,), 4, 9)),
    "sparse snapped": Sparse(KEPT, codebook((COUNT,), 4, 9, snap=True)),
    "nothing kept": Sparse(NOTHING, affine((0,), 5, None)),
    "no float kept": Sparse(NOTHING, floats(0)),
    "no index kept": Sparse(NOTHING, codebook((0,), 5, 2)),
}
PROGRAMS = {
    "conv": conv_program(),
    "coded": coded_program(),
    "entropy-coded": coding_program(),
    "graph": graph_program(),
    **{name: linear_program(fc=encoding) for name, encoding in ENCODINGS.items()},
    "no tensors": Program((1, 1, 1), (Node("relu", "relu", ("input",)),), {}),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_comes_back_exactly(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "model.qbench"
    save(program, path)
    loaded = load(path)
    assert_same(loaded, program)
    assert path.read_bytes() == to_bytes(program) == to_bytes(loaded)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_an_independent_reader_decodes_the_same_values(program: Program) -> None:
    content, decoded = independent_reader.read(to_bytes(program))
    assert content["graph"]["input"] == list(program.input_shape)
    assert set(decoded) == set(program.tensors)
    for name, encoding in program.tensors.items():
        # Both multiply one float32 scale by one integer, exact or (beyond 24 bits) rounded: even the last bit agrees.
        np.testing.assert_array_equal(decoded[name], encoding.decode().numpy())


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_file_is_plain_safetensors(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "model.qbench"
    save(program, path)
    with safetensors.safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["qbench"]
        text = file.metadata()["qbench"]
        digest = bytes(file.get_tensor("~sha256").tolist())
    data = path.read_bytes()
    assert digest == data[-32:] == hashlib.sha256(data[:-32]).digest()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_parts_of_the_size_sum_to_the_file(program: Program) -> None:
    data = to_bytes(program)
    report = size_report(data)
    parts = (
        report.codes_bytes,
        report.codebooks_bytes,
        report.scales_bytes,
        report.floats_bytes,
        report.masks_bytes,
    )
    stored = sum(a.numel() * a.element_size() for a in safetensors.torch.load(data).values())
    assert report.size_bytes == len(data) == sum(parts) + report.container_bytes
    assert sum(parts) == sum(tensor.bytes for tensor in report.tensors) == stored - 32
    assert sum(parts) - len(safetensors.torch.load(data)) < report.theoretical_bits / 8 <= sum(parts)
    assert [tensor.name for tensor in report.tensors] == list(from_bytes(data, "x").tensors)


def test_sizes_known_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "model.qbench"
    save(conv_program(), path)
    report = size_report(path)
    assert report.codes_bytes == 14 + 24  # 27 codes of 4 bits; 24 of 8
    assert report.scales_bytes == 3 * 4 + (4 + 1)  # three scales; one scale and one zero point of 8 bits
    assert report.floats_bytes == 4 * 3 * 4 + 2 * 4
    assert (report.codebooks_bytes, report.masks_bytes) == (0, 0)
    assert report.theoretical_bits == 27 * 4 + 24 * 8 + 3 * 32 + 32 + 8 + 14 * 32
    weight = report.tensors[0]
    assert (weight.name, weight.shape, weight.encoding) == ("features.0.weight", (3, 1, 3, 3), "affine")
    assert (weight.bits, weight.elements, weight.bytes) == (4, 27, 26)

    report = size_report(to_bytes(coded_program()))
    kept = int(mask((4, 6)).sum())
    assert report.codebooks_bytes == 5 * 4
    assert report.masks_bytes == 3
    assert report.codes_bytes == 9 + math.ceil(kept * 5 / 8) + 9
    assert report.scales_bytes == (4 + 1) + (8 * 4 + 3)
    assert report.floats_bytes == 0
    assert [tensor.encoding for tensor in report.tensors] == ["codebook", "sparse-affine", "affine"]


def test_a_small_network_has_a_small_container() -> None:
    # The measured figure, rounded up: growth should be a decision.
    assert size_report(to_bytes(conv_program())).container_bytes < 1700


def test_order_of_mappings_does_not_matter() -> None:
    program = conv_program()
    backwards = Program(
        program.input_shape,
        program.nodes,
        dict(reversed(program.tensors.items())),
        dict(reversed(program.edges.items())),
        dict(reversed(program.provenance.items())),
    )
    assert to_bytes(backwards) == to_bytes(program)
    assert list(from_bytes(to_bytes(backwards), "x").tensors) == list(program.tensors)


def test_bytes_of_format_1_are_fixed() -> None:
    """Made by hand from docs/format.md; if this fails, files already written can no longer be trusted to load."""
    content = r"{\"format\":1,\"graph\":{\"input\":[1,1,6],\"nodes\":[[\"fc\",\"linear\"]]},"
    content += r"\"tensors\":{\"fc.weight\":{\"affine\":{\"bits\":4,\"shape\":[1,3]}}}}"
    header = '{"__metadata__":{"qbench":"' + content + '"},'
    header += '"scale:fc.weight":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
    header += '"codes:fc.weight":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},'
    header += '"~sha256":{"dtype":"U8","shape":[32],"data_offsets":[6,38]}}'
    header += " " * (-len(header) % 8)
    body = struct.pack("<Q", len(header)) + header.encode() + struct.pack("<f", 0.5) + bytes([0x91, 0x08])
    weight = Affine(
        torch.tensor([[-7, 1, 0]], dtype=torch.int8), torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), 4, -8, 7
    )
    assert to_bytes(linear_program(fc=weight)) == body + hashlib.sha256(body).digest()


def test_scales_of_edges_are_exact() -> None:
    scales = [0.1, 1 / 3, math.pi * 1e-20, 2.0**-126, 1.0, 3.4028234663852886e38]
    program = conv_program()
    for scale in scales:
        edges = {"relu": EdgeSpec(8, -128, 127, scale, -3)}
        loaded = from_bytes(to_bytes(Program((1, 2, 2), program.nodes, program.tensors, edges)), "x")
        assert loaded.edges["relu"].scale == scale


def test_shared_levels_of_edges_take_format_3_and_come_back() -> None:
    for program, coded in ((conv_program(), False), (coding_program(), True)):
        last = program.nodes[-1].name
        shared = EdgeSpec(2, 0, 2, None, None, (-1.5, 0.0, float(torch.tensor(0.1))))
        program = replace(program, edges={**program.edges, last: shared})
        data = to_bytes(program)
        assert open_up(data)[0]["format"] == 3
        assert open_up(data)[0].get("entropy_coding", False) is coded
        loaded = from_bytes(data, "x")
        assert_same(loaded, program)
        assert to_bytes(loaded) == data


def test_tuples_in_provenance_come_back_as_lists() -> None:
    program = Program((1, 1, 1), (Node("r", "relu", ("input",)),), {}, {}, {"a": (1, (2.5, "x"))})
    assert from_bytes(to_bytes(program), "x").provenance == {"a": [1, [2.5, "x"]]}


def test_tensors_that_share_memory_or_need_gradients_are_written() -> None:
    values = torch.ones(4, 4, requires_grad=True)
    program = linear_program(a=Float(values), b=Float(values))
    assert torch.equal(from_bytes(to_bytes(program), "x").tensors["b.weight"].decode(), values.detach())


def test_saving_replaces_and_leaves_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "model.qbench"
    path.write_bytes(b"old")
    save(conv_program(), path)
    assert_same(load(path), conv_program())
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode or os.name != "posix"


def test_saving_works_where_folders_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECTORY")
    save(conv_program(), tmp_path / "model.qbench")
    assert_same(load(tmp_path / "model.qbench"), conv_program())


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.qbench"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"model.qbench: cannot be written: No space left on device"):
        save(conv_program(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be written: No such file"):
        save(conv_program(), tmp_path / "missing" / "model.qbench")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=r"folder: cannot be written: Is a directory"):
        save(conv_program(), tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
