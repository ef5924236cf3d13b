/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/fits.h"

#include <string.h>

#include "coordinator/plan/table.h"
#include "coordinator/report.h"

static const char *const titles[] = {"<model",     "<quantisation",    "file GB",
                                     "machines",   "prefill tokens/s", "decode tokens/s",
                                     "<bottleneck"};
/* From the best to the smallest. */
static const char *const types[] = {"Q8_0",   "Q6_K", "Q5_K_M",  "Q4_K_M", "IQ4_XS",
                                    "Q3_K_M", "Q2_K", "IQ2_XXS", "IQ1_S"};

#define N_COLUMNS (sizeof titles / sizeof titles[0])
#define N_TYPES   (sizeof types / sizeof types[0])

struct fits {
    const struct plan_cluster *cluster;
    const struct coord_plan_request *request;
    uint64_t memory_bytes; /* of all processors that may be used */
    struct coord_table table;
    bool possible; /* what is asked for, of the model that was tried last */
    struct proto_error *error;
};

/* Machines that hold something: a machine's two processors are one after the other. */
static uint32_t count_machines(const struct plan_placement *placement)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < placement->n_workers; i++) {
        uint32_t k = 0;
        while (k < i && placement->workers[k].machine != placement->workers[i].machine)
            k++;
        n += k == i;
    }
    return n;
}

static void add_plan(struct fits *f, const struct shard_dims *dims, const char *type,
                     const struct coord_plan_view *view)
{
    char number[32], bound[PLAN_BOTTLENECK_TEXT];
    coord_table_cell(&f->table, "%s%s", dims->preset, dims->note ? " *" : "");
    coord_table_cell(&f->table, "%s", type);
    coord_table_cell(&f->table, "%.1f", (double)view->source->file_bytes / 1e9);
    coord_table_cell(&f->table, "%u", count_machines(view->answer->placement));
    coord_table_cell(&f->table, "%s", coord_plan_number(coord_plan_prefill(view), number));
    coord_table_cell(&f->table, "%s", coord_plan_number(coord_plan_decode(view), number));
    coord_table_cell(&f->table, "%s",
                     plan_bottleneck_text(coord_plan_bottleneck(view), f->cluster, bound));
}

static void add_none(struct fits *f, const struct shard_dims *dims, uint64_t smallest)
{
    coord_table_cell(&f->table, "%s%s", dims->preset, dims->note ? " *" : "");
    coord_table_cell(&f->table, "-");
    coord_table_cell(&f->table, "%.1f", (double)smallest / 1e9);
    for (int i = 0; i < 3; i++)
        coord_table_cell(&f->table, "-");
    if (f->possible)
        coord_table_cell(&f->table, "does not fit, in %s neither", types[N_TYPES - 1]);
    else
        coord_table_cell(&f->table, "cannot be split as asked for");
}

/* *fits: whether it has at most `most` bytes and there is a plan, which then is a row. */
static enum proto_status try_type(struct fits *f, const struct shard_dims *dims, const char *type,
                                  uint64_t most, bool *fits, uint64_t *file_bytes)
{
    struct coord_source source;
    struct coord_plan_view view = {0};
    *fits = false;
    enum proto_status status = coord_source_make(&source, dims, shard_mixture_find(type), f->error);
    if (status)
        return status;
    *file_bytes = source.file_bytes;
    if (source.file_bytes <= most) {
        status = coord_plan_view_search(&view, &source, f->cluster, f->request, f->error);
        *fits = !status;
    }
    if (*fits)
        add_plan(f, dims, type, &view);
    coord_plan_view_finish(&view);
    coord_source_close(&source);
    f->possible = status != PROTO_INVALID;
    return status == PROTO_CAPACITY || status == PROTO_INVALID ? PROTO_OK : status;
}

static enum proto_status add_model(struct fits *f, const struct shard_dims *dims)
{
    enum proto_status status = PROTO_OK;
    uint64_t bytes = 0;
    bool fits = false;
    for (size_t t = 0; t < N_TYPES && !fits && !status; t++)
        status = try_type(f, dims, types[t], f->memory_bytes, &fits, &bytes);
    if (status)
        return status;
    if (!fits)
        add_none(f, dims, bytes);
    return fits ? try_type(f, dims, dims->usual ? dims->usual : "Q4_K_M", bytes - 1, &fits, &bytes)
                : PROTO_OK;
}

enum proto_status coord_plan_fits(const struct plan_cluster *cluster,
                                  const struct coord_plan_request *request, FILE *out,
                                  struct proto_error *error)
{
    size_t n;
    struct fits f = {.cluster = cluster, .request = request, .error = error};
    const struct shard_dims *known = shard_dims_known(&n);
    enum proto_status status = PROTO_OK;
    coord_table_init(&f.table, titles, N_COLUMNS);
    for (uint32_t i = 0; i < cluster->n_machines; i++)
        for (int d = 0; d < (request->search.cpu_only ? 1 : PLAN_N_DEVICES); d++)
            f.memory_bytes += cluster->machines[i].device[d].memory_bytes;
    for (size_t i = 0; i < n && !status; i++)
        status = add_model(&f, &known[i]);
    if (!status && !coord_table_print(&f.table, 0, out))
        status = proto_fail_nomem(error, 4096, "a table");
    if (!status)
        fputs("\nThe largest quantisation that fits, and the usual one where that is smaller.\n"
              "* Sizes only: this architecture cannot be run yet.\n",
              out);
    coord_table_finish(&f.table);
    return status;
}
