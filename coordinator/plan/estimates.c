/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <string.h>

#include "coordinator/plan/table.h"
#include "coordinator/plan/text.h"

#define MAX_VALUES 8 /* different ones of a key */
#define MAX_NAMES  4 /* machines that are named of each */

/* A key of the cluster file, and the bit that says that its value was estimated. */
struct estimate {
    const char *key;
    size_t offset; /* of a double in struct plan_machine; 0: the threads */
    double unit;
    uint32_t bit;
};

/* Machines with one value of a key. */
struct group {
    double value;
    uint32_t n;
    uint32_t machines[MAX_NAMES];
};

#define BIT(d, i)     (1u << ((d)*PLAN_ESTIMATED_DEVICE_FIELDS + (i)))
#define OFFSET(field) offsetof(struct plan_machine, field)
#define SPEEDS(d, name)                                                                            \
    {name "read_gb_s", OFFSET(device[d].read_bytes_s), 1e9, BIT(d, 1)},                            \
        {name "tops_int8", OFFSET(device[d].ops_rows_s), 1e12, BIT(d, 3)},                         \
        {name "tops_int8_row", OFFSET(device[d].ops_row_s), 1e12, BIT(d, 2)},                      \
    {                                                                                              \
        name "tflops", OFFSET(device[d].ops_float_s), 1e12, BIT(d, 4)                              \
    }

static const struct estimate estimates[] = {
    SPEEDS(PLAN_CPU, ""),
    SPEEDS(PLAN_GPU, "gpu "),
    {"threads", 0, 1, PLAN_ESTIMATED_THREADS},
    {"disk_gb_s", OFFSET(disk_bytes_s), 1e9, PLAN_ESTIMATED_DISK},
    {"overhead_ms", OFFSET(overhead_s), 1e-3, PLAN_ESTIMATED_OVERHEAD},
    {"request_ms", OFFSET(request_s), 1e-3, PLAN_ESTIMATED_REQUEST},
};

#define N_ESTIMATES (sizeof estimates / sizeof estimates[0])

static double value_of(const struct estimate *e, const struct plan_machine *machine)
{
    double value;
    if (!e->offset)
        return machine->threads;
    memcpy(&value, (const char *)machine + e->offset, sizeof value);
    return value / e->unit;
}

/* Groups by value; machines beyond the last group are left out. */
static uint32_t group(const struct estimate *e, const struct plan_cluster *cluster,
                      struct group groups[MAX_VALUES])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < cluster->n_machines; i++) {
        const struct plan_machine *machine = &cluster->machines[i];
        uint32_t g = 0;
        double value = value_of(e, machine);
        if (!(machine->estimated & e->bit))
            continue;
        while (g < n && groups[g].value != value)
            g++;
        if (g == MAX_VALUES)
            continue;
        if (g == n)
            groups[n++] = (struct group){.value = value};
        if (groups[g].n < MAX_NAMES)
            groups[g].machines[groups[g].n] = i;
        groups[g].n++;
    }
    return n;
}

static void add_group(struct coord_table *table, const char *key, const struct group *g,
                      const struct plan_cluster *cluster)
{
    char names[MAX_NAMES * 70 + 32] = "", number[32];
    size_t len = 0;
    for (uint32_t i = 0; i < g->n && i < MAX_NAMES; i++)
        len += (size_t)snprintf(names + len, sizeof names - len, "%s%s", i ? ", " : "",
                                cluster->machines[g->machines[i]].name);
    if (g->n > MAX_NAMES)
        snprintf(names + len, sizeof names - len, " and %u more", g->n - MAX_NAMES);
    coord_table_cell(table, "%s", key);
    coord_table_cell(table, "%s", coord_plan_number(g->value, number));
    coord_table_cell(table, "%s", names);
}

static void add_link(struct coord_table *table, const char *key, double value)
{
    char number[32];
    coord_table_cell(table, "%s", key);
    coord_table_cell(table, "%s", coord_plan_number(value, number));
    coord_table_cell(table, "machines between which no other is said, where link: does not say it");
}

enum proto_status coord_plan_print_estimates(const struct plan_cluster *cluster, const char *why,
                                             FILE *out, struct proto_error *error)
{
    static const char *const titles[] = {"<key", "value", "<of"};
    struct coord_table table;
    struct group groups[MAX_VALUES];
    coord_table_init(&table, titles, sizeof titles / sizeof titles[0]);
    for (size_t i = 0; i < N_ESTIMATES; i++) {
        uint32_t n = group(&estimates[i], cluster, groups);
        for (uint32_t g = 0; g < n; g++)
            add_group(&table, estimates[i].key, &groups[g], cluster);
    }
    if (cluster->link_estimated) {
        add_link(&table, "link rtt_ms", cluster->any.rtt_s * 1e3);
        add_link(&table, "link mbit_s", cluster->any.bytes_s * 8e-6);
    }
    bool printed = true;
    if (coord_table_rows(&table)) {
        fprintf(out, "\nestimated, since %s:\n", why);
        printed = coord_table_print(&table, 2, out);
    }
    coord_table_finish(&table);
    return printed ? PROTO_OK : proto_fail_nomem(error, 4096, "a table");
}
