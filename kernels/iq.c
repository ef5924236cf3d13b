/* SPDX-License-Identifier: Apache-2.0 */
/* The blocks of the IQ types as a file stores them. A group is 8 values, 32 to a block. */
#include "kernels/iq.h"

#include <assert.h>
#include <string.h>

static const uint8_t iq2_levels[4] = {8, 25, 43};
static const uint8_t iq3_xxs_levels[8] = {4, 12, 20, 28, 36, 44, 52, 62};
static const uint8_t iq3_s_levels[8] = {1, 3, 5, 7, 9, 11, 13, 15};
static const uint8_t iq1_levels[4] = {0, 8, 16};

struct kern__iq_grids kern__iq_grids;

/* to[i]: byte j is the level of the j-th code, of `bits` bits, in codes[i]; n codes a row. */
static void expand(uint64_t *to, const uint16_t *codes, size_t n_rows, const uint8_t *levels,
                   unsigned bits, unsigned n)
{
    for (size_t i = 0; i < n_rows; i++) {
        to[i] = 0;
        for (unsigned j = 0; j < n; j++)
            to[i] |= (uint64_t)levels[codes[i] >> bits * j & ((1u << bits) - 1)] << 8 * j;
    }
}

static void expand_halves(uint64_t *first, uint64_t *second, const uint16_t *codes, size_t n_rows,
                          const uint8_t *levels)
{
    expand(first, codes, n_rows, levels, 3, 4);
    for (size_t i = 0; i < n_rows; i++)
        second[i] = first[i] << 32;
}

void kern__iq_init(void)
{
    struct kern__iq_grids *g = &kern__iq_grids;
    expand(g->iq2_xxs, kern__iq2_xxs_codes, 256, iq2_levels, 2, 8);
    expand(g->iq2_xs, kern__iq2_xs_codes, 512, iq2_levels, 2, 8);
    expand(g->iq2_s, kern__iq2_s_codes, 1024, iq2_levels, 2, 8);
    expand(g->iq1, kern__iq1_codes, 2048, iq1_levels, 2, 8);
    expand_halves(g->iq3_xxs_first, g->iq3_xxs_second, kern__iq3_xxs_codes, 256, iq3_xxs_levels);
    expand_halves(g->iq3_s_first, g->iq3_s_second, kern__iq3_s_codes, 512, iq3_s_levels);
}

static uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t load_u32(const uint8_t *p)
{
    return load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

/* The eighth sign makes their number even. */
static uint8_t even_signs(uint32_t seven)
{
    uint32_t parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return (uint8_t)(seven | (parity & 1) << 7);
}

/* A scale of 4 bits for each 16 values, in bytes. */
static void parse_nibbles(uint8_t scale[16], const uint8_t *from)
{
    for (size_t s = 0; s < 16; s++)
        scale[s] = from[s / 2] >> 4 * (s % 2) & 15;
}

/* 32 values: 28 bits of signs, 4 bits of scale. */
static void parse_signs_and_scale(struct kern__iq_row *row, size_t sub, uint32_t word)
{
    for (size_t j = 0; j < 4; j++)
        row->sign[4 * sub + j] = even_signs(word >> 7 * j & 127);
    row->scale[2 * sub] = row->scale[2 * sub + 1] = (uint8_t)(word >> 28);
}

static void parse_iq2_xxs(struct kern__iq_row *row, const uint8_t *block)
{
    row->d = load_u16(block);
    for (size_t sub = 0; sub < 8; sub++) {
        for (size_t j = 0; j < 4; j++)
            row->index[4 * sub + j] = block[2 + 8 * sub + j];
        parse_signs_and_scale(row, sub, load_u32(block + 2 + 8 * sub + 4));
    }
}

static void parse_iq2_xs(struct kern__iq_row *row, const uint8_t *block)
{
    row->d = load_u16(block);
    for (size_t g = 0; g < 32; g++) {
        uint16_t q = load_u16(block + 2 + 2 * g);
        row->index[g] = q & 511;
        row->sign[g] = even_signs(q >> 9);
    }
    parse_nibbles(row->scale, block + 66);
}

static void parse_iq2_s(struct kern__iq_row *row, const uint8_t *block)
{
    const uint8_t *low = block + 2, *high = block + 66;
    row->d = load_u16(block);
    for (size_t g = 0; g < 32; g++)
        row->index[g] = (uint16_t)(low[g] | (high[g / 4] >> 2 * (g % 4) & 3) << 8);
    memcpy(row->sign, block + 34, 32);
    parse_nibbles(row->scale, block + 74);
}

static void parse_iq3_xxs(struct kern__iq_row *row, const uint8_t *block)
{
    row->d = load_u16(block);
    for (size_t i = 0; i < 64; i++)
        row->index[i] = block[2 + i];
    for (size_t sub = 0; sub < 8; sub++)
        parse_signs_and_scale(row, sub, load_u32(block + 66 + 4 * sub));
}

static void parse_iq3_s(struct kern__iq_row *row, const uint8_t *block)
{
    const uint8_t *low = block + 2, *high = block + 66, *scale = block + 106;
    row->d = load_u16(block);
    for (size_t i = 0; i < 64; i++)
        row->index[i] = (uint16_t)(low[i] | (high[i / 8] >> i % 8 & 1) << 8);
    memcpy(row->sign, block + 74, 32);
    for (size_t s = 0; s < 16; s++)
        row->scale[s] = scale[s / 4] >> 4 * (s / 2 % 2) & 15;
}

static void parse_iq1_s(struct kern__iq_row *row, const uint8_t *block)
{
    row->d = load_u16(block);
    for (size_t g = 0; g < 32; g++) {
        uint16_t high = load_u16(block + 34 + 2 * (g / 4));
        row->index[g] = (uint16_t)(block[2 + g] | (high >> 3 * (g % 4) & 7) << 8);
        row->sign[g] = high >> 15 ? 0xff : 0;
        row->scale[g / 2] = high >> 12 & 7;
    }
}

static void parse_iq1_m(struct kern__iq_row *row, const uint8_t *block)
{
    const uint8_t *low = block, *high = block + 32, *words = block + 48;
    row->d = 0;
    for (size_t k = 0; k < 4; k++) {
        uint16_t word = load_u16(words + 2 * k);
        row->d |= (uint16_t)(word >> 12 << 4 * k);
        for (size_t j = 0; j < 4; j++)
            row->scale[4 * k + j] = word >> 3 * j & 7;
    }
    for (size_t g = 0; g < 32; g++) {
        unsigned nibble = high[g / 2] >> 4 * (g % 2) & 15;
        row->index[g] = (uint16_t)(low[g] | (nibble & 7) << 8);
        row->sign[g] = nibble & 8 ? 0xff : 0;
    }
}

void kern__iq_parse(enum kern_type type, struct kern__iq_row *row, const uint8_t *block)
{
    switch (type) {
    case KERN_IQ1_S:
        parse_iq1_s(row, block);
        break;
    case KERN_IQ1_M:
        parse_iq1_m(row, block);
        break;
    case KERN_IQ2_XXS:
        parse_iq2_xxs(row, block);
        break;
    case KERN_IQ2_XS:
        parse_iq2_xs(row, block);
        break;
    case KERN_IQ2_S:
        parse_iq2_s(row, block);
        break;
    case KERN_IQ3_XXS:
        parse_iq3_xxs(row, block);
        break;
    default:
        parse_iq3_s(row, block);
        break;
    }
}

static const uint16_t *codes_of(enum kern_type type)
{
    switch (type) {
    case KERN_IQ2_XXS:
        return kern__iq2_xxs_codes;
    case KERN_IQ2_XS:
        return kern__iq2_xs_codes;
    case KERN_IQ2_S:
        return kern__iq2_s_codes;
    case KERN_IQ3_XXS:
        return kern__iq3_xxs_codes;
    case KERN_IQ3_S:
        return kern__iq3_s_codes;
    default:
        return kern__iq1_codes;
    }
}

/* Every product is exact: d has 11 bits, 2s + 1 has 5 and w 6. */
void kern__iq_values(enum kern_type type, const struct kern__iq_row *row, float *out)
{
    const uint16_t *codes = codes_of(type);
    const uint8_t *levels = type == KERN_IQ3_XXS ? iq3_xxs_levels : iq3_s_levels;
    float d = kern_f16_to_f32(row->d) * kern__iq_factor(type);
    assert(kern__iq_is(type));
    for (size_t e = 0; e < 256; e++) {
        float scale = d * (float)(2 * row->scale[e / 16] + 1);
        int negative = row->sign[e / 8] >> e % 8 & 1, w;
        if (type == KERN_IQ3_XXS || type == KERN_IQ3_S)
            w = levels[codes[row->index[e / 4]] >> 3 * (e % 4) & 7];
        else
            w = codes[row->index[e / 8]] >> 2 * (e % 8) & 3;
        if (type == KERN_IQ1_S || type == KERN_IQ1_M)
            w = iq1_levels[w] - 8 + (negative ? -1 : 1);
        else if (type != KERN_IQ3_XXS && type != KERN_IQ3_S)
            w = negative ? -iq2_levels[w] : iq2_levels[w];
        else
            w = negative ? -w : w;
        out[e] = scale * (float)w;
    }
}
