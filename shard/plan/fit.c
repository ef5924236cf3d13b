/* SPDX-License-Identifier: Apache-2.0 */
/* What would fit where a model does not. */
#include <stdio.h>
#include <string.h>

#include "shard/kv.h"
#include "shard/plan/draft.h"

/* The type with most bits below `below`, or -1. */
static int next_type(const struct plan_options *o, double below)
{
    int best = -1;
    for (uint32_t i = 0; i < o->n_types; i++) {
        if (o->types[i].bits < below && (best < 0 || o->types[i].bits > o->types[best].bits))
            best = (int)i;
    }
    return best;
}

int plan_largest_type(const struct plan_shape *shape, const struct plan_cluster *cluster,
                      const struct plan_options *options)
{
    for (int t = next_type(options, shape->weight_bits); t >= 0;
         t = next_type(options, options->types[t].bits)) {
        struct plan_shape *scaled;
        if (plan_shape_scaled(&scaled, shape, options->types[t].bits, NULL) != PROTO_OK)
            return -1;
        bool fits = plan__fits(scaled, cluster, options);
        plan_shape_destroy(scaled);
        if (fits)
            return t;
    }
    return -1;
}

static bool context_fits(const struct plan_shape *shape, const struct plan_cluster *cluster,
                         const struct plan_options *options, uint64_t ctx)
{
    struct plan_shape_options sizes = shape->options;
    struct plan_shape *shorter;
    sizes.ctx = ctx;
    if (plan_shape_create(&shorter, shape->model, &sizes, NULL) != PROTO_OK)
        return false;
    bool fits = plan__fits(shorter, cluster, options);
    plan_shape_destroy(shorter);
    return fits;
}

uint64_t plan_largest_context(const struct plan_shape *shape, const struct plan_cluster *cluster,
                              const struct plan_options *options)
{
    uint64_t fits = 0, beyond = shape->options.ctx / SHARD_KV_PAGE_ROWS + 1;
    if (!shape->model || !context_fits(shape, cluster, options, SHARD_KV_PAGE_ROWS))
        return 0;
    fits = 1;
    while (beyond - fits > 1) {
        uint64_t middle = fits + (beyond - fits) / 2;
        if (context_fits(shape, cluster, options, middle * SHARD_KV_PAGE_ROWS))
            fits = middle;
        else
            beyond = middle;
    }
    return fits * SHARD_KV_PAGE_ROWS;
}

void plan__recommend(const struct plan_shape *shape, const struct plan_cluster *cluster,
                     const struct plan_options *options, struct proto_error *error)
{
    char text[PROTO_ERROR_TEXT_BYTES], as[64] = "", shorter[64] = "";
    int type = plan_largest_type(shape, cluster, options);
    uint64_t ctx = plan_largest_context(shape, cluster, options);
    if (!error)
        return;
    if (type >= 0)
        snprintf(as, sizeof as, ", or take it as %s", options->types[type].name);
    else if (options->n_types)
        snprintf(as, sizeof as, " (no type is small enough)");
    if (ctx > 0)
        snprintf(shorter, sizeof shorter, ", or lower the context (--ctx %llu would fit)",
                 (unsigned long long)ctx);
    memcpy(text, error->text, sizeof text);
    proto_fail(error, PROTO_CAPACITY, "%s; add machines or memory%s%s", text, as, shorter);
}
