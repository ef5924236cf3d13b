/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/gguf_writer.h"
#include "shard/mkmodel.h"
#include "worker/load.h"

/* A program's weights over tensors of all shapes that a loader meets. `large` has more chunks than
 * the loader asks for ahead, and in the big model more than one piece. */
static const struct shape {
    const char *name;
    enum kern_type type;
    uint64_t dims[3];
} shapes[] = {
    {"norm", KERN_F32, {100, 1, 1}},      {"scale", KERN_F16, {33, 1, 1}},
    {"odd", KERN_Q8_0, {64, 33, 1}},      {"experts", KERN_Q4_K, {256, 48, 5}},
    {"split.0", KERN_Q6_K, {256, 20, 1}}, {"split.1", KERN_Q6_K, {256, 20, 1}},
    {"split.2", KERN_Q6_K, {256, 20, 1}}, {"float", KERN_BF16, {50, 16, 1}},
    {"large", KERN_F32, {1024, 3000, 1}},
};
#define N_TENSORS ((uint32_t)(sizeof shapes / sizeof *shapes))
#define LARGE     (N_TENSORS - 1)
#define BIG_ROWS  16500

static struct kern_type_info const *q8, *q4k, *q6k, *bf16, *f32;
static uint32_t parts[N_TENSORS];
static struct shard_weight weights[7];
static struct shard_model model;
static struct shard_program program = {
    .model = &model, .weights = weights, .n_weights = 7, .parts = parts, .n_parts = N_TENSORS};

static char dir[] = "/tmp/caravan-test-load-XXXXXX";
static struct shard_gguf *gguf, *big;
static struct kern_pool *pool;
static struct proto_error error;

/* What a coordinator would do, with its faults. */
static struct {
    const struct shard_gguf *from;
    struct {
        uint32_t tensor;
        uint64_t at;
        uint32_t bytes;
    } queue[64];
    unsigned first, count, most; /* most: requests ever outstanding */
    uint64_t received;           /* bytes, over all loads */
    int lose_after;              /* answers; -1: never */
    int corrupt;                 /* answers for `large` yet to be spoilt */
    bool cut;                    /* answers come a byte short */
    atomic_bool *cancel;         /* set with the first answer */
    uint8_t answer[PROTO_CHUNK_BYTES];
} fake;

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
    fake.received += *len;
    return PROTO_OK;
}

static const struct worker_fetch fetch = {
    .hashes = fake_hashes, .request = fake_request, .receive = fake_receive};

static void fake_reset(const struct shard_gguf *from)
{
    memset(&fake, 0, sizeof fake);
    fake.from = from;
    fake.lose_after = -1;
}

/* Where progress got to. */
struct seen {
    uint64_t done, total, fetched;
};

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

static struct shard_store *open_store(void)
{
    char path[128];
    struct shard_store *store;
    snprintf(path, sizeof path, "%s/cache", dir);
    CU_ASSERT_EQUAL_FATAL(shard_store_open(&store, path, &error), PROTO_OK);
    return store;
}

static void drop_store(struct shard_store *store)
{
    nftw(shard_store_dir(store), remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    shard_store_close(store);
}

/* Writes `name`.gguf with random bytes for tensors; `large` gets large_rows rows, and the first
 * tensor the name first_name. */
static struct shard_gguf *make_model(const char *name, uint64_t large_rows, const char *first_name)
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

static void set_weights(void)
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

static void use_model(const struct shard_gguf *used)
{
    model.gguf = used;
    weights[6].n_out = shard_gguf_tensor(used, LARGE)->dims[1];
}

static int open_all(void)
{
    set_weights();
    return !mkdtemp(dir) || !(gguf = make_model("small", shapes[LARGE].dims[1], "norm")) ||
           !(big = make_model("big", BIG_ROWS, "norm")) || kern_pool_create(&pool, 3, &error);
}

static int close_all(void)
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

static void check_weights(const struct worker_weights *loaded, const struct shard_program *of)
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

static uint64_t total_bytes(const struct shard_program *of)
{
    uint64_t total = 0;
    for (size_t i = 0; i < of->n_parts; i++)
        total += shard_gguf_tensor(of->model->gguf, of->parts[i])->bytes;
    return total;
}

/* Matrices that did not become mappings. */
static size_t count_in_memory(const struct worker_weights *loaded, const struct shard_program *of)
{
    size_t count = 0;
    for (size_t i = 0; i < loaded->n; i++)
        count += of->weights[i].form == SHARD_WEIGHT_PANELS && !loaded->mapped[i];
    return count;
}

static size_t in_memory; /* after the last load */

/* Loads, expecting status; right weights after PROTO_OK, none otherwise. */
static struct seen load(const struct shard_program *what, struct worker_load_options options,
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

static void test_local_file(void)
{
    use_model(big);
    struct seen seen = load(&program, (struct worker_load_options){.file = big}, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, 0);
    use_model(gguf);
    load(&program, (struct worker_load_options){.file = gguf}, PROTO_OK);
}

static void test_fetch_then_store(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(big);
    fake_reset(big);
    struct seen seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, total_bytes(&program));
    CU_ASSERT_EQUAL(fake.received, total_bytes(&program));
    CU_ASSERT_EQUAL(fake.most, 8);
    fake_reset(big);
    seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, 0);
    CU_ASSERT_EQUAL(fake.received, 0);
    drop_store(store);
}

