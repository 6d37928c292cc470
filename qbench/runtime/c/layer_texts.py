"""The C text of requantization, convolution and linear layers; see :mod:`qbench.runtime.c.kernels`."""

from __future__ import annotations

REQUANTIZE = """\
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

DOT = """\
static int32_t qb_dot_@W@(const int8_t *restrict x, const @W_TYPE@ *restrict w, int32_t count)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < count; i++)
        sum += (int32_t)x[i] * w[i];
    return sum;
}
"""

PADDED = """\
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

CONV_ROW = """\
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

CONV = """\
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

TAP = """\
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

DEPTHWISE = """\
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

LINEAR = """\
static void qb_linear_@W@_@O@(int32_t inputs, int32_t outputs, const int8_t *restrict x,
                              const @W_TYPE@ *restrict w, const int32_t *restrict bias, const qb_requantizer *r,
                              @O_TYPE@ *restrict y)
{
    for (int32_t o = 0; o < outputs; o++)
        y[o] = (@O_TYPE@)qb_requantize(r, bias[o] + qb_dot_@W@(x, w + o * inputs, inputs), 0, o);
}
"""
