/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/load_source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/log.h"

#define TRIES_MOST 3 /* where nobody judges */

/* A piece on its way. It goes to one of part and memory. */
struct transfer {
    struct worker__source *source;
    uint64_t number, bytes;
    uint64_t have; /* bytes from the start that are there */
    struct shard_store_part *part;
    uint8_t *memory;
    bool unkept; /* the part took no more */
};

static const uint8_t *hash_of(const struct worker__source *source, uint64_t number)
{
    return source->hashes + number * PROTO_HASH_BYTES;
}

void worker__shelf_tell(struct worker__shelf *shelf, const struct proto_error *why)
{
    if (!shelf->told)
        proto_log(PROTO_LOG_WARN, "WORKER-UNKEPT", "why=\"%s\"", why->text);
    shelf->told = true;
}

static void close_shelf(struct worker__shelf *shelf, const struct proto_error *why)
{
    worker__shelf_tell(shelf, why);
    shelf->closed = true;
}

static uint64_t chunk_bytes(uint64_t at, uint64_t end)
{
    return end - at < PROTO_CHUNK_BYTES ? end - at : PROTO_CHUNK_BYTES;
}

static void keep_chunk(struct transfer *transfer, const void *data, size_t len)
{
    struct proto_error why;
    if (transfer->memory)
        memcpy(transfer->memory + transfer->have, data, len);
    else if (!transfer->unkept && shard_store_append(transfer->part, data, len, &why)) {
        transfer->unkept = true;
        close_shelf(transfer->source->shelf, &why);
    }
}

/* ---- chunks, asked for ahead of their turn: several pieces may be under way at several sources
 * ---- */

static bool is_needed(const struct worker__source *source, uint64_t piece)
{
    uint64_t mat = shard_pieces_get(source->tensor, piece).mat;
    return !source->mat_end || (mat >= source->mat_first && mat < source->mat_end);
}

/* The chunk after the last one asked for. False where there is none, or its piece may be in the
 * store, whole or in part: that shows when it is its turn. */
static bool next_chunk(const struct worker__source *source, struct worker__chunk *next)
{
    const struct worker__chunk *last = &source->last_asked;
    uint64_t piece = last->piece, at = last->offset + last->bytes;
    uint64_t bytes = shard_pieces_get(source->tensor, piece).bytes;
    if (at == bytes) {
        uint64_t n = shard_pieces_count(source->tensor);
        for (piece++; piece < n && !is_needed(source, piece);)
            piece++;
        if (piece == n || (source->options->store &&
                           shard_store_knows(source->options->store, hash_of(source, piece))))
            return false;
        at = 0;
        bytes = shard_pieces_get(source->tensor, piece).bytes;
    }
    *next = (struct worker__chunk){.piece = piece, .offset = at, .bytes = chunk_bytes(at, bytes)};
    return true;
}

static enum proto_status ask_ahead(struct worker__source *source, struct proto_error *error)
{
    const struct worker_fetch *fetch = source->options->fetch;
    struct worker__chunk next;
    enum proto_status status = PROTO_OK;
    while (source->n_asked < WORKER__AHEAD_MOST && !status && next_chunk(source, &next)) {
        status = fetch->request(fetch->arg, source->number, next.piece, next.offset,
                                (uint32_t)next.bytes, error);
        source->asked[(source->first_asked + source->n_asked++) % WORKER__AHEAD_MOST] = next;
        source->last_asked = next;
    }
    return status;
}

/* Receives the oldest chunk asked for. */
static enum proto_status receive(struct worker__source *source, const void **data, size_t *len,
                                 struct proto_error *error)
{
    const struct worker_fetch *fetch = source->options->fetch;
    const struct worker__chunk *chunk = &source->asked[source->first_asked];
    enum proto_status status = fetch->receive(fetch->arg, data, len, error);
    if (status)
        return status;
    if (*len != chunk->bytes)
        return proto_fail(error, PROTO_FORMAT,
                          "tensor %s, piece %" PRIu64 ": asked for %" PRIu64 " bytes, got %zu",
                          source->tensor->name, chunk->piece, chunk->bytes, *len);
    source->fetched += *len;
    source->first_asked = (source->first_asked + 1) % WORKER__AHEAD_MOST;
    source->n_asked--;
    return PROTO_OK;
}

