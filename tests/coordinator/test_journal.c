/* SPDX-License-Identifier: Apache-2.0 */
/* The state file: what is told is there after a kill at any instant; files that are none. */
#include <CUnit/Basic.h>

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "coordinator/journal.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KILLS 50 /* processes are slow to start */
#else
#define KILLS 1000
#endif
#define PROMPT 5

static char folder[32], path[64];
static const uint8_t cluster[PROTO_KEY_BYTES] = {1, 2, 3};
static struct proto_error error;

/* A kill loses nothing that a file system has, synced or not, so one in memory does as well. */
static int set_up(void)
{
    snprintf(folder, sizeof folder, "%s/caravan-journal-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/state", folder);
    return 0;
}

static void remove_files(void)
{
    char name[80];
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, ends[i]);
        unlink(name);
    }
}

static int tear_down(void)
{
    remove_files();
    return rmdir(folder);
}

static struct coord_journal *open_it(void)
{
    struct coord_journal *j = NULL;
    if (coord_journal_open(&j, path, cluster, &error))
        fprintf(stderr, "%s\n", error.text);
    return j;
}

/* Tokens follow from their request, choice and place. */
static struct coord_event token_at(uint64_t number, uint32_t choice, uint64_t pos)
{
    struct coord_event event = {.kind = COORD_EVENT_TOKEN,
                                .token = (int32_t)(number * 31 + choice * 7 + pos),
                                .logprob = -(float)pos / 8,
                                .n_top = (uint32_t)(pos % 3),
                                .sampler = {~(uint64_t)0 - pos, 0.5 * (double)pos}};
    for (uint32_t i = 0; i < event.n_top; i++)
        event.top[i] = (struct text_candidate){(int32_t)i, (float)pos};
    return event;
}

static uint64_t add(struct coord_journal *j, const char *id)
{
    static const int32_t ids[PROMPT] = {9, 8, 7, 6, 5};
    const struct coord_journal_prompt prompts[] = {{ids, PROMPT}, {ids + 2, 1}};
    const struct coord_journal_request request = {.id = id,
                                                  .created = 1234567890123,
                                                  .chat = true,
                                                  .seed = ~(uint64_t)0,
                                                  .resume_s = 9,
                                                  .body = "{\"a\": \0001}",
                                                  .body_len = 9,
                                                  .prompts = prompts,
                                                  .n_prompts = 2};
    return coord_journal_add(j, &request);
}

static void add_tokens(struct coord_journal *j, uint64_t number, uint64_t from, uint64_t end)
{
    for (uint64_t pos = from; pos < end; pos++) {
        for (uint32_t choice = 0; choice < 2; choice++) {
            const struct coord_event event = token_at(number, choice, pos);
            coord_journal_token(j, number, choice, pos, &event);
        }
    }
}

struct found {
    unsigned n_requests, n_finished, wrong;
    uint64_t number, n_tokens[2];
};

static bool on_request(void *user, const struct coord_journal_request *r)
{
    struct found *f = user;
    f->n_requests++;
    f->n_finished += r->finished != 0;
    f->number = r->number;
    f->n_tokens[0] = f->n_tokens[1] = 0;
    f->wrong += r->created != 1234567890123 || !r->chat || r->seed != ~(uint64_t)0 ||
                r->resume_s != 9 || r->body_len != 9 || memcmp(r->body, "{\"a\": \0001}", 9) != 0 ||
                r->n_prompts != 2 || r->prompts[0].n_ids != PROMPT || r->prompts[0].ids[1] != 8 ||
                r->prompts[1].n_ids != 1 || r->prompts[1].ids[0] != 7;
    return true;
}

static bool on_token(void *user, uint32_t choice, const struct coord_event *event)
{
    struct found *f = user;
    const struct coord_event expected = token_at(f->number, choice, f->n_tokens[choice % 2]++);
    f->wrong += choice > 1 || event->token != expected.token || event->n_top != expected.n_top ||
                event->logprob != expected.logprob ||
                memcmp(event->top, expected.top, sizeof event->top) != 0 ||
                memcmp(&event->sampler, &expected.sampler, sizeof event->sampler) != 0;
    return true;
}

