/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/kv_move.h"

#include <stdlib.h>
#include <string.h>

#include "proto/log.h"
#include "worker/kv_serve.h"

#define IN_FLIGHT       16u  /* chunks of a holder; some MB between two of its batches */
#define PAUSE_MS        200u /* between rounds once little is left */
#define ROUND_MS        250u /* a round that is shorter, or brings less, leaves little */
#define ROUND_BYTES     (4u << 20)
#define COPY_MS         60000u /* for copying ahead, after which the plan is not held up */
#define SILENCE_MS      10000u /* of a holder, which answers after the batch that it has in work */
#define LAST_SILENCE_MS 2000u  /* when it has none */
#define LAST_MS         10000u /* for what is left in the end */

#define NO_HOLDER UINT32_MAX

enum phase {
    COPYING, /* a round is under way */
    PAUSING,
    FINISHING, /* the last round */
    OVER,      /* nothing happens any more */
};

/* A sequence as a holder has it. */
struct known {
    bool there, seen; /* in the last list, in some */
    uint64_t version, end;
};

/* A chunk that was asked for. */
struct asked {
    struct proto_kv_fetch fetch;
    uint64_t forgotten; /* of the sequence, when it was asked for */
};

struct holder {
    struct worker_kv_move *move;
    struct net_link *link;
    struct known *seqs;
    unsigned lists; /* that were asked for and have not come */
    struct asked asked[IN_FLIGHT];
    unsigned first, n_asked;
    uint64_t heard_ns;         /* or asked, if nothing was due before */
    uint32_t seq_at, layer_at; /* where it is looked for the next chunk */
};

struct worker_kv_move {
    struct worker_kv_move_options options;
    enum phase phase;
    bool is_ready, given_up, caught_up;
    uint8_t proof[PROTO_KEY_BYTES];
    uint32_t max_seqs, layer_first, n_layers;
    struct holder *holders;
    uint32_t n_holders;
    uint32_t *holder_of; /* of each layer, NO_HOLDER: it is here, or nothing of it is cached */
    uint64_t *next;      /* [seq][layer]: the first page that was not asked for */
    uint64_t *forgotten; /* how often what was copied of a sequence was forgotten */
    uint64_t *targets;   /* positions with which sequences go on, while FINISHING; then ends */
    uint64_t began_ns, round_ns, round_bytes, bytes, positions;
};

static uint64_t *next_page(struct worker_kv_move *move, uint32_t seq, uint32_t layer)
{
    return &move->next[(size_t)seq * move->n_layers + (layer - move->layer_first)];
}

/* What was copied of a sequence is another's by now: all holders are asked anew. */
static void forget(struct worker_kv_move *move, uint32_t seq)
{
    shard_kv_drop(move->options.kv, seq);
    memset(next_page(move, seq, move->layer_first), 0, move->n_layers * sizeof *move->next);
    move->forgotten[seq]++;
    for (uint32_t i = 0; i < move->n_holders; i++)
        move->holders[i].seq_at = move->holders[i].layer_at = 0;
}

/* ---- its end ---- */

static void be_ready(struct worker_kv_move *move)
{
    if (move->is_ready)
        return;
    move->is_ready = true;
    move->options.ready(move->options.arg);
}

/* The sequences that every holder has confirmed. A recurrent state is of its holder's last
 * position, and is there for no other. */
static uint64_t confirmed_end(const struct worker_kv_move *move, uint32_t seq)
{
    uint64_t end = move->targets[seq];
    for (uint32_t i = 0; i < move->n_holders; i++) {
        const struct known *known = &move->holders[i].seqs[seq];
        uint64_t there = known->there ? known->end : 0;
        end = there < end ? there : end;
    }
    for (uint32_t i = 0; i < move->n_layers; i++) {
        uint32_t holder = move->holder_of[i];
        if (holder != NO_HOLDER && shard_kv_state_bytes(move->options.kv, move->layer_first + i) &&
            move->holders[holder].seqs[seq].end != end)
            end = 0;
    }
    return end;
}

static void close_links(struct worker_kv_move *move)
{
    for (uint32_t i = 0; move->holders && i < move->n_holders; i++) {
        net_link_destroy(move->holders[i].link, 0);
        move->holders[i].link = NULL;
    }
}

