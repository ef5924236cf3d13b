/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A profile's file: "CARAVANP", the key and a line feed, the profile as a message of the wire, and
 * BLAKE2b of all that. The wire's decoder bounds what may be in it, as for a peer.
 */
#include "worker/profile_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/machine.h"
#include "shard/pieces.h"

#define MAGIC       "CARAVANP"
#define MAGIC_BYTES 8u
#define LAYOUT      3 /* changes when the same numbers come to mean something else */
#define MOST_BYTES  8192u

/* What the first processor is called: its model's name, or where there is none (ARM) the numbers of
 * implementer and part. */
static void processor_name(char *name, size_t bytes)
{
    static const char *const fields[] = {"model name", "CPU implementer", "CPU part",
                                         "CPU revision"};
    char line[256];
    size_t used = 0;
    FILE *file = fopen("/proc/cpuinfo", "re");
    name[0] = 0;
    while (file && fgets(line, sizeof line, file) && line[0] != '\n') {
        line[strcspn(line, "\n")] = 0;
        const char *value = strchr(line, ':');
        for (size_t i = 0; value && i < sizeof fields / sizeof fields[0]; i++) {
            if (strncmp(line, fields[i], strlen(fields[i])) != 0)
                continue;
            int n = snprintf(name + used, bytes - used, "%s", value + 1);
            used = n > 0 && (size_t)n < bytes - used ? used + (size_t)n : bytes - 1;
        }
    }
    if (file)
        fclose(file);
}

void worker__profile_key(char key[WORKER__PROFILE_KEY_BYTES], const struct kern_table *table,
                         unsigned threads)
{
    char name[256];
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    processor_name(name, sizeof name);
    snprintf(key, WORKER__PROFILE_KEY_BYTES,
             "caravan %s layout %d processor%s of %u threads %u isa %s memory %.0f GB",
             CARAVAN_VERSION, LAYOUT, name, kern_machine_processors(), threads, table->name,
             memory / 1e9);
}

static bool decode(struct proto_profile *out, const uint8_t *bytes, size_t len, const char *key)
{
    size_t key_bytes = strlen(key), head = MAGIC_BYTES + key_bytes + 1;
    if (len < head + PROTO_HASH_BYTES || memcmp(bytes, MAGIC, MAGIC_BYTES) != 0 ||
        memcmp(bytes + MAGIC_BYTES, key, key_bytes) != 0 || bytes[head - 1] != '\n')
        return false;
    uint8_t hash[PROTO_HASH_BYTES];
    struct proto_msg msg;
    size_t end = len - PROTO_HASH_BYTES;
    shard_hash(hash, bytes, end);
    if (memcmp(hash, bytes + end, sizeof hash) != 0 ||
        proto_msg_decode(bytes + head, end - head, &msg, NULL) != PROTO_OK)
        return false;
    bool good = msg.kind == PROTO_MSG_PROFILE;
    if (good)
        *out = msg.profile;
    proto_msg_finish(&msg);
    return good;
}

bool worker__profile_read(struct proto_profile *out, const char *path, const char *key)
{
    uint8_t bytes[MOST_BYTES];
    FILE *file = fopen(path, "rbe");
    if (!file)
        return false;
    size_t len = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    return len < sizeof bytes && decode(out, bytes, len, key);
}

static enum proto_status write_bytes(const char *path, const uint8_t *bytes, size_t len,
                                     struct proto_error *error)
{
    char *temporary;
    if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
        return proto_fail_nomem(error, strlen(path) + 8, "a path");
    enum proto_status status = PROTO_OK;
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        status = proto_fail_errno(error, errno, "cannot create", temporary);
        free(temporary);
        return status;
    }
    bool written = write(fd, bytes, len) == (ssize_t)len;
    if (close(fd) != 0 || !written || rename(temporary, path) != 0) {
        status = proto_fail_errno(error, errno, "cannot write", temporary);
        unlink(temporary);
    }
    free(temporary);
    return status;
}

enum proto_status worker__profile_write(const struct proto_profile *profile, const char *path,
                                        const char *key, struct proto_error *error)
{
    const struct proto_msg msg = {.kind = PROTO_MSG_PROFILE, .profile = *profile};
    size_t len, head = MAGIC_BYTES + strlen(key) + 1;
    uint8_t *body, bytes[MOST_BYTES];
    enum proto_status status = proto_msg_encode(&msg, &body, &len, error);
    if (status)
        return status;
    memcpy(bytes, MAGIC, MAGIC_BYTES);
    memcpy(bytes + MAGIC_BYTES, key, head - 1 - MAGIC_BYTES);
    bytes[head - 1] = '\n';
    memcpy(bytes + head, body, len); /* a profile has at most 16 types: below 1000 bytes */
    free(body);
    shard_hash(bytes + head + len, bytes, head + len);
    return write_bytes(path, bytes, head + len + PROTO_HASH_BYTES, error);
}
