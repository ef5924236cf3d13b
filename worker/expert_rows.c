/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/expert_rows.h"

#include <string.h>

#include "worker/exec_sum.h"

#define HEADER_BYTES 16u
#define GROUP_BYTES  8u
#define MEMBER_BYTES 8u
#define JOINED       0x80u

uint32_t worker_expert_rows_most(const struct worker_expert_shape *shape)
{
    return shape->max_rows * shape->n_used * shape->n_segments;
}

uint32_t worker_expert_vectors(const struct worker_expert_shape *shape,
                               const struct worker_expert_group *group)
{
    if (!group->joined)
        return group->segment_end - group->segment_first;
    return worker__segment_nodes(shape->n_segments, group->segment_first, group->segment_end);
}

uint64_t worker_expert_request_bytes(const struct worker_expert_shape *shape,
                                     const struct worker_expert_rows *rows)
{
    return HEADER_BYTES + (uint64_t)rows->n_groups * GROUP_BYTES +
           (uint64_t)rows->n_members * MEMBER_BYTES +
           (uint64_t)rows->n_rows * (shape->gate_bytes + shape->up_bytes);
}

uint64_t worker_expert_answer_bytes(const struct worker_expert_shape *shape,
                                    const struct worker_expert_rows *rows)
{
    return (uint64_t)rows->n_vectors * shape->n_embd * sizeof(float);
}

static uint8_t *put(uint8_t *to, const void *value, size_t bytes)
{
    memcpy(to, value, bytes);
    return to + bytes;
}

void *worker_expert_rows_write(void *to, const struct worker_expert_rows *rows)
{
    const uint32_t header[4] = {rows->n_rows, rows->n_groups, rows->n_members, 0};
    uint8_t *at = put(to, header, sizeof header);
    for (uint32_t i = 0; i < rows->n_groups; i++) {
        const struct worker_expert_group *g = &rows->groups[i];
        uint8_t segments[2] = {g->segment_first,
                               (uint8_t)(g->segment_end | (g->joined ? JOINED : 0))};
        at = put(at, &g->row, sizeof g->row);
        at = put(at, &g->n_members, sizeof g->n_members);
        at = put(at, segments, sizeof segments);
    }
    for (uint32_t i = 0; i < rows->n_members; i++) {
        at = put(at, &rows->members[i].expert, sizeof rows->members[i].expert);
        at = put(at, &rows->members[i].weight, sizeof rows->members[i].weight);
    }
    return at;
}

/* Takes the next group from a request. */
static const uint8_t *take_group(struct worker_expert_group *g, const uint8_t *from)
{
    memcpy(&g->row, from, sizeof g->row);
    memcpy(&g->n_members, from + 4, sizeof g->n_members);
    g->segment_first = from[6];
    g->segment_end = from[7] & (uint8_t)~JOINED;
    g->joined = from[7] & JOINED;
    return from + GROUP_BYTES;
}

static enum proto_status check_header(const struct worker_expert_shape *shape,
                                      struct worker_expert_rows *rows, const uint8_t *bytes,
                                      size_t len, struct proto_error *error)
{
    uint32_t header[4], most = worker_expert_rows_most(shape);
    if (len < sizeof header)
        return proto_fail(error, PROTO_FORMAT,
                          "a request for experts has %zu bytes, expected at least %zu", len,
                          sizeof header);
    memcpy(header, bytes, sizeof header);
    rows->n_rows = header[0];
    rows->n_groups = header[1];
    rows->n_members = header[2];
    if (rows->n_rows == 0 || rows->n_rows > shape->max_rows || rows->n_groups > most ||
        rows->n_members > most || header[3] != 0)
        return proto_fail(error, PROTO_FORMAT,
                          "a request for experts says %u rows, %u groups and %u experts (%u), "
                          "expected 1 to %u rows and at most %u of the others (0)",
                          rows->n_rows, rows->n_groups, rows->n_members, header[3], shape->max_rows,
                          most);
    uint64_t expected = worker_expert_request_bytes(shape, rows);
    if (len != expected)
        return proto_fail(error, PROTO_FORMAT,
                          "a request for experts has %zu bytes, expected %llu for %u rows", len,
                          (unsigned long long)expected, rows->n_rows);
    return PROTO_OK;
}

