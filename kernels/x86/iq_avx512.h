/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How packed blocks of IQ types become bytes, in registers. A lane of 32 bits is a row of the
 * panel; looking 16 rows' codes up in registers (vpermi2w) is what makes it fast. For the AVX-512
 * kernels only.
 *
 * A codebook entry is a word: 8 codes of 2 bits (IQ2), or 4 of 3 bits with a bit of room for the
 * sign (IQ3). A register of 32 of them is 16 rows by two indices, and what it stands for becomes
 * four or two registers of bytes, each by a look-up of code and sign (vpshufb): the weight and the
 * type's offset, unsigned, in the order in which codes come out of the words.
 *
 * IQ1's codebook is too large for that: its weights are read grid by grid, 8 rows of 8 a register.
 */
#ifndef KERNELS_X86_IQ_AVX512_H
#define KERNELS_X86_IQ_AVX512_H

#include "kernels/iq_panel.h"
#include "kernels/x86/matmul.h"

/* The codebooks' entries with their codes placed as above; constant after kern__init_iq_codes. */
extern struct kern__iq_codes {
    _Alignas(64) uint16_t iq2_xxs[256], iq2_xs[512], iq2_s[1024], iq3_xxs[256], iq3_s[512];
} kern__iq_codes;

/* Called before a table of AVX-512 kernels is given out. */
void kern__init_iq_codes(void);

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
    const uint16_t *table = type == KERN_IQ2_XXS   ? kern__iq_codes.iq2_xxs
                            : type == KERN_IQ2_XS  ? kern__iq_codes.iq2_xs
                            : type == KERN_IQ2_S   ? kern__iq_codes.iq2_s
                            : type == KERN_IQ3_XXS ? kern__iq_codes.iq3_xxs
                                                   : kern__iq_codes.iq3_s;
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

/* w + 43 of 16 values: of each row two entries, and its 16 signs. */
KERN__INLINE void iq2_values(__m512i v[4], __m512i entries, __m512i signs)
{
    /* 43 and the level of the lower two bits, negative where bit 2, or bit 3, is set. */
    const __m512i even = table16(0x2b0012232b564433, 0x2b0012232b564433);
    const __m512i odd = table16(0x2b5644332b564433, 0x2b0012232b001223);
    const __m512i code = _mm512_set1_epi8(0x33), nibble = _mm512_set1_epi8(15);
    /* Signs 2, 3, 6 and 7 where they are; 0, 1, 4 and 5 in the upper byte of the word. */
    signs = _mm512_mullo_epi16(signs, _mm512_set1_epi16(0x0401));
    __m512i v0 = _mm512_ternarylogic_epi32(code, entries, signs, 0xca); /* a ? b : c */
    __m512i v1 = _mm512_ternarylogic_epi32(code, _mm512_srli_epi16(entries, 2), signs, 0xca);
    v[0] = _mm512_shuffle_epi8(even, _mm512_and_si512(v0, nibble));
    v[1] = _mm512_shuffle_epi8(odd, _mm512_and_si512(v1, nibble));
    v0 = _mm512_and_si512(_mm512_srli_epi16(v0, 4), nibble);
    v1 = _mm512_and_si512(_mm512_srli_epi16(v1, 4), nibble);
    v[2] = _mm512_shuffle_epi8(even, v0);
    v[3] = _mm512_shuffle_epi8(odd, v1);
}

/* w and the type's offset of 8 values: of each row two entries, and its 8 signs four times. */
KERN__INLINE void iq3_values(enum kern_type type, __m512i v[2], __m512i entries, __m512i signs)
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
    v[0] = _mm512_shuffle_epi8(weights, v0);
    v[1] = _mm512_shuffle_epi8(weights, v1);
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

/* 32 values of each row. Of 16 (IQ2) or 8 (IQ3), in vectors that follow one another, a lane has
 *   IQ2  2 0 10 8   3 1 11 9   6 4 14 12   7 5 15 13
 *   IQ3  0 2 4 6   1 3 5 7
 * scale: 2s + 1 of the first and of the last 16. */
struct iq_part {
    __m512i v[8], scale[2];
};

/* The units that hold upper index bits of the four parts from 4 * i on, if the type has such. */
KERN__INLINE __m512i iq_high(enum kern_type type, const uint8_t *packed, size_t i)
{
    return type == KERN_IQ2_S   ? load_units(packed, KERN__IQ2_S_HIGH + 4 * i)
           : type == KERN_IQ3_S ? load_units(packed, KERN__IQ3_S_HIGH + 4 * i)
                                : _mm512_setzero_si512();
}

KERN__INLINE void iq2_part(enum kern_type type, struct iq_part *part, const uint8_t *packed,
                           size_t sub, __m512i high)
{
    __m512i low = load_units(packed, KERN__IQ_LOW + 4 * sub);
    __m512i bytes = load_units(packed, KERN__IQ2_SIGN + 4 * sub);
    __m512i signs = type == KERN_IQ2_S ? bytes : even_signs(bytes);
    const size_t scales = (type == KERN_IQ2_XS ? KERN__IQ2_XS_SCALE : KERN__IQ2_S_SCALE) + sub;
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
        iq2_values(part->v + 4 * i, entries, two_units(signs, i));
        part->scale[i] = type == KERN_IQ2_XXS ? scale_of_units(bytes)
                                              : scale_of_nibbles(packed, scales, (size_t)i);
    }
}

KERN__INLINE void iq3_part(enum kern_type type, struct iq_part *part, const uint8_t *packed,
                           size_t sub, __m512i high)
{
    __m512i bytes = load_units(packed, KERN__IQ3_SIGN + 4 * sub);
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
        iq3_values(type, part->v + 2 * i, entries, one_unit(signs, i));
    }
    part->scale[0] = part->scale[1] =
        type == KERN_IQ3_S ? scale_of_nibbles(packed, KERN__IQ3_S_SCALE + sub / 2, sub % 2)
                           : scale_of_units(bytes);
}

/* The 32 values from 32 * sub of a block of IQ2 or IQ3; high: iq_high of sub / 4. */
KERN__INLINE void iq_part(enum kern_type type, struct iq_part *part, const uint8_t *packed,
                          size_t sub, __m512i high)
{
    (kern__iq_is_iq3(type) ? iq3_part : iq2_part)(type, part, packed, sub, high);
}

/* The grids of group g of the rows of half h. */
KERN__INLINE __m512i iq1_grids(enum kern_type type, const struct kern__iq_panel *panel, size_t g,
                               size_t h)
{
    __m128i pairs[4];
    for (size_t i = 0; i < 4; i++) {
        size_t r = 8 * h + 2 * i;
        pairs[i] = _mm_set_epi64x((int64_t)kern__iq_grid(type, panel, g, r + 1),
                                  (int64_t)kern__iq_grid(type, panel, g, r));
    }
    __m256i low = _mm256_set_m128i(pairs[1], pairs[0]), high = _mm256_set_m128i(pairs[3], pairs[2]);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* w + 9 of IQ1: 8 rows of 8 values. */
KERN__INLINE __m512i iq1_values(enum kern_type type, const struct kern__iq_panel *panel, size_t g,
                                size_t h)
{
    __m512i grids = iq1_grids(type, panel, g, h);
    uint64_t down;
    memcpy(&down, panel->sign[g] + 8 * h, 8);
    return _mm512_mask_add_epi8(grids, _knot_mask64(_cvtu64_mask64(down)), grids,
                                _mm512_set1_epi8(2));
}

#endif
