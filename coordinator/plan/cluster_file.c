/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/cluster_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/files.h"
#include "coordinator/plan/cluster_internal.h"

#define NUMBER_BYTES 6 /* "-10000" behind the name of machines alike */

/* A machine or several alike, as written. */
struct machine_text {
    int name, gpu;
    uint32_t count;
    struct plan_machine machine;
};

struct file_text {
    int machines, link, links;
};

#define MACHINE(field) offsetof(struct machine_text, machine.field)
#define CPU(field)     MACHINE(device[PLAN_CPU].field)
#define GPU(field)     offsetof(struct plan_device, field)
#define REAL(key, offset, unit, min, max)                                                          \
    {                                                                                              \
        key, COORD_FIELD_REAL, offset, unit, min, max                                              \
    }
/* What a CPU and a GPU may both have. */
#define SPEEDS(device)                                                                             \
    {"memory_gb", COORD_FIELD_GIGABYTES, device(memory_bytes), 0, 1e-3, 1e6},                      \
        REAL("read_gb_s", device(read_bytes_s), 1e9, 1e-3, 1e5),                                   \
        REAL("tops_int8", device(ops_rows_s), 1e12, 1e-6, 1e5),                                    \
        REAL("tops_int8_row", device(ops_row_s), 1e12, 1e-6, 1e5),                                 \
        REAL("tflops", device(ops_float_s), 1e12, 1e-6, 1e5)

static const struct coord_field machine_fields[] = {
    {"name", COORD_FIELD_TEXT, offsetof(struct machine_text, name), 0, 0, 0},
    {"count", COORD_FIELD_WHOLE, offsetof(struct machine_text, count), 0, 1, PLAN_MAX_MACHINES},
    SPEEDS(CPU),
    {"gpu", COORD_FIELD_TREE, offsetof(struct machine_text, gpu), 0, 0, 0},
    {"threads", COORD_FIELD_WHOLE, MACHINE(threads), 0, 1, 4096},
    REAL("disk_gb_s", MACHINE(disk_bytes_s), 1e9, 1e-3, 1e3),
    REAL("overhead_ms", MACHINE(overhead_s), 1e-3, 1e-6, 1e4),
    REAL("request_ms", MACHINE(request_s), 1e-3, 1e-6, 1e4),
    {"coordinator", COORD_FIELD_FLAG, MACHINE(coordinator), 0, 0, 0},
};

static const struct coord_field gpu_fields[] = {SPEEDS(GPU)};