static void end(struct worker_kv_move *move)
{
    for (uint32_t seq = 0; seq < move->max_seqs; seq++) {
        move->targets[seq] = move->given_up ? 0 : confirmed_end(move, seq);
        move->positions += move->targets[seq];
    }
    move->phase = OVER;
    proto_log(PROTO_LOG_INFO, "WORKER-KV-MOVED", "epoch=%llu positions=%llu bytes=%llu",
              (unsigned long long)move->options.load->epoch, (unsigned long long)move->positions,
              (unsigned long long)move->bytes);
    move->options.over(move->options.arg);
}

void worker_kv_move_give_up(struct worker_kv_move *move, const char *why)
{
    if (move->phase == OVER || move->given_up)
        return;
    proto_log(PROTO_LOG_WARN, "WORKER-KV-MOVE", "epoch=%llu why=\"%s\"",
              (unsigned long long)move->options.load->epoch, why);
    move->given_up = true;
    for (uint32_t seq = 0; seq < move->max_seqs; seq++)
        forget(move, seq);
    if (move->phase == FINISHING)
        end(move);
    else
        be_ready(move);
}

bool worker_kv_move_is_over(const struct worker_kv_move *move)
{
    return move->phase == OVER;
}

const uint64_t *worker_kv_move_ends(const struct worker_kv_move *move)
{
    return move->targets;
}

uint64_t worker_kv_move_positions(const struct worker_kv_move *move)
{
    return move->positions;
}

uint64_t worker_kv_move_bytes(const struct worker_kv_move *move)
{
    return move->bytes;
}

/* ---- what is asked for ---- */

static bool send(struct holder *holder, const struct proto_msg *msg)
{
    struct proto_error error;
    if (!holder->lists && !holder->n_asked)
        holder->heard_ns = net_now_ns();
    if (net_link_send(holder->link, 0, msg, NULL, &error) == PROTO_OK)
        return true;
    worker_kv_move_give_up(holder->move, error.text);
    return false;
}

static void ask_list(struct holder *holder)
{
    struct worker_kv_move *move = holder->move;
    struct proto_msg msg = {.kind = PROTO_MSG_KV_ASK, .kv_ask.epoch = move->options.load->from};
    memcpy(msg.kv_ask.proof, move->proof, PROTO_KEY_BYTES);
    holder->heard_ns = net_now_ns();
    if (send(holder, &msg))
        holder->lists++;
}

/* Positions of a sequence that are to be had of a holder: while it computes those of full pages. */
static uint64_t wanted_end(const struct holder *holder, uint32_t seq)
{
    const struct worker_kv_move *move = holder->move;
    const struct known *known = &holder->seqs[seq];
    if (!known->there)
        return 0;
    if (move->phase == FINISHING)
        return known->end < move->targets[seq] ? known->end : move->targets[seq];
    return known->end / SHARD_KV_PAGE_ROWS * SHARD_KV_PAGE_ROWS;
}

/* The pages of a layer that come next; false: there are none. */
static bool next_pages(const struct holder *holder, struct proto_kv_fetch *fetch)
{
    struct worker_kv_move *move = holder->move;
    uint64_t end = wanted_end(holder, fetch->seq), bytes;
    uint64_t *next = next_page(move, fetch->seq, fetch->layer);
    uint64_t end_page = (end + SHARD_KV_PAGE_ROWS - 1) / SHARD_KV_PAGE_ROWS;
    if (!(bytes = shard_kv_page_bytes(move->options.kv, fetch->layer)))
        return false;
    uint64_t first = shard_kv_first_page(move->options.kv, fetch->layer, end);
    fetch->page = *next > first ? *next : first;
    if (fetch->page >= end_page)
        return false;
    uint64_t n = WORKER_KV_CHUNK_BYTES / bytes, left = end_page - fetch->page;
    n = n < 1 ? 1 : n;
    n = n < PROTO_MAX_KV_PAGES ? n : PROTO_MAX_KV_PAGES;
    fetch->n = (uint32_t)(n < left ? n : left);
    fetch->bytes = fetch->n * bytes;
    *next = fetch->page + fetch->n;
    return true;
}

/* A layer's state, once at the end. */
static bool next_state(const struct holder *holder, struct proto_kv_fetch *fetch)
{
    struct worker_kv_move *move = holder->move;
    uint64_t *next = next_page(move, fetch->seq, fetch->layer);
    fetch->bytes = shard_kv_state_bytes(move->options.kv, fetch->layer);
    if (move->phase != FINISHING || !fetch->bytes || *next || !wanted_end(holder, fetch->seq))
        return false;
    *next = 1;
    return true;
}

