/* SPDX-License-Identifier: Apache-2.0 */
/*
 * While a slice is being built, the loading thread alone touches it. It speaks to the loop only
 * through net_loop_post.
 */
#include "worker/loader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "worker/fetch.h"

#define FETCH_DEADLINE_MS 60000u
#define PROGRESS_MS       100u

struct worker_loader {
    struct worker_loader_options options;
    bool stopped; /* what is still posted is only freed */
    uint32_t silence_ms;
    struct worker_slice *slice; /* the loading thread's while `building` */
    struct proto_msg load;      /* the load in force (kind LOAD), or zero */
    struct net_payload *card;
    struct proto_msg wanted; /* a load that came while building */
    struct net_payload *wanted_card;

    /* The loading thread. */
    bool building;
    pthread_t builder;
    struct worker_fetcher *fetcher;
    atomic_bool cancel;
    uint64_t progress_ns;
    enum proto_status built;
    struct proto_error build_error;
};

enum proto_status worker_loader_create(struct worker_loader **out,
                                       const struct worker_loader_options *options,
                                       struct proto_error *error)
{
    struct worker_loader *loader = calloc(1, sizeof *loader);
    if (!loader)
        return proto_fail_nomem(error, sizeof *loader, "the loader");
    loader->options = *options;
    *out = loader;
    return PROTO_OK;
}

const struct proto_load *worker_loader_load(const struct worker_loader *loader)
{
    return &loader->load.load;
}

struct worker_slice *worker_loader_slice(const struct worker_loader *loader)
{
    return loader->building ? NULL : loader->slice;
}

/* ---- the loading thread ---- */

struct note {
    struct worker_loader *loader;
    struct proto_msg msg;
};

/* On the loop's thread. */
static void send_note(void *arg)
{
    struct note *note = arg;
    if (!note->loader->stopped)
        note->loader->options.tell(note->loader->options.arg, &note->msg);
    free(note);
}

static enum proto_status post_note(void *arg, const struct proto_msg *msg,
                                   struct proto_error *error)
{
    struct worker_loader *loader = arg;
    struct note *note = malloc(sizeof *note);
    if (note)
        *note = (struct note){.loader = loader, .msg = *msg};
    if (!note || net_loop_post(loader->options.loop, send_note, note) != PROTO_OK) {
        free(note);
        return proto_fail_nomem(error, sizeof *note, "a message");
    }
    return PROTO_OK;
}

static void post_progress(void *arg, uint64_t done, uint64_t total, uint64_t fetched)
{
    struct worker_loader *loader = arg;
    uint64_t now_ns = net_now_ns();
    if (done < total && now_ns - loader->progress_ns < PROGRESS_MS * 1000000ull)
        return;
    loader->progress_ns = now_ns;
    struct proto_msg msg = {.kind = PROTO_MSG_PROGRESS,
                            .progress = {.epoch = loader->load.load.epoch,
                                         .done_bytes = done,
                                         .total_bytes = total,
                                         .fetched_bytes = fetched}};
    post_note(loader, &msg, NULL);
}

/* The slice in force serves again, or is replaced. */
static enum proto_status bring_slice(struct worker_loader *loader, struct proto_error *error)
{
    const struct worker_loader_options *o = &loader->options;
    const struct proto_load *load = &loader->load.load;
    const void *card = net_payload_data(loader->card);
    size_t card_bytes = net_payload_len(loader->card);
    if (loader->slice && worker_slice_serves(loader->slice, load, card, card_bytes)) {
        worker_slice_renew(loader->slice, load->epoch);
        return PROTO_OK;
    }
    worker_slice_destroy(loader->slice);
    loader->slice = NULL;
    struct worker_fetch fetch = worker_fetcher_calls(loader->fetcher);
    struct worker_slice_options how = {.table = o->table,
                                       .compute_pool = worker_compute_pool(o->compute),
                                       .remote = worker_asker_calls(o->asker),
                                       .threads = o->threads,
                                       .cache_dir = o->cache_dir,
                                       .keep_packed = o->keep_packed,
                                       .fetch = &fetch,
                                       .progress = post_progress,
                                       .progress_arg = loader,
                                       .cancel = &loader->cancel};
    return worker_slice_create(&loader->slice, load, card, card_bytes, &how, error);
}

