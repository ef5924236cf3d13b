/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A weight is filled piece by piece. A piece is whole panels of one matrix, so where its packed
 * form goes follows from its place in the tensor alone, and nothing but the piece at hand is held
 * twice. The memory that it is filled into is that of its file in the store (shard/packed.h), so
 * that packing takes no more than the packed weight later does.
 */
#include "worker/load.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "proto/log.h"
#include "shard/packed.h"
#include "worker/lazy.h"
#include "worker/load_source.h"

#define ALIGNMENT 64u
#define HUGE_PAGE (2u << 20)

struct load {
    const struct shard_program *program;
    const struct worker_load_options *options;
    struct worker_weights *out;
    struct shard_store *packed; /* NULL from the first trouble with it on */
    struct worker__shelf shelf;
    uint64_t done, total, fetched;
    /* Bytes of weights mapped, packed into the store, into memory, shared. */
    uint64_t found, kept, taken, shared;
};

/* The matrices of a weight that come from one tensor. */
struct target {
    const struct shard_weight *weight;
    uint8_t *memory;    /* of the weight */
    uint64_t mat_first; /* matrix of the weight that is the tensor's first */
};

/* Rows of a tensor on their way into panels. */
struct packing {
    const struct target *target;
    const struct shard_tensor *tensor;
    const uint8_t *from;
    uint64_t row_bytes;
    uint64_t row, rows; /* number of the first, counted over the tensor's matrices that are taken */
};

/* A panel of rows of one matrix, segment by segment where the weight has them. */
static void pack_panel(const struct packing *p, const uint8_t *from, uint64_t row, uint64_t rows)
{
    const struct shard_weight *w = p->target->weight;
    uint64_t mat = p->target->mat_first + row / w->n_out, panel = row % w->n_out / KERN_PANEL;
    uint8_t *to = p->target->memory + mat * kern_packed_bytes(w->type, w->n_out, w->k);
    for (uint32_t i = 0; i == 0 || i < w->columns.n; i++) {
        uint64_t k, at = shard_weight_segment(w, i, &k);
        uint64_t column = w->columns.n ? w->columns.at[i] : 0;
        kern_pack_columns(w->type, to + at + panel * kern_panel_bytes(w->type, k),
                          from + kern_type_bytes(w->type, column), p->row_bytes, rows, k);
    }
}

/* Each row of a panel becomes a column of matrix `mat`, the first number `column`. */
static void pack_transposed(const struct packing *p, const uint8_t *from, uint64_t mat,
                            uint64_t column)
{
    const struct shard_weight *w = p->target->weight;
    uint8_t *to = p->target->memory + mat * kern_packed_bytes(w->type, w->n_out, w->k);
    for (uint64_t i = 0; i < KERN_PANEL; i++) {
        float values[PROTO_MAX_HEAD_DIM];
        kern_dequantize(p->tensor->type, from + i * p->row_bytes, w->n_out, values);
        kern_pack_column((float *)(void *)to, w->n_out, w->k, column + i, values);
    }
}

static void pack_panels(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct packing *p = arg;
    const struct shard_weight *w = p->target->weight;
    (void)thread;
    for (uint64_t i = first * KERN_PANEL; i < last * KERN_PANEL && i < p->rows; i += KERN_PANEL) {
        const uint8_t *from = p->from + i * p->row_bytes;
        uint64_t row = p->row + i, left = p->rows - i, n = left < KERN_PANEL ? left : KERN_PANEL;
        if (!w->row_every) {
            pack_panel(p, from, row, n);
            continue;
        }
        /* A panel has rows of one run only, all of them taken or none. */
        uint64_t run = row / w->row_every, at = row % w->row_every - w->row_first;
        if (row % w->row_every < w->row_first || at >= w->row_n)
            continue;
        if (w->transposed)
            pack_transposed(p, from, run, at);
        else
            pack_panel(p, from, run * w->row_n + at, n);
    }
}

static void pack_piece(const struct target *target, const struct shard_tensor *tensor,
                       const struct shard_piece *piece, const uint8_t *data, struct kern_pool *pool)
{
    struct packing packing = {
        .target = target,
        .tensor = tensor,
        .from = data,
        .row_bytes = kern_type_bytes(tensor->type, tensor->dims[0]),
        .row = (piece->mat - target->weight->mat_first) * tensor->dims[1] + piece->row_first,
        .rows = piece->rows,
    };
    kern_pool_run(pool, (piece->rows + KERN_PANEL - 1) / KERN_PANEL, 0, pack_panels, &packing);
}

