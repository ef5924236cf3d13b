/* SPDX-License-Identifier: Apache-2.0 */
/* Caches that go from slices to slices which are cut elsewhere. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "shard/kv.h"
#include "tests/shard/edited.h"

#define SEQ 1u

static struct proto_error error;

/* A model cut into slices, and their caches. */
struct cut {
    struct shard_gguf *gguf;
    struct shard_model *model;
    struct shard_program *programs[3];
    struct shard_kv *kv[3];
};

/* kv[0]: layers before `at`, kv[1]: those from there on, kv[2]: layers [first, end). */
static void open_cut(struct cut *c, const char *preset, uint32_t at, uint32_t first, uint32_t end)
{
    c->gguf = preset_open(preset, "F32", false);
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&c->model, c->gguf, &error), PROTO_OK);
    const uint32_t ranges[][2] = {{0, at}, {at, c->model->n_layers}, {first, end}};
    const struct shard_kv_options options = {.max_seqs = 3, .ctx = 30000};
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL_FATAL(shard_program_create(&c->programs[i], c->model, ranges[i][0],
                                                   ranges[i][1], false, false, &error),
                              PROTO_OK);
        CU_ASSERT_EQUAL_FATAL(shard_kv_create(&c->kv[i], c->programs[i], &options, &error),
                              PROTO_OK);
    }
}

static void close_cut(struct cut *c)
{
    for (int i = 0; i < 3; i++) {
        shard_kv_destroy(c->kv[i]);
        shard_program_destroy(c->programs[i]);
    }
    shard_model_destroy(c->model);
    shard_gguf_close(c->gguf);
}

static float value_of(uint32_t layer, uint64_t pos)
{
    return (float)(layer * 100000 + pos);
}

/* Stands in for an executor: a value in each page that tells its layer and its last position. */
static void advance(struct shard_kv *kv, uint64_t pos, uint32_t n)
{
    uint32_t first, n_layers;
    CU_ASSERT_EQUAL_FATAL(shard_kv_reserve(kv, SEQ, pos, n, &error), PROTO_OK);
    shard_kv_layers(kv, &first, &n_layers);
    for (uint32_t layer = first; layer < first + n_layers; layer++) {
        float *state = shard_kv_state_bytes(kv, layer) ? shard_kv_state(kv, SEQ, layer) : NULL;
        if (state)
            *state = value_of(layer, pos + n);
        for (uint64_t p = pos; p < pos + n && shard_kv_page_bytes(kv, layer); p++)
            *(float *)shard_kv_view(kv, SEQ, layer).pages[p / SHARD_KV_PAGE_ROWS] =
                value_of(layer, p);
    }
    shard_kv_trim(kv, SEQ, pos + n);
}

/* Whether a cache has what an executor would have left there for positions up to `end`. */
static bool is_right(const struct shard_kv *kv, uint64_t end)
{
    uint32_t first, n;
    shard_kv_layers(kv, &first, &n);
    for (uint32_t layer = first; layer < first + n; layer++) {
        struct shard_kv_view view = shard_kv_view(kv, SEQ, layer);
        if (shard_kv_state_bytes(kv, layer) &&
            *shard_kv_state(kv, SEQ, layer) != value_of(layer, end))
            return false;
        for (uint64_t page = shard_kv_first_page(kv, layer, end);
             shard_kv_page_bytes(kv, layer) && page * SHARD_KV_PAGE_ROWS < end; page++) {
            uint64_t last = (page + 1) * SHARD_KV_PAGE_ROWS;
            last = (last < end ? last : end) - 1;
            if (page >= view.n_pages || !view.pages[page] ||
                *(const float *)view.pages[page] != value_of(layer, last))
                return false;
        }
    }
    return true;
}

/* Copies a layer of a sequence from page `first` on. */
static void copy_layer(struct shard_kv *to, const struct shard_kv *from, uint32_t layer,
                       uint64_t first)
{
    uint64_t end = shard_kv_end(from, SEQ);
    size_t page_bytes = shard_kv_page_bytes(from, layer), bytes = shard_kv_state_bytes(from, layer);
    CU_ASSERT(shard_kv_alike(to, from, layer));
    char *data = malloc(page_bytes + bytes + 1);
    for (uint64_t page = first; page_bytes && page * SHARD_KV_PAGE_ROWS < end; page++) {
        CU_ASSERT(shard_kv_read_pages(from, SEQ, layer, page, 1, data));
        CU_ASSERT_EQUAL(shard_kv_write_pages(to, SEQ, layer, page, 1, data, &error), PROTO_OK);
    }
    if (bytes) {
        CU_ASSERT(shard_kv_read_state(from, SEQ, layer, data));
        CU_ASSERT_EQUAL(shard_kv_write_state(to, SEQ, layer, data, &error), PROTO_OK);
    }
    free(data);
}

