/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/chat_input.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#define POLL_MS       100
#define HISTORY_LINES 1000
#define READ_BYTES    65536u
#define CTRL_C        3
#define REPLACEMENT   0xfffd

struct coord_input {
    struct coord_interrupt_flags *flags;
    EditLine *editor; /* NULL: plain lines */
    History *history;
    /* What was read: the line given out first, then `rest` bytes from `next` on. */
    char *text;
    size_t cap, next, rest;
    bool over;
};

/* True when standard input has something; false when the wait is over. */
static bool wait_input(const struct coord_input *in)
{
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    while (!atomic_load(&in->flags->ended)) {
        if (in->editor && atomic_load(&in->flags->pressed))
            return true;
        if (poll(&fd, 1, POLL_MS) > 0)
            return true;
    }
    return false;
}

/* A character for the editor: 1, or 0 at the end, or -1. Ctrl-C comes as a signal, and is given to
 * the editor as the key. */
static int read_character(EditLine *editor, wchar_t *out)
{
    struct coord_input *in;
    mbstate_t state = {0};
    size_t n = (size_t)-2;
    el_get(editor, EL_CLIENTDATA, &in);
    while (n == (size_t)-2) {
        char byte;
        if (!wait_input(in))
            return 0;
        if (atomic_exchange(&in->flags->pressed, false)) {
            *out = CTRL_C;
            return 1;
        }
        ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return (int)got;
        n = mbrtowc(out, &byte, 1, &state);
    }
    if (n == (size_t)-1)
        *out = REPLACEMENT;
    return 1;
}

static char *prompt_text(EditLine *editor)
{
    static char text[] = "> ";
    (void)editor;
    return text;
}

static bool start_editor(struct coord_input *in)
{
    HistEvent event;
    /* What is typed is UTF-8, also where nobody set a locale. */
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
    in->history = history_init();
    in->editor = el_init("caravan", stdin, isatty(STDOUT_FILENO) ? stdout : stderr, stderr);
    if (!in->history || !in->editor)
        return false;
    history(in->history, &event, H_SETSIZE, HISTORY_LINES);
    history(in->history, &event, H_SETUNIQUE, 1);
    el_set(in->editor, EL_CLIENTDATA, in);
    el_set(in->editor, EL_PROMPT, prompt_text);
    el_set(in->editor, EL_EDITOR, "emacs");
    el_set(in->editor, EL_HIST, history, in->history);
    el_set(in->editor, EL_GETCFN, read_character);
    el_set(in->editor, EL_BIND, "^C", "em-kill-line", NULL);
    el_source(in->editor, NULL);
    return true;
}

enum proto_status coord_input_create(struct coord_input **out, struct coord_interrupt_flags *flags,
                                     struct proto_error *error)
{
    struct coord_input *in = calloc(1, sizeof *in);
    if (!in)
        return proto_fail_nomem(error, sizeof *in, "reading lines");
    in->flags = flags;
    if (isatty(STDIN_FILENO) && !start_editor(in)) {
        coord_input_destroy(in);
        return proto_fail_nomem(error, 0, "the line editor");
    }
    *out = in;
    return PROTO_OK;
}

void coord_input_destroy(struct coord_input *in)
{
    if (!in)
        return;
    if (in->editor)
        el_end(in->editor);
    if (in->history)
        history_end(in->history);
    free(in->text);
    free(in);
}

bool coord_input_is_terminal(const struct coord_input *in)
{
    return in->editor != NULL;
}

/* Room for `more` bytes and a NUL behind the text that is kept. */
static bool make_room(struct coord_input *in, size_t more)
{
    if (in->next > 0)
        memmove(in->text, in->text + in->next, in->rest);
    in->next = 0;
    if (in->cap - in->rest > more)
        return true;
    size_t cap = 2 * in->cap + more + 1;
    char *grown = realloc(in->text, cap);
    if (!grown)
        return false;
    in->text = grown;
    in->cap = cap;
    return true;
}

static const char *edited_line(struct coord_input *in, struct proto_error *error)
{
    int len = 0;
    HistEvent event;
    el_resize(in->editor);
    const char *line = el_gets(in->editor, &len);
    if (!line || len <= 0)
        return NULL;
    if (len > 1)
        history(in->history, &event, H_ENTER, line);
    in->next = in->rest = 0;
    if (!make_room(in, (size_t)len)) {
        proto_fail_nomem(error, (size_t)len, "a line");
        return NULL;
    }
    memcpy(in->text, line, (size_t)len);
    in->text[len - (line[len - 1] == '\n')] = '\0';
    return in->text;
}

/* Reads until there is a whole line, or the end. */
static const char *plain_line(struct coord_input *in, struct proto_error *error)
{
    size_t searched = 0;
    for (;;) {
        char *end = in->rest > searched
                        ? memchr(in->text + in->next + searched, '\n', in->rest - searched)
                        : NULL;
        if (end || (in->over && in->rest > 0)) {
            char *line = in->text + in->next;
            size_t len = end ? (size_t)(end - line) : in->rest;
            line[len] = '\0';
            in->next += len + (end != NULL);
            in->rest -= len + (end != NULL);
            return line;
        }
        searched = in->rest;
        if (in->over || !wait_input(in))
            return NULL;
        if (!make_room(in, READ_BYTES)) {
            proto_fail_nomem(error, READ_BYTES, "a line");
            return NULL;
        }
        ssize_t n = read(STDIN_FILENO, in->text + in->rest, READ_BYTES);
        if (n < 0 && errno != EINTR) {
            proto_fail_errno(error, errno, "read", "standard input");
            return NULL;
        }
        in->over = n == 0;
        in->rest += n > 0 ? (size_t)n : 0;
    }
}

const char *coord_input_line(struct coord_input *in, struct proto_error *error)
{
    error->status = PROTO_OK;
    return in->editor ? edited_line(in, error) : plain_line(in, error);
}