static uint64_t tensor_mats(const struct shard_tensor *tensor)
{
    return tensor->dims[2] * tensor->dims[3];
}

/* Matrices of the tensor that the weight takes. */
static uint64_t mats_taken(const struct shard_weight *weight, const struct shard_tensor *tensor)
{
    return weight->mat_end ? weight->mat_end - weight->mat_first : tensor_mats(tensor);
}

/* Of the tensor, in the file. */
static uint64_t bytes_taken(const struct shard_weight *weight, const struct shard_tensor *tensor)
{
    return tensor->bytes / tensor_mats(tensor) * mats_taken(weight, tensor);
}

static bool takes_piece(const struct shard_weight *weight, const struct shard_piece *piece)
{
    return !weight->mat_end || (piece->mat >= weight->mat_first && piece->mat < weight->mat_end);
}

/* Matrices of the weight that the tensor fills; exact where check_shape accepts it. */
static uint64_t mats_filled(const struct shard_weight *weight, const struct shard_tensor *tensor)
{
    uint64_t rows = mats_taken(weight, tensor) * tensor->dims[1];
    uint64_t each = weight->transposed ? weight->row_every : weight->n_out;
    if (weight->row_every && !weight->transposed)
        rows = rows / weight->row_every * weight->row_n;
    return rows / each;
}

static void tell_progress(struct load *load, uint64_t bytes)
{
    load->done += bytes;
    if (load->options->progress)
        load->options->progress(load->options->progress_arg, load->done, load->total,
                                load->fetched);
}

static enum proto_status load_piece(struct load *load, struct worker__source *source, uint64_t i,
                                    const struct target *target, struct proto_error *error)
{
    struct worker__loan loan;
    uint64_t fetched_before = source->fetched;
    enum proto_status status = worker__source_borrow(source, i, &loan, error);
    load->fetched += source->fetched - fetched_before;
    if (status)
        return status;
    struct shard_piece piece = shard_pieces_get(source->tensor, i);
    uint64_t width = source->tensor->dims[0];
    if (target->weight->form == SHARD_WEIGHT_VECTOR)
        kern_dequantize(source->tensor->type, loan.data, piece.rows * width,
                        (float *)target->memory + piece.row_first * width);
    else
        pack_piece(target, source->tensor, &piece, loan.data, load->options->pool);
    tell_progress(load, piece.bytes);
    return worker__source_return(source, i, &loan, error);
}

static bool rows_fit(const struct shard_weight *w, const struct shard_tensor *tensor)
{
    uint64_t rows = mats_taken(w, tensor) * tensor->dims[1];
    if (!w->row_every)
        return tensor->dims[1] == w->n_out;
    return rows % w->row_every == 0 && (uint64_t)w->row_first + w->row_n <= w->row_every &&
           w->row_every % KERN_PANEL == 0 && w->row_first % KERN_PANEL == 0 &&
           w->row_n % KERN_PANEL == 0 && tensor->dims[1] % KERN_PANEL == 0 &&
           (w->transposed ? w->row_n == w->k : w->n_out % w->row_n == 0);
}

static bool columns_fit(const struct shard_weight *w, const struct shard_tensor *tensor)
{
    const struct shard_segments *s = &w->columns;
    if (w->transposed)
        return tensor->dims[0] == w->n_out && w->n_out <= PROTO_MAX_HEAD_DIM;
    if (s->n == 0)
        return tensor->dims[0] == w->k;
    for (uint32_t i = 0; i <= s->n; i++) {
        if (s->at[i] % w->type->block != 0 || (i > 0 && s->at[i] <= s->at[i - 1]))
            return false;
    }
    return s->at[s->n] <= tensor->dims[0] && s->at[s->n] - s->at[0] == w->k;
}

static bool panels_fit(const struct shard_weight *w, uint64_t mat_first,
                       const struct shard_tensor *tensor)
{
    const struct kern_type_info *type = w->transposed ? kern_type_find(KERN_F32) : tensor->type;
    return type == w->type && w->mat_first <= w->mat_end && w->mat_end <= tensor_mats(tensor) &&
           rows_fit(w, tensor) && columns_fit(w, tensor) && mat_first <= w->n_mats &&
           mats_filled(w, tensor) <= w->n_mats - mat_first;
}

