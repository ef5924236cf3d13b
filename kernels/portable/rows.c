/* SPDX-License-Identifier: Apache-2.0 */
/* The row functions in plain C: the reference that the other sets are compared with. */
#include "kernels/math.h"
#include "kernels/type.h"

struct vec {
    float lane[16];
};

/* Sums that the value loop of attention keeps in registers. */
#define VALUE_SUMS 4u
#define TILE_HEADS 1u

static inline struct vec vec_set1(float s)
{
    struct vec v;
    for (int i = 0; i < 16; i++)
        v.lane[i] = s;
    return v;
}

static inline struct vec vec_load(const float *p)
{
    struct vec v;
    memcpy(v.lane, p, sizeof(v.lane));
    return v;
}

static inline struct vec vec_load_n(const float *p, size_t n)
{
    struct vec v = vec_set1(0.0f);
    memcpy(v.lane, p, n * sizeof(float));
    return v;
}

static inline struct vec vec_load_f16_n(const uint16_t *p, size_t n)
{
    struct vec v = vec_set1(0.0f);
    for (size_t i = 0; i < n; i++)
        v.lane[i] = kern_f16_to_f32(p[i]);
    return v;
}

static inline struct vec vec_load_f16(const uint16_t *p)
{
    return vec_load_f16_n(p, 16);
}

static inline struct vec vec_set1_f16(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return vec_set1(kern_f16_to_f32(half));
}

static inline struct vec vec_load_i8(const void *p)
{
    struct vec v;
    for (int i = 0; i < 16; i++)
        v.lane[i] = (float)((const int8_t *)p)[i];
    return v;
}

/* Nibbles less 8. */
static inline struct vec vec_load_low(const void *p)
{
    struct vec v;
    for (int i = 0; i < 16; i++)
        v.lane[i] = (float)((((const uint8_t *)p)[i] & 15) - 8);
    return v;
}

static inline struct vec vec_load_high(const void *p)
{
    struct vec v;
    for (int i = 0; i < 16; i++)
        v.lane[i] = (float)((((const uint8_t *)p)[i] >> 4) - 8);
    return v;
}

static inline void vec_store_n(float *p, struct vec v, size_t n)
{
    memcpy(p, v.lane, n * sizeof(float));
}

static inline void vec_store(float *p, struct vec v)
{
    vec_store_n(p, v, 16);
}

static inline void vec_store_f16(uint16_t *p, struct vec v)
{
    for (int i = 0; i < 16; i++)
        p[i] = kern_f32_to_f16(v.lane[i]);
}

static inline int16_t vec_store_i8(int8_t *p, struct vec v)
{
    int sum = 0;
    for (int i = 0; i < 16; i++) {
        float x = v.lane[i];
        x = kern__select(x > -127.0f, x, -127.0f); /* NaN too */
        x = kern__select(x < 127.0f, x, 127.0f);
        p[i] = (int8_t)((x + KERN__ROUND) - KERN__ROUND);
        sum += p[i];
    }
    return (int16_t)sum;
}

#define LANEWISE(name, expression)                                                                 \
    static inline struct vec name(struct vec a, struct vec b)                                      \
    {                                                                                              \
        for (int i = 0; i < 16; i++) {                                                             \
            float x = a.lane[i], y = b.lane[i];                                                    \
            a.lane[i] = expression;                                                                \
        }                                                                                          \
        return a;                                                                                  \
    }
LANEWISE(vec_add, x + y)
LANEWISE(vec_sub, x - y)
LANEWISE(vec_mul, (x) * (y))
LANEWISE(vec_div, x / y)
LANEWISE(vec_max, kern__select(x > y, x, y))
LANEWISE(vec_min, kern__select(x < y, x, y))
#undef LANEWISE

static inline struct vec vec_abs(struct vec v)
{
    for (int i = 0; i < 16; i++)
        v.lane[i] = fabsf(v.lane[i]);
    return v;
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    for (int i = 0; i < 16; i++)
        c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return c;
}

static inline struct vec vec_if_ge(struct vec a, struct vec b, struct vec yes, struct vec no)
{
    for (int i = 0; i < 16; i++)
        no.lane[i] = kern__select(a.lane[i] >= b.lane[i], yes.lane[i], no.lane[i]);
    return no;
}

static inline struct vec vec_first(size_t n, struct vec v, struct vec other)
{
    memcpy(other.lane, v.lane, n * sizeof(float));
    return other;
}

static inline struct vec vec_scale2(struct vec v, struct vec n)
{
    for (int i = 0; i < 16; i++)
        v.lane[i] = kern__scale2(v.lane[i], n.lane[i]);
    return v;
}

static inline float vec_tree(struct vec v)
{
    return kern_tree16(v.lane);
}

static inline void vec_tree4(float sums[4], struct vec a, struct vec b, struct vec c, struct vec d)
{
    sums[0] = vec_tree(a);
    sums[1] = vec_tree(b);
    sums[2] = vec_tree(c);
    sums[3] = vec_tree(d);
}

static inline float vec_max_lanes(struct vec v)
{
    float most = v.lane[0];
    for (int i = 1; i < 16; i++)
        most = v.lane[i] > most ? v.lane[i] : most;
    return most;
}

#include "kernels/quads.h"
#include "kernels/rows_tmpl.h"

void kern_init_rows_portable(struct kern_table *t)
{
    fill_rows(t);
}
