/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/gguf_parse.h"

#include <inttypes.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are used as they lie in the file, which is little-endian"
#endif

#define MAX_STRING_BYTES (1u << 30)

enum proto_status shard__gguf_take(struct shard__gguf_cursor *c, uint64_t n, const char *what,
                                   const uint8_t **out)
{
    uint64_t left = c->len - c->pos;
    if (n > left)
        return proto_fail(c->error, PROTO_FORMAT,
                          "%s: %s at byte %" PRIu64 " needs %" PRIu64 " bytes, %" PRIu64
                          " are left; " SHARD__GGUF_AGAIN,
                          c->name, what, c->pos, n, left);
    *out = c->bytes + c->pos;
    c->pos += n;
    return PROTO_OK;
}

enum proto_status shard__gguf_take_u32(struct shard__gguf_cursor *c, const char *what,
                                       uint32_t *out)
{
    const uint8_t *p = NULL;
    enum proto_status status = shard__gguf_take(c, sizeof *out, what, &p);
    if (status)
        return status;
    memcpy(out, p, sizeof *out);
    return PROTO_OK;
}

enum proto_status shard__gguf_take_u64(struct shard__gguf_cursor *c, const char *what,
                                       uint64_t *out)
{
    const uint8_t *p = NULL;
    enum proto_status status = shard__gguf_take(c, sizeof *out, what, &p);
    if (status)
        return status;
    memcpy(out, p, sizeof *out);
    return PROTO_OK;
}

enum proto_status shard__gguf_take_string(struct shard__gguf_cursor *c, const char *what,
                                          struct shard_gguf_string *out)
{
    uint64_t len = 0;
    const uint8_t *p = NULL;
    enum proto_status status = shard__gguf_take_u64(c, what, &len);
    if (status)
        return status;
    if (len > MAX_STRING_BYTES)
        return proto_fail(c->error, PROTO_LIMIT,
                          "%s: %s at byte %" PRIu64 " is %" PRIu64
                          " bytes long, at most %u are allowed; " SHARD__GGUF_AGAIN,
                          c->name, what, c->pos - sizeof len, len, MAX_STRING_BYTES);
    status = shard__gguf_take(c, len, what, &p);
    if (status)
        return status;
    *out = (struct shard_gguf_string){.data = (const char *)p, .len = len};
    return PROTO_OK;
}

enum proto_status shard__gguf_check_count(struct shard__gguf_cursor *c, const char *what,
                                          uint64_t count, uint64_t record_bytes)
{
    uint64_t left = c->len - c->pos;
    if (count > left / record_bytes)
        return proto_fail(c->error, PROTO_FORMAT,
                          "%s: %" PRIu64 " %s are announced, but the %" PRIu64
                          " bytes left hold at most %" PRIu64 "; " SHARD__GGUF_AGAIN,
                          c->name, count, what, left, left / record_bytes);
    return PROTO_OK;
}

const char *shard__gguf_quote(char out[SHARD__GGUF_QUOTE_BYTES], const char *data, size_t len)
{
    size_t n = len < SHARD__GGUF_QUOTE_BYTES - 1 ? len : SHARD__GGUF_QUOTE_BYTES - 1;
    for (size_t i = 0; i < n; i++)
        out[i] = data[i] >= 0x20 && data[i] < 0x7f ? data[i] : '?';
    out[n] = '\0';
    return out;
}

enum proto_status shard__gguf_check_name(struct shard__gguf_cursor *c, const char *what,
                                         const struct shard_gguf_string *name)
{
    if (!name->len)
        return proto_fail(c->error, PROTO_FORMAT,
                          "%s: %s before byte %" PRIu64
                          " is empty, expected a name; " SHARD__GGUF_AGAIN,
                          c->name, what, c->pos);
    for (size_t i = 0; i < name->len; i++) {
        uint8_t byte = (uint8_t)name->data[i];
        if (byte < 0x20 || byte == 0x7f) {
            char quoted[SHARD__GGUF_QUOTE_BYTES];
            return proto_fail(c->error, PROTO_FORMAT,
                              "%s: %s \"%s\" holds the control character 0x%02x, expected "
                              "printable text; " SHARD__GGUF_AGAIN,
                              c->name, what, shard__gguf_quote(quoted, name->data, name->len),
                              byte);
        }
    }
    return PROTO_OK;
}
