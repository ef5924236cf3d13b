/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of a block of IQ2 or IQ3 with one row of activations. A lane of 32 bits is a row of the
 * panel; looking 16 rows' codes up in registers (vpermi2w) is what makes it fast. For
 * matmul_iq_avx512.c only.
 *
 * A codebook entry is a word: 8 codes of 2 bits (IQ2), or 4 of 3 bits with a bit of room for the
 * sign (IQ3). A register of 32 of them is 16 rows by two indices, and what it stands for becomes
 * four or two registers of bytes, each by a look-up of code and sign (vpshufb): the weight and the
 * type's offset, unsigned. Each is multiplied by four activations (vpdpbusd), which lie in the
 * order in which codes come out of the words; a sum starts from what the offset adds to it, taken
 * off. A sum of 32 values, times a scale of at most 31, is below 2^23; that of a block below 2^26.
 */
#ifndef KERNELS_X86_IQ_ROW_AVX512_H
#define KERNELS_X86_IQ_ROW_AVX512_H

#include "kernels/iq_panel.h"
#include "kernels/x86/matmul.h"

/* The codebooks' entries with their codes placed as above; constant after init_codes. */
static struct {
    _Alignas(64) uint16_t iq2_xxs[256], iq2_xs[512], iq2_s[1024], iq3_xxs[256], iq3_s[512];
} codes;

/* A block's activations for one row. */
struct row_block {
    _Alignas(64) int8_t q[256];
    _Alignas(64) int32_t start[16]; /* of each 16 values (IQ2_XS, IQ2_S) or each 32 */
};

/* Of the 8 codes, the pairs 1 and 3 are in the low byte, 0 and 2 in the high one. */
static void place_iq2(uint16_t *to, const uint16_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (uint16_t)((from[i] >> 4 & 0x0f) | (from[i] >> 8 & 0xf0) | (from[i] & 0x0f) << 8 |
                           (from[i] << 4 & 0xf000));
}

/* A code in each 4 bits. */
static void place_iq3(uint16_t *to, const uint16_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (uint16_t)((from[i] & 7) | (from[i] & 070) << 1 | (from[i] & 0700) << 2 |
                           (from[i] & 07000) << 3);
}

static void init_codes(void)
{
    place_iq2(codes.iq2_xxs, kern__iq2_xxs_codes, 256);
    place_iq2(codes.iq2_xs, kern__iq2_xs_codes, 512);
    place_iq2(codes.iq2_s, kern__iq2_s_codes, 1024);
    place_iq3(codes.iq3_xxs, kern__iq3_xxs_codes, 256);
    place_iq3(codes.iq3_s, kern__iq3_s_codes, 512);
}

/* Four units, so that 16 bytes of the result have those of rows 4j to 4j + 3, unit by unit. */
KERN__INLINE __m512i load_units(const uint8_t *packed, size_t unit)
{
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_epi32(order, _mm512_loadu_si512(packed + KERN_PANEL * unit));
}

/* Of such units 2i and 2i + 1, as two words in a row's lane. */
KERN__INLINE __m512i two_units(__m512i units, int i)
{
    const __m512i first =
        _mm512_set4_epi32((int)0x80078003, (int)0x80068002, (int)0x80058001, (int)0x80048000);
    return _mm512_shuffle_epi8(units, _mm512_add_epi8(first, _mm512_set1_epi32(0x00080008 * i)));
}

/* Of unit i, four times in a row's lane. */
KERN__INLINE __m512i one_unit(__m512i units, int i)
{
    const __m512i first = _mm512_set4_epi32(0x03030303, 0x02020202, 0x01010101, 0);
    return _mm512_shuffle_epi8(units, _mm512_add_epi8(first, _mm512_set1_epi32(0x04040404 * i)));
}

/* All four in a row's lane. */
KERN__INLINE __m512i all_units(__m512i units)
{
    return _mm512_shuffle_epi8(units,
                               _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400));
}

KERN__INLINE __m512i table16(int64_t low, int64_t high)
{
    return _mm512_broadcast_i32x4(_mm_set_epi64x(high, low));
}