/* The memory was sized by the weight, the writes go by the tensor: they must agree. */
static enum proto_status check_shape(const struct shard_weight *weight, uint64_t mat_first,
                                     const struct shard_tensor *tensor, struct proto_error *error)
{
    uint64_t mats = tensor_mats(tensor);
    bool fits = weight->form == SHARD_WEIGHT_VECTOR
                    ? tensor->dims[0] <= weight->n_out &&
                          weight->n_out / tensor->dims[0] == tensor->dims[1] &&
                          weight->n_out % tensor->dims[0] == 0 && mats == 1 && weight->n_parts == 1
                    : panels_fit(weight, mat_first, tensor);
    if (fits)
        return PROTO_OK;
    return proto_fail(error, PROTO_INVALID,
                      "tensor %s of %" PRIu64 " x %" PRIu64 " x %" PRIu64
                      " does not fit a weight of %" PRIu64 " x %" PRIu64 " x %" PRIu32,
                      tensor->name, tensor->dims[0], tensor->dims[1], mats, weight->k,
                      weight->n_out, weight->n_mats);
}

static enum proto_status load_tensor(struct load *load, struct worker__source *source,
                                     struct target *target, struct proto_error *error)
{
    const struct shard_tensor *tensor = source->tensor;
    source->mat_first = target->weight->mat_first;
    source->mat_end = target->weight->mat_end;
    enum proto_status status = check_shape(target->weight, target->mat_first, tensor, error);
    const atomic_bool *cancel = load->options->cancel;
    for (uint64_t i = 0; i < shard_pieces_count(tensor) && !status; i++) {
        struct shard_piece piece = shard_pieces_get(tensor, i);
        if (cancel && atomic_load(cancel))
            status = proto_fail(error, PROTO_CANCELLED, "loading was cancelled");
        else if (takes_piece(target->weight, &piece))
            status = load_piece(load, source, i, target, error);
    }
    if (target->weight->form == SHARD_WEIGHT_PANELS)
        target->mat_first += mats_filled(target->weight, tensor);
    return status;
}

