/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A layer whose experts are in part on other workers.
 *
 * Each (row, expert, segment) is given to a host. A row's segments fall into runs in which its
 * experts have the same hosts; in a run, a piece is a maximal node of the tree of experts all of
 * whose chosen ones are one host's. Hosts answer with the sums of their pieces, and what is left to
 * add here is the upper part of the trees. So which host computed what never shows in the result.
 */
#include "worker/exec_remote.h"

#include <stdlib.h>
#include <string.h>

#include "worker/exec_experts.h"
#include "worker/exec_sum.h"

enum proto_status worker__vectors_take(struct worker__vectors *vectors, size_t n_floats,
                                       struct proto_error *error)
{
    if (n_floats <= vectors->n_floats)
        return PROTO_OK;
    free(vectors->at);
    size_t bytes = (n_floats * sizeof(float) + 63) / 64 * 64;
    vectors->at = aligned_alloc(64, bytes);
    vectors->n_floats = vectors->at ? n_floats : 0;
    return vectors->at ? PROTO_OK : proto_fail_nomem(error, bytes, "rows of experts");
}

/* An operation under way. */
struct job {
    struct worker_exec *e;
    struct worker__remote *r;
    const struct worker__holders *holders;
    const struct shard_op *op;
    struct worker_expert_shape shape;
    size_t ld;
    /* Of the row at hand: where its choices are in e->asked.members, and their hosts by segment. */
    uint32_t row, first_member;
    uint16_t (*hosts)[SHARD_EXPERT_SEGMENTS];
};

static bool is_holder(const struct job *job, uint32_t expert, uint32_t segment, uint32_t host)
{
    const uint32_t *start = &job->holders->start[expert * job->shape.n_segments + segment];
    for (uint32_t i = start[0]; i < start[1]; i++) {
        if (job->holders->holders[i] == host)
            return true;
    }
    return false;
}

/* The holder that has the fewest of the operation's so far, of equal ones the first; the stage's
 * own worker in any case. */
static uint16_t choose_holder(const struct job *job, uint32_t expert, uint32_t segment)
{
    const uint32_t *start = &job->holders->start[expert * job->shape.n_segments + segment];
    const uint16_t *holders = job->holders->holders;
    uint16_t best = holders[start[0]];
    for (uint32_t i = start[0] + 1; i < start[1] && best != 0; i++) {
        if (job->r->shares[holders[i]].n_chosen < job->r->shares[best].n_chosen)
            best = holders[i];
    }
    job->r->shares[best].n_chosen++;
    return best;
}

/* A host goes on with later segments that it has. */
static void choose_hosts(const struct job *job, uint32_t choice)
{
    uint32_t expert = job->e->asked.members[job->first_member + choice].expert;
    uint16_t host = 0;
    for (uint32_t s = 0; s < job->shape.n_segments; s++) {
        if (s == 0 || !is_holder(job, expert, s, host))
            host = choose_holder(job, expert, s);
        job->hosts[choice][s] = host;
    }
}

static void add_piece(const struct job *job, uint32_t first, uint32_t n, uint32_t segment_first,
                      uint32_t segment_end)
{
    struct worker__remote *r = job->r;
    struct worker__piece *piece = &r->pieces[r->n_pieces++];
    piece->host = job->hosts[first][segment_first];
    piece->group = (struct worker_expert_group){.row = job->row,
                                                .first_member = job->first_member + first,
                                                .n_members = (uint16_t)n,
                                                .segment_first = (uint8_t)segment_first,
                                                .segment_end = (uint8_t)segment_end,
                                                .joined = n == job->op->n_used,
                                                .first_vector = r->shares[piece->host].n_vectors};
    r->shares[piece->host].n_vectors += worker_expert_vectors(&job->shape, &piece->group);
}

static bool one_host(const struct job *job, uint32_t first, uint32_t n, uint32_t segment)
{
    for (uint32_t i = first + 1; i < first + n; i++) {
        if (job->hosts[i][segment] != job->hosts[first][segment])
            return false;
    }
    return true;
}