/* Another process may have put what was asked for ahead into the store meanwhile. */
static void drop_asked(struct worker__source *source)
{
    if (source->n_asked)
        source->options->fetch->drop(source->options->fetch->arg);
    source->n_asked = 0;
}

/* The next chunk asked for becomes this one, unless it is already. */
static void start_at(struct worker__source *source, uint64_t piece, uint64_t at)
{
    const struct worker__chunk *oldest = &source->asked[source->first_asked];
    if (source->n_asked && oldest->piece == piece && oldest->offset == at)
        return;
    drop_asked(source);
    source->last_asked = (struct worker__chunk){.piece = piece, .offset = at};
}

/* Brings what is missing of a piece. */
static enum proto_status fetch_bytes(struct transfer *transfer, struct proto_error *error)
{
    struct worker__source *source = transfer->source;
    const struct worker_load_options *options = source->options;
    const void *data;
    size_t len;
    enum proto_status status = PROTO_OK;
    if (transfer->have == transfer->bytes)
        return status;
    start_at(source, transfer->number, transfer->have);
    while (!status && transfer->have < transfer->bytes && !transfer->unkept) {
        if (options->cancel && atomic_load(options->cancel))
            return proto_fail(error, PROTO_CANCELLED, "loading was cancelled");
        if ((status = ask_ahead(source, error)) || (status = receive(source, &data, &len, error)))
            return status;
        keep_chunk(transfer, data, len);
        transfer->have += len;
    }
    return status;
}

static enum proto_status fail_wrong(const struct worker__source *source, uint64_t number,
                                    struct proto_error *error)
{
    return proto_fail(error, PROTO_CORRUPT,
                      "tensor %s, piece %" PRIu64 " of %" PRIu64
                      ": was fetched several times and its hash was wrong each time; if the model "
                      "file was changed while it is served, restart the coordinator",
                      source->tensor->name, number, shard_pieces_count(source->tensor));
}

/* PROTO_CORRUPT where the bytes were wrong. */
static enum proto_status fetch_to_memory(struct worker__source *source, uint64_t number,
                                         uint64_t bytes, struct worker__loan *loan,
                                         struct proto_error *error)
{
    struct transfer transfer = {
        .source = source, .number = number, .bytes = bytes, .memory = malloc(bytes)};
    if (!transfer.memory)
        return proto_fail_nomem(error, bytes, "a piece of a tensor");
    enum proto_status status = fetch_bytes(&transfer, error);
    uint8_t hash[PROTO_HASH_BYTES];
    if (!status)
        shard_hash(hash, transfer.memory, bytes);
    if (!status && memcmp(hash, hash_of(source, number), sizeof hash) != 0)
        status = fail_wrong(source, number, error);
    if (status)
        free(transfer.memory);
    else
        *loan = (struct worker__loan){.data = transfer.memory, .owned = transfer.memory};
    return status;
}

/* PROTO_CORRUPT as above; without data after PROTO_OK where the store did not keep it. */
static enum proto_status fetch_to_store(struct transfer *transfer, struct worker__loan *loan,
                                        struct proto_error *error)
{
    struct proto_error why;
    enum proto_status status = fetch_bytes(transfer, error);
    if (status) {
        shard_store_abort(transfer->part);
        return status;
    }
    if (transfer->unkept) {
        shard_store_discard(transfer->part);
        return PROTO_OK;
    }
    status = shard_store_commit(transfer->part, &loan->mapped, &why);
    loan->data = loan->mapped.data;
    if (status == PROTO_CORRUPT)
        return fail_wrong(transfer->source, transfer->number, error);
    if (status)
        close_shelf(transfer->source->shelf, &why);
    return PROTO_OK;
}