static enum proto_status take_memory(const struct shard_weight *weight, uint8_t **out,
                                     struct proto_error *error)
{
    uint64_t bytes = shard_weight_bytes(weight);
    bool large = bytes >= HUGE_PAGE;
    void *memory;
    if (posix_memalign(&memory, large ? HUGE_PAGE : ALIGNMENT, bytes) != 0)
        return proto_fail_nomem(error, bytes, "a weight");
    if (large) /* whole huge pages only: the last, in part used, would cost up to 2 MiB a weight */
        madvise(memory, bytes & ~(uint64_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);
    if (weight->form == SHARD_WEIGHT_VECTOR)
        memset(memory, 0, bytes); /* the padding after the values */
    *out = memory;
    return PROTO_OK;
}

static enum proto_status fill(struct load *load, const struct shard_weight *weight, void *memory,
                              struct worker__source *sources, struct proto_error *error)
{
    struct target target = {.weight = weight, .memory = memory};
    enum proto_status status = PROTO_OK;
    for (uint32_t i = 0; i < weight->n_parts && !status; i++)
        status = load_tensor(load, &sources[i], &target, error);
    return status;
}

static enum proto_status load_into_memory(struct load *load, size_t number,
                                          struct worker__source *sources, struct proto_error *error)
{
    const struct shard_weight *weight = &load->program->weights[number];
    uint8_t *memory = NULL;
    enum proto_status status = take_memory(weight, &memory, error);
    load->out->data[number] = memory;
    load->taken += shard_weight_bytes(weight);
    return status ? status : fill(load, weight, memory, sources, error);
}

/* Without the store weights are packed at the next start as well, so trouble with it is only
 * logged. */
static void give_up_packed(struct load *load, const struct proto_error *why)
{
    worker__shelf_tell(&load->shelf, why);
    load->packed = NULL;
}

static void take_mapping(struct load *load, size_t number, const struct shard_mapped *mapped)
{
    load->out->data[number] = (void *)mapped->data;
    load->out->mapped[number] = *mapped;
}

static bool is_found(struct load *load, size_t number, const uint8_t name[PROTO_HASH_BYTES],
                     const struct worker__source *sources)
{
    const struct shard_weight *weight = &load->program->weights[number];
    uint64_t bytes = shard_weight_bytes(weight);
    struct shard_mapped mapped;
    struct proto_error error;
    enum proto_status status =
        shard_packed_map(load->packed, name, bytes, load->options->pool, &mapped, &error);
    if (status) {
        if (status != PROTO_NOTFOUND)
            give_up_packed(load, &error);
        return false;
    }
    take_mapping(load, number, &mapped);
    load->found += bytes;
    for (uint32_t i = 0; i < weight->n_parts; i++)
        tell_progress(load, bytes_taken(weight, sources[i].tensor));
    return true;
}

/* Whether a weight yet to be loaded, or one that is loaded from pieces every time, needs it. */
static bool is_needed(const struct shard_program *program, size_t number, uint32_t tensor)
{
    for (size_t i = 0; i < program->n_weights; i++) {
        const struct shard_weight *weight = &program->weights[i];
        if (i <= number && weight->form != SHARD_WEIGHT_VECTOR)
            continue;
        for (uint32_t p = 0; p < weight->n_parts; p++)
            if (program->parts[weight->first_part + p] == tensor)
                return true;
    }
    return false;
}

static void drop_pieces(const struct load *load, size_t number,
                        const struct worker__source *sources)
{
    for (uint32_t i = 0; i < load->program->weights[number].n_parts; i++)
        if (!is_needed(load->program, number, sources[i].number))
            worker__source_drop(&sources[i]);
}

/* data stays NULL where the store is of no use. */
static enum proto_status load_into_store(struct load *load, size_t number,
                                         const uint8_t name[PROTO_HASH_BYTES],
                                         struct worker__source *sources, struct proto_error *error)
{
    const struct shard_weight *weight = &load->program->weights[number];
    struct kern_pool *pool = load->options->pool;
    uint64_t done_before = load->done, bytes = shard_weight_bytes(weight);
    bool fetched = load->options->file == NULL; /* then the file takes the pieces' place */
    struct shard_packed_part *part;
    struct shard_mapped mapped;
    struct proto_error why;
    void *memory;
    enum proto_status status =
        shard_packed_begin(load->packed, name, bytes, pool, &part, &memory, &why);
    if (status) {
        if (status != PROTO_BUSY)
            give_up_packed(load, &why);
        return PROTO_OK;
    }
    if ((status = fill(load, weight, memory, sources, error))) {
        shard_packed_abort(part);
        return status;
    }
    if (shard_packed_commit(part, pool, fetched, &mapped, &why)) {
        give_up_packed(load, &why);
        load->done = done_before;
        return PROTO_OK;
    }
    take_mapping(load, number, &mapped);
    load->kept += bytes;
    drop_pieces(load, number, sources);
    return PROTO_OK;
}

/* What a packed weight is made from, and how: everything that its bytes depend on. */
static void name_packed(uint8_t name[PROTO_HASH_BYTES], const struct shard_weight *weight,
                        const struct worker__source *sources)
{
    _Static_assert(sizeof *weight == 12 * sizeof(uint64_t), "a new field belongs in the name");
    const uint64_t facts[] = {KERN_PACK_VERSION, weight->type->type, weight->k,
                              weight->n_out,     weight->n_mats,     weight->n_parts,
                              weight->mat_first, weight->mat_end,    weight->row_every,
                              weight->row_first, weight->row_n,      weight->transposed,
                              weight->columns.n};
    struct {
        uint8_t before[PROTO_HASH_BYTES], part[PROTO_HASH_BYTES];
    } link;
    shard_hash(name, facts, sizeof facts);
    shard_hash(link.part, weight->columns.at, sizeof weight->columns.at);
    memcpy(link.before, name, PROTO_HASH_BYTES);
    shard_hash(name, &link, sizeof link);
    for (uint32_t i = 0; i < weight->n_parts; i++) {
        memcpy(link.before, name, PROTO_HASH_BYTES);
        worker__source_identify(&sources[i], link.part);
        shard_hash(name, &link, sizeof link);
    }
}

static enum proto_status load_from(struct load *load, size_t number, struct worker__source *sources,
                                   struct proto_error *error)
{
    const struct shard_weight *weight = &load->program->weights[number];
    if (load->packed && weight->form == SHARD_WEIGHT_PANELS) {
        uint8_t name[PROTO_HASH_BYTES];
        name_packed(name, weight, sources);
        shard_lease_add(load->shelf.lease, name);
        memcpy(load->out->names[number], name, sizeof name);
        if (is_found(load, number, name, sources))
            return PROTO_OK;
        if (load->packed) {
            enum proto_status status = load_into_store(load, number, name, sources, error);
            if (status || load->out->data[number])
                return status;
        }
    }
    return load_into_memory(load, number, sources, error);
}

/* ---- weights that are loaded already ---- */

static bool same_segments(const struct shard_segments *a, const struct shard_segments *b)
{
    return a->n == b->n && memcmp(a->at, b->at, sizeof a->at) == 0;
}

static bool same_weight(const struct shard_program *p, const struct shard_weight *a,
                        const struct shard_program *q, const struct shard_weight *b)
{
    return a->form == b->form && a->type == b->type && a->k == b->k && a->n_out == b->n_out &&
           a->n_mats == b->n_mats && a->n_parts == b->n_parts && a->mat_first == b->mat_first &&
           a->mat_end == b->mat_end && a->row_every == b->row_every &&
           a->row_first == b->row_first && a->row_n == b->row_n && a->transposed == b->transposed &&
           same_segments(&a->columns, &b->columns) &&
           memcmp(&p->parts[a->first_part], &q->parts[b->first_part],
                  a->n_parts * sizeof *p->parts) == 0;
}

/* One more holder; false on lack of memory. */
static bool share(struct worker_weights *from, size_t i, struct worker_weights *to, size_t k)
{
    if (!from->holders[i]) {
        from->holders[i] = malloc(sizeof *from->holders[i]);
        if (!from->holders[i])
            return false;
        *from->holders[i] = 1;
    }
    ++*from->holders[i];
    to->data[k] = from->data[i];
    to->mapped[k] = from->mapped[i];
    to->holders[k] = from->holders[i];
    memcpy(to->names[k], from->names[i], PROTO_HASH_BYTES);
    if (to->mapped[k].data)
        shard_lease_add(to->lease, to->names[k]);
    return true;
}

/* Whether some loaded weight is the one that is to be loaded, and is shared now. */
static bool is_loaded(struct load *load, size_t number)
{
    const struct shard_weight *weight = &load->program->weights[number];
    for (uint32_t l = 0; l < load->options->n_loaded; l++) {
        const struct worker_loaded *loaded = &load->options->loaded[l];
        for (size_t i = 0; i < loaded->program->n_weights; i++)
            if (loaded->weights->data[i] &&
                same_weight(load->program, weight, loaded->program, &loaded->program->weights[i]))
                return share(loaded->weights, i, load->out, number);
    }
    return false;
}

/* Of what a weight takes, in the file. */
static uint64_t bytes_to_load(const struct shard_program *program,
                              const struct shard_weight *weight)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < weight->n_parts; i++) {
        const struct shard_tensor *tensor =
            shard_gguf_tensor(program->model->gguf, program->parts[weight->first_part + i]);
        total += bytes_taken(weight, tensor);
    }
    return total;
}

