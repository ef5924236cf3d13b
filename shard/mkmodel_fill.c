/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of synthetic tensors, a pure function of (name, seed, shape, type, std):
 *
 *   mix(z) = splitmix64's finaliser           G = 0x9E3779B97F4A7C15
 *   key    = mix(fnv1a64(name) + seed * G)
 *   u(i)   = mix(key + (i + 1) * G)           word i, 64 bits
 *   v(i)   = (u(i) >> 40) * 2^-23 - 1         in [-1, 1), exact in a float
 *
 * Float tensors are v(i) * float(sqrt(3) * std), and norms 1 + 0.1 v(i), rounded to their type.
 * Block tensors are the bytes of u(0), u(1), ... with the scale fields of each block overwritten,
 * so that the weights' standard deviation is close to std.
 */
#include "shard/mkmodel_spec.h"

#include <math.h>
#include <string.h>

#define GAMMA 0x9E3779B97F4A7C15u

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t tensor_key(const char *name, uint64_t seed)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    return mix(hash + seed * GAMMA);
}

/* offset + scale * v(i); v(i) is never -0, so an offset of 0 changes nothing. */
static float value(uint64_t key, uint64_t i, float scale, float offset)
{
    float v = (float)(int32_t)(mix(key + (i + 1) * GAMMA) >> 40) * 0x1p-23f - 1.0f;
    return offset + scale * v;
}

static void store(uint8_t *dst, enum kern_type type, const float *values, size_t n)
{
    if (type == KERN_F32) {
        memcpy(dst, values, n * sizeof *values);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half = type == KERN_F16 ? kern_f32_to_f16(values[i]) : kern_f32_to_bf16(values[i]);
        memcpy(dst + 2 * i, &half, sizeof half);
    }
}

static void fill_floats(uint8_t *dst, const struct kern_type_info *type, uint64_t key,
                        uint64_t first, uint64_t n, float scale, float offset)
{
    float values[512];
    const size_t step = sizeof values / sizeof values[0];
    for (uint64_t done = 0; done < n; done += step) {
        size_t count = n - done < step ? n - done : step;
        for (size_t i = 0; i < count; i++)
            values[i] = value(key, first + done + i, scale, offset);
        store(dst + done * type->block_bytes, type->type, values, count);
    }
}

/* Half-float fields of a block: where they lie, and what std is multiplied by. */
struct scale_field {
    uint32_t offset;
    double factor;
};

static const struct {
    enum kern_type type;
    uint32_t n;
    struct scale_field fields[2];
} scales[] = {
    {KERN_Q4_0, 1, {{0, 0.217}}},
    {KERN_Q4_1, 2, {{0, 0.217}, {2, -1.63}}},
    {KERN_Q5_0, 1, {{0, 0.108}}},
    {KERN_Q5_1, 2, {{0, 0.108}, {2, -1.68}}},
    {KERN_Q8_0, 1, {{0, 0.0135}}},
    {KERN_Q2_K, 2, {{80, 0.0751}, {82, 0.113}}},
    {KERN_Q3_K, 1, {{108, 0.0236}}},
    {KERN_Q4_K, 2, {{0, 0.00425}, {2, 0.0319}}},
    {KERN_Q5_K, 2, {{0, 0.00207}, {2, 0.0321}}},
    {KERN_Q6_K, 1, {{208, 0.000733}}},
    {KERN_IQ2_XXS, 1, {{0, 0.0217}}},
    {KERN_IQ2_XS, 1, {{0, 0.0214}}},
    {KERN_IQ3_XXS, 1, {{0, 0.00841}}},
    {KERN_IQ1_S, 1, {{0, 0.134}}},
    {KERN_IQ4_NL, 1, {{0, 0.0142}}},
    {KERN_IQ3_S, 1, {{0, 0.00744}}},
    {KERN_IQ2_S, 1, {{0, 0.0215}}},
    {KERN_IQ4_XS, 1, {{0, 0.000770}}},
};

static void set_fields(uint8_t *blocks, const struct kern_type_info *type, uint64_t n,
                       const struct scale_field *field, double std)
{
    uint16_t half = kern_f32_to_f16((float)(field->factor * std));
    for (uint64_t i = 0; i < n; i++)
        memcpy(blocks + i * type->block_bytes + field->offset, &half, sizeof half);
}

/* One power of two for all blocks, as an exponent biased by 127. */
static void set_mxfp4_exponents(uint8_t *blocks, const struct kern_type_info *type, uint64_t n,
                                double std)
{
    double exponent = 127 + rint(log2(std / 2.93));
    uint8_t byte = (uint8_t)fmin(fmax(exponent, 1), 254);
    for (uint64_t i = 0; i < n; i++)
        blocks[i * type->block_bytes] = byte;
}

/* The half lies in the top nibbles of the four scale words at byte 48. */
static void set_iq1_m_scales(uint8_t *blocks, const struct kern_type_info *type, uint64_t n,
                             double std)
{
    uint16_t half = kern_f32_to_f16((float)(0.134 * std));
    for (uint64_t i = 0; i < n; i++) {
        for (unsigned k = 0; k < 4; k++) {
            uint8_t *byte = blocks + i * type->block_bytes + 48 + 2 * k + 1;
            *byte = (uint8_t)((*byte & 0x0f) | (((half >> (4 * k)) & 15) << 4));
        }
    }
}

static void fill_blocks(uint8_t *dst, const struct kern_type_info *type, uint64_t key,
                        uint64_t first, uint64_t n, double std)
{
    uint64_t first_word = first * type->block_bytes / 8;
    uint64_t n_words = (n * type->block_bytes + 7) / 8;
    for (uint64_t i = 0; i < n_words; i++) {
        uint64_t word = mix(key + (first_word + i + 1) * GAMMA);
        memcpy(dst + 8 * i, &word, sizeof word);
    }
    if (type->type == KERN_MXFP4)
        set_mxfp4_exponents(dst, type, n, std);
    if (type->type == KERN_IQ1_M)
        set_iq1_m_scales(dst, type, n, std);
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
        for (uint32_t k = 0; scales[i].type == type->type && k < scales[i].n; k++)
            set_fields(dst, type, n, &scales[i].fields[k], std);
}

void shard__fill(uint8_t *dst, const struct shard_tensor *tensor,
                 const struct shard__recipe *recipe, uint64_t seed, uint64_t first, uint64_t n)
{
    uint64_t key = tensor_key(tensor->name, seed);
    if (recipe->rule == SHARD__VALUES)
        memcpy(dst, recipe->values + first, n * sizeof *recipe->values);
    else if (recipe->rule == SHARD__NORM)
        fill_floats(dst, tensor->type, key, first, n, 0.1f, 1.0f);
    else if (tensor->type->block > 1)
        fill_blocks(dst, tensor->type, key, first, n, recipe->std);
    else
        fill_floats(dst, tensor->type, key, first, n, (float)(sqrt(3.0) * recipe->std), 0.0f);
}