static enum proto_status build(struct worker_loader *loader, struct proto_error *error)
{
    const struct worker_loader_options *o = &loader->options;
    const struct proto_load *load = &loader->load.load;
    /* First of all: stages wait for the answer that they are known. */
    enum proto_status status = worker_expert_server_expect(o->experts, load, error);
    worker_compute_drain(o->compute);
    if (status == PROTO_OK)
        status = bring_slice(loader, error);
    if (status != PROTO_OK)
        return status;
    worker_expert_server_serve(o->experts, loader->slice->host);
    return worker_asker_connect(o->asker, load, loader->silence_ms, &loader->cancel, error);
}

static void slice_built(void *arg);

static void *builder_main(void *arg)
{
    struct worker_loader *loader = arg;
    loader->built = build(loader, &loader->build_error);
    net_loop_post(loader->options.loop, slice_built, loader);
    return NULL;
}

/* ---- the loop's thread ---- */

static void start_build(struct worker_loader *loader)
{
    struct proto_error error;
    const struct worker_fetcher_options fetcher = {.epoch = loader->load.load.epoch,
                                                   .deadline_ms = FETCH_DEADLINE_MS,
                                                   .send = post_note,
                                                   .arg = loader};
    atomic_store(&loader->cancel, false);
    /* A batch in work may be waiting for experts. */
    worker_asker_cancel(loader->options.asker);
    enum proto_status status = worker_fetcher_create(&loader->fetcher, &fetcher, &error);
    if (status == PROTO_OK) {
        int rc = pthread_create(&loader->builder, NULL, builder_main, loader);
        if (rc)
            status = proto_fail_errno(&error, rc, "start", "the loading thread");
    }
    loader->building = status == PROTO_OK;
    if (!loader->building)
        loader->options.done(loader->options.arg, status, &error);
}

void worker_loader_take(struct worker_loader *loader, struct proto_msg *load,
                        struct net_payload **card, uint32_t silence_ms)
{
    bool waits = loader->building;
    struct proto_msg *to = waits ? &loader->wanted : &loader->load;
    struct net_payload **card_to = waits ? &loader->wanted_card : &loader->card;
    proto_msg_finish(to);
    net_payload_destroy(*card_to);
    *to = *load;
    *card_to = *card;
    memset(load, 0, sizeof *load);
    *card = NULL;
    loader->silence_ms = silence_ms;
    if (waits) {
        struct proto_error over = {PROTO_CANCELLED, "the coordinator has a newer plan"};
        worker_loader_cancel(loader, &over);
    } else {
        start_build(loader);
    }
}

/* After the loading thread. */
static void slice_built(void *arg)
{
    struct worker_loader *loader = arg;
    if (loader->stopped)
        return;
    pthread_join(loader->builder, NULL);
    loader->building = false;
    worker_fetcher_destroy(loader->fetcher);
    loader->fetcher = NULL;
    if (loader->wanted.kind) {
        struct proto_msg load = loader->wanted;
        struct net_payload *card = loader->wanted_card;
        memset(&loader->wanted, 0, sizeof loader->wanted);
        loader->wanted_card = NULL;
        worker_loader_take(loader, &load, &card, loader->silence_ms);
    } else {
        loader->options.done(loader->options.arg, loader->built, &loader->build_error);
    }
}

void worker_loader_hashes(struct worker_loader *loader, const struct proto_hashes *hashes,
                          struct net_payload **payload)
{
    if (loader->fetcher)
        worker_fetcher_hashes(loader->fetcher, hashes, payload);
}

void worker_loader_chunk(struct worker_loader *loader, const struct proto_chunk *chunk,
                         struct net_payload **payload)
{
    if (loader->fetcher)
        worker_fetcher_chunk(loader->fetcher, chunk, payload);
}

void worker_loader_cancel(struct worker_loader *loader, const struct proto_error *why)
{
    if (!loader->building)
        return;
    atomic_store(&loader->cancel, true);
    worker_fetcher_fail(loader->fetcher, why);
    worker_asker_cancel(loader->options.asker);
}

void worker_loader_stop(struct worker_loader *loader)
{
    struct proto_error over = {PROTO_CANCELLED, "the worker is stopping"};
    if (!loader || loader->stopped)
        return;
    loader->stopped = true;
    worker_loader_cancel(loader, &over);
    if (loader->building)
        pthread_join(loader->builder, NULL);
}

void worker_loader_destroy(struct worker_loader *loader)
{
    if (!loader)
        return;
    worker_fetcher_destroy(loader->fetcher);
    worker_slice_destroy(loader->slice);
    proto_msg_finish(&loader->load);
    proto_msg_finish(&loader->wanted);
    net_payload_destroy(loader->card);
    net_payload_destroy(loader->wanted_card);
    free(loader);
}