/* The eighth sign, the parity of the others, in place of bit 7: that bit with the parity of all
 * eight, which is the parity of the two halves' bits taken together. */
KERN__INLINE __m512i even_signs(__m512i bytes)
{
    const __m512i parity = table16((int64_t)0x8000008000808000, 0x0080800080000080);
    __m512i halves = _mm512_ternarylogic_epi32(bytes, _mm512_srli_epi16(bytes, 4),
                                               _mm512_set1_epi8(15), 0x28); /* (a ^ b) & c */
    return _mm512_xor_si512(bytes, _mm512_shuffle_epi8(parity, halves));
}

/* The entries of 32 indices of 8 bits, of which permutes read the lower six. */
KERN__INLINE __m512i look_up_256(const uint16_t *table, __m512i index, __mmask32 bit6,
                                 __mmask32 bit7)
{
    __m512i found[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        found[i] = _mm512_permutex2var_epi16(_mm512_load_si512(table + 64 * i), index,
                                             _mm512_load_si512(table + 64 * i + 32));
    return _mm512_mask_blend_epi16(bit7, _mm512_mask_blend_epi16(bit6, found[0], found[1]),
                                   _mm512_mask_blend_epi16(bit6, found[2], found[3]));
}

/* The entries of indices of up to 10 bits; bits 8 and 9 of them where the type has those. */
KERN__INLINE __m512i look_up(enum kern_type type, __m512i index, __mmask32 bit8, __mmask32 bit9)
{
    const uint16_t *table = type == KERN_IQ2_XXS   ? codes.iq2_xxs
                            : type == KERN_IQ2_XS  ? codes.iq2_xs
                            : type == KERN_IQ2_S   ? codes.iq2_s
                            : type == KERN_IQ3_XXS ? codes.iq3_xxs
                                                   : codes.iq3_s;
    __mmask32 bit6 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
    __mmask32 bit7 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
    __m512i first = look_up_256(table, index, bit6, bit7);
    if (kern__iq_is_xxs(type))
        return first;
    first = _mm512_mask_blend_epi16(bit8, first, look_up_256(table + 256, index, bit6, bit7));
    if (type != KERN_IQ2_S)
        return first;
    __m512i second = _mm512_mask_blend_epi16(bit8, look_up_256(table + 512, index, bit6, bit7),
                                             look_up_256(table + 768, index, bit6, bit7));
    return _mm512_mask_blend_epi16(bit9, first, second);
}

/* s + w * x, four of each a lane. */
KERN__INLINE __m512i add_four(__m512i s, __m512i w, const int8_t *x)
{
    return _mm512_dpbusd_epi32(s, w, _mm512_set1_epi32(kern__load_lane(x)));
}

/* s + (w + 43) * x over 16 values: of each row two entries, and its 16 signs. */
KERN__INLINE __m512i iq2_add(__m512i s, __m512i entries, __m512i signs, const int8_t *x)
{
    /* 43 and the level of the lower two bits, negative where bit 2, or bit 3, is set. */
    const __m512i even = table16(0x2b0012232b564433, 0x2b0012232b564433);
    const __m512i odd = table16(0x2b5644332b564433, 0x2b0012232b001223);
    const __m512i code = _mm512_set1_epi8(0x33), nibble = _mm512_set1_epi8(15);
    /* Signs 2, 3, 6 and 7 where they are; 0, 1, 4 and 5 in the upper byte of the word. */
    signs = _mm512_mullo_epi16(signs, _mm512_set1_epi16(0x0401));
    __m512i v0 = _mm512_ternarylogic_epi32(code, entries, signs, 0xca); /* a ? b : c */
    __m512i v1 = _mm512_ternarylogic_epi32(code, _mm512_srli_epi16(entries, 2), signs, 0xca);
    s = add_four(s, _mm512_shuffle_epi8(even, _mm512_and_si512(v0, nibble)), x);
    s = add_four(s, _mm512_shuffle_epi8(odd, _mm512_and_si512(v1, nibble)), x + 4);
    v0 = _mm512_and_si512(_mm512_srli_epi16(v0, 4), nibble);
    v1 = _mm512_and_si512(_mm512_srli_epi16(v1, 4), nibble);
    s = add_four(s, _mm512_shuffle_epi8(even, v0), x + 8);
    return add_four(s, _mm512_shuffle_epi8(odd, v1), x + 12);
}

/* s + (w + offset) * x over 8 values: of each row two entries, and its 8 signs four times. */
KERN__INLINE __m512i iq3_add(enum kern_type type, __m512i s, __m512i entries, __m512i signs,
                             const int8_t *x)
{
    /* The offset and the level of the lower three bits, negative where bit 3 is set. */
    const __m512i weights = type == KERN_IQ3_XXS ? table16(0x7c726a625a524a42, 0x000a121a222a323a)
                                                 : table16(0x1e1c1a1816141210, 0x00020406080a0c0e);
    const __m512i negative = _mm512_set1_epi8(8);
    __mmask64 even = _mm512_test_epi8_mask(signs, _mm512_set1_epi32(0x40100401));
    __mmask64 odd = _mm512_test_epi8_mask(signs, _mm512_set1_epi32((int)0x80200802));
    __m512i v0 = entries, v1 = _mm512_srli_epi16(entries, 4);
    v0 = _mm512_mask_add_epi8(v0, even, v0, negative);
    v1 = _mm512_mask_add_epi8(v1, odd, v1, negative);
    s = add_four(s, _mm512_shuffle_epi8(weights, v0), x);
    return add_four(s, _mm512_shuffle_epi8(weights, v1), x + 4);
}

/* 2s + 1 of a scale of 4 bits above bit 7 of each sign byte of 32 values, lowest first. */
KERN__INLINE __m512i scale_of_units(__m512i units)
{
    __m512i bits = _mm512_and_si512(all_units(units), _mm512_set1_epi8(-128));
    return _mm512_srli_epi32(
        _mm512_dpbusd_epi32(_mm512_set1_epi32(128), bits, _mm512_set1_epi32(0x10080402)), 7);
}

/* 2s + 1 of a scale in the lower or the upper half of each byte of a unit. */
KERN__INLINE __m512i scale_of_nibbles(const uint8_t *packed, size_t unit, size_t upper)
{
    __m512i bytes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(packed + KERN_PANEL * unit)));
    bytes = upper ? _mm512_srli_epi32(bytes, 3) : _mm512_slli_epi32(bytes, 1);
    return _mm512_ternarylogic_epi32(bytes, _mm512_set1_epi32(30), _mm512_set1_epi32(1),
                                     0xea); /* (a & b) | c */
}

