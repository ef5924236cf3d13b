/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <string.h>

#include "coordinator/text/template_value.h"

bool text__string_is(const struct text__string *s, const char *text)
{
    return s->len == strlen(text) && memcmp(text__bytes(s), text, s->len) == 0;
}

int text__string_compare(const struct text__string *a, const struct text__string *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int order = n ? memcmp(text__bytes(a), text__bytes(b), n) : 0;
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

struct text__buffer *text__buffer_new(struct text__run *run)
{
    return text__take(run, sizeof(struct text__buffer));
}

/* Room for len more bytes. */
static bool reserve(struct text__run *run, struct text__buffer *buffer, size_t len)
{
    if (len > run->limits.text_bytes - buffer->len)
        return text__fail_limit(run, "a text longer than %zu bytes", run->limits.text_bytes);
    size_t needed = buffer->len + len;
    if (needed <= buffer->cap)
        return true;
    size_t cap = buffer->cap + buffer->cap / 2;
    cap = cap < 32 ? 32 : cap;
    cap = cap < needed ? needed : cap;
    char *data = text__arena_grow(&run->arena, buffer->data, buffer->cap, cap);
    if (!data)
        return text__fail_memory(run, cap);
    buffer->data = data;
    buffer->cap = cap;
    return true;
}

/* Marks the len bytes behind the buffer's end, which are about to be written. */
static bool mark(struct text__run *run, struct text__buffer *buffer, size_t len)
{
    if (buffer->n_spans > 0 && buffer->spans[buffer->n_spans - 1].end == buffer->len) {
        buffer->spans[buffer->n_spans - 1].end += len;
        return true;
    }
    if (buffer->n_spans == buffer->cap_spans) {
        size_t cap = buffer->cap_spans ? 2 * buffer->cap_spans : 4;
        struct text_span *spans = text__arena_grow(
            &run->arena, buffer->spans, buffer->cap_spans * sizeof *spans, cap * sizeof *spans);
        if (!spans)
            return text__fail_memory(run, cap * sizeof *spans);
        buffer->spans = spans;
        buffer->cap_spans = cap;
    }
    buffer->spans[buffer->n_spans++] = (struct text_span){buffer->len, buffer->len + len};
    return true;
}

bool text__put(struct text__run *run, struct text__buffer *buffer, const char *bytes, size_t len,
               bool untrusted)
{
    if (len == 0)
        return true;
    if (!text__work_bytes(run, len) || !reserve(run, buffer, len) ||
        (untrusted && !mark(run, buffer, len)))
        return false;
    memcpy(buffer->data + buffer->len, bytes, len);
    buffer->len += len;
    return true;
}

/* The first span that ends behind a place. */
static size_t span_behind(const struct text__buffer *buffer, size_t at)
{
    size_t low = 0, high = buffer->n_spans;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (buffer->spans[middle].end <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool text__untrusted_at(const struct text__string *s, size_t at)
{
    size_t place = s->first + at, i = span_behind(s->buffer, place);
    return i < s->buffer->n_spans && s->buffer->spans[i].first <= place;
}

bool text__put_part(struct text__run *run, struct text__buffer *buffer,
                    const struct text__string *s, size_t first, size_t len)
{
    const struct text__buffer *from = s->buffer;
    size_t at = s->first + first, end = at + len;
    /* The two buffers may be one: its spans grow meanwhile, but none before `end` changes. */
    for (size_t i = span_behind(from, at); at < end; i++) {
        bool last = i >= from->n_spans || from->spans[i].first >= end;
        size_t begin = last ? end : from->spans[i].first;
        if (begin > at && !text__put(run, buffer, from->data + at, begin - at, false))
            return false;
        at = begin > at ? begin : at;
        if (last)
            break;
        size_t stop = from->spans[i].end < end ? from->spans[i].end : end;
        if (!text__put(run, buffer, from->data + at, stop - at, true))
            return false;
        at = stop;
    }
    return true;
}

static struct text__string *view(struct text__run *run, struct text__buffer *buffer, size_t first,
                                 size_t len, bool markup)
{
    struct text__string *s = text__take(run, sizeof *s);
    if (s)
        *s = (struct text__string){buffer, first, len, markup};
    return s;
}

struct text__string *text__whole(struct text__run *run, struct text__buffer *buffer)
{
    return view(run, buffer, 0, buffer->len, false);
}

struct text__string *text__borrow(struct text__run *run, const char *bytes, size_t len,
                                  bool untrusted)
{
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer)
        return NULL;
    buffer->data = (char *)(uintptr_t)bytes; /* never written: the buffer is fixed */
    buffer->len = len;
    buffer->fixed = true;
    buffer->whole = (struct text_span){0, len};
    buffer->spans = &buffer->whole;
    buffer->n_spans = untrusted && len > 0;
    return text__whole(run, buffer);
}

const struct text__string *text__part(struct text__run *run, const struct text__string *s,
                                      size_t first, size_t len)
{
    if (first == 0 && len == s->len)
        return s;
    return view(run, s->buffer, s->first + first, len, s->markup);
}

const struct text__string *text__concat(struct text__run *run, const struct text__string *a,
                                        const struct text__string *b)
{
    struct text__buffer *buffer = a->buffer;
    size_t first = a->first;
    if (buffer->fixed || a->first + a->len != buffer->len) {
        buffer = text__buffer_new(run);
        first = 0;
        if (!buffer || !text__put_string(run, buffer, a))
            return NULL;
    }
    if (!text__put_string(run, buffer, b))
        return NULL;
    return view(run, buffer, first, a->len + b->len, a->markup || b->markup);
}

static const char *entity(char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '\'':
        return "&#39;";
    case '"':
        return "&#34;";
    default:
        return NULL;
    }
}

const struct text__string *text__escape(struct text__run *run, const struct text__string *s)
{
    if (s->markup)
        return s;
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer)
        return NULL;
    size_t done = 0;
    for (size_t i = 0; i < s->len; i++) {
        const char *written = entity(text__bytes(s)[i]);
        if (!written)
            continue;
        if (!text__put_part(run, buffer, s, done, i - done) ||
            !text__put(run, buffer, written, strlen(written), text__untrusted_at(s, i)))
            return NULL;
        done = i + 1;
    }
    if (!text__put_part(run, buffer, s, done, s->len - done))
        return NULL;
    return view(run, buffer, 0, buffer->len, true);
}

