"""The C text of the operations: plain loops over contiguous channels, which compilers turn into vector instructions.

``@W@`` stands for the type of the weights or of what is read, ``@O@`` for that of what is made; ``select`` fills them
in and brings along what a kernel calls. Right shifts of negative numbers are implementation-defined in C99: the text
refuses to compile where they are not arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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

_REQUANTIZE = """\
static int32_t qb_requantize(const qb_requantizer *r, int32_t sum, int32_t position, int32_t channel)
{
    if (r == NULL)
        return sum; /* sums are what is wanted */
    const int32_t at = position * r->per_position + channel * r->per_channel;
    const int32_t shift = r->shift[at];
    const int64_t half = (int64_t)(((uint64_t)1 << shift) >> 1); /* ties go up */
    const int64_t code = (((int64_t)sum * r->multiplier[at] + half) >> shift) + r->zero_point;
    return (int32_t)(code < r->low ? r->low : code > r->high ? r->high : code);
}
"""

_DOT = """\
static int32_t qb_dot_@W@(const int8_t *restrict x, const @W_TYPE@ *restrict w, int32_t count)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < count; i++)
        sum += (int32_t)x[i] * w[i];
    return sum;
}
"""

_PADDED = """\
static int32_t qb_padded_@W@(int32_t pad_value, const @W_TYPE@ *w, int32_t count)
{
    int32_t sum = 0;
    if (pad_value == 0)
        return 0;
    for (int32_t i = 0; i < count; i++)
        sum += w[i];
    return sum * pad_value;
}
"""

_CONV_ROW = """\
static int32_t qb_conv_row_@W@(const qb_window *p, const int8_t *x, const @W_TYPE@ *w, int32_t left)
{
    const int32_t count = p->group_channels;
    int32_t sum = 0;
    if (count == p->in_channels && p->step_x == 1 && left >= 0 && left + p->kernel_width <= p->in_width)
        return qb_dot_@W@(x + left * p->in_channels, w, p->kernel_width * count);
    for (int32_t i = 0; i < p->kernel_width; i++, w += count) {
        const int32_t column = left + i * p->step_x;
        if (column < 0 || column >= p->in_width)
            sum += qb_padded_@W@(p->pad_value, w, count);
        else
            sum += qb_dot_@W@(x + column * p->in_channels, w, count);
    }
    return sum;
}
"""

_CONV = """\
/* weights [outputs][kernel rows][kernel columns][channels of the group] */
static void qb_conv_@W@_@O@(const qb_window *p, const int8_t *restrict x, const @W_TYPE@ *restrict w,
                            const int32_t *restrict bias, const qb_requantizer *r, @O_TYPE@ *restrict y)
{
    const int32_t taps = p->kernel_width * p->group_channels, row_size = p->in_width * p->in_channels;
    for (int32_t oy = 0; oy < p->out_height; oy++) {
        const int32_t top = oy * p->stride_y - p->pad_y;
        for (int32_t o = 0; o < p->out_channels; o++) {
            const int8_t *const from = x + o / p->group_outputs * p->group_channels;
            const @W_TYPE@ *const kernel = w + o * p->kernel_height * taps;
            for (int32_t ox = 0; ox < p->out_width; ox++) {
                const int32_t position = oy * p->out_width + ox;
                int32_t sum = bias[o];
                for (int32_t i = 0; i < p->kernel_height; i++) {
                    const int32_t row = top + i * p->step_y;
                    if (row < 0 || row >= p->in_height)
                        sum += qb_padded_@W@(p->pad_value, kernel + i * taps, taps);
                    else
                        sum += qb_conv_row_@W@(p, from + row * row_size, kernel + i * taps,
                                               ox * p->stride_x - p->pad_x);
                }
                y[position * p->out_channels + o] = (@O_TYPE@)qb_requantize(r, sum, position, o);
            }
        }
    }
}
"""

_TAP = """\
static void qb_depthwise_tap_@W@(const int8_t *restrict x, const @W_TYPE@ *restrict w, int32_t pad_value,
                                 int32_t lanes, int32_t *restrict sums)
{
    if (x != NULL) {
        for (int32_t j = 0; j < lanes; j++)
            sums[j] += (int32_t)x[j] * w[j];
    } else if (pad_value != 0) {
        for (int32_t j = 0; j < lanes; j++)
            sums[j] += pad_value * w[j];
    }
}
"""

_DEPTHWISE = """\
/* as many outputs as channels; weights [kernel rows][kernel columns][channels] */
static void qb_depthwise_@W@_@O@(const qb_window *p, const int8_t *restrict x, const @W_TYPE@ *restrict w,
                                 const int32_t *restrict bias, const qb_requantizer *r, @O_TYPE@ *restrict y)
{
    const int32_t channels = p->out_channels;
    for (int32_t position = 0; position < p->out_height * p->out_width; position++) {
        const int32_t top = position / p->out_width * p->stride_y - p->pad_y;
        const int32_t left = position % p->out_width * p->stride_x - p->pad_x;
        for (int32_t c = 0; c < channels; c += QB_LANES) {
            const int32_t lanes = channels - c < QB_LANES ? channels - c : QB_LANES;
            int32_t sums[QB_LANES];
            for (int32_t j = 0; j < lanes; j++)
                sums[j] = bias[c + j];
            for (int32_t tap = 0; tap < p->kernel_height * p->kernel_width; tap++) {
                const int32_t row = top + tap / p->kernel_width * p->step_y;
                const int32_t column = left + tap % p->kernel_width * p->step_x;
                const int32_t inside = row >= 0 && row < p->in_height && column >= 0 && column < p->in_width;
                const int8_t *const from = inside ? x + (row * p->in_width + column) * channels + c : NULL;
                qb_depthwise_tap_@W@(from, w + tap * channels + c, p->pad_value, lanes, sums);
            }
            for (int32_t j = 0; j < lanes; j++)
                y[position * channels + c + j] = (@O_TYPE@)qb_requantize(r, sums[j], position, c + j);
        }
    }
}
"""

_LINEAR = """\
static void qb_linear_@W@_@O@(int32_t inputs, int32_t outputs, const int8_t *restrict x,
                              const @W_TYPE@ *restrict w, const int32_t *restrict bias, const qb_requantizer *r,
                              @O_TYPE@ *restrict y)
{
    for (int32_t o = 0; o < outputs; o++)
        y[o] = (@O_TYPE@)qb_requantize(r, bias[o] + qb_dot_@W@(x, w + o * inputs, inputs), 0, o);
}
"""

_ADD = """\
static void qb_add_@O@(const qb_pair *p, const int8_t *a, const int8_t *b, const qb_requantizer *to_a,
                       const qb_requantizer *to_b, int32_t gain, const qb_requantizer *r, @O_TYPE@ *restrict y)
{
    for (int32_t position = 0; position < p->height * p->width; position++) {
        const int32_t row = position / p->width, column = position % p->width;
        const int8_t *const from_a = a + row * p->row_a + column * p->column_a;
        const int8_t *const from_b = b + row * p->row_b + column * p->column_b;
        for (int32_t c = 0; c < p->channels; c++) {
            const int32_t left = (from_a[c * p->channel_a] - p->zero_a) * gain;
            const int32_t right = (from_b[c * p->channel_b] - p->zero_b) * gain;
            const int32_t sum = qb_requantize(to_a, left, 0, 0) + qb_requantize(to_b, right, 0, 0);
            y[position * p->channels + c] = (@O_TYPE@)qb_requantize(r, sum, position, c);
        }
    }
}
"""

_MULTIPLY = """\
static void qb_multiply_@O@(const qb_pair *p, const int8_t *a, const int8_t *b, const qb_requantizer *r,
                            @O_TYPE@ *restrict y)
{
    for (int32_t position = 0; position < p->height * p->width; position++) {
        const int32_t row = position / p->width, column = position % p->width;
        const int8_t *const from_a = a + row * p->row_a + column * p->column_a;
        const int8_t *const from_b = b + row * p->row_b + column * p->column_b;
        for (int32_t c = 0; c < p->channels; c++) {
            const int32_t left = from_a[c * p->channel_a] - p->zero_a, right = from_b[c * p->channel_b] - p->zero_b;
            y[position * p->channels + c] = (@O_TYPE@)qb_requantize(r, left * right, position, c);
        }
    }
}
"""

_AVERAGE = """\
/* rows and columns: first, and the one after the last, of each window */
static void qb_average_pool_@O@(const qb_window *p, const int32_t *rows, const int32_t *columns,
                                const int8_t *restrict x, const qb_requantizer *r, @O_TYPE@ *restrict y)
{
    const int32_t channels = p->in_channels;
    for (int32_t position = 0; position < p->out_height * p->out_width; position++) {
        const int32_t oy = position / p->out_width, ox = position % p->out_width;
        for (int32_t c = 0; c < channels; c += QB_LANES) {
            const int32_t lanes = channels - c < QB_LANES ? channels - c : QB_LANES;
            int32_t sums[QB_LANES];
            for (int32_t j = 0; j < lanes; j++)
                sums[j] = 0;
            for (int32_t row = rows[2 * oy]; row < rows[2 * oy + 1]; row++) {
                for (int32_t column = columns[2 * ox]; column < columns[2 * ox + 1]; column++) {
                    const int8_t *const from = x + (row * p->in_width + column) * channels + c;
                    for (int32_t j = 0; j < lanes; j++)
                        sums[j] += from[j] - p->pad_value;
                }
            }
            for (int32_t j = 0; j < lanes; j++)
                y[position * channels + c + j] = (@O_TYPE@)qb_requantize(r, sums[j], position, c + j);
        }
    }
}
"""

_MAX = """\
static void qb_max_pool(const qb_window *p, const int8_t *restrict x, int8_t *restrict y)
{
    const int32_t channels = p->in_channels;
    for (int32_t position = 0; position < p->out_height * p->out_width; position++, y += channels) {
        const int32_t top = position / p->out_width * p->stride_y - p->pad_y;
        const int32_t left = position % p->out_width * p->stride_x - p->pad_x;
        for (int32_t c = 0; c < channels; c++)
            y[c] = INT8_MIN;
        for (int32_t row = top < 0 ? 0 : top; row < top + p->kernel_height && row < p->in_height; row++) {
            for (int32_t column = left < 0 ? 0 : left; column < left + p->kernel_width && column < p->in_width;
                 column++) {
                const int8_t *const from = x + (row * p->in_width + column) * channels;
                for (int32_t c = 0; c < channels; c++)
                    y[c] = from[c] > y[c] ? from[c] : y[c];
            }
        }
    }
}
"""

_MOVE = """\
static void qb_move_@O@(int32_t blocks, int32_t count, int32_t step, const int8_t *restrict x, int32_t zero,
                        const qb_requantizer *r, @O_TYPE@ *restrict y)
{
    for (int32_t block = 0; block < blocks; block++)
        for (int32_t i = 0; i < count; i++)
            y[block * step + i] = (@O_TYPE@)qb_requantize(r, x[block * count + i] - zero, 0, 0);
}
"""

_LOOKUP = """\
static void qb_lookup_@W@(int32_t count, int32_t lowest, const int8_t *restrict table, const @W_TYPE@ *restrict x,
                          int8_t *restrict y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = table[x[i] - lowest];
}
"""

_FLOOR = """\
static void qb_floor(int32_t count, int32_t lowest, const int8_t *restrict x, int8_t *restrict y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = (int8_t)(x[i] < lowest ? lowest : x[i]);
}
"""

_FLATTEN = """\
static void qb_flatten(int32_t positions, int32_t channels, const int8_t *restrict x, int8_t *restrict y)
{
    for (int32_t c = 0; c < channels; c++)
        for (int32_t position = 0; position < positions; position++)
            y[c * positions + position] = x[position * channels + c];
}
"""

_WIDEN = """\
static void qb_widen(int32_t count, int32_t zero, const int8_t *restrict x, int32_t *restrict y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = x[i] - zero;
}
"""

# name without its types -> text, in the order of the source: what is called stands before its callers
_TEXTS = {
    "qb_requantize": _REQUANTIZE,
    "qb_dot": _DOT,
    "qb_padded": _PADDED,
    "qb_conv_row": _CONV_ROW,
    "qb_conv": _CONV,
    "qb_depthwise_tap": _TAP,
    "qb_depthwise": _DEPTHWISE,
    "qb_linear": _LINEAR,
    "qb_add": _ADD,
    "qb_multiply": _MULTIPLY,
    "qb_average_pool": _AVERAGE,
    "qb_max_pool": _MAX,
    "qb_move": _MOVE,
    "qb_lookup": _LOOKUP,
    "qb_floor": _FLOOR,
    "qb_flatten": _FLATTEN,
    "qb_widen": _WIDEN,
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
