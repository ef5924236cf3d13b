/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's profile: plausible, kept, and never taken from a file that is not as it was written.
 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/pieces.h"
#include "worker/profile_parts.h"

static char dir[] = "/tmp/caravan-test-profile-XXXXXX";
static char key[WORKER__PROFILE_KEY_BYTES];
static struct kern_pool *pool;
static struct proto_error error;

static struct worker_profile_options options_with(const char *cache_dir)
{
    return (struct worker_profile_options){
        .pool = pool, .table = kern_table_get(kern_isa_best()), .cache_dir = cache_dir};
}

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static struct proto_profile sample(void)
{
    return (struct proto_profile){.free_bytes = 1 << 30,
                                  .read_bytes_s = 4e10,
                                  .float_ops_s = 1e11,
                                  .wake_s = 1e-5,
                                  .run_s = 1e-6,
                                  .disk_bytes_s = 2e9,
                                  .types = {{KERN_Q4_K, 1e11, 1e12}},
                                  .n_types = 1};
}

static void check_plausible(const struct proto_profile *p)
{
    CU_ASSERT(p->free_bytes > 1 << 20);
    CU_ASSERT(p->read_bytes_s > 1e7 && p->read_bytes_s < 1e14);
    CU_ASSERT(p->float_ops_s > 1e6 && p->float_ops_s < 1e16);
    CU_ASSERT(p->wake_s > 0 && p->wake_s < 1);
    CU_ASSERT(p->run_s > 0 && p->run_s < 1);
    CU_ASSERT(p->disk_bytes_s >= 0 && p->disk_bytes_s < 1e13);
    CU_ASSERT(p->machine_read_bytes_s >= p->read_bytes_s);
    CU_ASSERT(p->machine_ops_s >= p->types[0].rows_ops_s);
    CU_ASSERT_EQUAL(p->n_types, PROTO_MAX_PROFILE_TYPES);
    for (uint32_t i = 0; i < p->n_types; i++) {
        const struct proto_type_rate *rate = &p->types[i];
        CU_ASSERT_PTR_NOT_NULL(kern_type_find(rate->type));
        CU_ASSERT(rate->row_ops_s > 1e6 && rate->row_ops_s < 1e16);
        CU_ASSERT(rate->rows_ops_s > 1e6 && rate->rows_ops_s < 1e17);
        for (uint32_t k = 0; k < i; k++)
            CU_ASSERT_NOT_EQUAL(rate->type, p->types[k].type);
    }
}

static void test_measured_once(void)
{
    struct worker_profile_options options = options_with(dir);
    struct proto_profile first, second;
    CU_ASSERT_EQUAL_FATAL(worker_profile_get(&first, &options, &error), PROTO_OK);
    check_plausible(&first);
    CU_ASSERT_EQUAL_FATAL(worker_profile_get(&second, &options, &error), PROTO_OK);
    second.free_bytes = first.free_bytes;
    CU_ASSERT_EQUAL(memcmp(&first, &second, sizeof first), 0);
    options.anew = true;
    CU_ASSERT_EQUAL_FATAL(worker_profile_get(&second, &options, &error), PROTO_OK);
    check_plausible(&second);
    CU_ASSERT_NOT_EQUAL(first.read_bytes_s, second.read_bytes_s);
}

/* Where nothing can be kept, the machine is measured all the same. */
static void test_without_a_cache(void)
{
    struct worker_profile_options options = options_with("/proc/self/no/such");
    struct proto_profile profile;
    CU_ASSERT_EQUAL_FATAL(worker_profile_get(&profile, &options, &error), PROTO_OK);
    check_plausible(&profile);
    CU_ASSERT_EQUAL(profile.disk_bytes_s, 0);
}

static void test_cancelled(void)
{
    const atomic_bool cancel = true;
    struct worker_profile_options options = options_with(dir);
    struct proto_profile profile;
    options.cancel = &cancel;
    options.anew = true;
    CU_ASSERT_EQUAL(worker_profile_get(&profile, &options, &error), PROTO_CANCELLED);
}

/* The first product that is measured cancels the measuring. */
static kern_matmul_fn *real_matmul;
static atomic_bool cancel_now;
static atomic_uint later_products;

static void cancelling_matmul(float *y, size_t ldy, const void *w, size_t n_panels, const void *x,
                              size_t x_bytes, size_t n_rows, size_t k)
{
    atomic_fetch_add(&later_products, n_rows > 1);
    real_matmul(y, ldy, w, n_panels, x, x_bytes, n_rows, k);
    atomic_store(&cancel_now, true);
}

/* Whoever wants the threads does not wait for what is not half done, and nothing of it is kept. */
static void test_cancelled_half_way(void)
{
    struct kern_table table = *kern_table_get(kern_isa_best());
    struct worker_profile_options options = options_with(dir);
    struct proto_profile before, profile;
    CU_ASSERT_EQUAL_FATAL(worker_profile_get(&before, &options, &error), PROTO_OK);
    real_matmul = table.matmul[KERN_Q8_0];
    table.matmul[KERN_Q8_0] = cancelling_matmul;
    options.table = &table;
    options.cancel = &cancel_now;
    options.anew = true;
    CU_ASSERT_EQUAL(worker_profile_get(&profile, &options, &error), PROTO_CANCELLED);
    CU_ASSERT_EQUAL(later_products, 0);
    options.anew = false;
    CU_ASSERT_EQUAL(worker_profile_get(&profile, &options, &error), PROTO_OK);
    CU_ASSERT_EQUAL(profile.read_bytes_s, before.read_bytes_s);
}

