"""The C text of the operations: plain loops over contiguous channels, which compilers turn into vector instructions.

``@W@`` stands for the type of the weights or of what is read, ``@O@`` for that of what is made; ``select`` fills them
in and brings along what a kernel calls. Right shifts of negative numbers are implementation-defined in C99: the text
refuses to compile where they are not arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from qbench.runtime.c import layer_texts, other_texts

C_TYPES = {"s8": "int8_t", "s16": "int16_t", "s32": "int32_t"}

PREAMBLE = """\
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns") /* no memset or memcpy made of loops: nothing is linked */
#endif

typedef char qb_shifts_must_be_arithmetic[(-2 >> 1) == -1 ? 1 : -1];

enum { QB_LANES = 64 }; /* channels summed at once */

typedef struct {
    const int32_t *multiplier; /* code = low <= round(sum * multiplier / 2^shift) + zero_point <= high */
    const uint8_t *shift;
    int32_t per_position, per_channel; /* 1 where factors differ along it, else 0 */
    int32_t zero_point, low, high;
} qb_requantizer;

typedef struct {
    int32_t in_height, in_width, in_channels, out_height, out_width, out_channels;
    int32_t group_channels, group_outputs; /* channels that one output reads; outputs that read them */
    int32_t kernel_height, kernel_width, stride_y, stride_x, pad_y, pad_x, step_y, step_x;
    int32_t pad_value;
} qb_window;

typedef struct {
    int32_t height, width, channels; /* of the result */
    int32_t row_a, column_a, channel_a, row_b, column_b, channel_b; /* steps in the inputs; 0 where one is repeated */
    int32_t zero_a, zero_b;
} qb_pair;
"""

# name without its types -> text, in the order of the source: what is called stands before its callers
_TEXTS = {
    "qb_requantize": layer_texts.REQUANTIZE,
    "qb_dot": layer_texts.DOT,
    "qb_padded": layer_texts.PADDED,
    "qb_conv_row": layer_texts.CONV_ROW,
    "qb_conv": layer_texts.CONV,
    "qb_depthwise_tap": layer_texts.TAP,
    "qb_depthwise": layer_texts.DEPTHWISE,
    "qb_linear": layer_texts.LINEAR,
    "qb_add": other_texts.ADD,
    "qb_multiply": other_texts.MULTIPLY,
    "qb_average_pool": other_texts.AVERAGE,
    "qb_max_pool": other_texts.MAX,
    "qb_move": other_texts.MOVE,
    "qb_lookup": other_texts.LOOKUP,
    "qb_floor": other_texts.FLOOR,
    "qb_flatten": other_texts.FLATTEN,
    "qb_widen": other_texts.WIDEN,
}
_NAMES = re.compile(r"\b(" + "|".join(sorted(_TEXTS, key=len, reverse=True)) + r")((?:_s\d+)*)\b")


def select(kernels: Iterable[str]) -> str:
    """The text of these kernels and of all they call, each once and before its callers.

    Args:
        kernels: Names with their types, e.g. ``qb_conv_s8_s16`` for int8 weights and int16 results.
    """
    found: dict[str, tuple[int, str]] = {}  # name -> (place in the source, text)
    waiting = sorted(kernels)
    order = list(_TEXTS)
    while waiting:
        name = waiting.pop()
        match = _NAMES.fullmatch(name)
        if match is None:
            raise ValueError(f"no kernel is called {name!r}")
        if name not in found:
            text = _typed(_TEXTS[match[1]], match[2].split("_")[1:])
            found[name] = (order.index(match[1]), text)
            waiting += {called[0] for called in _NAMES.finditer(text)} - {name}
    return "\n".join(text for _, text in sorted(found.values()))


def _typed(text: str, types: list[str]) -> str:
    """A text with its placeholders filled: ``@W@`` first, then ``@O@``, of which it may lack either."""
    roles = [role for role in ("W", "O") if f"@{role}@" in text]
    if len(roles) != len(types):
        raise ValueError(f"a kernel of {len(roles)} types cannot have {types}")
    for role, name in zip(roles, types):
        text = text.replace(f"@{role}@", name).replace(f"@{role}_TYPE@", C_TYPES[name])
    return text
