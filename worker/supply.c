/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/supply.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/unpack.h"
#include "net/answerer.h"
#include "proto/log.h"
#include "worker/members.h"

struct holding {
    struct holding *next;
    const struct shard_program *program;
    const struct worker_weights *weights;
};

struct worker_supply {
    const uint8_t *secret;
    struct net_answerer *answerer;
    pthread_mutex_t mutex; /* over the holdings; held while one is read */
    struct holding *holdings;
    struct worker_members askers; /* the loop's thread */
};

/* ---- the file's bytes of packed weights ---- */

/* Where a tensor's rows are in a weight. */
struct rows {
    const struct shard_weight *weight;
    const uint8_t *memory; /* of the weight */
    uint64_t mat;          /* the weight's number of the matrix */
    uint64_t first, n;     /* rows of the piece */
};

/* Whether the weight holds the tensor's rows whole, if any of them. */
static bool holds_rows(const struct shard_weight *w, const struct shard_tensor *tensor)
{
    const struct shard_segments *s = &w->columns;
    if (w->form == SHARD_WEIGHT_VECTOR)
        return w->n_parts == 1;
    return !w->row_every && !w->transposed &&
           (s->n == 0 || (s->at[0] == 0 && s->at[s->n] == tensor->dims[0]));
}

static uint64_t mats_of(const struct shard_weight *w, const struct shard_tensor *tensor)
{
    return w->mat_end ? w->mat_end - w->mat_first : tensor->dims[2] * tensor->dims[3];
}

/* Finds the piece among the weight's matrices. */
static bool find_rows(const struct shard_program *program, const struct worker_weights *weights,
                      size_t number, uint32_t tensor, const struct shard_piece *piece,
                      struct rows *out)
{
    const struct shard_weight *w = &program->weights[number];
    uint64_t base = 0;
    for (uint32_t p = 0; p < w->n_parts; p++) {
        uint32_t part = program->parts[w->first_part + p];
        const struct shard_tensor *info = shard_gguf_tensor(program->model->gguf, part);
        uint64_t n = mats_of(w, info);
        if (part == tensor && piece->mat >= w->mat_first && piece->mat - w->mat_first < n) {
            *out = (struct rows){.weight = w,
                                 .memory = weights->data[number],
                                 .mat = base + piece->mat - w->mat_first,
                                 .first = piece->row_first,
                                 .n = piece->rows};
            return true;
        }
        base += n;
    }
    return false;
}

/* A row of a vector as the file has it: the kinds of floats that become F32 without a loss. */
static bool restore_floats(const struct kern_type_info *type, const float *from, uint64_t n,
                           uint8_t *to)
{
    if (type->type == KERN_F32) {
        memcpy(to, from, n * sizeof *from);
        return true;
    }
    if (type->type != KERN_F16 && type->type != KERN_BF16)
        return false;
    for (uint64_t i = 0; i < n; i++) {
        uint16_t bits =
            type->type == KERN_F16 ? kern_f32_to_f16(from[i]) : kern_f32_to_bf16(from[i]);
        memcpy(to + 2 * i, &bits, sizeof bits);
    }
    return true;
}

static bool restore_row(const struct rows *rows, const struct shard_tensor *tensor, uint64_t row,
                        uint8_t *to)
{
    const struct shard_weight *w = rows->weight;
    if (w->form == SHARD_WEIGHT_VECTOR)
        return restore_floats(tensor->type,
                              (const float *)(const void *)rows->memory + row * tensor->dims[0],
                              tensor->dims[0], to);
    const uint8_t *mat = rows->memory + rows->mat * kern_packed_bytes(w->type, w->n_out, w->k);
    for (uint32_t i = 0; i == 0 || i < w->columns.n; i++) {
        uint64_t k, at = shard_weight_segment(w, i, &k);
        uint64_t column = w->columns.n ? w->columns.at[i] : 0;
        kern_unpack_bytes(w->type, mat + at, row, k, to + kern_type_bytes(w->type, column));
    }
    return true;
}

static bool restore(const struct rows *rows, const struct shard_tensor *tensor, uint64_t offset,
                    uint32_t bytes, uint8_t *out)
{
    uint64_t row_bytes = kern_type_bytes(tensor->type, tensor->dims[0]);
    uint8_t *whole = malloc(row_bytes);
    bool right = whole != NULL;
    for (uint64_t at = offset; at < offset + bytes && right;) {
        uint64_t row = at / row_bytes, skipped = at % row_bytes;
        uint64_t n = row_bytes - skipped, left = offset + bytes - at;
        n = n < left ? n : left;
        bool all = n == row_bytes;
        right = restore_row(rows, tensor, rows->first + row, all ? out : whole);
        if (right && !all)
            memcpy(out, whole + skipped, n);
        out += n;
        at += n;
    }
    free(whole);
    return right;
}

bool worker_supply_read(const struct shard_program *program, const struct worker_weights *weights,
                        uint32_t tensor, uint64_t i, uint64_t offset, uint32_t bytes, void *out)
{
    const struct shard_tensor *info = shard_gguf_tensor(program->model->gguf, tensor);
    struct shard_piece piece;
    if (shard_pieces_chunk(info, i, offset, bytes, &piece, NULL))
        return false;
    for (size_t w = 0; w < program->n_weights; w++) {
        struct rows rows;
        if (weights->data[w] && holds_rows(&program->weights[w], info) &&
            find_rows(program, weights, w, tensor, &piece, &rows) &&
            restore(&rows, info, offset, bytes, out))
            return !shard_mapped_lost(&weights->mapped[w]);
    }
    return false;
}