/* ---- the file ---- */

static size_t read_whole(const char *path, uint8_t *bytes, size_t room)
{
    FILE *file = fopen(path, "rb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    size_t len = fread(bytes, 1, room, file);
    fclose(file);
    return len;
}

static bool reads(const uint8_t *bytes, size_t len)
{
    struct proto_profile profile;
    const char *path = path_of("hostile");
    FILE *file = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    CU_ASSERT_EQUAL_FATAL(fwrite(bytes, 1, len, file), len);
    fclose(file);
    return worker__profile_read(&profile, path, key);
}

static void test_file(void)
{
    struct proto_profile out, profile = sample();
    char path[256];
    snprintf(path, sizeof path, "%s", path_of("profile"));
    CU_ASSERT_FALSE(worker__profile_read(&out, path, key));
    CU_ASSERT_EQUAL_FATAL(worker__profile_write(&profile, path, key, &error), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(worker__profile_read(&out, path, key));
    CU_ASSERT_EQUAL(memcmp(&out, &profile, sizeof out), 0);
    CU_ASSERT_FALSE(worker__profile_read(&out, path, "another machine"));
    char longer[sizeof key + 1];
    snprintf(longer, sizeof longer, "%s2", key);
    CU_ASSERT_FALSE(worker__profile_read(&out, path, longer));
    CU_ASSERT_FALSE(worker__profile_read(&out, dir, key));
    CU_ASSERT_NOT_EQUAL(worker__profile_write(&profile, path_of("no/such/folder"), key, &error),
                        PROTO_OK);
    profile.read_bytes_s = (double)NAN;
    CU_ASSERT_EQUAL(worker__profile_write(&profile, path, key, &error), PROTO_INVALID);
}

static void test_damaged_files(void)
{
    struct proto_profile profile = sample();
    uint8_t bytes[9000];
    char path[256];
    snprintf(path, sizeof path, "%s", path_of("profile"));
    CU_ASSERT_EQUAL_FATAL(worker__profile_write(&profile, path, key, &error), PROTO_OK);
    size_t len = read_whole(path, bytes, sizeof bytes);
    CU_ASSERT_TRUE_FATAL(reads(bytes, len));
    for (size_t cut = 0; cut < len; cut++)
        CU_ASSERT_FALSE(reads(bytes, cut));
    for (size_t i = 0; i < len; i++) {
        bytes[i] ^= 0x10;
        CU_ASSERT_FALSE(reads(bytes, len));
        bytes[i] ^= 0x10;
    }
    memset(bytes + len, 0, sizeof bytes - len);
    CU_ASSERT_FALSE(reads(bytes, len + 1));
    CU_ASSERT_FALSE(reads(bytes, sizeof bytes));
}

/* Bytes with a right hash that hold something else. */
static void test_forged_files(void)
{
    const struct proto_msg ping = {.kind = PROTO_MSG_PING, .ping = {.sent_ns = 1}};
    uint8_t bytes[2048], *body;
    size_t len, head = 8 + strlen(key) + 1;
    CU_ASSERT_EQUAL_FATAL(proto_msg_encode(&ping, &body, &len, &error), PROTO_OK);
    memcpy(bytes, "CARAVANP", 8);
    memcpy(bytes + 8, key, strlen(key));
    bytes[head - 1] = '\n';
    memcpy(bytes + head, body, len);
    shard_hash(bytes + head + len, bytes, head + len);
    CU_ASSERT_FALSE(reads(bytes, head + len + PROTO_HASH_BYTES));
    shard_hash(bytes + head, bytes, head); /* no message at all */
    CU_ASSERT_FALSE(reads(bytes, head + PROTO_HASH_BYTES));
    free(body);
}

static void test_print(void)
{
    struct proto_profile profile = sample();
    char *text = NULL;
    size_t len = 0;
    profile.disk_bytes_s = 0;
    profile.types[profile.n_types++] = (struct proto_type_rate){4000, 1e9, 1e9};
    FILE *out = open_memstream(&text, &len);
    worker_profile_print(&profile, out);
    fclose(out);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "memory reads                  40.00 GB/s\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "disk reads                  unknown\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "Q4_K                 100.0          1000.0\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "?                      1.0             1.0\n"));
    free(text);
}

static int remove_folder(void)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    kern_pool_destroy(pool);
    return system(command);
}

static int make_folder(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    worker__profile_key(key, kern_table_get(kern_isa_best()), 2);
    return !mkdtemp(dir) || kern_pool_create(&pool, 2, &error) != PROTO_OK;
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("profile", make_folder, remove_folder);
    CU_add_test(suite, "measured once", test_measured_once);
    CU_add_test(suite, "without a cache", test_without_a_cache);
    CU_add_test(suite, "cancelled", test_cancelled);
    CU_add_test(suite, "cancelled half way", test_cancelled_half_way);
    CU_add_test(suite, "file", test_file);
    CU_add_test(suite, "damaged files", test_damaged_files);
    CU_add_test(suite, "forged files", test_forged_files);
    CU_add_test(suite, "print", test_print);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