/* Pieces of choices [first, first + n), which are those under node [lo, hi). */
static void cut_choices(const struct job *job, uint32_t first, uint32_t n, uint32_t lo, uint32_t hi,
                        uint32_t segment_first, uint32_t segment_end)
{
    const struct worker_expert_member *members = &job->e->asked.members[job->first_member + first];
    uint32_t mid = (lo + hi) / 2, below = 0;
    if (n == 0)
        return;
    if (one_host(job, first, n, segment_first)) {
        add_piece(job, first, n, segment_first, segment_end);
        return;
    }
    while (below < n && members[below].expert < mid)
        below++;
    cut_choices(job, first, below, lo, mid, segment_first, segment_end);
    cut_choices(job, first + below, n - below, mid, hi, segment_first, segment_end);
}

/* The end of the run of segments from `first` on in which every choice keeps its host. */
static uint32_t run_end(const struct job *job, uint32_t first)
{
    uint32_t end = first + 1;
    for (; end < job->shape.n_segments; end++) {
        for (uint32_t i = 0; i < job->op->n_used; i++) {
            if (job->hosts[i][end] != job->hosts[i][first])
                return end;
        }
    }
    return end;
}

static void share_row(struct job *job, uint32_t row)
{
    uint32_t n = job->op->n_used;
    job->row = row;
    job->first_member = row * n;
    job->r->row_pieces[row] = job->r->n_pieces;
    for (uint32_t i = 0; i < n; i++)
        choose_hosts(job, i);
    for (uint32_t s = 0, end; s < job->shape.n_segments; s = end) {
        end = run_end(job, s);
        cut_choices(job, 0, n, 0, job->shape.n_experts, s, end);
    }
}

/* Shares the rows out, and numbers all hosts' vectors. */
static void share_rows(struct job *job, size_t n_rows)
{
    struct worker__remote *r = job->r;
    uint16_t hosts[PROTO_MAX_EXPERTS][SHARD_EXPERT_SEGMENTS];
    uint32_t n_vectors = 0;
    memset(r->shares, 0, job->holders->n_hosts * sizeof *r->shares);
    r->n_pieces = r->n_waiting = 0;
    job->hosts = hosts;
    for (uint32_t row = 0; row < n_rows; row++)
        share_row(job, row);
    job->hosts = NULL;
    r->row_pieces[n_rows] = r->n_pieces;
    for (uint32_t h = 0; h < job->holders->n_hosts; h++) {
        r->shares[h].first_vector = n_vectors;
        n_vectors += r->shares[h].n_vectors;
    }
}

/* A host's pieces as the groups of a request, rows numbered anew. */
static struct worker_expert_rows list_request(const struct job *job, uint32_t host)
{
    struct worker__remote *r = job->r;
    struct worker_expert_rows rows = {.groups = r->groups, .members = r->members};
    for (uint32_t i = 0; i < r->n_pieces; i++) {
        const struct worker_expert_group *g = &r->pieces[i].group;
        if (r->pieces[i].host != host)
            continue;
        if (rows.n_rows == 0 || r->rows[rows.n_rows - 1] != g->row)
            r->rows[rows.n_rows++] = g->row;
        rows.groups[rows.n_groups] = *g;
        rows.groups[rows.n_groups++].row = rows.n_rows - 1;
        memcpy(rows.members + rows.n_members, job->e->asked.members + g->first_member,
               g->n_members * sizeof *rows.members);
        rows.n_members += g->n_members;
    }
    rows.n_vectors = r->shares[host].n_vectors;
    return rows;
}

static void write_records(const struct job *job, char *to, uint32_t n_rows)
{
    struct worker__operand gate = worker__expert_operand(job->e, job->op->a);
    struct worker__operand up = worker__expert_operand(job->e, job->op->c);
    for (uint32_t i = 0; i < n_rows; i++) {
        size_t row = job->r->rows[i];
        memcpy(to, gate.rows + row * gate.stride, job->shape.gate_bytes);
        to += job->shape.gate_bytes;
        memcpy(to, up.rows + row * up.stride, job->shape.up_bytes);
        to += job->shape.up_bytes;
    }
}