/* The next chunk of a holder; false: it has nothing more in this round. */
static bool next_chunk(struct holder *holder, struct proto_kv_fetch *fetch)
{
    const struct worker_kv_move *move = holder->move;
    uint32_t number = (uint32_t)(holder - move->holders);
    for (; holder->seq_at < move->max_seqs; holder->seq_at++, holder->layer_at = 0) {
        for (; holder->layer_at < move->n_layers; holder->layer_at++) {
            *fetch = (struct proto_kv_fetch){.epoch = move->options.load->from,
                                             .seq = holder->seq_at,
                                             .version = holder->seqs[holder->seq_at].version,
                                             .layer = move->layer_first + holder->layer_at};
            if (move->holder_of[holder->layer_at] == number &&
                (next_pages(holder, fetch) || next_state(holder, fetch)))
                return true;
        }
    }
    return false;
}

static void start_round(struct worker_kv_move *move)
{
    move->round_ns = net_now_ns();
    move->round_bytes = 0;
    for (uint32_t i = 0; i < move->n_holders && !move->given_up; i++)
        ask_list(&move->holders[i]);
}

/* A round that brought little leaves little. */
static void end_round(struct worker_kv_move *move)
{
    uint64_t now_ns = net_now_ns();
    if (move->phase == FINISHING) {
        end(move);
    } else if (move->caught_up || move->round_bytes <= ROUND_BYTES ||
               now_ns - move->round_ns < ROUND_MS * 1000000ull) {
        move->caught_up = true;
        move->phase = PAUSING;
        move->round_ns = now_ns;
        be_ready(move);
    } else {
        start_round(move);
    }
}

static bool is_done(const struct holder *holder)
{
    return !holder->lists && !holder->n_asked && holder->seq_at == holder->move->max_seqs;
}

static void ask_more(struct holder *holder)
{
    struct worker_kv_move *move = holder->move;
    struct proto_msg msg = {.kind = PROTO_MSG_KV_FETCH};
    while (!holder->lists && holder->n_asked < IN_FLIGHT && next_chunk(holder, &msg.kv_fetch)) {
        struct asked *asked = &holder->asked[(holder->first + holder->n_asked) % IN_FLIGHT];
        memcpy(msg.kv_fetch.proof, move->proof, PROTO_KEY_BYTES);
        if (!send(holder, &msg))
            return;
        *asked = (struct asked){msg.kv_fetch, move->forgotten[msg.kv_fetch.seq]};
        holder->n_asked++;
    }
}

/* Asks for more, and ends the round where no holder has anything to do. */
static void go_on(struct worker_kv_move *move)
{
    bool done = true;
    for (uint32_t i = 0; i < move->n_holders && !move->given_up; i++) {
        ask_more(&move->holders[i]);
        done &= is_done(&move->holders[i]);
    }
    if (done && !move->given_up)
        end_round(move);
}

/* ---- what comes ---- */

static void take_list(struct holder *holder, const struct proto_kv_held *held)
{
    struct worker_kv_move *move = holder->move;
    if (!holder->lists || --holder->lists) /* one that was asked for later is yet to come */
        return;
    for (uint32_t seq = 0; seq < move->max_seqs; seq++)
        holder->seqs[seq].there = false;
    for (uint32_t i = 0; i < held->n_seqs; i++) {
        const struct proto_kv_seq *s = &held->seqs[i];
        if (s->seq >= move->max_seqs)
            continue;
        if (holder->seqs[s->seq].seen && holder->seqs[s->seq].version != s->version)
            forget(move, s->seq);
        holder->seqs[s->seq] = (struct known){true, true, s->version, s->end};
    }
    holder->seq_at = holder->layer_at = 0;
}

/* What is not there was given back since it was listed, or is of a sequence that is over: the next
 * list tells, if there is one. */
static void miss(struct holder *holder, const struct proto_kv_fetch *f)
{
    uint64_t *next = next_page(holder->move, f->seq, f->layer);
    holder->seqs[f->seq].there = false;
    *next = *next < f->page ? *next : f->page;
}

static bool keep(struct worker_kv_move *move, const struct proto_kv_fetch *f,
                 const struct net_payload *payload)
{
    const void *data = net_payload_data(payload);
    struct proto_error error;
    enum proto_status status =
        f->n ? shard_kv_write_pages(move->options.kv, f->seq, f->layer, f->page, f->n, data, &error)
             : shard_kv_write_state(move->options.kv, f->seq, f->layer, data, &error);
    if (status != PROTO_OK)
        worker_kv_move_give_up(move, error.text);
    return status == PROTO_OK;
}