static enum proto_status fetch_piece(struct worker__source *source, uint64_t number, uint64_t bytes,
                                     struct worker__loan *loan, struct proto_error *error)
{
    struct transfer transfer = {.source = source, .number = number, .bytes = bytes};
    struct shard_store *store = source->shelf->closed ? NULL : source->options->store;
    struct proto_error why;
    if (store) {
        enum proto_status status = shard_store_begin(store, hash_of(source, number), bytes,
                                                     &transfer.part, &transfer.have, &why);
        if (status == PROTO_OK)
            status = fetch_to_store(&transfer, loan, error);
        else if (status == PROTO_BUSY)
            status = PROTO_OK;
        else
            close_shelf(source->shelf, &why);
        if (transfer.part && (status || loan->data))
            return status;
    }
    return fetch_to_memory(source, number, bytes, loan, error);
}

/* Trouble with the store is as if it did not have the piece. */
static bool map_stored(struct worker__source *source, uint64_t number, uint64_t bytes,
                       struct worker__loan *loan)
{
    struct proto_error why;
    if (!source->options->store)
        return false;
    shard_lease_add(source->shelf->lease, hash_of(source, number));
    enum proto_status status = shard_store_map(source->options->store, hash_of(source, number),
                                               bytes, &loan->mapped, &why);
    if (status && status != PROTO_NOTFOUND)
        close_shelf(source->shelf, &why);
    loan->data = loan->mapped.data;
    return status == PROTO_OK;
}

static bool judge(const struct worker__source *source, uint64_t number, bool right, int tries)
{
    const struct worker_fetch *fetch = source->options->fetch;
    return fetch->judge ? fetch->judge(fetch->arg, source->number, number, right)
                        : tries < TRIES_MOST;
}

/* Many tensors may be open at once: each has memory only while its pieces are asked for. */
static enum proto_status make_piece(struct worker__source *source, uint64_t i,
                                    const struct shard_piece *piece, struct worker__loan *loan,
                                    struct proto_error *error)
{
    if (!source->made.bytes) {
        enum proto_status status = shard_synthetic_tensor_init(
            &source->made, source->options->synthetic, source->number, error);
        if (status)
            return status;
    }
    loan->data = shard_synthetic_piece(&source->made, i, piece);
    return PROTO_OK;
}

enum proto_status worker__source_borrow(struct worker__source *source, uint64_t i,
                                        struct worker__loan *loan, struct proto_error *error)
{
    struct shard_piece piece = shard_pieces_get(source->tensor, i);
    *loan = (struct worker__loan){0};
    if (source->options->synthetic)
        return make_piece(source, i, &piece, loan, error);
    if (source->local) {
        loan->data = source->local + piece.offset;
        return PROTO_OK;
    }
    if (map_stored(source, i, piece.bytes, loan))
        return PROTO_OK;
    enum proto_status status;
    int tries = 0;
    do {
        status = fetch_piece(source, i, piece.bytes, loan, error);
        tries++;
    } while (status == PROTO_CORRUPT && judge(source, i, false, tries));
    if (status == PROTO_OK)
        judge(source, i, true, tries);
    return status;
}

/* The pages of the file that were read count as this process's memory until they are let go; the
 * system keeps them cached all the same. */
static void let_pages_go(const uint8_t *data, uint64_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)data + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)data + bytes) & ~(page - 1);
    if (end > first)
        madvise((void *)first, end - first, MADV_DONTNEED);
}

enum proto_status worker__source_return(struct worker__source *source, uint64_t i,
                                        struct worker__loan *loan, struct proto_error *error)
{
    bool lost =
        source->local ? shard_gguf_lost(source->options->file) : shard_mapped_lost(&loan->mapped);
    if (source->local)
        let_pages_go(loan->data, shard_pieces_get(source->tensor, i).bytes);
    shard_store_unmap(&loan->mapped);
    free(loan->owned);
    if (i + 1 == shard_pieces_count(source->tensor))
        shard_synthetic_tensor_finish(&source->made);
    *loan = (struct worker__loan){0};
    if (!lost)
        return PROTO_OK;
    return proto_fail(
        error, PROTO_IO,
        "tensor %s: %s was cut short while it was read, or its disk fails; is another "
        "program writing to it?",
        source->tensor->name,
        source->local ? shard_gguf_path(source->options->file, 0) : "its cached piece");
}

