/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/synthetic.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "shard/mkmodel_spec.h"

#define SEED      1u
#define SPARE     8u /* that shard__fill may write beyond the end */
#define HUGE_PAGE (2u << 20)

/* Blocks that are made of a large tensor: primes, so that rows, whose lengths are round numbers,
 * begin at ever different places. */
#define PERIOD_BLOCKS 16381u
#define PERIOD_FLOATS 262139u

struct shard_synthetic {
    struct shard__spec spec;
    struct shard_gguf *gguf;
    const char *note;
};

static enum proto_status read_shape(const char *shape, struct shard_dims *dims,
                                    struct shard_mixture *mixture, struct proto_error *error)
{
    const char *colon = strrchr(shape, ':');
    if (!colon)
        return proto_fail(error, PROTO_INVALID,
                          "the shape \"%.64s\" says no quantisation, expected one as in "
                          "maverick:Q4_K",
                          shape);
    char *name = strndup(shape, (size_t)(colon - shape));
    if (!name)
        return proto_fail_nomem(error, strlen(shape), "a shape's name");
    enum proto_status status = shard_dims_read(dims, name, NULL, 0, error);
    free(name);
    return status ? status : shard_mixture_read(mixture, colon + 1, error);
}

static enum proto_status make_header(struct shard_synthetic *synthetic, const char *shape,
                                     struct proto_error *error)
{
    void *header = NULL;
    size_t len = 0;
    enum proto_status status =
        shard_gguf_writer_header(synthetic->spec.writer, &header, &len, error);
    if (!status)
        status = shard_gguf_parse(&synthetic->gguf, header, len, shape, error);
    free(header);
    return status;
}

enum proto_status shard_synthetic_create(struct shard_synthetic **out, const char *shape,
                                         struct proto_error *error)
{
    struct shard_dims dims;
    struct shard_mixture mixture;
    *out = NULL;
    enum proto_status status = read_shape(shape, &dims, &mixture, error);
    if (status)
        return status;
    struct shard_synthetic *synthetic = calloc(1, sizeof *synthetic);
    if (!synthetic)
        return proto_fail_nomem(error, sizeof *synthetic, "a synthetic model");
    synthetic->note = dims.note;
    if ((status = shard__spec_init(&synthetic->spec, &dims, &mixture, error)) ||
        (status = shard__spec_vocab(synthetic->spec.writer, dims.vocab, error)) ||
        (status = make_header(synthetic, shape, error))) {
        shard_synthetic_destroy(synthetic);
        return status;
    }
    *out = synthetic;
    return PROTO_OK;
}

void shard_synthetic_destroy(struct shard_synthetic *synthetic)
{
    if (!synthetic)
        return;
    shard_gguf_close(synthetic->gguf);
    shard__spec_finish(&synthetic->spec);
    free(synthetic);
}

const struct shard_gguf *shard_synthetic_gguf(const struct shard_synthetic *synthetic)
{
    return synthetic->gguf;
}

const char *shard_synthetic_note(const struct shard_synthetic *synthetic)
{
    return synthetic->note;
}

/* In huge pages: it is written once and read a few times, so page faults would cost most. */
static void *take_memory(uint64_t bytes)
{
    void *memory;
    if (posix_memalign(&memory, bytes < HUGE_PAGE ? sizeof(void *) : HUGE_PAGE, bytes) != 0)
        return NULL;
    if (bytes >= HUGE_PAGE)
        madvise(memory, bytes & ~(uint64_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);
    return memory;
}

/* Repeats the first `made` bytes until there are `bytes`. */
static void repeat(uint8_t *at, uint64_t made, uint64_t bytes)
{
    while (made < bytes) {
        uint64_t n = bytes - made < made ? bytes - made : made;
        memcpy(at + made, at, n);
        made += n;
    }
}

enum proto_status shard_synthetic_tensor_init(struct shard_synthetic_tensor *out,
                                              const struct shard_synthetic *synthetic,
                                              uint32_t number, struct proto_error *error)
{
    const struct shard_tensor *tensor = shard_gguf_tensor(synthetic->gguf, number);
    const struct shard__recipe *recipe = &synthetic->spec.recipes[number];
    uint64_t blocks = tensor->bytes / tensor->type->block_bytes;
    uint64_t period = tensor->type->block > 1 ? PERIOD_BLOCKS : PERIOD_FLOATS;
    *out = (struct shard_synthetic_tensor){.block_bytes = tensor->type->block_bytes,
                                           .seed = number + SEED};
    if (recipe->rule == SHARD__UNIFORM && blocks > period)
        out->period = period;
    uint64_t made = (out->period ? out->period : blocks) * out->block_bytes, bytes = made;
    if (out->period)
        bytes += shard_pieces_get(tensor, 0).bytes; /* no piece is longer than the first */
    out->bytes = take_memory(bytes + SPARE);
    if (!out->bytes)
        return proto_fail_nomem(error, bytes + SPARE, "a synthetic tensor");
    shard__fill(out->bytes, tensor, recipe, SEED, 0, made / out->block_bytes);
    repeat(out->bytes, made, bytes);
    return PROTO_OK;
}

void shard_synthetic_tensor_finish(struct shard_synthetic_tensor *tensor)
{
    free(tensor->bytes);
    *tensor = (struct shard_synthetic_tensor){0};
}

const uint8_t *shard_synthetic_piece(const struct shard_synthetic_tensor *tensor, uint64_t i,
                                     const struct shard_piece *piece)
{
    if (!tensor->period)
        return tensor->bytes + piece->offset;
    /* Any number that differs from piece to piece and from tensor to tensor (splitmix64's
     * finaliser). */
    uint64_t z = i * 0x9E3779B97F4A7C15u + tensor->seed;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return tensor->bytes + (z ^ (z >> 31)) % tensor->period * tensor->block_bytes;
}