static struct found read_all(struct coord_journal *j)
{
    struct found found = {0};
    const struct coord_journal_reader reader = {on_request, on_token, &found};
    CU_ASSERT_EQUAL(coord_journal_read(j, &reader, &error), PROTO_OK);
    CU_ASSERT_EQUAL(found.wrong, 0);
    return found;
}

static void test_round_trip(void)
{
    struct coord_journal *j = open_it();
    CU_ASSERT_PTR_NOT_NULL_FATAL(j);
    CU_ASSERT_EQUAL(coord_journal_first_epoch(j), 0);
    CU_ASSERT_EQUAL(coord_journal_set_model(j, "m", &error), PROTO_OK);
    uint64_t first = add(j, "a"), second = add(j, "b"), third = add(j, "c");
    add_tokens(j, first, 0, 100);
    add_tokens(j, third, 0, 3);
    coord_journal_finish(j, first, 77);
    coord_journal_remove(j, second);
    coord_journal_set(j, "fact", "one");
    coord_journal_set(j, "fact", "two");
    coord_journal_note_epoch(j, 4711);
    coord_journal_close(j);
    struct stat status;
    CU_ASSERT(stat(path, &status) == 0 && (status.st_mode & 0777) == 0600);
    j = open_it();
    CU_ASSERT_PTR_NOT_NULL_FATAL(j);
    CU_ASSERT(coord_journal_first_epoch(j) > 4711);
    char *fact = coord_journal_get(j, "fact");
    CU_ASSERT(fact && strcmp(fact, "two") == 0);
    free(fact);
    struct found found = read_all(j);
    CU_ASSERT(found.n_requests == 2 && found.n_finished == 1 && found.n_tokens[1] == 3);
    CU_ASSERT(add(j, "d") > third);
    /* Another model's requests are of no use. */
    coord_journal_sync(j);
    CU_ASSERT_EQUAL(coord_journal_set_model(j, "m", &error), PROTO_OK);
    CU_ASSERT_EQUAL(read_all(j).n_requests, 3);
    CU_ASSERT_EQUAL(coord_journal_set_model(j, "n", &error), PROTO_OK);
    CU_ASSERT_EQUAL(read_all(j).n_requests, 0);
    coord_journal_close(j);
    remove_files();
}

/* What the child has done, where the parent sees it. */
struct progress {
    atomic_ullong epoch, synced; /* noted; tokens of the request that were waited for */
};

static void write_until_killed(struct progress *progress)
{
    struct coord_journal *j = open_it();
    if (!j)
        _exit(1);
    uint64_t epoch = coord_journal_first_epoch(j), number = add(j, "x");
    for (uint64_t pos = 0;; pos += 10) {
        coord_journal_note_epoch(j, epoch += 100);
        atomic_store(&progress->epoch, epoch);
        add_tokens(j, number, pos, pos + 10);
        if (pos % 50 == 0) {
            coord_journal_sync(j);
            atomic_store(&progress->synced, pos + 10);
        }
        if (pos % 500 == 490)
            coord_journal_remove(j, number - 1);
    }
}

static void test_kills(void)
{
    struct progress *progress =
        mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned bad = 0, lost = 0, reused = 0;
    unsigned random = 12345;
    for (int i = 0; i < KILLS && bad < 3; i++) {
        atomic_store(&progress->epoch, 0);
        atomic_store(&progress->synced, 0);
        pid_t pid = fork();
        if (pid == 0)
            write_until_killed(progress);
        random = random * 1664525u + 1013904223u;
        const struct timespec pause = {.tv_nsec = (long)(random >> 8) % 8000000};
        nanosleep(&pause, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        struct coord_journal *j = open_it();
        bad += !j;
        if (!j)
            continue;
        struct found found = read_all(j);
        reused += coord_journal_first_epoch(j) < atomic_load(&progress->epoch);
        lost +=
            found.n_tokens[0] < atomic_load(&progress->synced) && atomic_load(&progress->synced);
        coord_journal_close(j);
        if (i % 50 == 49)
            remove_files();
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_EQUAL(lost, 0);
    CU_ASSERT_EQUAL(reused, 0);
    munmap(progress, sizeof *progress);
    remove_files();
}

static void refused(enum proto_status status, const uint8_t *key, const char *words)
{
    struct coord_journal *j = NULL;
    error.text[0] = 0;
    CU_ASSERT_EQUAL(coord_journal_open(&j, path, key, &error), status);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, path));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, words));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "--state"));
    if (!strstr(error.text, words))
        fprintf(stderr, "%s\n", error.text);
    coord_journal_close(j);
}

