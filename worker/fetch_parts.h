/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the fetcher share: fetch.c is what the loading thread calls, fetch_choice.c
 * whom it asks, fetch_links.c the loop's side.
 */
#ifndef WORKER_FETCH_PARTS_H
#define WORKER_FETCH_PARTS_H

#include <pthread.h>

#include "worker/fetch.h"

#define FETCH_CHUNKS_MOST  64u /* that the loader asks for ahead */
#define FETCH_SOURCES_MOST 32u /* of a load; bits of a mask */
#define FETCH_COORDINATOR  0u  /* its number among the sources */
#define FETCH_ENDPOINT     (NET_ADDRESS_BYTES + 16)

/* Who may have pieces. */
struct fetch_source {
    struct worker_fetcher *fetcher;
    uint8_t key[PROTO_KEY_BYTES];
    char endpoint[FETCH_ENDPOINT];
    struct net_link *link; /* the loop's thread; NULL: none yet */
    /* The loading thread's. */
    bool left;
    unsigned in_flight; /* chunks asked for */
    uint64_t heard_ns;  /* the last chunk came */
    double chunk_ns;    /* from one to the next while it has work */
    uint64_t bytes;     /* given to the loader */
    bool lacks;         /* the piece named here */
    uint32_t lacks_tensor;
    uint64_t lacks_piece;
};

/* An answer on its way to the loading thread. */
struct fetch_answer {
    struct fetch_answer *next;
    unsigned source;
    enum proto_kind kind; /* HASHES or CHUNK; BYE: the source is of no use */
    struct proto_chunk about;
    struct net_payload *payload;
    uint32_t n_sources; /* of HASHES */
    struct fetch_place {
        uint8_t key[PROTO_KEY_BYTES];
        char endpoint[FETCH_ENDPOINT];
    } sources[];
};

enum fetch_state { FETCH_WANTED, FETCH_ASKED, FETCH_HERE };

/* A chunk that the loader asked for. */
struct fetch_chunk {
    enum fetch_state state;
    struct proto_fetch fetch;
    unsigned source; /* where it was asked for */
    uint64_t asked_ns;
    uint32_t tried; /* a bit for each source that does not have it */
    struct net_payload *payload;
};

/* Chunks of a piece as the loader got them. */
struct fetch_record {
    uint32_t tensor;
    uint64_t piece;
    unsigned n;
    struct {
        uint64_t offset;
        unsigned source;
        uint8_t tag[SHARD_TAG_BYTES];
    } chunks[PROTO_PIECE_BYTES / PROTO_CHUNK_BYTES];
};

struct worker_fetcher {
    struct worker_fetcher_options options;
    uint8_t proof[PROTO_KEY_BYTES], tag_key[PROTO_KEY_BYTES];
    bool closed; /* the loop's thread: nothing is sent any more */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct fetch_answer *first, **last;
    struct proto_error failure; /* status OK: none */
    unsigned posted;            /* questions that the loop still holds, and that hold the fetcher */
    bool over;                  /* destroyed, but for those */

    /* The loading thread's own, but for what struct fetch_source says. A source is written before
     * the loop hears of it. */
    struct fetch_source sources[FETCH_SOURCES_MOST];
    unsigned n_sources;
    struct fetch_holders {
        uint32_t tensor, mask; /* sources of the tensor */
    } * holders;
    size_t n_holders, holders_room;
    struct fetch_chunk chunks[FETCH_CHUNKS_MOST];
    unsigned first_chunk, n_chunks;
    uint64_t progress_ns;
    struct fetch_record now, suspect; /* suspect: was wrong, of several sources; n 0: none */
    int alone;                        /* the one source that is asked, -1: all are */
    uint32_t was_alone;               /* a bit for each source that was, for the piece at hand */
    unsigned coordinator_wrong;       /* pieces at hand, of the coordinator alone */
    struct net_payload *given;        /* what the last receive returned */
};

/* ---- fetch_links.c ---- */

/* Any thread. Takes *payload. */
void fetch__push(struct worker_fetcher *fetcher, unsigned source, enum proto_kind kind,
                 const struct proto_chunk *about, struct net_payload **payload,
                 const struct proto_hashes *hashes);
/* Asks another worker; on the loading thread. */
enum proto_status fetch__ask_worker(struct fetch_source *source, const struct proto_fetch *fetch,
                                    struct proto_error *error);
void fetch__free(struct worker_fetcher *fetcher);
/* On the loop's thread. */
void fetch__close_links(struct worker_fetcher *fetcher);

/* ---- fetch_choice.c: the loading thread ---- */

struct fetch_chunk *fetch__chunk(struct worker_fetcher *fetcher, unsigned i);
/* The sources of a tensor, the coordinator among them. */
uint32_t fetch__holders(const struct worker_fetcher *fetcher, uint32_t tensor);
enum proto_status fetch__add_holders(struct worker_fetcher *fetcher,
                                     const struct fetch_answer *answer, struct proto_error *error);
/* Asks for what is wanted as far as sources have room. PROTO_NOTFOUND where nobody has a chunk. */
enum proto_status fetch__assign(struct worker_fetcher *fetcher, struct proto_error *error);
/* A chunk came, or word that there is none. Takes answer->payload. */
enum proto_status fetch__take_chunk(struct worker_fetcher *fetcher, struct fetch_answer *answer,
                                    struct proto_error *error);
/* Another worker is asked no more; what it was asked for is asked of others. */
void fetch__leave(struct worker_fetcher *fetcher, struct fetch_source *source, const char *why);
void fetch__leave_silent(struct worker_fetcher *fetcher, uint64_t now_ns);
/* A chunk goes to the loader. */
void fetch__note(struct worker_fetcher *fetcher, const struct fetch_chunk *chunk);
bool fetch__judge(struct worker_fetcher *fetcher, uint32_t tensor, uint64_t piece, bool right);

#endif