size_t text__find(struct text__run *run, const struct text__string *s, size_t from,
                  const struct text__string *needle)
{
    const char *bytes = text__bytes(s), *found = NULL;
    if (from <= s->len)
        found = needle->len ? memmem(bytes + from, s->len - from, text__bytes(needle), needle->len)
                            : bytes + from;
    /* A failure is seen by whatever is done next. */
    text__work_bytes(run, found ? (size_t)(found - bytes) - from : s->len);
    return found ? (size_t)(found - bytes) : SIZE_MAX;
}

size_t text__find_last(struct text__run *run, const struct text__string *s, size_t end,
                       const struct text__string *needle)
{
    if (needle->len > end || !text__work_bytes(run, end))
        return SIZE_MAX;
    for (size_t at = end - needle->len + 1; at-- > 0;) {
        const char *place = text__bytes(s) + at;
        if (needle->len == 0)
            return at;
        if (*place != *text__bytes(needle))
            continue;
        if (memcmp(place, text__bytes(needle), needle->len) == 0)
            return at;
        if (!text__work_bytes(run, needle->len))
            break;
    }
    return SIZE_MAX;
}

/* The end of the character that begins at `at`. */
static size_t char_end(const struct text__string *s, size_t at)
{
    if (at < s->len)
        text__char(text__bytes(s), &at);
    return at;
}

const struct text__string *text__replace(struct text__run *run, const struct text__string *s,
                                         const struct text__string *old,
                                         const struct text__string *with, int64_t count)
{
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer)
        return NULL;
    size_t done = 0, from = 0;
    for (; count != 0; count--) {
        size_t at = text__find(run, s, from, old);
        if (at == SIZE_MAX)
            break;
        if (!text__put_part(run, buffer, s, done, at - done) ||
            !text__put_string(run, buffer, with) || !text__work(run, 1))
            return NULL;
        done = at + old->len;
        /* The empty string is found before each character and at the end. */
        from = old->len ? done : at < s->len ? char_end(s, at) : SIZE_MAX;
    }
    if (!text__put_part(run, buffer, s, done, s->len - done))
        return NULL;
    return view(run, buffer, 0, buffer->len, s->markup);
}

size_t text__cut(const struct text__string *s, size_t most)
{
    if (s->len <= most)
        return s->len;
    while (most > 0 && ((unsigned char)text__bytes(s)[most] & 0xc0) == 0x80)
        most--;
    return most;
}

size_t text__n_chars(const struct text__string *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->len; i++)
        n += ((unsigned char)text__bytes(s)[i] & 0xc0) != 0x80;
    return n;
}

size_t text__char_offset(const struct text__string *s, size_t i)
{
    size_t at = 0;
    for (; i > 0; i--)
        at = char_end(s, at);
    return at;
}
