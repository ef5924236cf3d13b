/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <string.h>

#include "shard/pieces.h"

static struct shard_tensor tensor_of(enum kern_type type, uint64_t d0, uint64_t d1, uint64_t d2,
                                     uint64_t d3)
{
    struct shard_tensor tensor = {.type = kern_type_find(type), .dims = {d0, d1, d2, d3}};
    tensor.n_dims = d3 > 1 ? 4 : d2 > 1 ? 3 : d1 > 1 ? 2 : 1;
    tensor.bytes = kern_type_bytes(tensor.type, d0) * d1 * d2 * d3;
    return tensor;
}

/* The pieces follow one another without gap, never cross a matrix, begin on a panel. */
static void check_cut(const struct shard_tensor *tensor)
{
    uint64_t row_bytes = kern_type_bytes(tensor->type, tensor->dims[0]);
    uint64_t at = 0, mat = 0, row = 0;
    for (uint64_t i = 0; i < shard_pieces_count(tensor); i++) {
        struct shard_piece piece = shard_pieces_get(tensor, i);
        CU_ASSERT_EQUAL(piece.offset, at);
        CU_ASSERT_EQUAL(piece.mat, mat);
        CU_ASSERT_EQUAL(piece.row_first, row);
        CU_ASSERT_EQUAL(piece.row_first % KERN_PANEL, 0);
        CU_ASSERT(piece.rows > 0);
        CU_ASSERT_EQUAL(piece.bytes, piece.rows * row_bytes);
        CU_ASSERT(piece.bytes <= PROTO_PIECE_BYTES || piece.rows <= KERN_PANEL);
        at += piece.bytes;
        row += piece.rows;
        if (row == tensor->dims[1]) {
            mat++;
            row = 0;
        }
    }
    CU_ASSERT_EQUAL(at, tensor->bytes);
    CU_ASSERT_EQUAL(mat, tensor->dims[2] * tensor->dims[3]);
    CU_ASSERT_EQUAL(row, 0);
}

static void test_cut_covers_tensor(void)
{
    static const uint64_t widths[] = {256, 2304, 5120, 16384, 1 << 20, 1 << 24};
    static const uint64_t heights[] = {1, 15, 16, 17, 1000, 20000, 202048};
    size_t n_types;
    const struct kern_type_info *types = kern_type_all(&n_types);
    for (size_t t = 0; t < n_types; t++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (size_t h = 0; h < sizeof heights / sizeof *heights; h++) {
                struct shard_tensor flat = tensor_of(types[t].type, widths[w], heights[h], 1, 1);
                struct shard_tensor experts = tensor_of(types[t].type, widths[w], heights[h], 3, 2);
                check_cut(&flat);
                check_cut(&experts);
            }
}

static void test_known_cuts(void)
{
    struct shard_tensor norm = tensor_of(KERN_F32, 5120, 1, 1, 1);
    CU_ASSERT_EQUAL(shard_pieces_count(&norm), 1);

    /* Rows of 10240 bytes: 409 panels of 163840 bytes fit 64 MiB. */
    struct shard_tensor table = tensor_of(KERN_F16, 5120, 202048, 1, 1);
    CU_ASSERT_EQUAL(shard_pieces_count(&table), 31);
    CU_ASSERT_EQUAL(shard_pieces_get(&table, 0).rows, 409 * 16);
    CU_ASSERT_EQUAL(shard_pieces_get(&table, 30).rows, 202048 - 30 * 409 * 16);

    struct shard_tensor experts = tensor_of(KERN_Q4_K, 5120, 8192, 128, 1);
    CU_ASSERT_EQUAL(shard_pieces_count(&experts), 128);
    CU_ASSERT_EQUAL(shard_pieces_get(&experts, 127).mat, 127);
    CU_ASSERT_EQUAL(shard_pieces_get(&experts, 127).rows, 8192);
}

static void test_rows_longer_than_a_piece(void)
{
    struct shard_tensor vector = tensor_of(KERN_F32, 1 << 28, 1, 1, 1);
    CU_ASSERT_EQUAL(shard_pieces_count(&vector), 1);
    CU_ASSERT_EQUAL(shard_pieces_get(&vector, 0).bytes, 1u << 30);

    struct shard_tensor wide = tensor_of(KERN_F32, 1ull << 40, 40, 1, 1);
    CU_ASSERT_EQUAL(shard_pieces_count(&wide), 3);
    CU_ASSERT_EQUAL(shard_pieces_get(&wide, 1).offset, 16ull << 42);
    CU_ASSERT_EQUAL(shard_pieces_get(&wide, 2).rows, 8);
}

/* RFC 7693's function with 32 bytes of output; the value is what Python's hashlib gives. */
static void test_hash(void)
{
    static const uint8_t expected[PROTO_HASH_BYTES] = {
        0xbd, 0xdd, 0x81, 0x3c, 0x63, 0x42, 0x39, 0x72, 0x31, 0x71, 0xef,
        0x3f, 0xee, 0x98, 0x57, 0x9b, 0x94, 0x96, 0x4e, 0x3b, 0xb1, 0xcb,
        0x3e, 0x42, 0x72, 0x62, 0xc8, 0xc0, 0x68, 0xd5, 0x23, 0x19};
    uint8_t hash[PROTO_HASH_BYTES];
    shard_hash(hash, "abc", 3);
    CU_ASSERT_EQUAL(memcmp(hash, expected, sizeof hash), 0);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("pieces", NULL, NULL);
    CU_add_test(suite, "pieces cover the tensor", test_cut_covers_tensor);
    CU_add_test(suite, "known cuts", test_known_cuts);
    CU_add_test(suite, "rows longer than a piece", test_rows_longer_than_a_piece);
    CU_add_test(suite, "hash", test_hash);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