/* ---- questions ---- */

static void free_data(void *data, void *arg)
{
    (void)arg;
    free(data);
}

static bool read_holdings(struct worker_supply *supply, const struct proto_fetch *f, void *out)
{
    bool found = false;
    pthread_mutex_lock(&supply->mutex);
    for (const struct holding *h = supply->holdings; h && !found; h = h->next)
        found = f->tensor < shard_gguf_n_tensors(h->program->model->gguf) &&
                worker_supply_read(h->program, h->weights, f->tensor, f->piece, f->offset, f->bytes,
                                   out);
    pthread_mutex_unlock(&supply->mutex);
    return found;
}

/* What is not here is said to be not here. */
static enum proto_status answer(void *arg, const struct proto_msg *question, struct proto_msg *msg,
                                struct net_payload **payload, struct proto_error *error)
{
    const struct proto_fetch *f = &question->fetch;
    void *data = malloc(f->bytes);
    if (!data)
        return proto_fail_nomem(error, f->bytes, "a chunk");
    *msg = (struct proto_msg){
        .kind = PROTO_MSG_CHUNK,
        .chunk = {.epoch = f->epoch, .tensor = f->tensor, .piece = f->piece, .offset = f->offset}};
    if (read_holdings(arg, f, data))
        *payload = net_payload_wrap(data, f->bytes, free_data, NULL);
    if (!*payload)
        free(data);
    return PROTO_OK;
}

void worker_supply_fetch(struct worker_supply *supply, struct net_link *link, net_peer from,
                         const uint8_t key[PROTO_KEY_BYTES], const struct proto_fetch *fetch)
{
    const struct proto_msg question = {.kind = PROTO_MSG_FETCH, .fetch = *fetch};
    if (worker_members_admit(&supply->askers, supply->secret, link, from, key, fetch->proof))
        net_answerer_ask(supply->answerer, link, from, key, &question);
}

/* ---- holdings ---- */

enum proto_status worker_supply_create(struct worker_supply **out, struct net_loop *loop,
                                       const uint8_t *secret, struct proto_error *error)
{
    struct worker_supply *supply = calloc(1, sizeof *supply);
    if (!supply)
        return proto_fail_nomem(error, sizeof *supply, "the supply of pieces");
    supply->secret = secret;
    pthread_mutex_init(&supply->mutex, NULL);
    const struct net_answerer_options options = {
        .answer = answer, .arg = supply, .name = "the supply of pieces"};
    enum proto_status status = net_answerer_create(&supply->answerer, loop, &options, error);
    if (status != PROTO_OK) {
        worker_supply_destroy(supply);
        return status;
    }
    *out = supply;
    return PROTO_OK;
}

void worker_supply_stop(struct worker_supply *supply)
{
    if (!supply)
        return;
    net_answerer_destroy(supply->answerer);
    supply->answerer = NULL;
}

void worker_supply_destroy(struct worker_supply *supply)
{
    if (!supply)
        return;
    worker_supply_stop(supply);
    while (supply->holdings)
        worker_supply_remove(supply, supply->holdings->weights);
    pthread_mutex_destroy(&supply->mutex);
    free(supply);
}

enum proto_status worker_supply_add(struct worker_supply *supply,
                                    const struct shard_program *program,
                                    const struct worker_weights *weights, struct proto_error *error)
{
    if (!supply || !program)
        return PROTO_OK;
    struct holding *holding = malloc(sizeof *holding);
    if (!holding)
        return proto_fail_nomem(error, sizeof *holding, "the supply of pieces");
    pthread_mutex_lock(&supply->mutex);
    *holding = (struct holding){.next = supply->holdings, .program = program, .weights = weights};
    supply->holdings = holding;
    pthread_mutex_unlock(&supply->mutex);
    return PROTO_OK;
}

void worker_supply_remove(struct worker_supply *supply, const struct worker_weights *weights)
{
    if (!supply)
        return;
    pthread_mutex_lock(&supply->mutex);
    struct holding **at = &supply->holdings;
    while (*at && (*at)->weights != weights)
        at = &(*at)->next;
    struct holding *holding = *at;
    if (holding)
        *at = holding->next;
    pthread_mutex_unlock(&supply->mutex);
    free(holding);
}

static void mark(const struct shard_program *program, uint8_t *bits, size_t n_tensors)
{
    for (size_t i = 0; i < program->n_weights; i++) {
        const struct shard_weight *w = &program->weights[i];
        for (uint32_t p = 0; p < w->n_parts; p++) {
            uint32_t tensor = program->parts[w->first_part + p];
            if (tensor < n_tensors &&
                holds_rows(w, shard_gguf_tensor(program->model->gguf, tensor)))
                bits[tensor / 8] |= (uint8_t)(1u << tensor % 8);
        }
    }
}

struct net_payload *worker_supply_have(struct worker_supply *supply)
{
    struct net_payload *payload = NULL;
    uint8_t *bits = NULL;
    pthread_mutex_lock(&supply->mutex);
    const struct holding *first = supply->holdings;
    size_t n = first ? shard_gguf_n_tensors(first->program->model->gguf) : 0;
    if (n)
        bits = calloc(1, (n + 7) / 8);
    for (const struct holding *h = first; bits && h; h = h->next)
        mark(h->program, bits, n);
    pthread_mutex_unlock(&supply->mutex);
    if (bits)
        payload = net_payload_copy(bits, (n + 7) / 8);
    free(bits);
    return payload;
}
