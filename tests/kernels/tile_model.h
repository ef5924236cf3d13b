/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tile instructions of kernels/x86/tile.h in plain C, after Intel's Software Developer's
 * Manual: the same results, and an end of the program where the processor would raise a fault.
 */
#ifndef TESTS_KERNELS_TILE_MODEL_H
#define TESTS_KERNELS_TILE_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_TILES 8

struct model_tile {
    uint8_t row[16][64];
};

static _Thread_local struct tile_config model_config;
static _Thread_local struct model_tile model_tiles[MODEL_TILES];

static inline void model_check(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "tile fault: %s\n", what);
        abort();
    }
}

static inline void tile_configure(const struct tile_config *config)
{
    model_check(config->palette == 1 && config->start_row == 0, "palette");
    for (size_t i = 0; i < sizeof config->reserved; i++)
        model_check(config->reserved[i] == 0, "reserved bytes");
    for (size_t t = 0; t < 16; t++) {
        unsigned rows = config->rows[t], bytes = config->row_bytes[t];
        model_check(rows <= 16 && bytes <= 64 && !rows == !bytes, "shape");
        model_check(t < MODEL_TILES || !rows, "more tiles than there are");
    }
    model_config = *config;
    memset(model_tiles, 0, sizeof model_tiles);
}

static inline void tile_release(void)
{
    model_check(model_config.palette == 1, "release of what was not configured");
    memset(&model_config, 0, sizeof model_config);
}

static inline struct model_tile *model_tile(size_t t)
{
    model_check(t < MODEL_TILES && model_config.rows[t], "tile not configured");
    return &model_tiles[t];
}

static inline void tile_zero(size_t t)
{
    memset(model_tile(t), 0, sizeof(struct model_tile));
}

static inline void tile_load(size_t t, const void *from, size_t stride)
{
    tile_zero(t);
    for (size_t r = 0; r < model_config.rows[t]; r++)
        memcpy(model_tiles[t].row[r], (const char *)from + r * stride, model_config.row_bytes[t]);
}

static inline void tile_store(size_t t, void *to, size_t stride)
{
    struct model_tile *tile = model_tile(t);
    for (size_t r = 0; r < model_config.rows[t]; r++)
        memcpy((char *)to + r * stride, tile->row[r], model_config.row_bytes[t]);
}

static inline void model_check_product(size_t c, size_t a, size_t b)
{
    const struct tile_config *s = &model_config;
    model_check(c != a && c != b && a != b, "operands of a product must differ");
    model_check(model_tile(c) && model_tile(a) && model_tile(b), "operands");
    model_check(s->row_bytes[c] % 4 == 0 && s->row_bytes[a] % 4 == 0,
                "row bytes not of whole sums");
    model_check(s->rows[c] == s->rows[a] && s->row_bytes[c] == s->row_bytes[b] &&
                    s->row_bytes[a] / 4 == s->rows[b],
                "shapes of a product");
}

/* What a product leaves beyond the rows and bytes of c is zero. */
static inline void model_store_product(size_t c, const void *rows)
{
    struct model_tile *tile = model_tile(c);
    memset(tile, 0, sizeof *tile);
    for (size_t m = 0; m < model_config.rows[c]; m++)
        memcpy(tile->row[m], (const char *)rows + 64 * m, model_config.row_bytes[c]);
}

static inline void model_dot_bytes(size_t c, size_t a, size_t b, int b_is_signed)
{
    int32_t sums[16][16], weights[4][16];
    model_check_product(c, a, b);
    memcpy(sums, model_tile(c), sizeof sums);
    for (size_t i = 0; i < model_config.rows[b]; i++) {
        const uint8_t *from = model_tiles[b].row[i];
        for (size_t n = 0; n < 16; n++)
            for (size_t j = 0; j < 4; j++)
                weights[j][n] = b_is_signed ? (int8_t)from[4 * n + j] : from[4 * n + j];
        for (size_t m = 0; m < model_config.rows[a]; m++)
            for (size_t j = 0; j < 4; j++) {
                int32_t x = (int8_t)model_tiles[a].row[m][4 * i + j];
                for (size_t n = 0; n < 16; n++)
                    sums[m][n] += x * weights[j][n];
            }
    }
    model_store_product(c, sums);
}

static inline void tile_dot_ss(size_t c, size_t a, size_t b)
{
    model_dot_bytes(c, a, b, 1);
}

static inline void tile_dot_su(size_t c, size_t a, size_t b)
{
    model_dot_bytes(c, a, b, 0);
}

static inline float model_bf16(const uint8_t *from)
{
    uint16_t half;
    memcpy(&half, from, 2);
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Even and odd elements have accumulators of their own, which meet at the end. */
static inline void tile_dot_bf16(size_t c, size_t a, size_t b)
{
    float sums[16][16];
    model_check_product(c, a, b);
    memcpy(sums, model_tile(c), sizeof sums);
    for (size_t m = 0; m < model_config.rows[c]; m++)
        for (size_t n = 0; n < 16; n++) {
            float pair[2] = {0, 0};
            for (size_t i = 0; i < model_config.rows[b]; i++)
                for (size_t j = 0; j < 2; j++)
                    pair[j] = fmaf(model_bf16(model_tiles[a].row[m] + 4 * i + 2 * j),
                                   model_bf16(model_tiles[b].row[i] + 4 * n + 2 * j), pair[j]);
            sums[m][n] += pair[0] + pair[1];
        }
    model_store_product(c, sums);
}

#endif