/* total + scale * sum. */
KERN__INLINE __m512i add_scaled(__m512i total, __m512i scale, __m512i sum)
{
    return _mm512_add_epi32(total, _mm512_mullo_epi32(scale, sum));
}

KERN__INLINE __m512i start_of(const struct row_block *row, size_t i)
{
    return _mm512_set1_epi32(row->start[i]);
}

/* The 32 values from 32 * sub of IQ2; high: of the 128 values around them, where IQ2_S has upper
 * index bits. */
KERN__INLINE __m512i iq2_sub(enum kern_type type, __m512i total, const uint8_t *packed, size_t sub,
                             __m512i high, const struct row_block *row)
{
    __m512i low = load_units(packed, KERN__IQ_LOW + 4 * sub), sum = low;
    __m512i bytes = load_units(packed, KERN__IQ2_SIGN + 4 * sub);
    __m512i signs = type == KERN_IQ2_S ? bytes : even_signs(bytes);
    if (type == KERN_IQ2_S)
        high = one_unit(high, (int)(sub % 4));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __mmask32 bit8 = 0, bit9 = 0;
        if (type == KERN_IQ2_XS) {
            bit8 = _mm512_test_epi16_mask(two_units(bytes, i), _mm512_set1_epi16(128));
        } else if (type == KERN_IQ2_S) {
            bit8 = _mm512_test_epi16_mask(high, _mm512_set1_epi32(0x00040001 << 4 * i));
            bit9 = _mm512_test_epi16_mask(high, _mm512_set1_epi32(0x00080002 << 4 * i));
        }
        __m512i entries = look_up(type, two_units(low, i), bit8, bit9);
        if (type != KERN_IQ2_XXS)
            sum = start_of(row, 2 * sub + (size_t)i);
        else if (i == 0)
            sum = start_of(row, sub);
        sum = iq2_add(sum, entries, two_units(signs, i), row->q + 32 * sub + 16 * i);
        if (type != KERN_IQ2_XXS)
            total = add_scaled(
                total,
                scale_of_nibbles(
                    packed, (type == KERN_IQ2_XS ? KERN__IQ2_XS_SCALE : KERN__IQ2_S_SCALE) + sub,
                    (size_t)i),
                sum);
    }
    return type == KERN_IQ2_XXS ? add_scaled(total, scale_of_units(bytes), sum) : total;
}