static enum proto_status check_frames(const struct job *job, uint32_t host,
                                      const struct worker_expert_rows *rows,
                                      struct proto_error *error)
{
    uint64_t bytes = worker_expert_request_bytes(&job->shape, rows);
    uint64_t answer = worker_expert_answer_bytes(&job->shape, rows);
    bytes = answer > bytes ? answer : bytes;
    if (bytes <= PROTO_MAX_PAYLOAD_BYTES)
        return PROTO_OK;
    return proto_fail(error, PROTO_LIMIT,
                      "%u rows for the experts of layer %u on worker %u take a frame of %llu "
                      "bytes, and at most %u are sent at once; use smaller batches",
                      rows->n_rows, job->op->layer, job->holders->workers[host],
                      (unsigned long long)bytes, PROTO_MAX_PAYLOAD_BYTES);
}

static enum proto_status send_to(const struct job *job, uint32_t host, struct proto_error *error)
{
    struct worker__remote *r = job->r;
    struct worker_expert_rows rows = list_request(job, host);
    enum proto_status status = check_frames(job, host, &rows, error);
    if (status != PROTO_OK)
        return status;
    size_t bytes = worker_expert_request_bytes(&job->shape, &rows);
    status = worker__vectors_take(&r->request, (bytes + 3) / sizeof(float), error);
    if (status != PROTO_OK)
        return status;
    write_records(job, worker_expert_rows_write(r->request.at, &rows), rows.n_rows);
    r->shares[host].waiting = true;
    r->n_waiting++;
    return r->transport->send(r->transport->arg, job->holders->workers[host], job->op->layer,
                              r->request.at, bytes, error);
}

static struct job job_of(struct worker_exec *e, const struct shard_op *op, size_t holders)
{
    return (struct job){.e = e,
                        .r = &e->remote,
                        .holders = &e->remote.holders[holders],
                        .op = op,
                        .shape = worker__expert_shape(e, op),
                        .ld = shard_record_floats(e->program->model->n_embd)};
}

enum proto_status worker__experts_send(struct worker_exec *e, const struct shard_op *op,
                                       size_t n_rows, struct proto_error *error)
{
    struct job job = job_of(e, op, (size_t)(op - e->program->ops));
    enum proto_status status = PROTO_OK;
    worker__list_choices(e, op, n_rows);
    share_rows(&job, n_rows);
    for (uint32_t h = 1; h < job.holders->n_hosts && !status; h++) {
        if (e->remote.shares[h].n_vectors)
            status = send_to(&job, h, error);
    }
    return status;
}

static void compute_own(const struct job *job)
{
    struct worker__remote *r = job->r;
    struct worker__expert_rows rows = {.gate = worker__expert_operand(job->e, job->op->a),
                                       .up = worker__expert_operand(job->e, job->op->c),
                                       .groups = r->groups,
                                       .members = job->e->asked.members,
                                       .vectors = r->vectors.at,
                                       .ld = job->ld};
    for (uint32_t i = 0; i < r->n_pieces; i++) {
        if (r->pieces[i].host == 0)
            r->groups[rows.n_groups++] = r->pieces[i].group;
    }
    worker__experts_compute(job->e, job->op, &rows);
}

static enum proto_status take_answer(const struct job *job, uint32_t worker, const void *data,
                                     size_t len, struct proto_error *error)
{
    struct worker__remote *r = job->r;
    size_t width = job->shape.n_embd;
    uint32_t h = 1;
    while (h < job->holders->n_hosts && job->holders->workers[h] != worker)
        h++;
    if (h == job->holders->n_hosts || !r->shares[h].waiting)
        return proto_fail(error, PROTO_FORMAT,
                          "worker %u answers for experts of layer %u, which nobody asked it for",
                          worker, job->op->layer);
    size_t expected = r->shares[h].n_vectors * width * sizeof(float);
    if (len != expected)
        return proto_fail(error, PROTO_FORMAT,
                          "worker %u answers for experts of layer %u with %zu bytes, expected %zu",
                          worker, job->op->layer, len, expected);
    for (uint32_t i = 0; i < r->shares[h].n_vectors; i++)
        memcpy(r->vectors.at + (r->shares[h].first_vector + i) * job->ld,
               (const char *)data + i * width * sizeof(float), width * sizeof(float));
    r->shares[h].waiting = false;
    r->n_waiting--;
    return PROTO_OK;
}

static enum proto_status receive_all(const struct job *job, struct proto_error *error)
{
    const struct worker_remote *transport = job->r->transport;
    enum proto_status status = PROTO_OK;
    while (job->r->n_waiting > 0 && !status) {
        const void *data;
        size_t len;
        uint32_t worker;
        status = transport->receive(transport->arg, &worker, &data, &len, error);
        if (status == PROTO_OK)
            status = take_answer(job, worker, data, len, error);
    }
    return status;
}