/* What is known of a row so far: segments asked for, by expert. */
struct row_seen {
    uint8_t segments[PROTO_MAX_EXPERTS];
    uint32_t n_experts;
};

/* An expert's segments may be asked for once a row: their products have one place. */
static bool see_member(struct row_seen *seen, const struct worker_expert_shape *shape,
                       const struct worker_expert_group *g, uint32_t expert)
{
    uint8_t mask = (uint8_t)((1u << g->segment_end) - (1u << g->segment_first));
    if (expert >= shape->n_experts || seen->segments[expert] & mask)
        return false;
    seen->n_experts += seen->segments[expert] == 0;
    seen->segments[expert] |= mask;
    return seen->n_experts <= shape->n_used;
}

static bool see_group(struct row_seen *seen, const struct worker_expert_shape *shape,
                      const struct worker_expert_rows *rows, const struct worker_expert_group *g)
{
    const struct worker_expert_member *members = rows->members + g->first_member;
    if (g->n_members == 0 || g->n_members > rows->n_members - g->first_member ||
        g->segment_first >= g->segment_end || g->segment_end > shape->n_segments)
        return false;
    for (uint32_t i = 0; i < g->n_members; i++) {
        if ((i > 0 && members[i].expert <= members[i - 1].expert) ||
            !see_member(seen, shape, g, members[i].expert))
            return false;
    }
    return true;
}

/* Groups in order of row, each row with at least one; the first comes after row -1. */
static bool follows(const struct worker_expert_rows *rows, uint32_t i)
{
    uint32_t row = rows->groups[i].row;
    return i == 0 ? row == 0 : row == rows->groups[i - 1].row || row == rows->groups[i - 1].row + 1;
}

static bool take_groups(struct worker_expert_rows *rows, const struct worker_expert_shape *shape,
                        const uint8_t *from)
{
    struct row_seen seen = {{0}, 0};
    uint32_t n_members = 0;
    rows->n_vectors = 0;
    for (uint32_t i = 0; i < rows->n_groups; i++) {
        struct worker_expert_group *g = &rows->groups[i];
        from = take_group(g, from);
        g->first_member = n_members;
        g->first_vector = rows->n_vectors;
        if (i > 0 && g->row != rows->groups[i - 1].row)
            seen = (struct row_seen){{0}, 0};
        if (!follows(rows, i) || !see_group(&seen, shape, rows, g))
            return false;
        n_members += g->n_members;
        rows->n_vectors += worker_expert_vectors(shape, g);
    }
    return n_members == rows->n_members && rows->n_groups > 0 &&
           rows->groups[rows->n_groups - 1].row + 1 == rows->n_rows;
}

enum proto_status worker_expert_rows_parse(struct worker_expert_rows *out,
                                           const struct worker_expert_shape *shape,
                                           const void *bytes, size_t len, struct proto_error *error)
{
    enum proto_status status = check_header(shape, out, bytes, len, error);
    if (status != PROTO_OK)
        return status;
    const uint8_t *groups = (const uint8_t *)bytes + HEADER_BYTES;
    const uint8_t *members = groups + (size_t)out->n_groups * GROUP_BYTES;
    for (uint32_t i = 0; i < out->n_members; i++) {
        const uint8_t *from = members + (size_t)i * MEMBER_BYTES;
        memcpy(&out->members[i].expert, from, sizeof out->members[i].expert);
        memcpy(&out->members[i].weight, from + 4, sizeof out->members[i].weight);
    }
    out->records = (const char *)members + (size_t)out->n_members * MEMBER_BYTES;
    if (!take_groups(out, shape, groups))
        return proto_fail(error, PROTO_FORMAT,
                          "a request for experts of %u rows has groups that are none: expected "
                          "rows and experts in order, each expert's segments once, and at most %u "
                          "experts a row",
                          out->n_rows, shape->n_used);
    if (worker_expert_answer_bytes(shape, out) > PROTO_MAX_PAYLOAD_BYTES)
        return proto_fail(error, PROTO_LIMIT,
                          "a request for experts of %u rows asks for %u sums of %u values, more "
                          "than a frame holds; use smaller batches",
                          out->n_rows, out->n_vectors, shape->n_embd);
    return PROTO_OK;
}