/* A slice has layers of its own, takes one from here and one from there. */
static void test_cut_elsewhere(void)
{
    struct cut c;
    open_cut(&c, "llama4-scout-tiny", 2, 1, 4);
    advance(c.kv[0], 0, 100);
    advance(c.kv[1], 0, 100);
    copy_layer(c.kv[2], c.kv[0], 1, 0);
    uint64_t others = shard_kv_used(c.kv[1]), version = shard_kv_version(c.kv[1], SEQ);
    CU_ASSERT(shard_kv_take(c.kv[2], c.kv[1], SEQ, 100));
    CU_ASSERT_EQUAL(shard_kv_end(c.kv[2], SEQ), 100);
    CU_ASSERT(is_right(c.kv[2], 100));
    CU_ASSERT_EQUAL(shard_kv_used(c.kv[2]) + shard_kv_used(c.kv[1]),
                    others + 4 * shard_kv_page_bytes(c.kv[2], 1));
    /* What is left there is read by others under the same version, which went along. */
    CU_ASSERT_EQUAL(shard_kv_end(c.kv[1], SEQ), 100);
    CU_ASSERT_EQUAL(shard_kv_version(c.kv[1], SEQ), version);
    CU_ASSERT_EQUAL(shard_kv_version(c.kv[2], SEQ), version);
    char *page = malloc(shard_kv_page_bytes(c.kv[1], 4));
    CU_ASSERT(shard_kv_read_pages(c.kv[1], SEQ, 4, 3, 1, page));
    CU_ASSERT(!shard_kv_read_pages(c.kv[1], SEQ, 3, 3, 1, page));
    CU_ASSERT(!shard_kv_read_pages(c.kv[1], SEQ, 4, 3, 2, page));
    CU_ASSERT(!shard_kv_read_pages(c.kv[1], SEQ, 4, UINT64_MAX, 2, page));
    CU_ASSERT(!shard_kv_read_pages(c.kv[1], 99, 4, 0, 1, page));
    free(page);
    /* It goes on as if nothing had been. */
    advance(c.kv[2], 100, 30);
    CU_ASSERT(is_right(c.kv[2], 130));
    advance(c.kv[2], 40, 1);
    CU_ASSERT(is_right(c.kv[2], 41));
    close_cut(&c);
}

/* A page, a layer, or the end that the old slice has is missing: nothing is there. */
static void test_not_whole(void)
{
    for (int missing = 0; missing < 4; missing++) {
        struct cut c;
        open_cut(&c, "llama4-scout-tiny", 2, 1, 4);
        advance(c.kv[0], 0, 100);
        advance(c.kv[1], 0, 100);
        if (missing != 0)
            copy_layer(c.kv[2], c.kv[0], 1, missing == 1);
        bool taken = missing == 2 ? shard_kv_take(c.kv[2], NULL, SEQ, 100)
                                  : shard_kv_take(c.kv[2], c.kv[1], SEQ, missing == 3 ? 101 : 100);
        CU_ASSERT(!taken);
        CU_ASSERT_EQUAL(shard_kv_end(c.kv[2], SEQ), 0);
        CU_ASSERT_EQUAL(shard_kv_used(c.kv[2]), 0);
        CU_ASSERT_EQUAL(shard_kv_reserve(c.kv[2], SEQ, 0, 10, &error), PROTO_OK);
        close_cut(&c);
    }
}

/* What no query sees any more need not be there, and what was written of it is given back. */
static void test_window(void)
{
    struct cut c;
    open_cut(&c, "llama4-scout-tiny", 2, 1, 2);
    for (uint64_t pos = 0; pos < 8200; pos += 100)
        advance(c.kv[0], pos, 100);
    size_t bytes = shard_kv_page_bytes(c.kv[2], 1);
    CU_ASSERT_EQUAL(shard_kv_first_page(c.kv[2], 1, 8200), 256);
    char *old = calloc(1, bytes);
    CU_ASSERT_EQUAL(shard_kv_write_pages(c.kv[2], SEQ, 1, 200, 1, old, &error), PROTO_OK);
    CU_ASSERT(!shard_kv_read_pages(c.kv[0], SEQ, 1, 200, 1, old));
    copy_layer(c.kv[2], c.kv[0], 1, 256);
    CU_ASSERT_EQUAL(shard_kv_used(c.kv[2]), bytes);
    CU_ASSERT(shard_kv_take(c.kv[2], NULL, SEQ, 8200));
    CU_ASSERT(is_right(c.kv[2], 8200));
    CU_ASSERT_EQUAL(shard_kv_resume(c.kv[2], SEQ, 8191), 0);
    free(old);
    close_cut(&c);
}