/* The coordinator is lost again and again; no byte travels twice. */
static void test_interruptions(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    uint64_t received = 0;
    for (int i = 0; i < 12; i++) {
        fake.first = fake.count = 0;
        fake.lose_after = i % 4;
        load(&program, options, PROTO_LOST);
        CU_ASSERT(i % 4 == 0 || fake.received > received);
        received = fake.received;
    }
    fake.first = fake.count = 0;
    fake.lose_after = -1;
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(fake.received, total_bytes(&program));
    drop_store(store);
}

static void test_corrupt_chunk(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    for (int into_memory = 0; into_memory < 2; into_memory++) {
        if (into_memory)
            options.store = NULL;
        fake_reset(gguf);
        fake.corrupt = 1;
        load(&program, options, PROTO_OK);
        CU_ASSERT_EQUAL(fake.received,
                        total_bytes(&program) + shard_gguf_tensor(gguf, LARGE)->bytes);
    }
    drop_store(store);
}

static void test_always_corrupt(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    fake.corrupt = 1 << 20;
    load(&program, options, PROTO_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "tensor large, piece 0 of 1"));
    CU_ASSERT_EQUAL(fake.received,
                    total_bytes(&program) + 2 * shard_gguf_tensor(gguf, LARGE)->bytes);
    drop_store(store);
}

static void test_damaged_store(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    load(&program, options, PROTO_OK);
    const struct shard_tensor *large = shard_gguf_tensor(gguf, LARGE);
    uint8_t hash[PROTO_HASH_BYTES];
    shard_hash(hash, large->data, large->bytes);
    char path[512], hex[65];
    for (int i = 0; i < 32; i++)
        sprintf(hex + 2 * i, "%02x", hash[i]);
    snprintf(path, sizeof path, "%s/pieces/%.2s/%s.piece", shard_store_dir(store), hex, hex);
    FILE *file = fopen(path, "r+b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputc(0xff, file);
    fclose(file);
    struct seen seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, large->bytes);
    drop_store(store);
}

/* Another process is fetching the piece: it is fetched past the store. */
static void test_busy_piece(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    const struct shard_tensor *large = shard_gguf_tensor(gguf, LARGE);
    uint8_t hash[PROTO_HASH_BYTES];
    shard_hash(hash, large->data, large->bytes);
    struct shard_store_part *part;
    uint64_t have;
    CU_ASSERT_EQUAL_FATAL(shard_store_begin(store, hash, large->bytes, &part, &have, &error),
                          PROTO_OK);
    load(&program, options, PROTO_OK);
    shard_store_abort(part);
    drop_store(store);
}

static void test_short_answer(void)
{
    use_model(gguf);
    fake_reset(gguf);
    fake.cut = true;
    load(&program, (struct worker_load_options){.fetch = &fetch}, PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "tensor norm"));
}

static void test_cancel(void)
{
    atomic_bool cancel = true;
    use_model(gguf);
    load(&program, (struct worker_load_options){.file = gguf, .cancel = &cancel}, PROTO_CANCELLED);
    atomic_store(&cancel, false);
    fake_reset(gguf);
    fake.cancel = &cancel;
    load(&program, (struct worker_load_options){.fetch = &fetch, .cancel = &cancel},
         PROTO_CANCELLED);
    CU_ASSERT(fake.received < total_bytes(&program));
}

static void test_full_disk(void)
{
    struct shard_store *store = open_store();
    struct rlimit limit;
    use_model(gguf);
    fake_reset(gguf);
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = 5 << 20;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    load(&program, (struct worker_load_options){.store = store, .fetch = &fetch}, PROTO_NOSPACE);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, shard_store_dir(store)));
    limit.rlim_cur = limit.rlim_max;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, before);
    drop_store(store);
}

/* The store's files of packed weights: how many, a sum that any new one changes, and the largest.
 */
static struct {
    unsigned count, parts;
    uint64_t sum;
    off_t largest;
    char path[512];
} packed;

static int see_packed(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)ftw;
    if (flag != FTW_F || !strstr(path, "/packed/"))
        return 0;
    packed.parts += strstr(path, ".part") != NULL;
    packed.count++;
    packed.sum += (uint64_t)info->st_ino * (uint64_t)info->st_mtim.tv_nsec;
    if (info->st_size > packed.largest) {
        packed.largest = info->st_size;
        snprintf(packed.path, sizeof packed.path, "%s", path);
    }
    return 0;
}

