/* SPDX-License-Identifier: Apache-2.0 */
/* Values of the IQ types, one at a time, from the formulas of the file formats; of kernels/ it
 * reads the codebooks alone. */
#include "kernels/iq.h"
#include "tests/kernels/check.h"

static unsigned u16_at(const uint8_t *p)
{
    return (unsigned)(p[0] | p[1] << 8);
}

static int iq2_grid(const uint16_t *codes, unsigned index, size_t e)
{
    static const int levels[] = {8, 25, 43};
    return levels[codes[index] >> 2 * (e % 8) & 3];
}

static int iq1_grid(unsigned index, size_t e)
{
    return (kern__iq1_codes[index] >> 2 * (e % 8) & 3) - 1;
}

/* The sign of value i of 8 by a sign index: the eighth is set where an odd number of others is. */
static int sign_of(unsigned index, size_t i)
{
    unsigned set = i < 7 ? index >> i & 1 : (unsigned)__builtin_parity(index);
    return set ? -1 : 1;
}

static struct check_iq iq2(enum kern_type type, const uint8_t *block, size_t e)
{
    size_t g = e / 8, in_sub = g % 4;
    if (type == KERN_IQ2_XXS) {
        const uint8_t *words = block + 2 + 8 * (e / 32);
        uint32_t w1 = u16_at(words + 4) | (uint32_t)u16_at(words + 6) << 16;
        return (struct check_iq){(int)(w1 >> 28),
                                 iq2_grid(kern__iq2_xxs_codes, words[in_sub], e) *
                                     sign_of(w1 >> 7 * in_sub & 127, e % 8),
                                 0.125f};
    }
    if (type == KERN_IQ2_XS) {
        unsigned q = u16_at(block + 2 + 2 * g);
        return (struct check_iq){block[66 + e / 32] >> 4 * (e / 16 % 2) & 15,
                                 iq2_grid(kern__iq2_xs_codes, q & 511, e) * sign_of(q >> 9, e % 8),
                                 0.125f};
    }
    unsigned index = block[2 + g] | (block[66 + g / 4] >> 2 * (g % 4) & 3u) << 8;
    int sign = block[34 + g] >> e % 8 & 1 ? -1 : 1;
    return (struct check_iq){block[74 + e / 32] >> 4 * (e / 16 % 2) & 15,
                             iq2_grid(kern__iq2_s_codes, index, e) * sign, 0.125f};
}

static struct check_iq iq3(enum kern_type type, const uint8_t *block, size_t e)
{
    static const int levels[] = {4, 12, 20, 28, 36, 44, 52, 62};
    size_t i = e / 4, shift = 3 * (e % 4);
    if (type == KERN_IQ3_XXS) {
        const uint8_t *word = block + 66 + 4 * (e / 32);
        uint32_t s = u16_at(word) | (uint32_t)u16_at(word + 2) << 16;
        return (struct check_iq){(int)(s >> 28),
                                 levels[kern__iq3_xxs_codes[block[2 + i]] >> shift & 7] *
                                     sign_of(s >> 7 * (e / 8 % 4) & 127, e % 8),
                                 0.25f};
    }
    unsigned index = block[2 + i] | (block[66 + i / 8] >> i % 8 & 1u) << 8;
    int sign = block[74 + e / 8] >> e % 8 & 1 ? -1 : 1;
    return (struct check_iq){block[106 + e / 64] >> 4 * (e / 32 % 2) & 15,
                             (2 * (kern__iq3_s_codes[index] >> shift & 7) + 1) * sign, 1};
}

struct check_iq check_iq_value(enum kern_type type, const uint8_t *block, size_t e)
{
    size_t g = e / 8;
    if (type == KERN_IQ1_S) {
        unsigned qh = u16_at(block + 34 + 2 * (e / 32));
        unsigned index = block[2 + g] | (qh >> 3 * (g % 4) & 7) << 8;
        return (struct check_iq){(int)(qh >> 12 & 7),
                                 8 * iq1_grid(index, e) + (qh & 0x8000 ? -1 : 1), 0.125f};
    }
    if (type == KERN_IQ1_M) {
        unsigned nibble = block[32 + g / 2] >> 4 * (g % 2) & 15u;
        return (struct check_iq){
            (int)(u16_at(block + 48 + 2 * (e / 64)) >> 3 * (e / 16 % 4) & 7),
            8 * iq1_grid(block[g] | (nibble & 7) << 8, e) + (nibble & 8 ? -1 : 1), 0.125f};
    }
    return type == KERN_IQ3_XXS || type == KERN_IQ3_S ? iq3(type, block, e) : iq2(type, block, e);
}

uint16_t check_iq1_m_scale(const uint8_t *block)
{
    unsigned bits = 0;
    for (size_t i = 0; i < 4; i++)
        bits |= (u16_at(block + 48 + 2 * i) >> 12) << 4 * i;
    return (uint16_t)bits;
}