static float *vector_of(const struct job *job, const struct worker__piece *piece, uint32_t i)
{
    size_t vector = job->r->shares[piece->host].first_vector + piece->group.first_vector + i;
    return job->r->vectors.at + vector * job->ld;
}

/* Terms of the tree of segments: pieces [first, end) are those of one run. A host that has all of
 * its experts answered for whole nodes. Returns how many. */
static uint32_t list_run(const struct job *job, struct worker__term *to, uint32_t first,
                         uint32_t end)
{
    const struct worker__piece *pieces = &job->r->pieces[first];
    const struct worker_expert_group *g = &pieces->group;
    struct worker__term terms[PROTO_MAX_EXPERTS];
    uint32_t n = 0, next;
    for (uint32_t s = g->segment_first; s < g->segment_end; s = next, n++) {
        next = g->joined ? worker__segment_node(job->shape.n_segments, s, g->segment_end) : s + 1;
        for (uint32_t i = 0; i < end - first; i++)
            terms[i] = (struct worker__term){
                .number = job->e->asked.members[pieces[i].group.first_member].expert,
                .values = vector_of(job, &pieces[i], n)};
        to[n] = (struct worker__term){.number = s,
                                      .values = worker__sum_terms(job->e->table, terms, end - first,
                                                                  0, job->shape.n_experts,
                                                                  job->shape.n_embd)};
    }
    return n;
}

static void add_row(const struct job *job, size_t row)
{
    const struct worker__piece *pieces = job->r->pieces;
    struct worker__term terms[SHARD_EXPERT_SEGMENTS];
    uint32_t last = job->r->row_pieces[row + 1], n = 0, end;
    for (uint32_t i = job->r->row_pieces[row]; i < last; i = end) {
        end = i + 1;
        while (end < last && pieces[end].group.segment_first == pieces[i].group.segment_first)
            end++;
        n += list_run(job, terms + n, i, end);
    }
    memcpy(worker__at(job->e, job->op->dst, row),
           worker__sum_terms(job->e->table, terms, n, 0, job->shape.n_segments, job->shape.n_embd),
           job->shape.n_embd * sizeof(float));
}

static void add_rows(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    for (size_t row = first; row < last; row++)
        add_row(arg, row);
}

/* The EXPERTS_SEND of the same layer, before operation `number`. */
static size_t send_of(const struct shard_program *p, size_t number)
{
    while (p->ops[number].kind != SHARD_OP_EXPERTS_SEND)
        number--;
    return number;
}

enum proto_status worker__experts_collect(struct worker_exec *e, const struct shard_op *op,
                                          size_t n_rows, struct proto_error *error)
{
    struct job job = job_of(e, op, send_of(e->program, (size_t)(op - e->program->ops)));
    const struct worker__host_share *last = &e->remote.shares[job.holders->n_hosts - 1];
    size_t n_vectors = (size_t)last->first_vector + last->n_vectors;
    enum proto_status status = worker__vectors_take(&e->remote.vectors, n_vectors * job.ld, error);
    if (status != PROTO_OK)
        return status;
    compute_own(&job);
    status = receive_all(&job, error);
    if (status == PROTO_OK)
        kern_pool_run(e->pool, n_rows, 0, add_rows, &job);
    return status;
}

/* Other workers with experts of a layer, ascending, after the program's own. */
static uint32_t list_hosts(uint32_t *workers, const struct shard_program *p, uint32_t layer)
{
    uint32_t n = 1;
    workers[0] = p->worker;
    for (uint32_t i = 0; i < p->n_placement; i++) {
        const struct shard_expert_part *part = &p->placement[i];
        uint32_t at = n;
        if (layer < part->layer_first || layer >= part->layer_end || part->worker == p->worker)
            continue;
        while (at > 1 && workers[at - 1] > part->worker)
            at--;
        if (at > 1 && workers[at - 1] == part->worker)
            continue;
        memmove(workers + at + 1, workers + at, (n - at) * sizeof *workers);
        workers[at] = part->worker;
        n++;
    }
    return n;
}

