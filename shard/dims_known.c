/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Models that people run, at full size. The numbers are those of the models' config.json; what
 * changes no tensor's size (groups of experts, scaling of RoPE) is as the family's presets have it.
 *
 * Where an architecture is not known here, the shape is that of a near one with matrices of the
 * same total size, so that its bytes can be planned; `note` says how it differs. DeepSeek V4 has
 * one KV head of 512 and projects its output through groups of low rank: MLA with a compressed row
 * of 448 + 64 and values as wide as make up for both. Kimi K3 has linear attention and experts of
 * an inner width of 3584: delta-nets, and experts of full width and half as many rows.
 */
#include "shard/dims.h"

#define LLAMA4                                                                                     \
    .layers = 48, .embd = 5120, .heads = 40, .kv = 8, .hd = 128, .ff = 16384, .vocab = 202048,     \
    .theta = 500000, .eps = 1e-5, .used = 1, .ffe = 8192
#define DEEPSEEK_V3                                                                                \
    .layers = 61, .embd = 7168, .heads = 128, .ff = 18432, .vocab = 129280, .ctx = 163840,         \
    .theta = 10000, .eps = 1e-6, .experts = 256, .used = 8, .ffe = 2048, .dense = 3, .shared = 1,  \
    .groups = 8, .groups_used = 4, .qlora = 1536, .kvlora = 512, .nope = 128, .rope = 64,          \
    .vhd = 128

static const struct shard_dims known[] = {
    {"maverick", "llama4", LLAMA4, .ctx = 1048576, .experts = 128, .step = 2},
    {"scout", "llama4", LLAMA4, .ctx = 10485760, .experts = 16, .step = 1, .rope_freqs = 1},
    {"llama-405b", "llama", .layers = 126, .embd = 16384, .heads = 128, .kv = 8, .hd = 128,
     .ff = 53248, .vocab = 128256, .ctx = 131072, .theta = 500000, .eps = 1e-5, .rope_freqs = 1},
    {"mixtral-8x22b", "llama", .layers = 56, .embd = 6144, .heads = 48, .kv = 8, .hd = 128,
     .ff = 16384, .vocab = 32000, .ctx = 65536, .theta = 1000000, .eps = 1e-5, .experts = 8,
     .used = 2},
    {"deepseek-v3", "deepseek2", DEEPSEEK_V3},
    {"deepseek-v3.2", "deepseek2", DEEPSEEK_V3, .note = SHARD_DIMS_NO_INDEX},
    {"deepseek-v4-flash", "deepseek2", .layers = 43,    .embd = 4096,
     .heads = 64,         .ff = 2048,  .vocab = 129280, .ctx = 1048576,
     .theta = 10000,      .eps = 1e-6, .experts = 256,  .used = 6,
     .ffe = 2048,         .shared = 1, .qlora = 1024,   .kvlora = 448,
     .nope = 448,         .rope = 64,  .vhd = 192,      .note = SHARD_DIMS_COMPRESSED},
    {"deepseek-v4-pro", "deepseek2", .layers = 61,    .embd = 7168,
     .heads = 128,      .ff = 3072,  .vocab = 129280, .ctx = 1048576,
     .theta = 10000,    .eps = 1e-6, .experts = 384,  .used = 6,
     .ffe = 3072,       .shared = 1, .qlora = 1536,   .kvlora = 448,
     .nope = 448,       .rope = 64,  .vhd = 160,      .note = SHARD_DIMS_COMPRESSED},
    {"qwen3-235b", "qwen3moe", .layers = 94, .embd = 4096, .heads = 64, .kv = 4, .hd = 128,
     .ff = 12288, .vocab = 151936, .ctx = 40960, .theta = 1000000, .eps = 1e-6, .experts = 128,
     .used = 8, .ffe = 1536},
    {"qwen3.5-397b",    "qwen35moe", .layers = 60,   .embd = 4096,    .heads = 32,
     .kv = 2,           .hd = 256,   .ff = 1024,     .vocab = 248320, .ctx = 262144,
     .theta = 10000000, .eps = 1e-6, .experts = 512, .used = 10,      .ffe = 1024,
     .ffs = 1024,       .every = 4,  .dkeys = 16,    .dvalues = 64,   .dhead = 128},
    {"gpt-oss-120b", "gpt-oss", .layers = 36, .embd = 2880, .heads = 64, .kv = 8, .hd = 64,
     .ff = 2880, .vocab = 201088, .ctx = 131072, .theta = 150000, .eps = 1e-5, .experts = 128,
     .used = 4, .ffe = 2880, .swa = 128, .usual = "MXFP4"},
    {"kimi-k2.5",    "deepseek2",     .layers = 61,  .embd = 7168,   .heads = 64,
     .ff = 18432,    .vocab = 163840, .ctx = 262144, .theta = 50000, .eps = 1e-5,
     .experts = 384, .used = 8,       .ffe = 2048,   .dense = 1,     .shared = 1,
     .qlora = 1536,  .kvlora = 512,   .nope = 128,   .rope = 64,     .vhd = 128},
    {"kimi-k3",       "qwen35moe",
     .layers = 93,    .embd = 7168,
     .heads = 96,     .kv = 2,
     .hd = 128,       .ff = 33792,
     .vocab = 163840, .ctx = 1048576,
     .theta = 10000,  .eps = 1e-5,
     .experts = 896,  .used = 16,
     .ffe = 1536,     .ffs = 6144,
     .dense = 1,      .every = 4,
     .dkeys = 96,     .dvalues = 96,
     .dhead = 128,    .note = SHARD_DIMS_DELTA},
    {"glm-5.2",       "deepseek2",    .layers = 78,
     .embd = 6144,    .heads = 64,    .ff = 12288,
     .vocab = 154880, .ctx = 1048576, .theta = 8000000,
     .eps = 1e-5,     .experts = 256, .used = 8,
     .ffe = 2048,     .dense = 3,     .shared = 1,
     .qlora = 2048,   .kvlora = 512,  .nope = 192,
     .rope = 64,      .vhd = 256,     .note = SHARD_DIMS_NO_INDEX},
    {"minimax-m3", "glm4moe", .layers = 60, .embd = 6144, .heads = 64, .kv = 4, .hd = 128,
     .ff = 12288, .vocab = 200064, .ctx = 1048576, .theta = 5000000, .eps = 1e-6, .experts = 128,
     .used = 4, .ffe = 3072, .dense = 3, .shared = 1, .note = SHARD_DIMS_NO_INDEX},
    {"gemma-4-26b", "gemma4", .layers = 30, .embd = 2816, .heads = 16, .kv = 8, .hd = 512,
     .ff = 2112, .vocab = 262144, .ctx = 262144, .theta = 1000000, .eps = 1e-6, .experts = 128,
     .used = 8, .ffe = 704, .swa = 1024, .every = 6, .kv_full = 2},
};

const struct shard_dims *shard_dims_known(size_t *count)
{
    *count = sizeof known / sizeof known[0];
    return known;
}
