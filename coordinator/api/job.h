/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests for text apart from the connections that ask for them. A job has a log of tokens for
 * each of its choices; the engine writes it (on its own thread), and any number of connections read
 * it, each from where it likes: an answer is a function of the request and its logs. A client that
 * reads slowly holds up nobody, then: its log waits, which is as long as the answer at most.
 *
 * A job lives while somebody reads it. After that: one that is finished is kept for a while, so
 * that its end can be asked for again; one that is not goes on for as long as its client wished
 * (X-Caravan-Resume; by default not at all, and its place is free at once). Jobs are in the journal
 * too. Those that an earlier server left there go on as soon as the engine takes them, and wait for
 * their clients for api_server_options.resume_s.
 *
 * Locks: the server's mutex, then the job's. Neither is held while a stream is destroyed, which
 * waits for the engine's thread, which takes the job's.
 */
#ifndef COORDINATOR_API_JOB_H
#define COORDINATOR_API_JOB_H

#include "coordinator/api/params.h"
#include "coordinator/text/answer.h"

#define API__ID_BYTES 48

struct api__form;

struct api__token {
    int32_t id;
    float logprob;
    uint32_t n_top;
    size_t top; /* where its candidates begin among those of the log */
};

enum api__ending { API__RUNNING, API__STOPPED, API__CUT };

struct api__log {
    struct api__job *job;
    uint32_t index;
    struct coord_stream *stream; /* NULL: not submitted, or not needed any more */
    struct text_answer *watch;   /* finds stop strings; NULL: there are none */
    struct api__token *tokens;
    size_t n, cap;
    struct text_candidate *top;
    size_t n_top, cap_top;
    struct text_sampler_state sampler; /* behind the last token */
    enum api__ending ending;
};

struct api__job {
    /* Constant once it is public: */
    struct api_server *server;
    const struct api__form *form;
    char id[API__ID_BYTES];
    int64_t created; /* Unix time */
    uint32_t resume_s;
    uint64_t number; /* in the journal, 0: it is not there */
    json_t *body;    /* params borrow from it */
    size_t body_len;
    struct api__params params;
    struct api__log *logs;
    size_t n_logs;
    /* Under the server's mutex: */
    struct api__job *next;
    unsigned refs, readers;
    bool submitted;
    uint64_t idle_ns; /* since when nobody reads it */
    uint64_t wait_s;  /* how long it waits for a reader from then */
    /* Under its own: */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t n_events;       /* that came so far, of all logs */
    size_t n_running;        /* logs without an ending */
    uint64_t finished_ns;    /* 0: not yet */
    bool released;           /* the engine has nothing of it any more */
    struct api__fault fault; /* status 0: none */
};

/* Reads and checks a body. The job is not public yet. False with *fault set. */
bool api__job_create(struct api__job **out, struct api_server *server, const struct api__form *form,
                     const char *body, size_t len, struct api__fault *fault);

/* Makes a new job public, with one reader, keeps it and submits its choices; body as for create.
 * The job is the caller's to detach from only where it succeeds, and is gone otherwise. */
bool api__job_start(struct api__job *job, const char *body, struct api__fault *fault);

/* The job with that id, with one reader more; NULL: there is none. */
struct api__job *api__job_attach(struct api_server *server, const char *id);

/* A reader less. */
void api__job_detach(struct api__job *job);

/* Event `at` of a log: a token, or behind the last one the ending. 1: *event is it; 0: it is not
 * there yet; -1: nor will it be, and *fault says why. */
int api__job_read(struct api__job *job, uint32_t choice, size_t at, struct coord_event *event,
                  struct api__fault *fault);

/* How many events a log has; of one that goes on, at most. */
uint64_t api__job_most(struct api__job *job, uint32_t choice);

/* Waits until the number of the job's events is not `seen`, or API__POLL_MS; what it is. */
uint64_t api__job_wait(struct api__job *job, uint64_t seen);

/* Submits the choices that have no ending yet. */
bool api__job_submit(struct api__job *job, struct proto_error *error);
/* Adds a token of the engine or the journal to a log that runs, under the job's mutex. False: no
 * more are wanted. */
bool api__job_take(struct api__log *log, const struct coord_event *event);

/* For the keeper: takes a job out of the list, under the server's mutex; its reference there is
 * then the caller's. */
void api__job_withdraw(struct api__job *job);
/* Gives a reference up. */
void api__job_unref(struct api__job *job);
/* The same of the last one of a job that was withdrawn: it leaves the journal, too. */
void api__job_drop(struct api__job *job);
/* Gives the engine's streams back; what still runs ends. */
void api__job_release(struct api__job *job);
/* Submits a job of an earlier server. False while the engine takes no requests. */
bool api__job_take_up(struct api__job *job);
/* All jobs; the journal keeps them. */
void api__jobs_free(struct api_server *server);

/* keeper.c: what the journal has, and the thread that looks after jobs. */
enum proto_status api__jobs_start(struct api_server *server, struct proto_error *error);
/* No connection is left. Unfinished jobs stay in the journal. */
void api__jobs_stop(struct api_server *server);

/* restore.c: the jobs of the journal, as they were. */
enum proto_status api__jobs_restore(struct api_server *server, struct proto_error *error);
/* Makes such a job public; nobody reads it yet. */
void api__job_adopt(struct api__job *job);
/* Frees a job that is not public, in the journal too. */
void api__job_discard(struct api__job *job);

/* limits.c: places for n choices more, which api__leave gives back. */
bool api__enter(struct api_server *server, size_t n, struct api__fault *fault);
void api__leave(struct api_server *server, size_t n);
/* A choice has ended after so many tokens. */
void api__note_length(struct api_server *server, size_t n_tokens);
/* Measures how fast tokens come; about once a second. */
void api__note_speed(struct api_server *server, double seconds);
/* Room for n bytes more of this request's body. */
bool api__hold_body(struct api__request *r, size_t n, struct api__fault *fault);

#endif