static enum proto_status load_weight(struct load *load, size_t number, struct proto_error *error)
{
    const struct shard_weight *weight = &load->program->weights[number];
    const struct shard_gguf *card = load->program->model->gguf;
    if (is_loaded(load, number)) {
        tell_progress(load, bytes_to_load(load->program, weight));
        load->shared += shard_weight_bytes(weight);
        return PROTO_OK;
    }
    struct worker__source *sources = calloc(weight->n_parts + 1u, sizeof *sources);
    if (!sources)
        return proto_fail_nomem(error, weight->n_parts * sizeof *sources, "a weight's tensors");
    enum proto_status status = PROTO_OK;
    for (uint32_t i = 0; i < weight->n_parts && !status; i++)
        status = worker__source_init(&sources[i], &load->shelf, card,
                                     load->program->parts[weight->first_part + i], error);
    if (!status)
        status = load_from(load, number, sources, error);
    for (uint32_t i = 0; i < weight->n_parts; i++)
        worker__source_finish(&sources[i]);
    free(sources);
    return status;
}

/* What the weights need of the store is not removed to make room while they are in use. */
static void take_lease(struct load *load)
{
    const struct worker_load_options *options = load->options;
    struct shard_store *store = options->packed ? options->packed : options->store;
    struct proto_error why;
    if (!store || options->synthetic)
        return;
    if (shard_lease_create(&load->out->lease, store, &why))
        worker__shelf_tell(&load->shelf, &why);
    load->shelf.lease = load->out->lease;
}