static void look_at_packed(struct shard_store *store)
{
    memset(&packed, 0, sizeof packed);
    nftw(shard_store_dir(store), see_packed, 16, FTW_PHYS);
    CU_ASSERT_EQUAL(packed.parts, 0);
}

static unsigned n_pieces;

static int see_piece(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)ftw;
    n_pieces += flag == FTW_F && strstr(path, "/pieces/");
    return 0;
}

static void damage_largest(void)
{
    FILE *file = fopen(packed.path, "r+b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    int byte = fgetc(file);
    rewind(file);
    fputc(byte ^ 1, file);
    fclose(file);
}

static void test_packed_of_a_local_file(void)
{
    struct shard_store *store = open_store();
    use_model(gguf);
    struct worker_load_options options = {.file = gguf, .packed = store};
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 5);
    uint64_t sum = packed.sum;
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.sum, sum);
    damage_largest();
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 5);
    CU_ASSERT_NOT_EQUAL(packed.sum, sum);
    options.packed = NULL;
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 5);
    drop_store(store);
}

/* What was packed from a file is not taken for what is in it now, even if its time was set back. */
static void test_packed_of_a_changed_file(void)
{
    struct shard_store *store = open_store();
    struct shard_gguf *before = make_model("changing", shapes[LARGE].dims[1], "norm"), *after;
    CU_ASSERT_PTR_NOT_NULL_FATAL(before);
    char path[128];
    snprintf(path, sizeof path, "%s", shard_gguf_path(before, 0));
    struct stat info;
    CU_ASSERT_EQUAL(stat(path, &info), 0);
    use_model(before);
    load(&program, (struct worker_load_options){.file = before, .packed = store}, PROTO_OK);
    shard_gguf_close(before);
    FILE *file = fopen(path, "r+b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fseek(file, -5000, SEEK_END);
    for (int i = 0; i < 100; i++)
        fputc('x', file);
    fflush(file);
    CU_ASSERT_EQUAL(futimens(fileno(file), (struct timespec[]){info.st_atim, info.st_mtim}), 0);
    fclose(file);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&after, path, &error), PROTO_OK);
    use_model(after);
    load(&program, (struct worker_load_options){.file = after, .packed = store}, PROTO_OK);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 10);
    shard_gguf_close(after);
    drop_store(store);
}

/* Packed weights take the place of the pieces that they were made from. */
static void test_packed_of_fetched_pieces(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .packed = store, .fetch = &fetch};
    use_model(big);
    fake_reset(big);
    struct seen seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, total_bytes(&program));
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 5);
    n_pieces = 0;
    nftw(shard_store_dir(store), see_piece, 16, FTW_PHYS);
    CU_ASSERT_EQUAL(n_pieces, 2);
    uint64_t sum = packed.sum;
    seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, 0);
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.sum, sum);
    damage_largest();
    seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, shard_gguf_tensor(big, LARGE)->bytes);
    CU_ASSERT_EQUAL(in_memory, 0);
    drop_store(store);
}

/* Two weights from one tensor, one of them a vector: its pieces stay, whichever comes first. */
static void check_packed_and_a_vector(size_t vector)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {
        .store = store, .packed = store, .fetch = &fetch, .pool = pool};
    uint32_t large_parts[] = {LARGE, LARGE};
    use_model(gguf);
    struct shard_weight both[] = {weights[6], weights[6]};
    struct shard_program twice = {
        .model = &model, .weights = both, .n_weights = 2, .parts = large_parts, .n_parts = 2};
    both[0].first_part = 0;
    both[1].first_part = 1;
    both[vector].form = SHARD_WEIGHT_VECTOR;
    both[vector].n_out *= both[vector].k;
    fake_reset(gguf);
    for (int i = 0; i < 2; i++) {
        struct worker_weights loaded;
        CU_ASSERT_EQUAL_FATAL(worker_load(&loaded, &twice, &options, &error), PROTO_OK);
        CU_ASSERT_EQUAL(count_in_memory(&loaded, &twice), 0);
        worker_weights_finish(&loaded);
    }
    CU_ASSERT_EQUAL(fake.received, shard_gguf_tensor(gguf, LARGE)->bytes);
    drop_store(store);
}

static void test_packed_and_a_vector_of_one_tensor(void)
{
    check_packed_and_a_vector(0);
    check_packed_and_a_vector(1);
}

/* No room for a packed weight: it is packed into memory, and the load goes on. */
static void test_full_disk_for_packed(void)
{
    struct shard_store *store = open_store();
    struct rlimit limit;
    use_model(gguf);
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = 5 << 20;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    load(&program, (struct worker_load_options){.file = gguf, .packed = store}, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 1);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 4);
    limit.rlim_cur = limit.rlim_max;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, before);
    drop_store(store);
}