/* Layer 3 of qwen35moe-tiny has keys and values, the others states. */
static void test_states(void)
{
    struct cut c;
    open_cut(&c, "qwen35moe-tiny", 2, 1, 5);
    advance(c.kv[0], 0, 300);
    advance(c.kv[1], 0, 300);
    copy_layer(c.kv[2], c.kv[0], 1, 0);
    CU_ASSERT(shard_kv_take(c.kv[2], c.kv[1], SEQ, 300));
    CU_ASSERT(is_right(c.kv[2], 300));
    CU_ASSERT_EQUAL(shard_kv_used(c.kv[2]), shard_kv_bytes(c.programs[2], KERN_KV_F32, 300));
    /* No copies came along. */
    CU_ASSERT_EQUAL(shard_kv_resume(c.kv[2], SEQ, 299), 0);
    advance(c.kv[2], 300, 300);
    CU_ASSERT_EQUAL(shard_kv_resume(c.kv[2], SEQ, 599), 512);
    close_cut(&c);
    /* A state is of the last position alone. */
    open_cut(&c, "qwen35moe-tiny", 2, 1, 5);
    advance(c.kv[0], 0, 300);
    advance(c.kv[1], 0, 300);
    copy_layer(c.kv[2], c.kv[0], 1, 0);
    CU_ASSERT(!shard_kv_take(c.kv[2], c.kv[1], SEQ, 290));
    close_cut(&c);
}

/* Where all is in the old slice copies of states go along. */
static void test_all_from_one(void)
{
    struct cut c;
    open_cut(&c, "qwen35moe-tiny", 2, 2, 4);
    advance(c.kv[1], 0, 300);
    CU_ASSERT(shard_kv_take(c.kv[2], c.kv[1], SEQ, 300));
    CU_ASSERT(is_right(c.kv[2], 300));
    CU_ASSERT_EQUAL(shard_kv_resume(c.kv[2], SEQ, 299), 256);
    CU_ASSERT(!shard_kv_take(c.kv[2], c.kv[1], 2, 1));
    close_cut(&c);
}

static void test_versions(void)
{
    struct cut c;
    open_cut(&c, "llama4-scout-tiny", 2, 0, 2);
    advance(c.kv[0], 0, 50);
    uint64_t version = shard_kv_version(c.kv[0], SEQ);
    advance(c.kv[0], 50, 50);
    CU_ASSERT_EQUAL(shard_kv_version(c.kv[0], SEQ), version);
    advance(c.kv[0], 99, 5);
    CU_ASSERT_NOT_EQUAL(shard_kv_version(c.kv[0], SEQ), version);
    version = shard_kv_version(c.kv[0], SEQ);
    shard_kv_drop(c.kv[0], SEQ);
    CU_ASSERT_NOT_EQUAL(shard_kv_version(c.kv[0], SEQ), version);
    CU_ASSERT_EQUAL(shard_kv_end(c.kv[0], SEQ), 0);
    CU_ASSERT(shard_kv_version(c.kv[0], 99) == 0 && shard_kv_end(c.kv[0], 99) == 0);
    close_cut(&c);
}

/* Places that there are not, and no more than fits. */
static void test_refusals(void)
{
    struct cut c;
    open_cut(&c, "llama4-scout-tiny", 2, 1, 4);
    size_t bytes = shard_kv_page_bytes(c.kv[2], 1);
    char *page = calloc(2, bytes);
    struct shard_kv *kv = c.kv[2], *small = NULL;
    CU_ASSERT_EQUAL(shard_kv_write_pages(kv, 3, 1, 0, 1, page, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_write_pages(kv, 0, 0, 0, 1, page, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_write_pages(kv, 0, 4, 0, 1, page, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_write_pages(kv, 0, 1, 937, 2, page, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_write_pages(kv, 0, 1, UINT64_MAX, 2, page, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_write_state(kv, 0, 1, page, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_write_pages(kv, 0, 1, 0, 1, page, &error), PROTO_INVALID);
    CU_ASSERT(shard_kv_page_bytes(kv, 0) == 0 && shard_kv_page_bytes(kv, UINT32_MAX) == 0);
    const struct shard_kv_options options = {.max_seqs = 1, .max_bytes = bytes};
    CU_ASSERT_EQUAL_FATAL(shard_kv_create(&small, c.programs[2], &options, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_write_pages(small, 0, 1, 0, 2, page, &error), PROTO_CAPACITY);
    CU_ASSERT(!shard_kv_take(small, NULL, 0, 64));
    CU_ASSERT_EQUAL(shard_kv_used(small), 0);
    shard_kv_destroy(small);
    free(page);
    close_cut(&c);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("kv move", NULL, NULL);
    CU_add_test(suite, "cut elsewhere", test_cut_elsewhere);
    CU_add_test(suite, "not whole", test_not_whole);
    CU_add_test(suite, "window", test_window);
    CU_add_test(suite, "states", test_states);
    CU_add_test(suite, "all from one", test_all_from_one);
    CU_add_test(suite, "versions", test_versions);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
