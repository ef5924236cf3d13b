/* SPDX-License-Identifier: Apache-2.0 */
/* How each type's packed blocks become whole bytes. */
#include "kernels/x86/unpack_avx512.h"

#include "kernels/x86/iq_avx512.h"
#include "kernels/x86/lanes_avx512.h"

struct kern__iq_codes kern__iq_codes;

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

void kern__init_iq_codes(void)
{
    place_iq2(kern__iq_codes.iq2_xxs, kern__iq2_xxs_codes, 256);
    place_iq2(kern__iq_codes.iq2_xs, kern__iq2_xs_codes, 512);
    place_iq2(kern__iq_codes.iq2_s, kern__iq2_s_codes, 1024);
    place_iq3(kern__iq_codes.iq3_xxs, kern__iq3_xxs_codes, 256);
    place_iq3(kern__iq_codes.iq3_s, kern__iq3_s_codes, 512);
}

/* The codebook of a type, unsigned. */
KERN__INLINE __m512i unpack_codebook(enum kern_type type)
{
    __m512i book = load_codebook(type == KERN_MXFP4 ? kern__mxfp4_values : kern__iq4_values);
    return _mm512_add_epi8(book, _mm512_set1_epi8((char)kern__unpack_offset(type)));
}

/* Where the parts of a packed block of 32 values lie (qh 0: none; minima, if any, at
 * KERN__Q4_1_M). */
struct small_layout {
    enum kern_type type;
    size_t bytes, qs, qh;
    bool minima;
};

/* Vector v of the 8 of a block of 32 values. */
KERN__INLINE __m512i small_values(const struct small_layout *at, const char *w, size_t v)
{
    if (at->type == KERN_Q8_0)
        return _mm512_xor_si512(load(w + at->qs + 64 * v), _mm512_set1_epi8(-128));
    __m512i bytes = load(w + at->qs + 64 * (v % 4));
    __m512i q = v < 4 ? low_nibbles(bytes) : high_nibbles(bytes);
    if (at->qh)
        return byte_if_bit(q, load(w + at->qh), (int)v, 16);
    if (at->type == KERN_IQ4_NL || at->type == KERN_MXFP4)
        return _mm512_shuffle_epi8(unpack_codebook(at->type), q);
    return q;
}

KERN__INLINE __m512 small_scales(const struct small_layout *at, const char *w)
{
    return at->type == KERN_MXFP4 ? load_exponents(w) : load_halves(w);
}

/* The bits of a vector of packed bytes above bit `shift`, under a mask. */
KERN__INLINE __m512i field(const char *from, size_t shift, char mask)
{
    __m512i bits = _mm512_srlv_epi16(load(from), _mm512_set1_epi16((short)shift));
    return _mm512_and_si512(bits, _mm512_set1_epi8(mask));
}

/* Vector j of the 8 of the 32 values from 32 * s of a K type's block. */
KERN__INLINE __m512i k_values(enum kern_type type, const char *w, size_t s, size_t j)
{
    const size_t half = s / 4, g = s % 4;
    if (type == KERN_Q2_K)
        return field(w + KERN__Q2_K_QS + 64 * (8 * half + j), 2 * g, 3);
    if (type == KERN_Q3_K) {
        __m512i q = field(w + KERN__Q3_K_QS + 64 * (8 * half + j), 2 * g, 3);
        return byte_if_bit(q, load(w + KERN__Q3_K_HMASK + 64 * j), (int)s, 4);
    }
    if (type == KERN_Q4_K)
        return field(w + KERN__Q4_K_QS + 64 * (8 * (s / 2) + j), 4 * (s % 2), 15);
    if (type == KERN_Q5_K) {
        __m512i q = field(w + KERN__Q5_K_QS + 64 * (8 * (s / 2) + j), 4 * (s % 2), 15);
        return byte_if_bit(q, load(w + KERN__Q5_K_QH + 64 * j), (int)s, 16);
    }
    if (type == KERN_IQ4_XS) {
        __m512i q = field(w + KERN__IQ4_XS_QS + 64 * (4 * s + j % 4), 4 * (j / 4), 15);
        return _mm512_shuffle_epi8(unpack_codebook(type), q);
    }
    __m512i low = field(w + KERN__Q6_K_QL + 64 * (16 * half + 8 * (g % 2) + j), 4 * (g / 2), 15);
    __m512i high = field(w + KERN__Q6_K_QH + 64 * (8 * half + j), 2 * g, 3);
    return _mm512_or_si512(low, _mm512_slli_epi16(high, 4));
}

/* Where a type's scales lie, 16 bytes for each 16 or 32 values; Q3_K's are put together in room. */
KERN__INLINE const char *k_scales(enum kern_type type, const char *w, char room[256])
{
    switch ((int)type) {
    case KERN_Q2_K:
        return w + KERN__Q2_K_SCALES;
    case KERN_Q3_K:
        q3_k_scales(room, w + KERN__Q3_K_SCALES);
        return room;
    case KERN_Q6_K:
        return w + KERN__Q6_K_SCALES;
    case KERN_IQ4_XS:
        return w + KERN__IQ4_XS_SCALES;
    default:
        return w + KERN__Q4_K_SCALES; /* Q5_K's too */
    }
}

