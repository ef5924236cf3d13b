/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/list.h"

#include "coordinator/plan/source.h"
#include "coordinator/plan/table.h"

static const char *const titles[] = {"<model",     "parameters", "<experts",   "layers",
                                     "context",    "Q8_0 GB",    "IQ2_XXS GB", "<usually",
                                     "usually GB", "GB a token", "<runs"};
static const char *const types[] = {"Q8_0", "IQ2_XXS"};

#define N_COLUMNS (sizeof titles / sizeof titles[0])
#define N_TYPES   (sizeof types / sizeof types[0])

static void add_shape(struct coord_table *table, const struct shard_dims *dims,
                      const struct shard_model *model)
{
    coord_table_cell(table, "%s", dims->preset);
    coord_table_cell(table, "%.1f B", (double)shard_model_parameters(model) / 1e9);
    if (dims->experts)
        coord_table_cell(table, "%u of %u", dims->used, dims->experts);
    else
        coord_table_cell(table, "-");
    coord_table_cell(table, "%u", dims->layers);
    coord_table_cell(table, "%u", dims->ctx);
}

static enum proto_status add_row(struct coord_table *table, const struct shard_dims *dims,
                                 struct proto_error *error)
{
    struct coord_source source;
    const char *usual = dims->usual ? dims->usual : "Q4_K_M";
    for (size_t t = 0; t <= N_TYPES; t++) {
        const struct shard_mixture *mixture = shard_mixture_find(t < N_TYPES ? types[t] : usual);
        enum proto_status status = coord_source_make(&source, dims, mixture, error);
        if (status)
            return status;
        if (t == 0)
            add_shape(table, dims, source.model);
        if (t == N_TYPES)
            coord_table_cell(table, "%s", usual);
        coord_table_cell(table, "%.1f", (double)source.file_bytes / 1e9);
        if (t == N_TYPES)
            coord_table_cell(table, "%.2f",
                             (double)shard_model_bytes_per_token(source.model) / 1e9);
        coord_source_close(&source);
    }
    coord_table_cell(table, "%s", dims->note ? "no, sizes only" : "yes");
    return PROTO_OK;
}

enum proto_status coord_plan_list(FILE *out, struct proto_error *error)
{
    size_t n;
    struct coord_table table;
    const struct shard_dims *known = shard_dims_known(&n);
    enum proto_status status = PROTO_OK;
    coord_table_init(&table, titles, N_COLUMNS);
    for (size_t i = 0; i < n && !status; i++)
        status = add_row(&table, &known[i], error);
    if (!status && !coord_table_print(&table, 0, out))
        status = proto_fail_nomem(error, 4096, "a table");
    if (!status)
        fputs("\nSizes are of files; a token reads so much of the file that is usual.\n", out);
    for (size_t i = 0; i < n && !status; i++)
        if (known[i].note)
            fprintf(out, "%s: sizes only, this architecture cannot be run yet; %s\n",
                    known[i].preset, known[i].note);
    coord_table_finish(&table);
    return status;
}
