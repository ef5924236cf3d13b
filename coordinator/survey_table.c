/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/survey_table.h"

#include "coordinator/plan/table.h"
#include "kernels/type.h"

static void add_rate(struct coord_table *table, double value)
{
    if (value > 0)
        coord_table_cell(table, "%.1f", value);
    else
        coord_table_cell(table, "?");
}

static void print_and_finish(struct coord_table *table, FILE *out)
{
    fputc('\n', out);
    coord_table_print(table, 0, out);
    coord_table_finish(table);
}

static void print_machines(FILE *out, const struct coord_status *status)
{
    static const char *const titles[] = {"<machine",        "free GB", "memory GB/s", "disk GB/s",
                                         "attention Gop/s", "wake us", "loop us"};
    struct coord_table table;
    coord_table_init(&table, titles, sizeof titles / sizeof titles[0]);
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (!w->profiled)
            continue;
        coord_table_cell(&table, "%s", w->name);
        coord_table_cell(&table, "%.1f", (double)w->profile.free_bytes / 1e9);
        add_rate(&table, w->profile.read_bytes_s / 1e9);
        add_rate(&table, w->profile.disk_bytes_s / 1e9);
        add_rate(&table, w->profile.float_ops_s / 1e9);
        coord_table_cell(&table, "%.1f", w->profile.wake_s * 1e6);
        coord_table_cell(&table, "%.1f", w->profile.run_s * 1e6);
    }
    print_and_finish(&table, out);
}

/* The rates of a type, zeros where they were not measured. */
static struct proto_type_rate rate_of(const struct proto_profile *profile, uint32_t type)
{
    for (uint32_t i = 0; i < profile->n_types; i++)
        if (profile->types[i].type == type)
            return profile->types[i];
    return (struct proto_type_rate){.type = type};
}

/* A column for each type that `first` has. */
static void print_products(FILE *out, const struct coord_status *status,
                           const struct proto_profile *first)
{
    const char *titles[PROTO_MAX_PROFILE_TYPES + 1] = {"<Gop/s 1 / 512 rows"};
    struct coord_table table;
    for (uint32_t i = 0; i < first->n_types; i++) {
        const struct kern_type_info *type = kern_type_find(first->types[i].type);
        titles[i + 1] = type ? type->name : "?";
    }
    coord_table_init(&table, titles, first->n_types + 1);
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (!w->profiled)
            continue;
        coord_table_cell(&table, "%s", w->name);
        for (uint32_t k = 0; k < first->n_types; k++) {
            struct proto_type_rate rate = rate_of(&w->profile, first->types[k].type);
            coord_table_cell(&table, "%.0f / %.0f", rate.row_ops_s / 1e9, rate.rows_ops_s / 1e9);
        }
    }
    print_and_finish(&table, out);
}

void coord_profile_table(FILE *out, const struct coord_status *status)
{
    const struct proto_profile *first = NULL;
    for (uint32_t i = 0; i < status->n_workers && !first; i++)
        if (status->workers[i].profiled)
            first = &status->workers[i].profile;
    if (!first)
        return;
    print_machines(out, status);
    print_products(out, status, first);
}

static const char *end_name(const struct coord_status *status, uint32_t end)
{
    return end == COORD_HERE ? "coordinator" : status->workers[end].name;
}

static void add_link(struct coord_table *table, const struct coord_status *status, uint32_t from,
                     uint32_t to)
{
    for (uint32_t i = 0; i < status->n_links; i++) {
        const struct coord_link_status *link = &status->links[i];
        if (link->from != from || link->to != to)
            continue;
        coord_table_cell(table, "%.3f / %.0f", link->rtt_s * 1e3, link->bytes_s * 8e-6);
        return;
    }
    coord_table_cell(table, "-");
}

/* Workers from 0, then the coordinator. */
static uint32_t end_at(const struct coord_status *status, uint32_t i)
{
    return i < status->n_workers ? i : COORD_HERE;
}

void coord_link_table(FILE *out, const struct coord_status *status)
{
    const char *titles[PROTO_MAX_WORKERS + 2] = {"<ms / Mbit/s to"};
    struct coord_table table;
    if (!status->n_links || status->n_workers > PROTO_MAX_WORKERS)
        return;
    for (uint32_t i = 0; i <= status->n_workers; i++)
        titles[i + 1] = end_name(status, end_at(status, i));
    coord_table_init(&table, titles, status->n_workers + 2);
    for (uint32_t i = 0; i <= status->n_workers; i++) {
        coord_table_cell(&table, "from %s", end_name(status, end_at(status, i)));
        for (uint32_t k = 0; k <= status->n_workers; k++)
            add_link(&table, status, end_at(status, i), end_at(status, k));
    }
    print_and_finish(&table, out);
}