/* Scale i of each row. */
KERN__INLINE __m512i k_scale(enum kern_type type, const char *scales, size_t i)
{
    __m512i lanes = load_i8(scales + 16 * i);
    return type == KERN_Q2_K ? _mm512_and_si512(lanes, _mm512_set1_epi32(15)) : lanes;
}

/* The minimum of values 16i to 16i + 15 of each row. */
KERN__INLINE __m512i k_minimum(enum kern_type type, const char *w, size_t i)
{
    return type == KERN_Q2_K ? _mm512_srli_epi32(load_u8(w + KERN__Q2_K_SCALES + 16 * i), 4)
                             : load_u8(w + KERN__Q4_K_MINS + 16 * (i / 2)); /* Q5_K's too */
}

KERN__INLINE __m512 k_dmin(enum kern_type type, const char *w)
{
    return load_halves(w + (type == KERN_Q2_K ? KERN__Q2_K_DMIN : KERN__Q4_K_DMIN));
}

/* Lanes whose lower word is a's and whose upper word is b's lower. */
KERN__INLINE __m512i pair_words(__m512i a, __m512i b)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16));
}

KERN__INLINE void small_unpack(const struct small_layout *at, struct kern__block *to, const char *w,
                               size_t n_values)
{
    for (size_t i = 0; i < n_values / 32; i++, w += at->bytes) {
#pragma GCC unroll 8
        for (size_t v = 0; v < 8; v++)
            _mm512_store_si512(to->w[8 * i + v], small_values(at, w, v));
        to->d[i] = small_scales(at, w);
        if (at->minima)
            to->m[i] = load_halves(w + KERN__Q4_1_M); /* Q5_1's too */
        to->words[i] = _mm512_set1_epi16((short)(at->minima ? 1 : -kern__unpack_offset(at->type)));
    }
}

/* Words that take off again what the offset adds. */
KERN__INLINE void put_offsets(enum kern_type type, struct kern__block *to)
{
    const __m512i offset = _mm512_set1_epi16((short)-kern__unpack_offset(type));
    const bool of_16 = kern__scales_of_16(type);
    for (size_t i = 0; i < 8; i++)
        to->words[i] = _mm512_mullo_epi16(
            offset, pair_words(to->scale[of_16 ? 2 * i : i], to->scale[of_16 ? 2 * i + 1 : i]));
}

KERN__INLINE void k_unpack(enum kern_type type, struct kern__block *to, const char *w)
{
    char room[256];
    const char *scales = k_scales(type, w, room);
    for (size_t s = 0; s < 8; s++)
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++)
            _mm512_store_si512(to->w[8 * s + j], k_values(type, w, s, j));
    for (size_t i = 0; i < (kern__scales_of_16(type) ? 16 : 8); i++)
        to->scale[i] = k_scale(type, scales, i);
    to->d[0] = load_halves(w);
    if (!kern__has_minima(type)) {
        put_offsets(type, to);
        return;
    }
    for (size_t i = 0; i < 8; i++)
        to->words[i] = pair_words(k_minimum(type, w, 2 * i), k_minimum(type, w, 2 * i + 1));
    to->m[0] = k_dmin(type, w);
}

/* The vectors of 8 values by rows, 8 rows a register, as two of 4 values by 16 rows. */
KERN__INLINE void by_fours(uint8_t (*to)[64], __m512i first, __m512i second)
{
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    _mm512_store_si512(to[0], _mm512_permutex2var_epi32(first, even, second));
    _mm512_store_si512(to[1], _mm512_permutex2var_epi32(first, odd, second));
}

KERN__INLINE void iq1_unpack(enum kern_type type, struct kern__block *to, const uint8_t *packed)
{
    const size_t values = kern__scales_of_16(type) ? 16 : 32;
    struct kern__iq_panel panel;
    kern__iq_take_apart(type, &panel, packed);
    for (size_t g = 0; g < 32; g++)
        by_fours(to->w + 2 * g, iq1_values(type, &panel, g, 0), iq1_values(type, &panel, g, 1));
    for (size_t i = 0; i < 256 / values; i++)
        to->scale[i] = load_u8((const char *)panel.scale[values / 16 * i]);
}

/* Bytes of each lane of a and of b in turn: those of the lower half, those of the upper half. */
KERN__INLINE void weave(uint8_t (*low)[64], uint8_t (*high)[64], __m512i first, __m512i second)
{
    const __mmask32 odd = 0xaaaaaaaa;
    _mm512_store_si512(low, _mm512_mask_blend_epi16(odd, first, _mm512_slli_epi32(second, 16)));
    _mm512_store_si512(high, _mm512_mask_blend_epi16(odd, _mm512_srli_epi32(first, 16), second));
}

