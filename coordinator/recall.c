/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an engine of an earlier life knew of its workers, as lines of text: who they were, in the
 * order in which plans take them, and what was measured of the links between them. So the same
 * workers get the same parts after a restart, and load nothing again. A worker is recognised by its
 * key; until it joins it counts as lost. What was measured of one that has moved is forgotten.
 *
 *     served MODEL                             (the hash of its header)
 *     worker KEY HOST NAME
 *     link FROM TO SECONDS BYTES_A_SECOND      (numbers of workers from 0, or "here")
 *
 * and the plan that they carried out (last_plan.c).
 */
#include "coordinator/parts.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEX_BYTES (2 * PROTO_KEY_BYTES + 1)

/* "tcp://10.0.0.7:4711": "10.0.0.7"; nothing of what has no address. */
static void host_of(const char *endpoint, char host[NET_ADDRESS_BYTES])
{
    const char *start = strstr(endpoint, "://"), *end = strrchr(endpoint, ':');
    size_t len = start && end > start + 3 ? (size_t)(end - start - 3) : 0;
    snprintf(host, NET_ADDRESS_BYTES, "%.*s", (int)len, len ? start + 3 : "");
}

/* ---- telling ---- */

static void tell_link(FILE *out, const char *from, const char *to,
                      const struct coord_link_rate *rate)
{
    if (rate->rtt_s > 0)
        fprintf(out, "link %s %s %.9g %.9g\n", from, to, rate->rtt_s, rate->bytes_s);
}

/* Numbers of the workers from elsewhere among all, less those that were sent away: these are not
 * missed. Children have other keys in each life. */
static uint32_t list_remote(const struct coord_engine *e, uint32_t *numbers)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (!e->workers[i]->local && e->workers[i]->state != COORD_LEFT)
            numbers[n++] = i;
    return n;
}

static void tell(FILE *out, const struct coord_engine *e)
{
    uint32_t numbers[PROTO_MAX_WORKERS], n = list_remote(e, numbers);
    char key[HEX_BYTES], host[NET_ADDRESS_BYTES], from[16], to[16];
    char model[2 * PROTO_HASH_BYTES + 1];
    coord_engine_fingerprint(e, model);
    if (e->was_ready || e->served_before)
        fprintf(out, "served %s\n", model);
    for (uint32_t i = 0; i < n; i++) {
        const struct coord_worker *w = e->workers[numbers[i]];
        sodium_bin2hex(key, sizeof key, w->key, PROTO_KEY_BYTES);
        if (w->recalled)
            snprintf(host, sizeof host, "%s", w->recalled_host);
        else
            host_of(w->endpoint, host);
        fprintf(out, "worker %s %s %s\n", key, host[0] ? host : "-", w->name);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct coord_worker *w = e->workers[numbers[i]];
        snprintf(from, sizeof from, "%u", i);
        tell_link(out, "here", from, &w->from_here);
        tell_link(out, from, "here", &w->links[COORD_HERE]);
        for (uint32_t k = 0; k < n; k++) {
            snprintf(to, sizeof to, "%u", k);
            tell_link(out, from, to, &w->links[numbers[k]]);
        }
    }
    engine__tell_plan(out, e, numbers, n);
}

struct question {
    const struct coord_engine *e;
    char *text;
};

static void answer(void *arg)
{
    struct question *q = arg;
    size_t len;
    FILE *out = open_memstream(&q->text, &len);
    if (!out)
        return;
    tell(out, q->e);
    fclose(out);
}

char *coord_engine_memory(struct coord_engine *e)
{
    struct question q = {.e = e};
    engine__call(e, answer, &q);
    return q.text;
}

/* ---- recalling ---- */

static enum proto_status recall_worker(struct coord_engine *e, const char *line,
                                       struct proto_error *error)
{
    char key[HEX_BYTES], host[NET_ADDRESS_BYTES], name[64];
    size_t len;
    if (sscanf(line, "worker %64s %255s %63[^\n]", key, host, name) != 3 ||
        e->n_workers == PROTO_MAX_WORKERS)
        return PROTO_OK;
    struct coord_worker *w = calloc(1, sizeof *w);
    if (!w)
        return proto_fail_nomem(error, sizeof *w, "a worker");
    if (sodium_hex2bin(w->key, sizeof w->key, key, strlen(key), NULL, &len, NULL) ||
        len != sizeof w->key) {
        free(w);
        return PROTO_OK;
    }
    w->state = COORD_LOST;
    w->recalled = true;
    snprintf(w->name, sizeof w->name, "%s", name);
    snprintf(w->recalled_host, sizeof w->recalled_host, "%s", host);
    e->workers[e->n_workers++] = w;
    return PROTO_OK;
}

static bool read_end(const struct coord_engine *e, const char *text, uint32_t *end)
{
    char *rest;
    *end = COORD_HERE;
    if (strcmp(text, "here") == 0)
        return true;
    unsigned long number = strtoul(text, &rest, 10);
    *end = (uint32_t)number;
    return rest != text && !*rest && number < e->n_workers;
}

static void recall_link(struct coord_engine *e, const char *line)
{
    char ends[2][16];
    struct coord_link_rate rate = {.tried = true};
    uint32_t from, to;
    if (sscanf(line, "link %15s %15s %lf %lf", ends[0], ends[1], &rate.rtt_s, &rate.bytes_s) != 4 ||
        !read_end(e, ends[0], &from) || !read_end(e, ends[1], &to) || from == to ||
        !(rate.rtt_s > 0) || !(rate.bytes_s > 0))
        return;
    if (from == COORD_HERE)
        e->workers[to]->from_here = rate;
    else
        e->workers[from]->links[to] = rate;
}

static void recall_served(struct coord_engine *e, const char *line)
{
    char model[2 * PROTO_HASH_BYTES + 1];
    coord_engine_fingerprint(e, model);
    e->served_before |= strncmp(line, model, strlen(model)) == 0;
}

enum proto_status engine__recall(struct coord_engine *e, const char *memory,
                                 struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (const char *line = memory; line && *line && !status;) {
        if (strncmp(line, "served ", 7) == 0)
            recall_served(e, line + 7);
        else if (strncmp(line, "worker ", 7) == 0)
            status = recall_worker(e, line, error);
        else if (strncmp(line, "link ", 5) == 0)
            recall_link(e, line);
        else
            engine__recall_plan(e, line);
        line = strchr(line, '\n');
        line += line != NULL;
    }
    return status;
}

bool engine__recalled(struct coord_worker *w)
{
    char host[NET_ADDRESS_BYTES];
    bool recalled = w->recalled;
    w->recalled = false;
    host_of(w->endpoint, host);
    return recalled && strcmp(host, w->recalled_host) == 0;
}
