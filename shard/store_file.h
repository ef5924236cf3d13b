/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of a store have in common, pieces and packed weights alike: where they lie, and
 * that a file is written under a name of its own by whoever holds its lock. Private to this folder.
 */
#ifndef SHARD_STORE_FILE_H
#define SHARD_STORE_FILE_H

#include <pthread.h>

#include "shard/guard.h"
#include "shard/store.h"

/* A path as printf would write it; the caller frees it. NULL without memory. */
__attribute__((format(printf, 1, 2))) char *shard__store_format(const char *format, ...);
enum proto_status shard__store_fail_nomem(struct proto_error *error);

/* DIR/FOLDER/ab/abcd...SUFFIX, for a file named by a hash; as shard__store_format. */
char *shard__store_path(const struct shard_store *store, const char *folder,
                        const uint8_t hash[PROTO_HASH_BYTES], const char *suffix);

/* Makes a directory whose parent is there; one that is there already will do. */
enum proto_status shard__store_make_dir(const char *path, struct proto_error *error);
/* DIR/FOLDER, and DIR/FOLDER/ab for a file named by a hash. */
enum proto_status shard__store_make_subdir(const struct shard_store *store, const char *folder,
                                           struct proto_error *error);
enum proto_status shard__store_make_place(const struct shard_store *store, const char *folder,
                                          const uint8_t hash[PROTO_HASH_BYTES],
                                          struct proto_error *error);

/* Opens the file to write, creates it where missing, and locks it until it is closed. PROTO_BUSY
 * where another transfer, of this or another process, has it. *bytes gets its length. */
enum proto_status shard__store_lock(const char *path, int *fd, uint64_t *bytes,
                                    struct proto_error *error);

/* What is left of a store's limit (store_room.c). */
struct shard__room {
    pthread_mutex_t mutex;
    uint64_t limit;  /* 0: none */
    uint64_t used;   /* as seen last, and what was taken since */
    uint64_t unseen; /* taken since */
    bool seen;
};

/* Makes room for that many bytes more and takes it; PROTO_NOSPACE where what may not be removed
 * leaves too little. */
enum proto_status shard__room_take(const struct shard_store *store, struct shard__room *room,
                                   uint64_t bytes, struct proto_error *error);
struct shard__room *shard__store_room(struct shard_store *store);
/* A file of the store is used now. */
void shard__room_note_use(int fd);

/* Sorted. */
struct shard__names {
    uint8_t (*of)[PROTO_HASH_BYTES];
    size_t n;
};

/* All names that somebody alive has on a lease; names->of is the caller's to free, whatever is
 * returned. */
enum proto_status shard__leases_read(const struct shard_store *store, struct shard__names *names,
                                     struct proto_error *error);
bool shard__names_have(const struct shard__names *names, const uint8_t name[PROTO_HASH_BYTES]);

/* Maps a whole file to read, guarded; *out stays empty where that fails. flags: of mmap. */
enum proto_status shard__store_map_file(int fd, const char *path, size_t len, int flags,
                                        struct shard_mapped *out, struct proto_error *error);

/* Removes and logs a file that does not hold what its name says. */
void shard__store_remove_bad(const char *path, const char *why);

#endif
