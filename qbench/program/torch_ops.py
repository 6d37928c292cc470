"""The closed op set in torch's words: which modules, functions and tensor methods are which op."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qbench.errors import MethodError
from qbench.program.graph import Attr

Described = tuple[str, dict[str, Attr], dict[str, Tensor | None]]
"""An op, its attributes, its tensors by role."""

PASS_THROUGH = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)
"""Modules that do nothing in evaluation mode."""

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hard_swish",
    nn.Hardsigmoid: "hard_sigmoid",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
}
_UNARY = ("input", "inplace")
_BINARY = ("input", "other", "alpha")
_MEAN = ("input", "dim", "keepdim", "dtype")
_MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_ANY = ()  # judged by the shapes before and after

# function or name of a tensor method -> (op, its parameters in order)
_CALLS: dict[Any, tuple[str, tuple[str, ...]]] = {
    F.relu: ("relu", _UNARY),
    torch.relu: ("relu", _UNARY),
    "relu": ("relu", _UNARY),
    "relu_": ("relu", _UNARY),
    F.relu6: ("relu6", _UNARY),
    F.hardswish: ("hard_swish", _UNARY),
    F.hardsigmoid: ("hard_sigmoid", _UNARY),
    torch.sigmoid: ("sigmoid", _UNARY),
    F.sigmoid: ("sigmoid", _UNARY),
    "sigmoid": ("sigmoid", _UNARY),
    F.silu: ("silu", _UNARY),
    F.gelu: ("gelu", ("input", "approximate")),
    operator.add: ("add", _BINARY),
    operator.iadd: ("add", _BINARY),
    torch.add: ("add", _BINARY),
    "add": ("add", _BINARY),
    "add_": ("add", _BINARY),
    operator.mul: ("mul", _BINARY),
    operator.imul: ("mul", _BINARY),
    torch.mul: ("mul", _BINARY),
    "mul": ("mul", _BINARY),
    "mul_": ("mul", _BINARY),
    torch.flatten: ("flatten", _ANY),
    "flatten": ("flatten", _ANY),
    "view": ("flatten", _ANY),
    "reshape": ("flatten", _ANY),
    torch.mean: ("mean", _MEAN),
    "mean": ("mean", _MEAN),
    torch.cat: ("concat", ("tensors", "dim")),
    torch.concat: ("concat", ("tensors", "dim")),
    F.adaptive_avg_pool2d: ("adaptive_avg_pool2d", ("input", "output_size")),
    F.max_pool2d: ("max_pool2d", _MAX_POOL),
    torch.max_pool2d: ("max_pool2d", _MAX_POOL),
    F.avg_pool2d: ("avg_pool2d", _AVG_POOL),
    F.dropout: ("dropout", ("input", "p", "training", "inplace")),
    "contiguous": ("identity", ("input",)),
}
_ONLY: dict[str, Any] = {"alpha": 1, "approximate": "none", "dtype": None, "training": False}
"""Parameters an op has no attribute for, and the one value it computes."""

SHAPE_CALLS = (getattr, operator.getitem, "size")
"""Calls whose result only a reshape may read."""


def bound_call(node: fx.Node) -> tuple[str, dict[str, Any]]:
    """The op of a function or tensor method, and its arguments by parameter name.

    Raises:
        MethodError: It is none of the closed set, or has an argument that its op cannot express; names both.
    """
    shown = f"Tensor.{node.target}" if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
    if node.target not in _CALLS:
        raise MethodError(node.name, f"{shown} is outside the op set")
    op, parameters = _CALLS[node.target]
    if parameters == _ANY:
        return op, {"input": node.args[0] if node.args else node.kwargs.get("input")}
    given = {**dict(zip(parameters, node.args)), **node.kwargs}
    if op == "dropout":
        given.setdefault("training", True)
    unknown = [name for name in given if name not in parameters]
    if unknown or len(node.args) > len(parameters):
        extra = unknown[0] if unknown else node.args[len(parameters)]
        raise MethodError(node.name, f"{shown} with the argument {extra} is outside the op set")
    for name, only in _ONLY.items():
        if given.get(name, only) != only:
            raise MethodError(node.name, f"{shown} with {name}={given[name]} is outside the op set")
    return op, given


def describe_module(module: nn.Module, name: str) -> Described:
    """The op of a module.

    Raises:
        MethodError: The module, or one of its settings, is outside the closed set; names both.
    """
    if isinstance(module, nn.GELU) and module.approximate != "none":
        raise MethodError(name, f"GELU with approximate={module.approximate} is outside the op set")
    if type(module) in _ACTIVATIONS:
        return _ACTIVATIONS[type(module)], {}, {}
    if type(module) not in _MODULES:
        raise MethodError(name, f"{type(module).__name__} is outside the op set")
    return _MODULES[type(module)](module, name)


def describe_pool(op: str, given: dict[str, Any], name: str) -> Described:
    """A pooling function, read through the module of the same arguments."""
    kinds = {"max_pool2d": nn.MaxPool2d, "avg_pool2d": nn.AvgPool2d, "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d}
    return describe_module(kinds[op](**{key: value for key, value in given.items() if key != "input"}), name)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[-1])) if isinstance(value, tuple | list) else (int(value), int(value))


def _conv(module: nn.Conv2d, name: str) -> Described:
    if module.padding_mode != "zeros":
        raise MethodError(name, f"padding_mode={module.padding_mode!r} is outside the op set")
    padding: Any = module.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        total = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation)]
        if any(count % 2 for count in total):
            raise MethodError(name, "padding='same' that differs between the two sides is outside the op set")
        padding = tuple(count // 2 for count in total)
    attrs: dict[str, Attr] = {
        "stride": _pair(module.stride),
        "padding": _pair(padding),
        "dilation": _pair(module.dilation),
        "groups": module.groups,
    }
    return "conv2d", attrs, {"weight": module.weight, "bias": module.bias}


def _linear(module: nn.Linear, name: str) -> Described:
    return "linear", {}, {"weight": module.weight, "bias": module.bias}


def _batch_norm(module: nn.BatchNorm2d, name: str) -> Described:
    if module.running_mean is None or module.running_var is None:
        raise MethodError(name, "a batch norm without running statistics is outside the op set")
    weight = module.weight if module.affine else torch.ones(module.num_features)
    bias = module.bias if module.affine else torch.zeros(module.num_features)
    statistics = {"running_mean": module.running_mean, "running_var": module.running_var}
    return "batch_norm", {"eps": float(module.eps)}, {"weight": weight, "bias": bias, **statistics}


def _max_pool(module: nn.MaxPool2d, name: str) -> Described:
    if _pair(module.dilation) != (1, 1) or module.return_indices:
        raise MethodError(name, "a dilated max pooling or one that returns indices is outside the op set")
    return "max_pool2d", {**_window(module), "ceil_mode": module.ceil_mode}, {}


def _avg_pool(module: nn.AvgPool2d, name: str) -> Described:
    if module.divisor_override is not None:
        raise MethodError(name, "an average pooling with its own divisor is outside the op set")
    attrs = {**_window(module), "ceil_mode": module.ceil_mode, "count_include_pad": module.count_include_pad}
    return "avg_pool2d", attrs, {}


def _adaptive_pool(module: nn.AdaptiveAvgPool2d, name: str) -> Described:
    size: Any = module.output_size
    if size is None or (isinstance(size, tuple | list) and None in size):
        raise MethodError(name, "an adaptive pooling with an open output size is outside the op set")
    return "adaptive_avg_pool2d", {"output_size": _pair(size)}, {}


def _window(module: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, Attr]:
    stride = module.stride if module.stride is not None else module.kernel_size
    return {"kernel_size": _pair(module.kernel_size), "stride": _pair(stride), "padding": _pair(module.padding)}


_MODULES: dict[type[nn.Module], Callable[[Any, str], Described]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
}
