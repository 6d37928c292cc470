"""From a module to a :class:`Program`: torch.fx records the calls, each must be one of the closed set of ops."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from qbench.errors import MethodError
from qbench.program.encodings import Encoding, Float
from qbench.program.graph import Attr, Node, Program

_PASS_THROUGH = (nn.Dropout, nn.Dropout2d, nn.Identity)
_ACTIVATIONS: dict[Any, str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hard_swish",
    nn.Hardsigmoid: "hard_sigmoid",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
}
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    F.hardswish: "hard_swish",
    F.hardsigmoid: "hard_sigmoid",
    torch.sigmoid: "sigmoid",
    F.silu: "silu",
    F.gelu: "gelu",
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    torch.flatten: "flatten",
    torch.cat: "concat",
    F.adaptive_avg_pool2d: "adaptive_avg_pool2d",
    F.max_pool2d: "max_pool2d",
    F.avg_pool2d: "avg_pool2d",
    F.dropout: "identity",
}
_METHODS = {"relu": "relu", "sigmoid": "sigmoid", "add": "add", "add_": "add", "mul": "mul", "flatten": "flatten",
            "view": "flatten", "reshape": "flatten", "mean": "mean", "contiguous": "identity"}  # fmt: skip
_SIZES = ("size", "shape")


def trace(module: nn.Module, input_shape: tuple[int, int, int]) -> Program:
    """Record a module in evaluation mode as a program with float32 tensors.

    Args:
        module: Takes float [N, C, H, W], gives [N, K].
        input_shape: (C, H, W).

    Raises:
        MethodError: torch.fx cannot follow the module's control flow, or a call is outside the closed op set; names
            the module or function.
    """
    try:
        traced = fx.symbolic_trace(module.eval())
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError) as error:
        reason = (
            f"its forward cannot be traced ({' '.join(str(error).split())[:160]}); write it without branches on values"
        )
        raise MethodError(type(module).__name__, reason) from error
    ShapeProp(traced).propagate(torch.zeros(1, *input_shape))  # type: ignore[no-untyped-call]
    return _Recorder(traced, input_shape).record()


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
        output = ""
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.names[node] = Program.INPUT
            elif node.op == "output":
                output = self._output(node)
            elif node.op == "call_module":
                self._module(node, self.modules[str(node.target)])
            elif node.op == "call_function":
                self._function(node)
            elif node.op == "call_method":
                self._method(node)
            else:
                raise MethodError(str(node.target), f"a {node.op} node is outside the op set")
        if not self.nodes or output != self.nodes[-1].name:
            raise MethodError(output or "the network", "its output is not the last operation's value")
        return Program(self.input_shape, tuple(self.nodes), self.tensors)

    def _output(self, node: fx.Node) -> str:
        value = node.args[0]
        if not isinstance(value, fx.Node):
            raise MethodError("output", "a network must return one tensor of logits")
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
        sources = []
        for value in inputs:
            if not isinstance(value, fx.Node) or value not in self.names:
                raise MethodError(unique, f"{op} with the constant {value!r} is outside the op set")
            sources.append(self.names[value])
        self.nodes.append(Node(unique, op, tuple(sources), dict(attrs or {})))
        for role, tensor in (tensors or {}).items():
            if tensor is not None:
                self.tensors[f"{unique}.{role}"] = Float(tensor.detach().to("cpu", torch.float32).contiguous().clone())
        self.names[fx_node] = unique

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        source = node.args[0]
        if isinstance(module, _PASS_THROUGH):
            assert isinstance(source, fx.Node)
            self.names[node] = self.names[source]
        elif type(module) in _ACTIVATIONS:
            self._add(node, _ACTIVATIONS[type(module)], (source,))
        elif type(module) in _MODULES:
            op, attrs, tensors = _MODULES[type(module)](module, str(node.target))
            self._add(node, op, (source,), attrs, tensors)
        elif isinstance(module, nn.Flatten):
            self._flatten(node, module.start_dim, module.end_dim)
        else:
            raise MethodError(str(node.target), f"{type(module).__name__} is outside the op set")

    def _function(self, node: fx.Node) -> None:
        if node.target is getattr or node.target is operator.getitem:
            return  # a shape, read by a reshape; whatever else reads it fails in _add
        op = _FUNCTIONS.get(node.target)
        if op is None:
            raise MethodError(node.name, f"{getattr(node.target, '__name__', node.target)} is outside the op set")
        self._called(node, op)

    def _method(self, node: fx.Node) -> None:
        if node.target in _SIZES:
            return
        op = _METHODS.get(str(node.target))
        if op is None:
            raise MethodError(node.name, f"Tensor.{node.target} is outside the op set")
        self._called(node, op)

    def _called(self, node: fx.Node, op: str) -> None:
        args = node.args
        if op == "identity":
            assert isinstance(args[0], fx.Node)
            self.names[node] = self.names[args[0]]
        elif op == "flatten":
            self._flatten(node, *_flatten_axes(node))
        elif op == "mean":
            self._mean(node)
        elif op == "concat":
            dim = node.kwargs.get("dim", args[1] if len(args) > 1 else 0)
            assert isinstance(args[0], list | tuple)
            self._add(node, op, tuple(args[0]), {"dim": int(dim)})  # type: ignore[arg-type]
        elif op in ("add", "mul"):
            self._add(node, op, tuple(args[:2]))
        elif op.endswith("pool2d"):
            self._add(node, op, (args[0],), _pool_attrs(op, node))
        else:
            self._add(node, op, (args[0],))

    def _flatten(self, node: fx.Node, start: int, end: int) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        shape_in, shape_out = source.meta["tensor_meta"].shape, node.meta["tensor_meta"].shape
        if start != 1 or end != -1 or len(shape_out) != 2 or shape_out[0] != shape_in[0]:
            raise MethodError(node.name, f"reshaping {tuple(shape_in)} to {tuple(shape_out)} is outside the op set")
        self._add(node, "flatten", (source,))

    def _mean(self, node: fx.Node) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if not isinstance(dims, list | tuple) or sorted(int(d) % 4 for d in dims) != [2, 3]:  # type: ignore[arg-type]
            raise MethodError(node.name, "a mean over other axes than height and width is outside the op set")
        self._add(node, "adaptive_avg_pool2d", (source,), {"output_size": (1, 1)}, name=f"{node.name}.pool")
        if not node.kwargs.get("keepdim", False):
            self._add(node, "flatten", (node,))


def _flatten_axes(node: fx.Node) -> tuple[int, int]:
    """Start and end axis; a reshape is judged by its shapes alone."""
    if node.target in ("view", "reshape"):
        return 1, -1
    args = node.args
    start = args[1] if len(args) > 1 else node.kwargs.get("start_dim", 0)
    end = args[2] if len(args) > 2 else node.kwargs.get("end_dim", -1)
    return int(start), int(end)  # type: ignore[arg-type]


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value), int(value))


_Described = tuple[str, dict[str, Attr], dict[str, Tensor | None]]


def _conv(module: nn.Conv2d, name: str) -> _Described:
    if module.padding_mode != "zeros":
        raise MethodError(name, f"padding_mode={module.padding_mode!r} is outside the op set")
    padding = module.padding
    if padding == "valid":
        padding = (0, 0)
    elif isinstance(padding, str):
        if any(k * d % 2 == 0 and k > 1 for k, d in zip(module.kernel_size, module.dilation)):
            raise MethodError(name, "padding='same' with an even kernel is outside the op set")
        padding = tuple(d * (k - 1) // 2 for k, d in zip(module.kernel_size, module.dilation))  # type: ignore[assignment]
    attrs: dict[str, Attr] = {
        "stride": _pair(module.stride),
        "padding": _pair(padding),
        "dilation": _pair(module.dilation),
        "groups": module.groups,
    }
    return "conv2d", attrs, {"weight": module.weight, "bias": module.bias}


def _linear(module: nn.Linear, name: str) -> _Described:
    return "linear", {}, {"weight": module.weight, "bias": module.bias}


def _batch_norm(module: nn.BatchNorm2d, name: str) -> _Described:
    if module.running_mean is None or module.running_var is None:
        raise MethodError(name, "a batch norm without running statistics is outside the op set")
    weight = module.weight if module.weight is not None else torch.ones(module.num_features)
    bias = module.bias if module.bias is not None else torch.zeros(module.num_features)
    statistics = {"running_mean": module.running_mean, "running_var": module.running_var}
    return "batch_norm", {"eps": float(module.eps)}, {"weight": weight, "bias": bias, **statistics}


def _max_pool(module: nn.MaxPool2d, name: str) -> _Described:
    if _pair(module.dilation) != (1, 1) or module.return_indices:
        raise MethodError(name, "a dilated max pooling or one that returns indices is outside the op set")
    return "max_pool2d", {**_window(module), "ceil_mode": module.ceil_mode}, {}


def _avg_pool(module: nn.AvgPool2d, name: str) -> _Described:
    if module.divisor_override is not None:
        raise MethodError(name, "an average pooling with its own divisor is outside the op set")
    attrs = {**_window(module), "ceil_mode": module.ceil_mode, "count_include_pad": module.count_include_pad}
    return "avg_pool2d", attrs, {}


def _adaptive_pool(module: nn.AdaptiveAvgPool2d, name: str) -> _Described:
    size: Any = module.output_size
    if size is None or (isinstance(size, tuple) and None in size):
        raise MethodError(name, "an adaptive pooling with an open output size is outside the op set")
    return "adaptive_avg_pool2d", {"output_size": _pair(size)}, {}


def _window(module: Any) -> dict[str, Attr]:
    stride = module.stride if module.stride is not None else module.kernel_size
    return {"kernel_size": _pair(module.kernel_size), "stride": _pair(stride), "padding": _pair(module.padding)}


def _pool_attrs(op: str, node: fx.Node) -> dict[str, Attr]:
    """Attributes of a functional pooling, read through the module of the same arguments."""
    arguments, keywords = node.args[1:], dict(node.kwargs)
    if op == "adaptive_avg_pool2d":
        return _adaptive_pool(nn.AdaptiveAvgPool2d(*arguments, **keywords), node.name)[1]  # type: ignore[arg-type]
    if op == "avg_pool2d":
        return _avg_pool(nn.AvgPool2d(*arguments, **keywords), node.name)[1]  # type: ignore[arg-type]
    return _max_pool(nn.MaxPool2d(*arguments, **keywords), node.name)[1]  # type: ignore[arg-type]


_MODULES: dict[type[nn.Module], Callable[[Any, str], _Described]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
}
