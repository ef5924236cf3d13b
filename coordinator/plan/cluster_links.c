/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/plan/cluster_internal.h"

#define MAX_WAYS 4000000u

/* One way of a pair, and where the file names it. */
struct way {
    struct plan_named_link link;
    int node;
};

struct ways {
    struct coord__cluster_reader *r;
    struct way *items;
    size_t n, cap;
};

/* A link as written; of `link` only the numbers. */
struct link_text {
    int between, from, to;
    struct plan_link link;
};

static const struct coord_field link_fields[] = {
    {"rtt_ms", COORD_FIELD_REAL, offsetof(struct link_text, link.rtt_s), 1e-3, 1e-4, 6e4},
    {"mbit_s", COORD_FIELD_REAL, offsetof(struct link_text, link.bytes_s), 1e6 / 8, 1e-3, 1e8},
    {"between", COORD_FIELD_TREE, offsetof(struct link_text, between), 0, 0, 0},
    {"from", COORD_FIELD_TEXT, offsetof(struct link_text, from), 0, 0, 0},
    {"to", COORD_FIELD_TEXT, offsetof(struct link_text, to), 0, 0, 0},
};

#define N_FIELDS  (sizeof link_fields / sizeof link_fields[0])
#define N_NUMBERS 2 /* of these fields, the first */

static enum proto_status find_name(const struct coord__cluster_reader *r, int node,
                                   const struct coord__name **out)
{
    char shown[COORD_TREE_SHOWN];
    struct coord__name key;
    size_t len;
    const char *text = coord_tree_text(r->tree, node, &len);
    *out = NULL;
    if (text && len < sizeof key.name) {
        memcpy(key.name, text, len);
        key.name[len] = '\0';
        *out = bsearch(&key, r->names, r->n_names, sizeof key, coord__name_compare);
    }
    if (*out)
        return PROTO_OK;
    return coord_tree_fail(r->tree, node, PROTO_INVALID,
                           "a link names %s, which is no machine, expected one such as %s",
                           coord_tree_show(r->tree, node, shown), r->cluster->machines[0].name);
}

static enum proto_status reserve(struct ways *ways, int node, size_t more)
{
    if (more > MAX_WAYS - ways->n)
        return coord_tree_fail(ways->r->tree, node, PROTO_LIMIT,
                               "with this there are %zu links, each way counted, expected at most "
                               "%u: say with link: what most of them are",
                               ways->n + more, MAX_WAYS);
    size_t cap = ways->cap ? ways->cap : 16;
    while (cap < ways->n + more)
        cap *= 2;
    if (cap == ways->cap)
        return PROTO_OK;
    struct way *items = realloc(ways->items, cap * sizeof *items);
    if (!items)
        return coord_tree_fail_nomem(ways->r->tree, cap * sizeof *items);
    ways->items = items;
    ways->cap = cap;
    return PROTO_OK;
}

/* One way from all machines of a name to all of another. */
static enum proto_status add(struct ways *ways, int node, const struct coord__name *from,
                             const struct coord__name *to, const struct plan_link *link)
{
    enum proto_status status = reserve(ways, node, (size_t)from->count * to->count);
    if (status)
        return status;
    for (uint32_t i = from->first; i < from->first + from->count; i++)
        for (uint32_t k = to->first; k < to->first + to->count; k++)
            if (i != k)
                ways->items[ways->n++] =
                    (struct way){.link = {.from = i, .to = k, .link = *link}, .node = node};
    return PROTO_OK;
}

static enum proto_status fail_ends(const struct coord__cluster_reader *r, int node)
{
    return coord_tree_fail(r->tree, node, PROTO_INVALID,
                           "a link does not name two ends, expected between: [a, b], or from: a "
                           "and to: b");
}

static enum proto_status find_ends(const struct coord__cluster_reader *r, int node,
                                   const struct link_text *text, const struct coord__name *ends[2])
{
    int names[2] = {text->from, text->to};
    if (text->between && (text->from || text->to))
        return fail_ends(r, node);
    if (text->between && coord_tree_count(r->tree, text->between) != 2)
        return fail_ends(r, text->between);
    for (int i = 0; i < 2 && text->between; i++)
        names[i] = coord_tree_item(r->tree, text->between, i);
    if (!names[0] || !names[1])
        return fail_ends(r, node);
    enum proto_status status = find_name(r, names[0], &ends[0]);
    if (!status)
        status = find_name(r, names[1], &ends[1]);
    if (!status && ends[0] == ends[1] && ends[0]->count == 1)
        status =
            coord_tree_fail(r->tree, node, PROTO_INVALID,
                            "a link is from %s to itself, expected two machines", ends[0]->name);
    return status;
}

