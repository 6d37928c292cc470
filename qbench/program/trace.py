"""From a module to a :class:`Program`: torch.fx records the calls, each must be one of the closed set of ops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from qbench.errors import MethodError
from qbench.program.encodings import Encoding, Float
from qbench.program.graph import Attr, Node, Program
from qbench.program.materialize import materialize
from qbench.program.torch_ops import PASS_THROUGH, SHAPE_CALLS, bound_call, describe_module, describe_pool

_BATCH = 2  # of the images that try out a network: a reshape that mixes images is told from one that does not


def trace(module: nn.Module, input_shape: tuple[int, int, int]) -> Program:
    """Record a module in evaluation mode as a program with float32 tensors. The module is left as it was.

    The program is run beside the module once, so that what torch.fx cannot see (a value changed in place and read
    again) is an error and not another network.

    Args:
        module: Takes float [N, C, H, W], gives [N, K]; on the CPU.
        input_shape: (C, H, W).

    Raises:
        MethodError: torch.fx cannot follow the module's control flow, a call is outside the closed op set (the module
            or function is named), or the module does not take images of that shape.
    """
    images = torch.randn(_BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
    with _evaluating(module), torch.no_grad():
        try:
            traced = fx.symbolic_trace(module)
        except (fx.proxy.TraceError, NameError, TypeError, ValueError, RuntimeError) as error:
            reason = (
                f"its forward cannot be traced ({_short(error)}), and a file of any method, also of one that quantizes "
                "weights alone, holds the traced graph; write it without branches on values"
            )
            raise MethodError(type(module).__name__, reason) from error
        try:
            expected = _Shapes(traced).run(images.clone())  # its first layer may work in place
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = f"does not take images of shape {list(input_shape)} ({_short(error)})"
            raise MethodError(type(module).__name__, reason) from error
        program = _Recorder(traced, input_shape).record()
        _compare(expected, materialize(program)(images), type(module).__name__)
    return program


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards each of its parts in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _compare(expected: Tensor, got: Tensor, name: str) -> None:
    """Both run the same kernels: only the choice of an algorithm by memory layout may move the last bits."""
    if not bool(torch.isfinite(expected).all()):
        return  # a diverged network; methods name the tensor
    tolerance = 1e-3 * float(expected.abs().max())
    if expected.shape != got.shape or not torch.allclose(got, expected, rtol=0.0, atol=tolerance):
        raise MethodError(name, "computes something else than its recorded calls; does one change its input in place?")


class _Shapes(fx.Interpreter):
    """Runs a traced module and notes the shape of every value."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # no advice on debugging torch.fx in error messages

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["shape"] = tuple(value.shape)
        return value


class _Recorder:
    """Walks the traced nodes in order; ``names`` maps each fx node to the program name of its value."""

    def __init__(self, traced: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules())
        self.input_shape = input_shape
        self.nodes: list[Node] = []
        self.tensors: dict[str, Encoding] = {}
        self.names: dict[fx.Node, str] = {}

    def record(self) -> Program:
        output = Program.INPUT
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                if not self.names:  # further parameters have defaults; what reads one fails in _source
                    self.names[node] = Program.INPUT
            elif node.op == "output":
                output = self._source(node.args[0], "the output", "a value that is not one tensor")
            elif node.op == "call_module":
                self._module(node, self.modules[str(node.target)])
            elif node.op in ("call_function", "call_method"):
                self._call(node)
            else:
                raise MethodError(str(node.target), f"a {node.op} node is outside the op set")
        nodes = _leading_to(output, self.nodes)
        if not nodes:
            raise MethodError("the network", "computes nothing: it returns its input")
        names = {node.name for node in nodes}
        tensors = {key: encoding for key, encoding in self.tensors.items() if key.rpartition(".")[0] in names}
        return Program(self.input_shape, nodes, tensors)

    def _source(self, value: Any, where: str, what: str) -> str:
        """The program name of an fx value."""
        if not isinstance(value, fx.Node) or value not in self.names:
            raise MethodError(where, f"{what} ({value!r}) is outside the op set")
        return self.names[value]

    def _add(
        self,
        fx_node: fx.Node,
        op: str,
        inputs: tuple[Any, ...],
        attrs: Mapping[str, Attr] | None = None,
        tensors: Mapping[str, Tensor | None] | None = None,
        name: str | None = None,
    ) -> None:
        name = name or (str(fx_node.target) if fx_node.op == "call_module" else fx_node.name)
        taken = {node.name for node in self.nodes} | {Program.INPUT}
        unique, count = name, 2
        while unique in taken:  # a module called twice
            unique, count = f"{name}#{count}", count + 1
        sources = tuple(self._source(value, unique, f"{op} with a constant") for value in inputs)
        self.nodes.append(Node(unique, op, sources, dict(attrs or {})))
        for role, tensor in (tensors or {}).items():
            if tensor is not None:
                self.tensors[f"{unique}.{role}"] = Float(tensor.detach().to("cpu", torch.float32).contiguous().clone())
        self.names[fx_node] = unique

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        arguments = (*node.args, *node.kwargs.values())
        source = arguments[0] if len(arguments) == 1 else None
        if isinstance(module, PASS_THROUGH):
            self.names[node] = self._source(source, str(node.target), "an input")
        elif isinstance(module, nn.Flatten):
            self._flatten(node, source)
        else:
            op, attrs, tensors = describe_module(module, str(node.target))
            self._add(node, op, (source,), attrs, tensors)

    def _call(self, node: fx.Node) -> None:
        if node.target in SHAPE_CALLS:
            return  # a shape, read by a reshape; whatever else reads it fails in _source
        op, given = bound_call(node)
        source = given.get("input")
        if op in ("identity", "dropout"):
            self.names[node] = self._source(source, node.name, "an input")
        elif op == "flatten":
            self._flatten(node, source)
        elif op == "mean":
            self._mean(node, given)
        elif op == "concat":
            parts = given["tensors"] if isinstance(given["tensors"], list | tuple) else (given["tensors"],)
            self._add(node, op, tuple(parts), {"dim": given.get("dim", 0)})
        elif op in ("add", "mul"):
            self._add(node, op, (source, given.get("other")))
        elif op.endswith("pool2d"):
            self._add(node, op, (source,), describe_pool(op, given, node.name)[1])
        else:
            self._add(node, op, (source,))

    def _flatten(self, node: fx.Node, source: Any) -> None:
        """A reshape keeps the order of elements, so the shapes before and after say whether it is a flatten."""
        self._source(source, node.name, "an input")
        before, after = source.meta["shape"], node.meta["shape"]
        if len(after) != 2 or after[0] != before[0]:
            raise MethodError(node.name, f"reshaping {list(before)} to {list(after)} is outside the op set")
        self._add(node, "flatten", (source,))

    def _mean(self, node: fx.Node, given: Mapping[str, Any]) -> None:
        source, dims = given.get("input"), given.get("dim")
        self._source(source, node.name, "an input")
        if not isinstance(dims, list | tuple) or sorted(int(d) % 4 for d in dims) != [2, 3]:
            raise MethodError(node.name, "a mean over other axes than height and width is outside the op set")
        self._add(node, "adaptive_avg_pool2d", (source,), {"output_size": (1, 1)}, name=f"{node.name}.pool")
        if not given.get("keepdim", False):
            self._add(node, "flatten", (node,))


def _leading_to(output: str, nodes: list[Node]) -> tuple[Node, ...]:
    """The nodes the output depends on, in order: an auxiliary head that is not returned is no part of the network."""
    needed = {output}
    kept = []
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