/* The same of IQ3; high: of the 128 values around them, where IQ3_S has upper index bits. */
KERN__INLINE __m512i iq3_sub(enum kern_type type, __m512i total, const uint8_t *packed, size_t sub,
                             __m512i high, const struct row_block *row)
{
    __m512i bytes = load_units(packed, KERN__IQ3_SIGN + 4 * sub), sum = start_of(row, sub);
    __m512i signs = type == KERN_IQ3_S ? bytes : even_signs(bytes);
    if (type == KERN_IQ3_S)
        high = one_unit(high, (int)(sub % 4));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512i low = load_units(packed, KERN__IQ_LOW + 8 * sub + 4 * (size_t)(i / 2));
        __mmask32 bit8 = 0;
        if (type == KERN_IQ3_S)
            bit8 = _mm512_test_epi16_mask(high, _mm512_set1_epi32(0x00020001 << 2 * i));
        __m512i entries = look_up(type, two_units(low, i % 2), bit8, 0);
        sum = iq3_add(type, sum, entries, one_unit(signs, i), row->q + 32 * sub + 8 * i);
    }
    __m512i scale = type == KERN_IQ3_S
                        ? scale_of_nibbles(packed, KERN__IQ3_S_SCALE + sub / 2, sub % 2)
                        : scale_of_units(bytes);
    return add_scaled(total, scale, sum);
}

/* A block's activations in the order of iq2_add and iq3_add, and what each sum starts from. */
KERN__INLINE void load_row(enum kern_type type, struct row_block *row, const char *x,
                           const int16_t *sums)
{
    const __m512i order = kern__iq_is_iq3(type) ? table16(0x0705030106040200, 0x0f0d0b090e0c0a08)
                                                : table16(0x090b0103080a0002, 0x0d0f05070c0e0406);
    const short offset = type == KERN_IQ3_XXS ? 62 : type == KERN_IQ3_S ? 15 : 43;
    __m256i all = _mm256_loadu_si256((const __m256i *)sums);
    for (size_t i = 0; i < 256; i += 64)
        _mm512_store_si512(row->q + i, _mm512_shuffle_epi8(_mm512_loadu_si512(x + i), order));
    if (type == KERN_IQ2_XS || type == KERN_IQ2_S)
        _mm512_store_si512(
            row->start, _mm512_mullo_epi32(_mm512_cvtepi16_epi32(all), _mm512_set1_epi32(-offset)));
    else
        _mm256_store_si256((__m256i *)row->start,
                           _mm256_madd_epi16(all, _mm256_set1_epi16(-offset)));
}

/* The integer sums of a block's 16 rows; sums: those of each 16 activations. */
KERN__INLINE __m512i block_row(enum kern_type type, const uint8_t *packed, const char *x,
                               const int16_t *sums)
{
    struct row_block row;
    __m512i total = _mm512_setzero_si512(), high = total;
    load_row(type, &row, x, sums);
    for (size_t sub = 0; sub < 8; sub += 4) {
        if (type == KERN_IQ2_S)
            high = load_units(packed, KERN__IQ2_S_HIGH + sub);
        else if (type == KERN_IQ3_S)
            high = load_units(packed, KERN__IQ3_S_HIGH + sub);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
            total = kern__iq_is_iq3(type) ? iq3_sub(type, total, packed, sub + i, high, &row)
                                          : iq2_sub(type, total, packed, sub + i, high, &row);
    }
    return total;
}

#endif