static bool same_tensor(const struct shard_tensor *a, const struct shard_tensor *b)
{
    return strcmp(a->name, b->name) == 0 && a->type == b->type && a->bytes == b->bytes &&
           memcmp(a->dims, b->dims, sizeof a->dims) == 0;
}

static enum proto_status find_local(struct worker__source *source, struct proto_error *error)
{
    const struct shard_gguf *file = source->options->file;
    const struct shard_tensor *found = NULL;
    if (source->number < shard_gguf_n_tensors(file))
        found = shard_gguf_tensor(file, source->number);
    if (!found || !found->data || !same_tensor(found, source->tensor))
        return proto_fail(
            error, PROTO_FORMAT,
            "%s: tensor %" PRIu32 " should be %s of %" PRIu64 " bytes and is %s of %" PRIu64
            "; the file is not the model that is served: replace or remove it",
            shard_gguf_path(file, 0), source->number, source->tensor->name, source->tensor->bytes,
            found ? found->name : "nothing", found ? found->bytes : 0);
    source->local = found->data;
    return PROTO_OK;
}

static enum proto_status ask_hashes(struct worker__source *source, struct proto_error *error)
{
    const struct worker_fetch *fetch = source->options->fetch;
    if (!fetch)
        return proto_fail(error, PROTO_INVALID,
                          "tensor %s: neither a local model file nor a coordinator to fetch from",
                          source->tensor->name);
    uint64_t n = shard_pieces_count(source->tensor);
    if (n <= SIZE_MAX / PROTO_HASH_BYTES)
        source->hashes = malloc(n * PROTO_HASH_BYTES);
    if (!source->hashes)
        return proto_fail_nomem(error, n * PROTO_HASH_BYTES, "the hashes of a tensor's pieces");
    return fetch->hashes(fetch->arg, source->number, source->hashes, n, error);
}

enum proto_status worker__source_init(struct worker__source *source, struct worker__shelf *shelf,
                                      const struct shard_gguf *card, uint32_t number,
                                      struct proto_error *error)
{
    *source = (struct worker__source){.shelf = shelf,
                                      .options = shelf->options,
                                      .tensor = shard_gguf_tensor(card, number),
                                      .number = number};
    if (shelf->options->synthetic)
        return PROTO_OK;
    return shelf->options->file ? find_local(source, error) : ask_hashes(source, error);
}

void worker__source_finish(struct worker__source *source)
{
    drop_asked(source);
    free(source->hashes);
    source->hashes = NULL;
    shard_synthetic_tensor_finish(&source->made);
}

/* Of the model's files, as they were when opened. */
static void identify_files(const struct shard_gguf *file, uint8_t identity[PROTO_HASH_BYTES])
{
    struct {
        uint8_t before[PROTO_HASH_BYTES];
        struct shard_gguf_stamp stamp;
    } link = {0};
    for (size_t i = 0; i < shard_gguf_n_files(file); i++) {
        link.stamp = shard_gguf_stamp(file, i);
        shard_hash(identity, &link, sizeof link);
        memcpy(link.before, identity, PROTO_HASH_BYTES);
    }
}

void worker__source_identify(const struct worker__source *source,
                             uint8_t identity[PROTO_HASH_BYTES])
{
    const struct shard_tensor *tensor = source->tensor;
    struct {
        uint64_t type, dims[4];
        uint64_t place; /* in the local file, from 1 */
        uint8_t bytes[PROTO_HASH_BYTES];
    } facts = {.type = tensor->type->type};
    memcpy(facts.dims, tensor->dims, sizeof facts.dims);
    if (source->local) {
        facts.place = source->number + 1;
        identify_files(source->options->file, facts.bytes);
    } else {
        shard_hash(facts.bytes, source->hashes, shard_pieces_count(tensor) * PROTO_HASH_BYTES);
    }
    shard_hash(identity, &facts, sizeof facts);
}

void worker__source_drop(const struct worker__source *source)
{
    if (source->local || !source->options->store)
        return;
    for (uint64_t i = 0; i < shard_pieces_count(source->tensor); i++)
        shard_store_drop(source->options->store, hash_of(source, i));
}