enum proto_status worker_load(struct worker_weights *out, const struct shard_program *program,
                              const struct worker_load_options *options, struct proto_error *error)
{
    struct load load = {
        .program = program, .options = options, .out = out, .packed = options->packed};
    load.shelf.options = options;
    for (size_t i = 0; i < program->n_weights; i++)
        if (!worker_lazy_has(options->lazy, i))
            load.total += bytes_to_load(program, &program->weights[i]);
    *out = (struct worker_weights){.n = program->n_weights, .lazy = options->lazy};
    out->data = calloc(program->n_weights + 1, sizeof *out->data);
    out->mapped = calloc(program->n_weights + 1, sizeof *out->mapped);
    out->holders = calloc(program->n_weights + 1, sizeof *out->holders);
    out->names = calloc(program->n_weights + 1, sizeof *out->names);
    enum proto_status status = PROTO_OK;
    if (!out->data || !out->mapped || !out->holders || !out->names)
        status = proto_fail_nomem(error, program->n_weights * sizeof *out->data, "weights");
    take_lease(&load);
    for (size_t i = 0; i < program->n_weights && !status; i++)
        if (!worker_lazy_has(options->lazy, i))
            status = load_weight(&load, i, error);
    if (status) {
        worker_weights_finish(out);
        return status;
    }
    if (!options->unsaid)
        proto_log(PROTO_LOG_INFO, "WORKER-LOADED",
                  "mapped=%" PRIu64 " packed=%" PRIu64 " memory=%" PRIu64 " shared=%" PRIu64
                  " fetched=%" PRIu64,
                  load.found, load.kept, load.taken, load.shared, load.fetched);
    return PROTO_OK;
}

/* ---- single matrices ---- */

/* The tensor that matrix `mat` of a weight comes from; *one: the weight with it alone. */
static uint32_t find_matrix(const struct shard_program *program, size_t weight, uint32_t mat,
                            struct shard_weight *one)
{
    bool apart = program->weights[weight].n_parts > 1; /* a tensor for each expert */
    *one = program->weights[weight];
    one->mat_first = apart ? 0 : one->mat_first + mat;
    one->mat_end = one->mat_first + 1;
    one->n_mats = one->n_parts = 1;
    return program->parts[one->first_part + (apart ? mat : 0)];
}

enum proto_status worker_load_matrix_check(const struct shard_program *program, size_t weight,
                                           const struct shard_gguf *file, struct proto_error *error)
{
    const struct shard_weight *w = &program->weights[weight];
    const struct worker_load_options options = {.file = file};
    struct worker__shelf shelf = {.options = &options};
    enum proto_status status = PROTO_OK;
    for (uint32_t mat = 0; mat < w->n_mats && status == PROTO_OK; mat++) {
        struct shard_weight one;
        struct worker__source source;
        if (w->n_parts > 1 && mat >= w->n_parts)
            return proto_fail(error, PROTO_INVALID,
                              "%u tensors with %u experts: these cannot stay in the file",
                              w->n_parts, w->n_mats);
        status = worker__source_init(&source, &shelf, program->model->gguf,
                                     find_matrix(program, weight, mat, &one), error);
        if (status == PROTO_OK)
            status = check_shape(&one, 0, source.tensor, error);
    }
    return status;
}

void worker_load_matrix(void *memory, const struct shard_program *program, size_t weight,
                        uint32_t mat, const struct shard_gguf *file, struct kern_pool *pool)
{
    struct shard_weight one;
    const struct shard_tensor *tensor =
        shard_gguf_tensor(file, find_matrix(program, weight, mat, &one));
    uint64_t each = shard_pieces_count(tensor) / tensor_mats(tensor);
    const struct target target = {.weight = &one, .memory = memory};
    for (uint64_t i = one.mat_first * each; i < one.mat_end * each; i++) {
        struct shard_piece piece = shard_pieces_get(tensor, i);
        pack_piece(&target, tensor, &piece, tensor->data + piece.offset, pool);
    }
}

bool worker_weights_lost(const struct worker_weights *weights)
{
    for (size_t i = 0; weights->mapped && i < weights->n; i++)
        if (shard_mapped_lost(&weights->mapped[i]))
            return true;
    return weights->lazy && worker_lazy_lost(weights->lazy);
}

/* One holder less; whether it was the last. */
static bool let_go(unsigned **holders, size_t i)
{
    if (!holders || !holders[i])
        return true;
    bool last = --*holders[i] == 0;
    if (last)
        free(holders[i]);
    return last;
}

void worker_weights_finish(struct worker_weights *weights)
{
    for (size_t i = 0; weights->data && weights->mapped && i < weights->n; i++) {
        if (!let_go(weights->holders, i))
            continue;
        if (weights->mapped[i].data)
            shard_store_unmap(&weights->mapped[i]);
        else
            free(weights->data[i]);
    }
    free(weights->data);
    free(weights->mapped);
    worker_lazy_destroy(weights->lazy);
    shard_lease_destroy(weights->lease);
    free(weights->holders);
    free(weights->names);
    *weights = (struct worker_weights){0};
}