static enum proto_status read_link(struct ways *ways, int node)
{
    struct link_text text = {0};
    const struct coord__name *ends[2];
    const struct coord__cluster_reader *r = ways->r;
    enum proto_status status =
        coord_tree_read(r->tree, node, "a link", link_fields, N_FIELDS, &text);
    if (!status)
        status = find_ends(r, node, &text, ends);
    if (!status)
        status = add(ways, node, ends[0], ends[1], &text.link);
    if (!status && text.between && ends[0] != ends[1])
        status = add(ways, node, ends[1], ends[0], &text.link);
    return status;
}

static int compare_ends(const struct plan_named_link *a, const struct plan_named_link *b)
{
    if (a->from != b->from)
        return a->from < b->from ? -1 : 1;
    return a->to < b->to ? -1 : a->to > b->to;
}

static int compare_ways(const void *a, const void *b)
{
    return compare_ends(&((const struct way *)a)->link, &((const struct way *)b)->link);
}

/* Whether the first n ways, which are sorted, have that one. */
static bool is_named(const struct ways *ways, size_t n, uint32_t from, uint32_t to)
{
    const struct way key = {.link = {.from = from, .to = to}};
    return n && bsearch(&key, ways->items, n, sizeof key, compare_ways);
}

static enum proto_status fail_pair(const struct ways *ways, int node, uint32_t from, uint32_t to,
                                   const char *what)
{
    const struct plan_machine *machines = ways->r->cluster->machines;
    return coord_tree_fail(ways->r->tree, node, PROTO_INVALID, "the link from %s to %s is %s",
                           machines[from].name, machines[to].name, what);
}

static enum proto_status check_twice(const struct ways *ways)
{
    for (size_t i = 1; i < ways->n; i++) {
        const struct way *a = &ways->items[i - 1], *b = &ways->items[i];
        if (compare_ways(a, b) == 0)
            return fail_pair(ways,
                             coord_tree_before(ways->r->tree, a->node, b->node) ? b->node : a->node,
                             b->link.from, b->link.to, "there twice, expected it once");
    }
    return PROTO_OK;
}

/* A file without `link` must name every pair: fails with the first that it does not. */
static enum proto_status check_whole(const struct ways *ways, int list)
{
    uint32_t n = ways->r->cluster->n_machines;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++)
            if (i != k && !is_named(ways, ways->n, i, k))
                return fail_pair(ways, list, i, k,
                                 "missing, expected it in this list, or link: for all that are "
                                 "not in it");
    return PROTO_OK;
}

/* The other way of what is named one way is as `link` says. */
static enum proto_status add_ways_back(struct ways *ways)
{
    size_t n = ways->n;
    enum proto_status status = PROTO_OK;
    for (size_t i = 0; i < n && !status; i++) {
        struct way way = ways->items[i];
        if (is_named(ways, n, way.link.to, way.link.from))
            continue;
        status = reserve(ways, way.node, 1);
        if (!status)
            ways->items[ways->n++] =
                (struct way){{way.link.to, way.link.from, ways->r->cluster->any}, way.node};
    }
    if (ways->n > n)
        qsort(ways->items, ways->n, sizeof *ways->items, compare_ways);
    return status;
}

static enum proto_status read_list(struct ways *ways, int list)
{
    char shown[COORD_TREE_SHOWN];
    const struct coord_tree *tree = ways->r->tree;
    long n = coord_tree_count(tree, list);
    if (n < 0)
        return coord_tree_fail(tree, list, PROTO_INVALID,
                               "links is %s, expected a list such as - {between: [a, b], rtt_ms: "
                               "0.3, mbit_s: 1000}",
                               coord_tree_show(tree, list, shown));
    enum proto_status status = PROTO_OK;
    for (long i = 0; i < n && !status; i++)
        status = read_link(ways, coord_tree_item(tree, list, i));
    if (status || !ways->n)
        return status;
    qsort(ways->items, ways->n, sizeof *ways->items, compare_ways);
    status = check_twice(ways);
    const struct plan_link *any = &ways->r->cluster->any;
    if (!status && any->rtt_s <= 0 && any->bytes_s <= 0)
        status = check_whole(ways, list);
    return status ? status : add_ways_back(ways);
}

static enum proto_status keep(const struct ways *ways)
{
    struct plan_cluster *cluster = ways->r->cluster;
    cluster->links = calloc(ways->n + 1, sizeof *cluster->links);
    if (!cluster->links)
        return coord_tree_fail_nomem(ways->r->tree, (ways->n + 1) * sizeof *cluster->links);
    for (size_t i = 0; i < ways->n; i++)
        cluster->links[i] = ways->items[i].link;
    cluster->n_links = (uint32_t)ways->n;
    return PROTO_OK;
}

enum proto_status coord__cluster_links(struct coord__cluster_reader *r, int link, int links)
{
    struct ways ways = {.r = r};
    struct link_text any = {0};
    enum proto_status status = PROTO_OK;
    if (link)
        status = coord_tree_read(r->tree, link, "link", link_fields, N_NUMBERS, &any);
    r->cluster->any = any.link;
    if (!status && links)
        status = read_list(&ways, links);
    if (!status)
        status = keep(&ways);
    free(ways.items);
    return status;
}