static const struct coord_field file_fields[] = {
    {"machines", COORD_FIELD_TREE, offsetof(struct file_text, machines), 0, 0, 0},
    {"link", COORD_FIELD_TREE, offsetof(struct file_text, link), 0, 0, 0},
    {"links", COORD_FIELD_TREE, offsetof(struct file_text, links), 0, 0, 0},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static enum proto_status read_name(const struct coord__cluster_reader *r, int node, uint32_t count,
                                   struct coord__name *out)
{
    size_t len, most = sizeof out->name - 1 - (count > 1 ? NUMBER_BYTES : 0);
    const char *text = coord_tree_text(r->tree, node, &len);
    if (!len || len > most || memchr(text, ' ', len) || !coord_tree_shows(text, len))
        return coord_tree_fail(r->tree, node, PROTO_INVALID,
                               "a machine's name has 1 to %zu bytes and no spaces, expected one "
                               "such as mini",
                               most);
    memcpy(out->name, text, len);
    out->name[len] = '\0';
    out->node = node;
    return PROTO_OK;
}

/* Room for `more` machines and names. */
static enum proto_status reserve(struct coord__cluster_reader *r, size_t more)
{
    size_t n_machines = r->cluster->n_machines + more, n_names = r->n_names + more + 1;
    struct plan_machine *machines = realloc(r->cluster->machines, n_machines * sizeof *machines);
    if (!machines)
        return coord_tree_fail_nomem(r->tree, n_machines * sizeof *machines);
    r->cluster->machines = machines;
    struct coord__name *names = realloc(r->names, n_names * sizeof *names);
    if (!names)
        return coord_tree_fail_nomem(r->tree, n_names * sizeof *names);
    r->names = names;
    return PROTO_OK;
}

static void add_machine(struct coord__cluster_reader *r, const struct plan_machine *machine,
                        const struct coord__name *all, uint32_t i)
{
    struct coord__name *name = &r->names[r->n_names++];
    *name = *all;
    name->first += i;
    name->count = 1;
    if (all->count > 1)
        snprintf(name->name + strlen(name->name), NUMBER_BYTES + 1, "-%u",
                 (i + 1) % (PLAN_MAX_MACHINES + 1));
    struct plan_machine *added = &r->cluster->machines[r->cluster->n_machines++];
    *added = *machine;
    memcpy(added->name, name->name, sizeof added->name);
}

/* `count` machines alike, and the names by which links know them. */
static enum proto_status add_machines(struct coord__cluster_reader *r,
                                      const struct machine_text *text)
{
    uint32_t n = r->cluster->n_machines;
    struct coord__name all = {.first = n, .count = text->count};
    enum proto_status status = read_name(r, text->name, text->count, &all);
    if (!status && text->count > PLAN_MAX_MACHINES - n)
        status = coord_tree_fail(r->tree, text->name, PROTO_LIMIT,
                                 "with %s there are %u machines, expected at most %u", all.name,
                                 n + text->count, PLAN_MAX_MACHINES);
    if (!status)
        status = reserve(r, text->count);
    for (uint32_t i = 0; i < text->count && !status; i++)
        add_machine(r, &text->machine, &all, i);
    if (!status && text->count > 1)
        r->names[r->n_names++] = all;
    return status;
}

static enum proto_status note_coordinator(struct coord__cluster_reader *r, int node,
                                          const struct machine_text *text)
{
    if (!text->machine.coordinator)
        return PROTO_OK;
    if (r->coordinator || text->count > 1)
        return coord_tree_fail(r->tree, node, PROTO_INVALID,
                               "coordinator: true is said of a second machine, expected it of one");
    r->coordinator = node;
    return PROTO_OK;
}

static enum proto_status check_memory(const struct coord__cluster_reader *r, int node,
                                      const char *what, const struct plan_device *device)
{
    if (device->memory_bytes)
        return PROTO_OK;
    return coord_tree_fail(r->tree, node, PROTO_INVALID,
                           "%s has no memory_gb, expected the gigabytes that may be used, such as "
                           "memory_gb: 12",
                           what);
}

static enum proto_status read_machine(struct coord__cluster_reader *r, int node)
{
    struct machine_text text = {.count = 1};
    struct plan_device *device = text.machine.device;
    enum proto_status status =
        coord_tree_read(r->tree, node, "a machine", machine_fields, COUNT(machine_fields), &text);
    if (!status && !text.name)
        status = coord_tree_fail(r->tree, node, PROTO_INVALID,
                                 "a machine has no name, expected {name: mini, ...}");
    if (!status)
        status = check_memory(r, node, "a machine", &device[PLAN_CPU]);
    if (!status && text.gpu)
        status = coord_tree_read(r->tree, text.gpu, "a gpu", gpu_fields, COUNT(gpu_fields),
                                 &device[PLAN_GPU]);
    if (!status && text.gpu)
        status = check_memory(r, text.gpu, "a gpu", &device[PLAN_GPU]);
    if (!status)
        status = note_coordinator(r, node, &text);
    return status ? status : add_machines(r, &text);
}

int coord__name_compare(const void *a, const void *b)
{
    return strcmp(((const struct coord__name *)a)->name, ((const struct coord__name *)b)->name);
}

static enum proto_status index_names(struct coord__cluster_reader *r)
{
    qsort(r->names, r->n_names, sizeof *r->names, coord__name_compare);
    for (size_t i = 1; i < r->n_names; i++) {
        const struct coord__name *a = &r->names[i - 1], *b = &r->names[i];
        if (!strcmp(a->name, b->name))
            return coord_tree_fail(
                r->tree, coord_tree_before(r->tree, a->node, b->node) ? b->node : a->node,
                PROTO_INVALID, "a second machine is named %s, expected a name of its own", a->name);
    }
    return PROTO_OK;
}

static enum proto_status read_machines(struct coord__cluster_reader *r, int list)
{
    char shown[COORD_TREE_SHOWN];
    long n = coord_tree_count(r->tree, list);
    if (n <= 0)
        return coord_tree_fail(r->tree, list, PROTO_INVALID,
                               "machines is %s, expected a list such as - {name: mini, memory_gb: "
                               "64}",
                               n < 0 ? coord_tree_show(r->tree, list, shown) : "an empty list");
    enum proto_status status = PROTO_OK;
    for (long i = 0; i < n && !status; i++)
        status = read_machine(r, coord_tree_item(r->tree, list, i));
    return status ? status : index_names(r);
}

static enum proto_status read_file(struct coord__cluster_reader *r)
{
    struct file_text text = {0};
    int root = coord_tree_root(r->tree);
    enum proto_status status =
        coord_tree_read(r->tree, root, "the file", file_fields, COUNT(file_fields), &text);
    if (!status && !text.machines)
        status = coord_tree_fail(r->tree, root, PROTO_INVALID,
                                 "the file has no machines, expected machines: and a list such as "
                                 "- {name: mini, memory_gb: 64}");
    if (!status)
        status = read_machines(r, text.machines);
    return status ? status : coord__cluster_links(r, text.link, text.links);
}

enum proto_status coord_cluster_parse(struct plan_cluster **out, const void *bytes, size_t len,
                                      const char *name, struct proto_error *error)
{
    struct coord__cluster_reader r = {0};
    *out = NULL;
    enum proto_status status = coord_tree_create(&r.tree, bytes, len, name, error);
    if (status)
        return status;
    r.cluster = calloc(1, sizeof *r.cluster);
    status = r.cluster ? read_file(&r) : coord_tree_fail_nomem(r.tree, sizeof *r.cluster);
    free(r.names);
    coord_tree_destroy(r.tree);
    if (status)
        plan_cluster_destroy(r.cluster);
    else
        *out = r.cluster;
    return status;
}

enum proto_status coord_cluster_read(struct plan_cluster **out, const char *path,
                                     struct proto_error *error)
{
    char *bytes;
    size_t len;
    *out = NULL;
    enum proto_status status = coord_read_file(path, &bytes, &len, error);
    if (status)
        return status;
    status =
        coord_cluster_parse(out, bytes, len, strcmp(path, "-") ? path : "standard input", error);
    free(bytes);
    return status;
}