/* Two vectors of an iq_part in the order of values. */
KERN__INLINE void put_part(enum kern_type type, uint8_t (*low)[64], uint8_t (*high)[64], __m512i a,
                           __m512i b)
{
    const __mmask64 upper = 0xaaaaaaaaaaaaaaaa;
    __m512i even = _mm512_mask_blend_epi8(upper, a, _mm512_slli_epi16(b, 8));
    __m512i odd = _mm512_mask_blend_epi8(upper, _mm512_srli_epi16(a, 8), b);
    if (kern__iq_is_iq3(type))
        weave(low, high, even, odd);
    else
        weave(low, high, odd, even);
}

KERN__INLINE void iq23_unpack(enum kern_type type, struct kern__block *to, const uint8_t *packed)
{
    for (size_t sub = 0; sub < 8; sub++) {
        struct iq_part part;
        iq_part(type, &part, packed, sub, iq_high(type, packed, sub / 4));
        uint8_t(*w)[64] = to->w + 8 * sub;
        if (kern__iq_is_iq3(type))
            for (size_t j = 0; j < 8; j += 2)
                put_part(type, w + j, w + j + 1, part.v[j], part.v[j + 1]);
        else
            for (size_t j = 0; j < 8; j += 4) {
                put_part(type, w + j, w + j + 2, part.v[j], part.v[j + 1]);
                put_part(type, w + j + 1, w + j + 3, part.v[j + 2], part.v[j + 3]);
            }
        if (kern__scales_of_16(type)) {
            to->scale[2 * sub] = part.scale[0];
            to->scale[2 * sub + 1] = part.scale[1];
        } else {
            to->scale[sub] = part.scale[0];
        }
    }
}

KERN__INLINE void iq_unpack(enum kern_type type, struct kern__block *to, const char *w)
{
    (kern__iq_is_iq1(type) ? iq1_unpack : iq23_unpack)(type, to, (const uint8_t *)w);
    to->d[0] = _mm512_mul_ps(load_halves(w), _mm512_set1_ps(kern__iq_factor(type)));
    put_offsets(type, to);
}

#define SMALL(name, NAME, qh, minima)                                                              \
    static void unpack_##name(struct kern__block *to, const char *w, size_t n_values)              \
    {                                                                                              \
        const struct small_layout at = {KERN_##NAME, KERN__##NAME##_BYTES, KERN__##NAME##_QS, qh,  \
                                        minima};                                                   \
        small_unpack(&at, to, w, n_values);                                                        \
    }

#define LARGE(name, NAME, unpack)                                                                  \
    static void unpack_##name(struct kern__block *to, const char *w, size_t n_values)              \
    {                                                                                              \
        (void)n_values;                                                                            \
        unpack(KERN_##NAME, to, w);                                                                \
    }

SMALL(q8_0, Q8_0, 0, false)
SMALL(q4_0, Q4_0, 0, false)
SMALL(q4_1, Q4_1, 0, true)
SMALL(q5_0, Q5_0, KERN__Q5_0_QH, false)
SMALL(q5_1, Q5_1, KERN__Q5_1_QH, true)
SMALL(iq4_nl, IQ4_NL, 0, false)
SMALL(mxfp4, MXFP4, 0, false)
LARGE(q2_k, Q2_K, k_unpack)
LARGE(q3_k, Q3_K, k_unpack)
LARGE(q4_k, Q4_K, k_unpack)
LARGE(q5_k, Q5_K, k_unpack)
LARGE(q6_k, Q6_K, k_unpack)
LARGE(iq4_xs, IQ4_XS, k_unpack)
LARGE(iq1_s, IQ1_S, iq_unpack)
LARGE(iq1_m, IQ1_M, iq_unpack)
LARGE(iq2_xxs, IQ2_XXS, iq_unpack)
LARGE(iq2_xs, IQ2_XS, iq_unpack)
LARGE(iq2_s, IQ2_S, iq_unpack)
LARGE(iq3_xxs, IQ3_XXS, iq_unpack)
LARGE(iq3_s, IQ3_S, iq_unpack)

kern__unpack_fn *const kern__unpack[KERN_TYPE_SLOTS] = {
    [KERN_Q8_0] = unpack_q8_0,       [KERN_Q4_0] = unpack_q4_0,     [KERN_Q4_1] = unpack_q4_1,
    [KERN_Q5_0] = unpack_q5_0,       [KERN_Q5_1] = unpack_q5_1,     [KERN_IQ4_NL] = unpack_iq4_nl,
    [KERN_MXFP4] = unpack_mxfp4,     [KERN_Q2_K] = unpack_q2_k,     [KERN_Q3_K] = unpack_q3_k,
    [KERN_Q4_K] = unpack_q4_k,       [KERN_Q5_K] = unpack_q5_k,     [KERN_Q6_K] = unpack_q6_k,
    [KERN_IQ4_XS] = unpack_iq4_xs,   [KERN_IQ1_S] = unpack_iq1_s,   [KERN_IQ1_M] = unpack_iq1_m,
    [KERN_IQ2_XXS] = unpack_iq2_xxs, [KERN_IQ2_XS] = unpack_iq2_xs, [KERN_IQ2_S] = unpack_iq2_s,
    [KERN_IQ3_XXS] = unpack_iq3_xxs, [KERN_IQ3_S] = unpack_iq3_s,
};
