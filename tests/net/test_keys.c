/* SPDX-License-Identifier: Apache-2.0 */
#include "net/keys.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/caravan-keys-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputs(text, file);
    fclose(file);
    chmod(path, 0600);
}

static struct net_cluster_keys make(const char *address)
{
    struct net_cluster_keys keys;
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_generate(&keys, address, NULL), PROTO_OK);
    return keys;
}

static void test_keys_differ(void)
{
    struct net_cluster_keys a = make(""), b = make("");
    CU_ASSERT_NOT_EQUAL(memcmp(&a.pair, &b.pair, sizeof a.pair), 0);
    CU_ASSERT_NOT_EQUAL(memcmp(a.secret, b.secret, sizeof a.secret), 0);
    CU_ASSERT_NOT_EQUAL(memcmp(a.secret, a.pair.secret_key, sizeof a.secret), 0);
}

static void test_addresses(void)
{
    static const char *const good[] = {"", "host:1", "[::1]:7400", "10.0.0.1:65535"};
    static const char *const bad[] = {"host", "host:", "host:0", "host:65536", "a b:1", "a\nb:1"};
    struct net_cluster_keys keys;
    struct proto_error error;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CU_ASSERT_EQUAL(net_cluster_keys_generate(&keys, good[i], &error), PROTO_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(net_cluster_keys_generate(&keys, bad[i], &error), PROTO_INVALID);
    char large[NET_ADDRESS_BYTES + 10];
    memset(large, 'a', sizeof large);
    strcpy(large + sizeof large - 4, ":80");
    CU_ASSERT_EQUAL(net_cluster_keys_generate(&keys, large, &error), PROTO_INVALID);
}

static void test_token_round_trips(void)
{
    char longest[NET_ADDRESS_BYTES];
    memset(longest, 'h', sizeof longest - 1);
    strcpy(longest + sizeof longest - 4, ":80");
    const char *addresses[] = {"", "192.168.1.20:7400", longest};
    for (int i = 0; i < 3; i++) {
        struct net_cluster_keys keys = make(addresses[i]);
        char text[NET_TOKEN_TEXT_BYTES], padded[NET_TOKEN_TEXT_BYTES + 8];
        net_token_format(&keys, text);
        CU_ASSERT_EQUAL(strncmp(text, "caravan1-", 9), 0);
        snprintf(padded, sizeof padded, " %s\r\n", text);
        struct net_token token;
        CU_ASSERT_EQUAL_FATAL(net_token_parse(&token, padded, NULL), PROTO_OK);
        CU_ASSERT_EQUAL(memcmp(token.cluster_key, keys.pair.public_key, PROTO_KEY_BYTES), 0);
        CU_ASSERT_EQUAL(memcmp(token.secret, keys.secret, PROTO_KEY_BYTES), 0);
        CU_ASSERT_STRING_EQUAL(token.address, addresses[i]);
    }
}

static void test_damaged_tokens(void)
{
    struct net_cluster_keys keys = make("host:7400");
    char text[NET_TOKEN_TEXT_BYTES], damaged[2 * NET_TOKEN_TEXT_BYTES];
    net_token_format(&keys, text);
    size_t len = strlen(text);
    struct net_token token;
    struct proto_error error;
    for (size_t cut = 0; cut < len; cut++) {
        memcpy(damaged, text, cut);
        damaged[cut] = 0;
        CU_ASSERT_EQUAL(net_token_parse(&token, damaged, &error), PROTO_FORMAT);
    }
    for (size_t at = 0; at < len; at++) {
        strcpy(damaged, text);
        damaged[at] = damaged[at] == 'A' ? 'B' : 'A';
        CU_ASSERT_EQUAL(net_token_parse(&token, damaged, &error), PROTO_FORMAT);
    }
    snprintf(damaged, sizeof damaged, "%s%s", text, text + 9);
    CU_ASSERT_EQUAL(net_token_parse(&token, damaged, &error), PROTO_FORMAT);
    snprintf(damaged, sizeof damaged, "%s and more", text);
    CU_ASSERT_EQUAL(net_token_parse(&token, damaged, &error), PROTO_FORMAT);
    memset(damaged, 'A', sizeof damaged - 1);
    damaged[sizeof damaged - 1] = 0;
    memcpy(damaged, "caravan1-", 9);
    CU_ASSERT_EQUAL(net_token_parse(&token, damaged, &error), PROTO_FORMAT);
}

static void test_proofs(void)
{
    struct net_cluster_keys a = make(""), b = make("");
    uint8_t proof[PROTO_KEY_BYTES];
    net_proof_make(proof, a.secret, b.pair.public_key);
    CU_ASSERT_TRUE(net_proof_ok(proof, a.secret, b.pair.public_key));
    CU_ASSERT_FALSE(net_proof_ok(proof, b.secret, b.pair.public_key));
    CU_ASSERT_FALSE(net_proof_ok(proof, a.secret, a.pair.public_key));
    proof[31] ^= 1;
    CU_ASSERT_FALSE(net_proof_ok(proof, a.secret, b.pair.public_key));
}

static void test_cluster_file_round_trips(void)
{
    const char *path = in_folder("cluster.key");
    struct net_cluster_keys keys = make("host:7400"), back;
    CU_ASSERT_EQUAL(net_cluster_keys_load(&back, path, NULL), PROTO_NOTFOUND);
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_save(&keys, path, NULL), PROTO_OK);
    struct stat st;
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 0777, 0600);
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_load(&back, path, NULL), PROTO_OK);
    CU_ASSERT_EQUAL(memcmp(&back.pair, &keys.pair, sizeof keys.pair), 0);
    CU_ASSERT_EQUAL(memcmp(back.secret, keys.secret, sizeof keys.secret), 0);
    CU_ASSERT_STRING_EQUAL(back.address, keys.address);
    /* Saving replaces. */
    keys = make("");
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_save(&keys, path, NULL), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_load(&back, path, NULL), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(back.address, "");
}