static bool has_segment(const struct shard_program *p, uint32_t worker, uint32_t layer,
                        uint32_t expert, uint32_t segment)
{
    uint32_t n = shard_expert_segments(p->model->ff_expert).n;
    for (uint32_t i = 0; i < p->n_placement; i++) {
        if (p->placement[i].worker == worker &&
            shard_part_has(&p->placement[i], n, layer, expert, segment))
            return true;
    }
    return false;
}

static enum proto_status find_holders(struct worker__holders *h, const struct shard_program *p,
                                      uint32_t layer, struct proto_error *error)
{
    uint32_t segments = shard_expert_segments(p->model->ff_expert).n, at = 0;
    uint32_t n = p->model->n_experts * segments;
    h->workers = calloc((size_t)p->n_placement + 1, sizeof *h->workers);
    h->start = calloc((size_t)n + 1, sizeof *h->start);
    if (h->workers)
        h->n_hosts = list_hosts(h->workers, p, layer);
    h->holders = calloc((size_t)n * h->n_hosts + 1, sizeof *h->holders);
    if (!h->workers || !h->start || !h->holders)
        return proto_fail_nomem(error, n * sizeof *h->start, "holders of experts");
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t host = 0; host < h->n_hosts; host++) {
            if (has_segment(p, h->workers[host], layer, i / segments, i % segments))
                h->holders[at++] = (uint16_t)host;
        }
        h->start[i + 1] = at;
    }
    return PROTO_OK;
}

static uint64_t most_pieces(const struct shard_program *p, uint32_t max_rows)
{
    return (uint64_t)max_rows * p->model->n_experts_used *
           shard_expert_segments(p->model->ff_expert).n;
}

static enum proto_status allocate(struct worker__remote *r, const struct shard_program *p,
                                  uint32_t max_rows, struct proto_error *error)
{
    size_t n = most_pieces(p, max_rows) + 1;
    r->holders = calloc(p->n_ops, sizeof *r->holders);
    r->n_holders = r->holders ? p->n_ops : 0;
    r->pieces = calloc(n, sizeof *r->pieces);
    r->row_pieces = calloc((size_t)max_rows + 1, sizeof *r->row_pieces);
    r->rows = calloc((size_t)max_rows + 1, sizeof *r->rows);
    r->groups = calloc(n, sizeof *r->groups);
    r->members = calloc(n, sizeof *r->members);
    r->shares = calloc((size_t)p->n_placement + 1, sizeof *r->shares);
    if (!r->holders || !r->pieces || !r->row_pieces || !r->rows || !r->groups || !r->members ||
        !r->shares)
        return proto_fail_nomem(error, n * sizeof *r->pieces, "experts on other workers");
    return PROTO_OK;
}

enum proto_status worker__remote_init(struct worker__remote *remote,
                                      const struct shard_program *program,
                                      const struct worker_exec_options *options,
                                      struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (size_t i = 0; i < program->n_ops && !status; i++) {
        if (program->ops[i].kind != SHARD_OP_EXPERTS_SEND)
            continue;
        if (!options->remote)
            return proto_fail(error, PROTO_INVALID,
                              "experts of layer %u are on other workers, which this slice was "
                              "given no way to reach",
                              program->ops[i].layer);
        remote->transport = options->remote;
        if (!remote->holders)
            status = allocate(remote, program, options->max_rows, error);
        if (status == PROTO_OK)
            status = find_holders(&remote->holders[i], program, program->ops[i].layer, error);
    }
    return status;
}

void worker__remote_finish(struct worker__remote *remote)
{
    for (size_t i = 0; i < remote->n_holders; i++) {
        free(remote->holders[i].workers);
        free(remote->holders[i].start);
        free(remote->holders[i].holders);
    }
    free(remote->holders);
    free(remote->pieces);
    free(remote->row_pieces);
    free(remote->rows);
    free(remote->groups);
    free(remote->members);
    free(remote->shares);
    free(remote->vectors.at);
    free(remote->request.at);
}

uint64_t worker__remote_bytes(const struct shard_program *program, uint32_t max_rows)
{
    uint64_t asked = shard_program_asked_bytes(program, max_rows);
    if (asked == 0)
        return 0;
    return asked + most_pieces(program, max_rows) *
                       (sizeof(struct worker__piece) + sizeof(struct worker_expert_group) +
                        2 * sizeof(struct worker_expert_member));
}
