"""The JSON of an artefact: graph, specs of the tensors, edges, provenance; to text and, checked, back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qbench.artifact import attrs, fields, plainjson
from qbench.artifact.checks import GRID_LIMIT, check_program
from qbench.artifact.tensors import Reader, spec
from qbench.program.encodings import Encoding
from qbench.program.graph import OPS, EdgeSpec, Node, Program

PLAIN, CODED, LEVELLED = 1, 2, 3  # versions: without, with entropy-coded arrays; with edges of shared levels
FORMAT = LEVELLED  # the newest version read here


def write(program: Program, coded: bool = False) -> str:
    """Make the canonical JSON of everything about a (checked) program that the arrays do not say.

    Args:
        program: What is written.
        coded: Whether an array is entropy-coded.

    Raises:
        ValueError: the provenance holds something that JSON does not.
    """
    levelled = any(edge.levels is not None for edge in program.edges.values())
    content: dict[str, Any] = {
        "format": LEVELLED if levelled else CODED if coded else PLAIN,
        "graph": {"input": list(program.input_shape), "nodes": _write_nodes(program)},
        "tensors": {
            key: described for key, encoding in program.tensors.items() if (described := spec(encoding)) is not None
        },
        "edges": {name: _write_edge(edge) for name, edge in program.edges.items()},
        "provenance": plainjson.plain(program.provenance, "provenance"),
    }
    if levelled and coded:
        content["entropy_coding"] = True
    return plainjson.canonical({key: value for key, value in content.items() if value != {}})


def parse(text: str) -> dict[str, Any]:
    """Parse the text as far as the format version, which decides whether the rest can be understood.

    Raises:
        ValueError: not JSON, no version, or a version from the future.
    """
    content = fields.mapping(plainjson.parse(text), "the qbench header")
    version = fields.integer(content.get("format"), "the format version", 1, 1 << 31)
    if version > FORMAT:
        raise ValueError(f"written by a newer qbench (format {version}); this one reads up to {FORMAT}")
    return content


def build(content: Mapping[str, Any], arrays: dict[str, Tensor]) -> Program:
    """Build the program that a parsed header and the arrays of its file describe.

    Raises:
        ValueError: anything is missing, unknown, of the wrong type, out of range or inconsistent.
    """
    optional = ["tensors", "edges", "provenance", *(["entropy_coding"] if content["format"] == LEVELLED else [])]
    fields.object_of(dict(content), "the qbench header", ["format", "graph"], optional)
    coded = content["format"] == CODED or _says_coded(content)
    graph = fields.object_of(content["graph"], "the graph", ["input", "nodes"])
    input_shape = fields.shape(fields.array(graph["input"], "the input shape", 3, 3), "the input shape")
    nodes = _read_nodes(fields.array(graph["nodes"], "the nodes", 1))
    reader = Reader(arrays, coded=coded)
    program = Program(
        input_shape=(input_shape[0], input_shape[1], input_shape[2]),
        nodes=nodes,
        tensors=_read_tensors(nodes, fields.mapping(content.get("tensors", {}), "tensors"), reader),
        edges=_read_edges(nodes, fields.mapping(content.get("edges", {}), "edges")),
        provenance=fields.mapping(content.get("provenance", {}), "provenance"),
        entropy_coding=coded,
    )
    if (content["format"] == LEVELLED) != any(edge.levels is not None for edge in program.edges.values()):
        raise ValueError("the format version does not fit the edges: shared levels are what format 3 is for")
    check_program(program)
    return program


def _says_coded(content: Mapping[str, Any]) -> bool:
    said = content.get("entropy_coding", False)
    if "entropy_coding" in content and said is not True:
        raise ValueError("entropy_coding must be true or absent")
    return bool(said)


def _write_nodes(program: Program) -> list[list[Any]]:
    """Write [name, op], then attributes not at their default, then inputs other than the previous node."""
    written: list[list[Any]] = []
    previous = Program.INPUT
    for node in program.nodes:
        item: list[Any] = [node.name, node.op]
        changed, chained = attrs.encode(node), node.inputs == (previous,)
        if changed or not chained:
            item.append(changed)
        if not chained:
            item.append(list(node.inputs))
        written.append(item)
        previous = node.name
    return written


def _read_nodes(written: list[Any]) -> tuple[Node, ...]:
    nodes: list[Node] = []
    previous = Program.INPUT
    for position, item in enumerate(written):
        fields.array(item, f"node {position}", 2, 4)
        name, op = (
            fields.text(item[0], f"the name of node {position}"),
            fields.text(item[1], f"the op of node {position}"),
        )
        where = f"node {name!r}"
        values = attrs.decode(op, fields.mapping(item[2], f"the attributes of {where}") if len(item) > 2 else {}, where)
        inputs: tuple[str, ...] = (previous,)
        if len(item) == 4:
            inputs = tuple(
                fields.text(i, f"an input of {where}") for i in fields.array(item[3], f"inputs of {where}", 1)
            )
        nodes.append(Node(name, op, inputs, values))
        previous = name
    return tuple(nodes)


def _read_tensors(nodes: tuple[Node, ...], specs: dict[str, Any], reader: Reader) -> dict[str, Encoding]:
    """Read every tensor of every node, in execution order; specs and arrays that no node asks for are refused."""
    remaining = dict(specs)
    tensors: dict[str, Encoding] = {}
    for node in nodes:
        for role in OPS[node.op][0]:
            key = f"{node.name}.{role.rstrip('?')}"
            if key in remaining:
                tensors[key] = reader.read(key, fields.mapping(remaining.pop(key), f"the spec of tensor {key!r}"))
            elif reader.has_float(key):
                tensors[key] = reader.read(key, None)
    if remaining:
        raise ValueError(f"tensor {min(remaining)!r} belongs to no node")
    reader.finish()
    return tensors


def _write_edge(edge: EdgeSpec) -> list[Any]:
    """Write [bits, qmin, qmax] of a dynamic edge; scale and zero point follow for a static one; [bits, levels]."""
    if edge.levels is not None:
        return [edge.bits, [float(level) for level in edge.levels]]
    written: list[int | float] = [edge.bits, edge.qmin, edge.qmax]
    if edge.scale is not None and edge.zero_point is not None:
        written += [float(edge.scale), edge.zero_point]
    return written


def _read_edges(nodes: tuple[Node, ...], written: dict[str, Any]) -> dict[str, EdgeSpec]:
    """Read the edges in execution order, those of unknown nodes last: the constructor of Program refuses them."""
    names = [name for name in (Program.INPUT, *(node.name for node in nodes)) if name in written]
    return {name: _read_edge(written[name], f"edge {name!r}") for name in [*names, *sorted(set(written) - set(names))]}


def _read_edge(written: Any, where: str) -> EdgeSpec:
    values = fields.array(written, where, 2, 5)
    if len(values) == 2:
        levels = fields.array(values[1], f"levels of {where}", 1, 256)
        if not all(isinstance(level, float) for level in levels):
            raise ValueError(f"levels of {where} must be floats")
        bits = fields.integer(values[0], f"bits of {where}", 1, 8)
        return EdgeSpec(bits, 0, len(levels) - 1, None, None, tuple(levels))
    grid = [fields.integer(value, where, -GRID_LIMIT, GRID_LIMIT) for value in values[:3]]
    if len(values) == 3:
        return EdgeSpec(grid[0], grid[1], grid[2], None, None)
    if len(values) != 5 or not isinstance(values[3], float):
        raise ValueError(f"{where} must hold bits, qmin, qmax and, if static, scale and zero point")
    return EdgeSpec(grid[0], grid[1], grid[2], values[3], fields.integer(values[4], where, -GRID_LIMIT, GRID_LIMIT))
