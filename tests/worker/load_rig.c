/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/worker/load_rig.h"

#include <CUnit/Basic.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/gguf_writer.h"

const struct shape shapes[] = {
    {"norm", KERN_F32, {100, 1, 1}},      {"scale", KERN_F16, {33, 1, 1}},
    {"odd", KERN_Q8_0, {64, 33, 1}},      {"experts", KERN_Q4_K, {256, 48, 5}},
    {"split.0", KERN_Q6_K, {256, 20, 1}}, {"split.1", KERN_Q6_K, {256, 20, 1}},
    {"split.2", KERN_Q6_K, {256, 20, 1}}, {"float", KERN_BF16, {50, 16, 1}},
    {"large", KERN_F32, {1024, 3000, 1}},
};
#define BIG_ROWS 16500
_Static_assert(sizeof shapes / sizeof *shapes == N_TENSORS, "as the header says");

static struct kern_type_info const *q8, *q4k, *q6k, *bf16, *f32;
static uint32_t parts[N_TENSORS];
struct shard_weight weights[N_WEIGHTS];
struct shard_model model;
struct shard_program program = {.model = &model,
                                .weights = weights,
                                .n_weights = N_WEIGHTS,
                                .parts = parts,
                                .n_parts = N_TENSORS};

char dir[] = "/tmp/caravan-test-load-XXXXXX";
struct shard_gguf *gguf, *big;
struct kern_pool *pool;
struct proto_error error;

struct fake fake;

static enum proto_status fake_hashes(void *arg, uint32_t tensor, uint8_t *hashes, uint64_t n,
                                     struct proto_error *failure)
{
    (void)arg, (void)failure;
    const struct shard_tensor *t = shard_gguf_tensor(fake.from, tensor);
    CU_ASSERT_EQUAL(n, shard_pieces_count(t));
    for (uint64_t i = 0; i < n; i++) {
        struct shard_piece piece = shard_pieces_get(t, i);
        shard_hash(hashes + i * PROTO_HASH_BYTES, t->data + piece.offset, piece.bytes);
    }
    return PROTO_OK;
}

static enum proto_status fake_request(void *arg, uint32_t tensor, uint64_t piece, uint64_t offset,
                                      uint32_t bytes, struct proto_error *failure)
{
    (void)arg, (void)failure;
    struct shard_piece info = shard_pieces_get(shard_gguf_tensor(fake.from, tensor), piece);
    CU_ASSERT(bytes > 0 && bytes <= PROTO_CHUNK_BYTES);
    CU_ASSERT(offset + bytes <= info.bytes);
    CU_ASSERT_FATAL(fake.count < 64);
    unsigned slot = (fake.first + fake.count++) % 64;
    fake.queue[slot].tensor = tensor;
    fake.queue[slot].at = info.offset + offset;
    fake.queue[slot].bytes = bytes;
    fake.most = fake.count > fake.most ? fake.count : fake.most;
    return PROTO_OK;
}

static enum proto_status fake_receive(void *arg, const void **data, size_t *len,
                                      struct proto_error *failure)
{
    (void)arg;
    CU_ASSERT_FATAL(fake.count > 0);
    if (fake.lose_after == 0)
        return proto_fail(failure, PROTO_LOST, "the coordinator is gone");
    fake.lose_after -= fake.lose_after > 0;
    unsigned slot = fake.first++ % 64;
    fake.count--;
    const struct shard_tensor *t = shard_gguf_tensor(fake.from, fake.queue[slot].tensor);
    *len = fake.queue[slot].bytes - fake.cut;
    *data = memcpy(fake.answer, t->data + fake.queue[slot].at, *len);
    if (fake.queue[slot].tensor == LARGE && fake.corrupt > 0) {
        fake.corrupt--;
        fake.answer[*len / 2] ^= 1;
    }
    if (fake.cancel)
        atomic_store(fake.cancel, true);
    if (fake.meanwhile && fake.queue[slot].tensor == EXPERTS) {
        fake.meanwhile();
        fake.meanwhile = NULL;
    }
    fake.received += *len;
    return PROTO_OK;
}

static void fake_drop(void *arg)
{
    (void)arg;
    fake.first = fake.count = 0;
}

const struct worker_fetch fetch = {
    .hashes = fake_hashes, .request = fake_request, .receive = fake_receive, .drop = fake_drop};