/* Answers come in the order of the questions. */
static bool is_asked(const struct holder *holder, const struct proto_kv_chunk *c)
{
    const struct proto_kv_fetch *f = &holder->asked[holder->first].fetch;
    return holder->n_asked && c->epoch == f->epoch && c->seq == f->seq &&
           c->version == f->version && c->layer == f->layer && c->page == f->page && c->n == f->n;
}

static void take_chunk(struct holder *holder, const struct proto_kv_chunk *chunk,
                       const struct net_payload *payload)
{
    struct worker_kv_move *move = holder->move;
    const struct asked asked = holder->asked[holder->first];
    if (!is_asked(holder, chunk)) {
        worker_kv_move_give_up(move, "a holder sent what it was not asked for");
        return;
    }
    holder->first = (holder->first + 1) % IN_FLIGHT;
    holder->n_asked--;
    if (asked.forgotten != move->forgotten[chunk->seq])
        return;
    if (!payload) {
        miss(holder, &asked.fetch);
    } else if (net_payload_len(payload) != asked.fetch.bytes) {
        worker_kv_move_give_up(move, "a holder sent pages of another size than they have here");
    } else if (keep(move, &asked.fetch, payload)) {
        move->bytes += asked.fetch.bytes;
        move->round_bytes += asked.fetch.bytes;
    }
}

static void on_message(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                       struct net_payload **payload)
{
    struct holder *holder = arg;
    struct worker_kv_move *move = holder->move;
    (void)from, (void)key;
    if (move->phase == OVER || move->given_up)
        return;
    holder->heard_ns = net_now_ns();
    if (msg->kind == PROTO_MSG_KV_HELD && msg->kv_held.epoch == move->options.load->from)
        take_list(holder, &msg->kv_held);
    else if (msg->kind == PROTO_MSG_KV_CHUNK)
        take_chunk(holder, &msg->kv_chunk, *payload);
    if (move->phase != PAUSING && !move->given_up)
        go_on(move);
}

static void on_bad(void *arg, net_peer from, const uint8_t *key, const struct proto_error *error)
{
    struct holder *holder = arg;
    (void)from, (void)key;
    worker_kv_move_give_up(holder->move, error->text);
}

/* What was asked for does not come. */
static void on_closed(void *arg)
{
    struct holder *holder = arg;
    if (holder->lists || holder->n_asked)
        worker_kv_move_give_up(holder->move, "a holder's connection was closed");
}

/* ---- time ---- */

static void check_silence(struct worker_kv_move *move, uint64_t now_ns)
{
    uint64_t silence_ms = move->phase == FINISHING ? LAST_SILENCE_MS : SILENCE_MS;
    for (uint32_t i = 0; i < move->n_holders && !move->given_up; i++) {
        const struct holder *holder = &move->holders[i];
        if ((holder->lists || holder->n_asked) &&
            now_ns > holder->heard_ns + silence_ms * 1000000ull)
            worker_kv_move_give_up(move, "a holder does not answer");
    }
}

void worker_kv_move_tick(struct worker_kv_move *move, uint64_t now_ns)
{
    if (move->phase == OVER || move->given_up)
        return;
    check_silence(move, now_ns);
    if (move->given_up)
        return;
    if (move->phase == PAUSING && now_ns > move->round_ns + PAUSE_MS * 1000000ull) {
        move->phase = COPYING;
        start_round(move);
    } else if (move->phase == COPYING && now_ns > move->began_ns + COPY_MS * 1000000ull) {
        be_ready(move);
    } else if (move->phase == FINISHING && now_ns > move->round_ns + LAST_MS * 1000000ull) {
        worker_kv_move_give_up(move, "it takes too long");
    }
}

void worker_kv_move_finish(struct worker_kv_move *move, const struct proto_held *held,
                           uint32_t n_held)
{
    if (move->phase == FINISHING || move->phase == OVER)
        return;
    for (uint32_t i = 0; i < n_held; i++)
        if (held[i].seq < move->max_seqs)
            move->targets[held[i].seq] = held[i].pos;
    if (!move->given_up && !move->caught_up)
        worker_kv_move_give_up(move, "too much is left");
    move->phase = FINISHING;
    if (move->given_up)
        end(move);
    else
        start_round(move);
}

/* ---- life ---- */