static void test_file_that_others_may_read(void)
{
    const char *path = in_folder("open.key");
    struct net_cluster_keys keys = make(""), back;
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_save(&keys, path, NULL), PROTO_OK);
    chmod(path, 0640);
    struct proto_error error;
    CU_ASSERT_EQUAL(net_cluster_keys_load(&back, path, &error), PROTO_REFUSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "chmod 600"));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, path));
}

static void test_damaged_files(void)
{
    const char *path = in_folder("damaged.key");
    struct net_cluster_keys keys = make("host:7400"), back;
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_save(&keys, path, NULL), PROTO_OK);
    char text[4096];
    FILE *file = fopen(path, "r");
    size_t len = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    struct proto_error error;
    for (size_t cut = 0; cut < strcspn(strstr(text, "join "), "\n"); cut++) {
        char part[4096];
        memcpy(part, text, cut);
        part[cut] = 0;
        write_text(path, part);
        CU_ASSERT_NOT_EQUAL(net_cluster_keys_load(&back, path, &error), PROTO_OK);
    }
    text[len] = 0;
    char *digit = strstr(text, "public ") + 10;
    *digit = *digit == '0' ? '1' : '0';
    write_text(path, text);
    CU_ASSERT_EQUAL(net_cluster_keys_load(&back, path, &error), PROTO_CORRUPT);
    write_text(path, "something else\n");
    CU_ASSERT_EQUAL(net_cluster_keys_load(&back, path, &error), PROTO_FORMAT);
    CU_ASSERT_EQUAL(net_cluster_keys_load(&back, folder, &error), PROTO_FORMAT);
}

static void test_machine_key_is_made_once(void)
{
    const char *path = in_folder("machine.key");
    struct net_keypair first, second;
    CU_ASSERT_EQUAL_FATAL(net_keypair_load_or_create(&first, path, NULL), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(net_keypair_load_or_create(&second, path, NULL), PROTO_OK);
    CU_ASSERT_EQUAL(memcmp(&first, &second, sizeof first), 0);
    /* A cluster's file is not a machine's, and is left alone. */
    struct net_cluster_keys keys = make("");
    struct proto_error error;
    path = in_folder("other.key");
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_save(&keys, path, NULL), PROTO_OK);
    CU_ASSERT_EQUAL(net_keypair_load_or_create(&first, path, &error), PROTO_FORMAT);
    CU_ASSERT_EQUAL(net_cluster_keys_load(&keys, path, NULL), PROTO_OK);
    CU_ASSERT_EQUAL(net_keypair_load_or_create(&first, "/nowhere/at/all", &error), PROTO_NOTFOUND);
}

static void test_default_paths(void)
{
    char path[256], expected[256];
    struct proto_error error;
    struct stat st;
    setenv("XDG_CONFIG_HOME", in_folder("config"), 1);
    setenv("HOME", in_folder("home"), 1);
    CU_ASSERT_EQUAL_FATAL(net_config_path(path, sizeof path, "x.key", &error), PROTO_OK);
    snprintf(expected, sizeof expected, "%s/config/caravan/x.key", folder);
    CU_ASSERT_STRING_EQUAL(path, expected);
    CU_ASSERT_EQUAL(stat(in_folder("config/caravan"), &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 0777, 0700);
    CU_ASSERT_EQUAL(net_config_path(path, 20, "x.key", &error), PROTO_LIMIT);
    setenv("XDG_CONFIG_HOME", "relative", 1);
    CU_ASSERT_EQUAL_FATAL(net_config_path(path, sizeof path, "x.key", &error), PROTO_OK);
    snprintf(expected, sizeof expected, "%s/home/.config/caravan/x.key", folder);
    CU_ASSERT_STRING_EQUAL(path, expected);
    unsetenv("XDG_CONFIG_HOME");
    unsetenv("HOME");
    CU_ASSERT_EQUAL(net_config_path(path, sizeof path, "x.key", &error), PROTO_NOTFOUND);
}

static void remove_folder(void)
{
    static const char *const names[] = {"cluster.key",
                                        "open.key",
                                        "damaged.key",
                                        "machine.key",
                                        "other.key",
                                        "config/caravan",
                                        "config",
                                        "home/.config/caravan",
                                        "home/.config",
                                        "home",
                                        ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CU_ASSERT_EQUAL(remove(in_folder(names[i])), 0);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("keys", NULL, NULL);
    CU_ADD_TEST(suite, test_keys_differ);
    CU_ADD_TEST(suite, test_addresses);
    CU_ADD_TEST(suite, test_token_round_trips);
    CU_ADD_TEST(suite, test_damaged_tokens);
    CU_ADD_TEST(suite, test_proofs);
    CU_ADD_TEST(suite, test_cluster_file_round_trips);
    CU_ADD_TEST(suite, test_file_that_others_may_read);
    CU_ADD_TEST(suite, test_damaged_files);
    CU_ADD_TEST(suite, test_machine_key_is_made_once);
    CU_ADD_TEST(suite, test_default_paths);
    /* Last: no file beside those of the tests is left. */
    CU_ADD_TEST(suite, remove_folder);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