void fake_reset(const struct shard_gguf *from)
{
    memset(&fake, 0, sizeof fake);
    fake.from = from;
    fake.lose_after = -1;
}

static void on_progress(void *arg, uint64_t done, uint64_t total, uint64_t fetched)
{
    struct seen *seen = arg;
    CU_ASSERT(done > seen->done && done <= total && fetched >= seen->fetched);
    *seen = (struct seen){done, total, fetched};
}

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)flag, (void)ftw;
    return remove(path);
}

struct shard_store *open_store(void)
{
    char path[128];
    struct shard_store *store;
    snprintf(path, sizeof path, "%s/cache", dir);
    CU_ASSERT_EQUAL_FATAL(shard_store_open(&store, path, &error), PROTO_OK);
    return store;
}

void drop_store(struct shard_store *store)
{
    nftw(shard_store_dir(store), remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    shard_store_close(store);
}

struct shard_gguf *make_model(const char *name, uint64_t large_rows, const char *first_name)
{
    char path[128];
    struct shard_gguf *opened = NULL;
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    shard_gguf_writer_str(w, "general.architecture", "llama");
    uint64_t data_bytes = 0;
    for (uint32_t i = 0; i < N_TENSORS; i++) {
        uint64_t dims[3] = {shapes[i].dims[0], i == LARGE ? large_rows : shapes[i].dims[1],
                            shapes[i].dims[2]};
        const struct kern_type_info *type = kern_type_find(shapes[i].type);
        shard_gguf_writer_tensor(w, i ? shapes[i].name : first_name, type, 3, dims);
        data_bytes += kern_type_bytes(type, dims[0]) * dims[1] * dims[2] + 32;
    }
    void *header = NULL;
    size_t len = 0;
    uint8_t *data = malloc(data_bytes);
    uint32_t random = 1;
    for (uint64_t i = 0; data && i < data_bytes; i++) {
        random = random * 1664525 + 1013904223;
        data[i] = (uint8_t)(random >> 24);
    }
    snprintf(path, sizeof path, "%s/%s.gguf", dir, name);
    FILE *file = fopen(path, "wb");
    if (data && file && !shard_gguf_writer_header(w, &header, &len, &error) &&
        fwrite(header, 1, len, file) == len && fwrite(data, 1, data_bytes, file) == data_bytes &&
        fflush(file) == 0 && shard_gguf_open(&opened, path, &error))
        printf("%s\n", error.text);
    if (file)
        fclose(file);
    free(data);
    free(header);
    shard_gguf_writer_destroy(w);
    return opened;
}

void set_weights(void)
{
    q8 = kern_type_find(KERN_Q8_0), q4k = kern_type_find(KERN_Q4_K);
    q6k = kern_type_find(KERN_Q6_K), bf16 = kern_type_find(KERN_BF16);
    f32 = kern_type_find(KERN_F32);
    const struct shard_weight all[] = {
        {.form = SHARD_WEIGHT_VECTOR,
         .k = 1,
         .n_out = 100,
         .n_mats = 1,
         .first_part = 0,
         .n_parts = 1},
        {.form = SHARD_WEIGHT_VECTOR,
         .k = 1,
         .n_out = 33,
         .n_mats = 1,
         .first_part = 1,
         .n_parts = 1},
        {.form = SHARD_WEIGHT_PANELS,
         .type = q8,
         .k = 64,
         .n_out = 33,
         .n_mats = 1,
         .first_part = 2,
         .n_parts = 1},
        {.form = SHARD_WEIGHT_PANELS,
         .type = q4k,
         .k = 256,
         .n_out = 48,
         .n_mats = 5,
         .first_part = 3,
         .n_parts = 1},
        {.form = SHARD_WEIGHT_PANELS,
         .type = q6k,
         .k = 256,
         .n_out = 20,
         .n_mats = 3,
         .first_part = 4,
         .n_parts = 3},
        {.form = SHARD_WEIGHT_PANELS,
         .type = bf16,
         .k = 50,
         .n_out = 16,
         .n_mats = 1,
         .first_part = 7,
         .n_parts = 1},
        {.form = SHARD_WEIGHT_PANELS,
         .type = f32,
         .k = 1024,
         .n_out = 3000,
         .n_mats = 1,
         .first_part = 8,
         .n_parts = 1},
    };
    memcpy(weights, all, sizeof all);
    for (uint32_t i = 0; i < N_TENSORS; i++)
        parts[i] = i;
}

void use_model(const struct shard_gguf *used)
{
    model.gguf = used;
    weights[6].n_out = shard_gguf_tensor(used, LARGE)->dims[1];
}

int open_all(void)
{
    set_weights();
    return !mkdtemp(dir) || !(gguf = make_model("small", shapes[LARGE].dims[1], "norm")) ||
           !(big = make_model("big", BIG_ROWS, "norm")) || kern_pool_create(&pool, 3, &error);
}

int close_all(void)
{
    kern_pool_destroy(pool);
    shard_gguf_close(gguf);
    shard_gguf_close(big);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void check_vector(const struct shard_tensor *tensor, const float *loaded)
{
    size_t n = tensor->dims[0], padded = (n + 15) / 16 * 16;
    float *expected = calloc(padded, sizeof *expected);
    kern_dequantize(tensor->type, tensor->data, n, expected);
    CU_ASSERT_EQUAL(memcmp(loaded, expected, padded * sizeof *expected), 0);
    free(expected);
}

static void check_panels(const struct shard_tensor *tensor, const uint8_t *loaded)
{
    size_t packed = kern_packed_bytes(tensor->type, tensor->dims[1], tensor->dims[0]);
    uint8_t *expected = aligned_alloc(64, (packed + 63) & ~(size_t)63);
    for (uint64_t mat = 0; mat < tensor->dims[2]; mat++) {
        kern_pack(tensor->type, expected, tensor->data + tensor->bytes / tensor->dims[2] * mat,
                  tensor->dims[1], tensor->dims[0]);
        CU_ASSERT_EQUAL(memcmp(loaded + mat * packed, expected, packed), 0);
    }
    free(expected);
}

void check_weights(const struct worker_weights *loaded, const struct shard_program *of)
{
    CU_ASSERT_EQUAL_FATAL(loaded->n, of->n_weights);
    for (size_t i = 0; i < loaded->n; i++) {
        const struct shard_weight *weight = &of->weights[i];
        const uint8_t *data = loaded->data[i];
        CU_ASSERT_EQUAL((uintptr_t)data % 64, 0);
        for (uint32_t p = 0; p < weight->n_parts; p++) {
            const struct shard_tensor *tensor =
                shard_gguf_tensor(of->model->gguf, of->parts[weight->first_part + p]);
            if (weight->form == SHARD_WEIGHT_VECTOR)
                check_vector(tensor, (const float *)data);
            else
                check_panels(tensor,
                             data + p * kern_packed_bytes(weight->type, weight->n_out, weight->k));
        }
    }
}

static void check_empty(const struct worker_weights *loaded)
{
    CU_ASSERT_PTR_NULL(loaded->data);
    CU_ASSERT_EQUAL(loaded->n, 0);
}

uint64_t total_bytes(const struct shard_program *of)
{
    uint64_t total = 0;
    for (size_t i = 0; i < of->n_parts; i++)
        total += shard_gguf_tensor(of->model->gguf, of->parts[i])->bytes;
    return total;
}

size_t count_in_memory(const struct worker_weights *loaded, const struct shard_program *of)
{
    size_t count = 0;
    for (size_t i = 0; i < loaded->n; i++)
        count += of->weights[i].form == SHARD_WEIGHT_PANELS && !loaded->mapped[i].data;
    return count;
}

size_t in_memory;

struct seen load(const struct shard_program *what, struct worker_load_options options,
                 enum proto_status expected)
{
    struct worker_weights loaded;
    struct seen seen = {0};
    options.pool = pool;
    options.progress = on_progress;
    options.progress_arg = &seen;
    enum proto_status status = worker_load(&loaded, what, &options, &error);
    CU_ASSERT_EQUAL(status, expected);
    if (status) {
        check_empty(&loaded);
    } else {
        check_weights(&loaded, what);
        in_memory = count_in_memory(&loaded, what);
        CU_ASSERT_EQUAL(seen.total, total_bytes(what));
        CU_ASSERT_EQUAL(seen.done, seen.total);
    }
    worker_weights_finish(&loaded);
    check_empty(&loaded);
    return seen;
}