/* Who holds a layer that is kept here, and not there already. */
static uint32_t find_holder(const struct worker_kv_move_options *o, uint32_t layer)
{
    if (!shard_kv_page_bytes(o->kv, layer) && !shard_kv_state_bytes(o->kv, layer))
        return NO_HOLDER;
    if (o->here && shard_kv_alike(o->kv, o->here, layer))
        return NO_HOLDER;
    for (uint32_t i = 0; i < o->load->n_holders; i++)
        if (layer >= o->load->holders[i].layer_first && layer < o->load->holders[i].layer_end)
            return i;
    return NO_HOLDER;
}

static enum proto_status open_holder(struct worker_kv_move *move, const struct proto_holder *from,
                                     struct proto_error *error)
{
    struct holder *holder = &move->holders[move->n_holders++];
    const struct net_link_handler handler = {
        .on_message = on_message, .on_bad = on_bad, .on_closed = on_closed, .arg = holder};
    holder->move = move;
    holder->seqs = calloc(move->max_seqs, sizeof *holder->seqs);
    if (!holder->seqs)
        return proto_fail_nomem(error, move->max_seqs * sizeof *holder->seqs, "sequences");
    return net_link_connect(&holder->link, move->options.loop, from->endpoint, move->options.own,
                            from->key, &handler, error);
}

/* Those that hold something, by their numbers among themselves. */
static enum proto_status open_holders(struct worker_kv_move *move, struct proto_error *error)
{
    const struct proto_load *load = move->options.load;
    enum proto_status status = PROTO_OK;
    uint32_t *found = malloc((move->n_layers + 1) * sizeof *found);
    if (!found)
        return proto_fail_nomem(error, move->n_layers * sizeof *found, "holders of caches");
    for (uint32_t i = 0; i < move->n_layers; i++) {
        move->holder_of[i] = NO_HOLDER;
        found[i] = find_holder(&move->options, move->layer_first + i);
    }
    for (uint32_t h = 0; h < load->n_holders && status == PROTO_OK; h++) {
        uint32_t number = move->n_holders;
        bool any = false;
        for (uint32_t i = 0; i < move->n_layers; i++)
            if (found[i] == h) {
                move->holder_of[i] = number;
                any = true;
            }
        if (any)
            status = open_holder(move, &load->holders[h], error);
    }
    free(found);
    return status;
}

static enum proto_status take_memory(struct worker_kv_move *move, struct proto_error *error)
{
    size_t n = (size_t)move->max_seqs * move->n_layers;
    move->holders = calloc((size_t)move->options.load->n_holders + 1, sizeof *move->holders);
    move->holder_of = calloc((size_t)move->n_layers + 1, sizeof *move->holder_of);
    move->next = calloc(n + 1, sizeof *move->next);
    move->forgotten = calloc(move->max_seqs, sizeof *move->forgotten);
    move->targets = calloc(move->max_seqs, sizeof *move->targets);
    if (!move->holders || !move->holder_of || !move->next || !move->forgotten || !move->targets)
        return proto_fail_nomem(error, n * sizeof *move->next, "the move of a cache");
    return PROTO_OK;
}

enum proto_status worker_kv_move_create(struct worker_kv_move **out,
                                        const struct worker_kv_move_options *options,
                                        struct proto_error *error)
{
    *out = NULL;
    struct worker_kv_move *move = calloc(1, sizeof *move);
    if (!move)
        return proto_fail_nomem(error, sizeof *move, "the move of a cache");
    move->options = *options;
    move->max_seqs = shard_kv_max_seqs(options->kv);
    shard_kv_layers(options->kv, &move->layer_first, &move->n_layers);
    net_proof_make(move->proof, options->secret, options->own->public_key);
    enum proto_status status = take_memory(move, error);
    if (status == PROTO_OK)
        status = open_holders(move, error);
    if (status != PROTO_OK || !move->n_holders) {
        worker_kv_move_destroy(move);
        return status;
    }
    move->began_ns = net_now_ns();
    move->phase = PAUSING; /* until the first tick */
    *out = move;
    return PROTO_OK;
}

void worker_kv_move_destroy(struct worker_kv_move *move)
{
    if (!move)
        return;
    close_links(move);
    for (uint32_t i = 0; move->holders && i < move->n_holders; i++)
        free(move->holders[i].seqs);
    free(move->holders);
    free(move->holder_of);
    free(move->next);
    free(move->forgotten);
    free(move->targets);
    free(move);
}
