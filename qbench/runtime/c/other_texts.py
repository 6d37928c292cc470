"""The C text of what is between the layers; see :mod:`qbench.runtime.c.kernels`."""

from __future__ import annotations

ADD = """\
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

MULTIPLY = """\
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

AVERAGE = """\
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

MAX = """\
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

MOVE = """\
static void qb_move_@O@(int32_t blocks, int32_t count, int32_t step, const int8_t *restrict x, int32_t zero,
                        const qb_requantizer *r, @O_TYPE@ *restrict y)
{
    for (int32_t block = 0; block < blocks; block++)
        for (int32_t i = 0; i < count; i++)
            y[block * step + i] = (@O_TYPE@)qb_requantize(r, x[block * count + i] - zero, 0, 0);
}
"""

LOOKUP = """\
static void qb_lookup_@W@(int32_t count, int32_t lowest, const int8_t *restrict table, const @W_TYPE@ *restrict x,
                          int8_t *restrict y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = table[x[i] - lowest];
}
"""

FLOOR = """\
static void qb_floor(int32_t count, int32_t lowest, const int8_t *restrict x, int8_t *restrict y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = (int8_t)(x[i] < lowest ? lowest : x[i]);
}
"""

FLATTEN = """\
static void qb_flatten(int32_t positions, int32_t channels, const int8_t *restrict x, int8_t *restrict y)
{
    for (int32_t c = 0; c < channels; c++)
        for (int32_t position = 0; position < positions; position++)
            y[c * positions + position] = x[position * channels + c];
}
"""

WIDEN = """\
static void qb_widen(int32_t count, int32_t zero, const int8_t *restrict x, int32_t *restrict y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = x[i] - zero;
}
"""