/* Another process is packing the same weight: it is packed into memory. */
static void test_busy_packed(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.file = gguf, .packed = store};
    use_model(gguf);
    load(&program, options, PROTO_OK);
    look_at_packed(store);
    char part[512];
    snprintf(part, sizeof part, "%s", packed.path);
    strcpy(strstr(part, ".packed"), ".part");
    CU_ASSERT_EQUAL(rename(packed.path, part), 0);
    FILE *held = fopen(part, "r+b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(held);
    CU_ASSERT_EQUAL(flock(fileno(held), LOCK_EX), 0);
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 1);
    fclose(held);
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 0);
    drop_store(store);
}

static void test_another_local_file(void)
{
    struct shard_gguf *renamed = make_model("renamed", shapes[LARGE].dims[1], "other");
    CU_ASSERT_PTR_NOT_NULL_FATAL(renamed);
    use_model(gguf);
    load(&program, (struct worker_load_options){.file = renamed}, PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "renamed.gguf"));
    shard_gguf_close(renamed);
    load(&program, (struct worker_load_options){.file = big}, PROTO_FORMAT);
    load(&program, (struct worker_load_options){0}, PROTO_INVALID);
}

static void test_weight_of_another_shape(void)
{
    use_model(gguf);
    for (size_t i = 0; i < program.n_weights; i++) {
        struct shard_weight kept = weights[i];
        weights[i].n_out--;
        load(&program, (struct worker_load_options){.file = gguf}, PROTO_INVALID);
        weights[i] = kept;
    }
    weights[3].n_mats = 4;
    load(&program, (struct worker_load_options){.file = gguf}, PROTO_INVALID);
    set_weights();
    weights[4].n_mats = 2;
    load(&program, (struct worker_load_options){.file = gguf}, PROTO_INVALID);
    set_weights();
}

/* A whole model of the given preset, its program cut as a worker's is. */
static void check_preset(const char *preset, const char *type)
{
    char path[128], digest[65];
    snprintf(path, sizeof path, "%s/%s-%s.gguf", dir, preset, type);
    struct shard_mkmodel_options options = {.preset = preset, .type = type, .seed = 7};
    struct shard_gguf *made;
    struct shard_model *shape;
    struct shard_program *slice;
    CU_ASSERT_EQUAL_FATAL(shard_mkmodel(&options, path, digest, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&made, path, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&shape, made, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&slice, shape, 0, shape->n_layers, true, true, &error), PROTO_OK);
    load(slice, (struct worker_load_options){.file = made}, PROTO_OK);
    fake_reset(made);
    struct shard_store *store = open_store();
    load(slice, (struct worker_load_options){.store = store, .fetch = &fetch}, PROTO_OK);
    for (int i = 0; i < 2; i++) {
        load(slice, (struct worker_load_options){.file = made, .packed = store}, PROTO_OK);
        CU_ASSERT_EQUAL(in_memory, 0);
    }
    drop_store(store);
    shard_program_destroy(slice);
    shard_model_destroy(shape);
    shard_gguf_close(made);
}

static void test_presets(void)
{
    check_preset("llama3-tiny", "F16");
    check_preset("mixtral-tiny", "Q8_0");
    check_preset("llama-k", "Q6_K");
    check_preset("llama4-k", "Q4_K");
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("load", open_all, close_all);
    CU_add_test(suite, "local file", test_local_file);
    CU_add_test(suite, "fetch, then store", test_fetch_then_store);
    CU_add_test(suite, "interruptions", test_interruptions);
    CU_add_test(suite, "corrupt chunk", test_corrupt_chunk);
    CU_add_test(suite, "always corrupt", test_always_corrupt);
    CU_add_test(suite, "damaged store", test_damaged_store);
    CU_add_test(suite, "busy piece", test_busy_piece);
    CU_add_test(suite, "short answer", test_short_answer);
    CU_add_test(suite, "cancel", test_cancel);
    CU_add_test(suite, "full disk", test_full_disk);
    CU_add_test(suite, "packed of a local file", test_packed_of_a_local_file);
    CU_add_test(suite, "packed of a changed file", test_packed_of_a_changed_file);
    CU_add_test(suite, "packed of fetched pieces", test_packed_of_fetched_pieces);
    CU_add_test(suite, "packed and a vector of one tensor", test_packed_and_a_vector_of_one_tensor);
    CU_add_test(suite, "full disk for packed", test_full_disk_for_packed);
    CU_add_test(suite, "busy packed", test_busy_packed);
    CU_add_test(suite, "another local file", test_another_local_file);
    CU_add_test(suite, "weight of another shape", test_weight_of_another_shape);
    CU_add_test(suite, "presets", test_presets);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