static void put(off_t at, const void *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    CU_ASSERT(fd >= 0 && pwrite(fd, bytes, len, at) == (ssize_t)len);
    close(fd);
}

static void test_odd_files(void)
{
    char junk[8192];
    memset(junk, 'x', sizeof junk);
    put(0, junk, sizeof junk);
    refused(PROTO_FORMAT, cluster, "damaged");
    remove_files();
    struct coord_journal *j = open_it(), *second = NULL;
    CU_ASSERT_PTR_NOT_NULL_FATAL(j);
    CU_ASSERT_EQUAL(coord_journal_open(&second, path, cluster, &error), PROTO_BUSY);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "in use"));
    add_tokens(j, add(j, "a"), 0, 3000);
    coord_journal_close(j);
    static const uint8_t other[PROTO_KEY_BYTES] = {4};
    refused(PROTO_REFUSED, other, "cluster");
    /* The page of a table, not its header. */
    struct stat status;
    CU_ASSERT_EQUAL_FATAL(stat(path, &status), 0);
    put(status.st_size / 2, junk, sizeof junk);
    refused(PROTO_FORMAT, cluster, "damaged");
    static const uint8_t version[] = {0, 0, 0, 99}, application[] = {9, 9, 9, 9};
    remove_files();
    coord_journal_close(open_it());
    put(60, version, sizeof version);
    refused(PROTO_VERSION, cluster, "format 99");
    put(68, application, sizeof application);
    refused(PROTO_FORMAT, cluster, "another program's");
    remove_files();
}

/* As a full disk: calls still work and nothing is kept. */
static void test_full_disk(void)
{
    struct rlimit before, low = {.rlim_cur = 200000};
    struct coord_journal *j = open_it();
    CU_ASSERT_PTR_NOT_NULL_FATAL(j);
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &before), 0);
    low.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &low), 0);
    uint64_t number = add(j, "a");
    CU_ASSERT(number > 0);
    add_tokens(j, number, 0, 20000);
    coord_journal_sync(j);
    CU_ASSERT_EQUAL(add(j, "b"), 0);
    coord_journal_note_epoch(j, 1000000);
    coord_journal_close(j);
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &before), 0);
    j = open_it();
    CU_ASSERT_PTR_NOT_NULL_FATAL(j);
    read_all(j);
    coord_journal_close(j);
    remove_files();
}

/* One that is off. */
static void test_none(void)
{
    struct coord_event event = token_at(1, 0, 0);
    CU_ASSERT_EQUAL(add(NULL, "a"), 0);
    coord_journal_token(NULL, 1, 0, 0, &event);
    coord_journal_sync(NULL);
    CU_ASSERT_PTR_NULL(coord_journal_get(NULL, "fact"));
    CU_ASSERT_EQUAL(read_all(NULL).n_requests, 0);
    CU_ASSERT_EQUAL(coord_journal_first_epoch(NULL), 0);
}

static void test_path(void)
{
    char a[256], b[256];
    setenv("XDG_STATE_HOME", folder, 1);
    CU_ASSERT_EQUAL(coord_journal_path(a, sizeof a, "one", &error), PROTO_OK);
    CU_ASSERT_EQUAL(coord_journal_path(b, sizeof b, "two", &error), PROTO_OK);
    CU_ASSERT(strncmp(a, folder, strlen(folder)) == 0 && strcmp(a, b) != 0);
    CU_ASSERT_EQUAL(coord_journal_path(b, 20, "two", &error), PROTO_LIMIT);
    snprintf(a, sizeof a, "%s/caravan", folder);
    CU_ASSERT_EQUAL(rmdir(a), 0);
    unsetenv("XDG_STATE_HOME");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("journal", set_up, tear_down);
    CU_add_test(suite, "round trip", test_round_trip);
    CU_add_test(suite, "kills at any instant", test_kills);
    CU_add_test(suite, "odd files", test_odd_files);
    CU_add_test(suite, "full disk", test_full_disk);
    CU_add_test(suite, "none", test_none);
    CU_add_test(suite, "path", test_path);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
