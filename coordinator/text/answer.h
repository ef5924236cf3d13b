/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An answer of a model as it is generated: tokens in, text that may be shown out, with what the
 * model thinks kept apart from what it says. Characters and stop strings are never cut in two, nor
 * are the marks around the thinking, whether they are tokens or spelled in several. One thread.
 */
#ifndef COORDINATOR_TEXT_ANSWER_H
#define COORDINATOR_TEXT_ANSWER_H

#include "coordinator/text/vocab.h"

/* How a model marks its thinking. */
struct text_marks {
    const char *open, *close; /* thinking stands between these; NULL: channels */
};

/* Where an answer is after the tokens so far. */
enum text_place {
    TEXT_PLACE_UNDECIDED, /* held back: it may still begin with thinking */
    TEXT_PLACE_REASONING, /* with the marks, and the white space around them */
    TEXT_PLACE_CONTENT,
    TEXT_PLACE_HEADER /* between the messages of a harmony answer */
};

/* Text that may be shown now; borrowed until the next call. */
struct text_news {
    const char *reasoning, *content;
    size_t reasoning_len, content_len;
    bool stopped; /* a stop string was completed: nothing of it or after it is shown */
};

struct text_answer;

/* marks: NULL: all is content; else it must outlive the answer. thinking: the prompt ended behind
 * the opening mark. stops: copied; they hold in the thinking too. White space around the marks is
 * dropped. */
enum proto_status text_answer_create(struct text_answer **out, const struct text_vocab *vocab,
                                     const struct text_marks *marks, bool thinking,
                                     const char *const *stops, size_t n_stops,
                                     struct proto_error *error);
void text_answer_destroy(struct text_answer *answer);

enum proto_status text_answer_push(struct text_answer *answer, int32_t id, struct text_news *news,
                                   struct proto_error *error);
/* At the end: what was held back. */
enum proto_status text_answer_finish(struct text_answer *answer, struct text_news *news,
                                     struct proto_error *error);

enum text_place text_answer_place(const struct text_answer *answer);

#endif
