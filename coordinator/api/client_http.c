/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/client_http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_S 5L
/* The longest JSON answer that is believed: ids of a long text. */
#define MAX_ANSWER_BYTES ((size_t)256 << 20)
/* Of an answer that is no 200 */
#define MAX_ERROR_BYTES ((size_t)64 << 10)

struct api_client {
    CURL *curl;
    char *url;    /* without a '/' at the end */
    char *bearer; /* the header line, or NULL */
};

struct buffer {
    char *data;
    size_t len, cap, max;
};

/* One running exchange. */
struct transfer {
    struct api_client *client;
    const struct api__exchange *exchange;
    struct buffer refusal; /* the body of an answer that is no 200 */
    enum proto_status status;
    struct proto_error *error;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_started;

static void start_curl(void)
{
    curl_started = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static enum proto_status buffer_add(struct buffer *b, const char *data, size_t len,
                                    struct proto_error *error)
{
    if (len > b->max - b->len)
        return proto_fail(error, PROTO_LIMIT, "the answer is longer than %zu bytes", b->max);
    if (b->cap - b->len < len) {
        size_t cap = b->cap > 0 ? b->cap : 1024;
        while (cap - b->len < len)
            cap *= 2;
        char *grown = realloc(b->data, cap);
        if (!grown)
            return proto_fail_nomem(error, cap, "an answer");
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return PROTO_OK;
}

static char *normal_url(const char *url)
{
    size_t len = strlen(url);
    while (len > 0 && url[len - 1] == '/')
        len--;
    const char *scheme = strstr(url, "://") ? "" : "http://";
    char *out = NULL;
    return asprintf(&out, "%s%.*s", scheme, (int)len, url) < 0 ? NULL : out;
}

enum proto_status api_client_create(struct api_client **out, const char *url, const char *api_key,
                                    struct proto_error *error)
{
    if (!url)
        url = API_CLIENT_DEFAULT_URL;
    if (strlen(url) > 1024 || strpbrk(url, " \r\n\t"))
        return proto_fail(error, PROTO_INVALID, "server '%.100s': expected http://HOST:PORT", url);
    if (api_key && strpbrk(api_key, "\r\n"))
        return proto_fail(error, PROTO_INVALID, "the API key has a line break in it");
    pthread_once(&curl_once, start_curl);
    struct api_client *client = calloc(1, sizeof *client);
    if (!client)
        return proto_fail_nomem(error, sizeof *client, "a client");
    client->curl = curl_started ? NULL : curl_easy_init();
    client->url = normal_url(url);
    int rc = api_key ? asprintf(&client->bearer, "Authorization: Bearer %s", api_key) : 0;
    if (rc < 0)
        client->bearer = NULL;
    if (!client->curl || !client->url || rc < 0) {
        api_client_destroy(client);
        return proto_fail_nomem(error, 0, "a client");
    }
    *out = client;
    return PROTO_OK;
}

void api_client_destroy(struct api_client *client)
{
    if (!client)
        return;
    if (client->curl)
        curl_easy_cleanup(client->curl);
    free(client->url);
    free(client->bearer);
    free(client);
}

static size_t on_data(char *data, size_t one, size_t len, void *user)
{
    (void)one;
    struct transfer *t = user;
    long http = 0;
    curl_easy_getinfo(t->client->curl, CURLINFO_RESPONSE_CODE, &http);
    if (http == 200)
        t->status = t->exchange->sink(t->exchange->user, data, len, t->error);
    else if (t->refusal.len < t->refusal.max)
        t->status = buffer_add(
            &t->refusal, data,
            len < t->refusal.max - t->refusal.len ? len : t->refusal.max - t->refusal.len,
            t->error);
    return t->status ? CURL_WRITEFUNC_ERROR : len;
}

/* Curl calls this about once a second, and more often while data comes. */
static int on_progress(void *user, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up)
{
    (void)down_total, (void)down, (void)up_total, (void)up;
    const struct transfer *t = user;
    return atomic_load(t->exchange->cancel);
}

static enum proto_status transfer_failed(const struct transfer *t, CURLcode code,
                                         const char *detail)
{
    const char *url = t->client->url;
    bool cut = code == CURLE_COULDNT_CONNECT || code == CURLE_PARTIAL_FILE ||
               code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR || code == CURLE_GOT_NOTHING;
    if (t->status)
        return t->status;
    if (t->exchange->cut)
        *t->exchange->cut = cut;
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return proto_fail(t->error, PROTO_CANCELLED, "the call to %s was ended", url);
    if (code == CURLE_COULDNT_CONNECT)
        return proto_fail(t->error, PROTO_NOTFOUND,
                          "no coordinator answers at %s; start one with caravan serve", url);
    if (code == CURLE_OPERATION_TIMEDOUT)
        return proto_fail(t->error, PROTO_TIMEOUT, "the coordinator at %s fell silent: %s", url,
                          detail);
    if (code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING)
        return proto_fail(t->error, PROTO_LOST,
                          "the coordinator at %s ended its answer before it was whole", url);
    return proto_fail(t->error, PROTO_IO, "%s: %s", url, detail);
}

enum proto_status api__answer_error(const json_t *answer, long http, struct proto_error *error)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
    enum proto_status status = PROTO_IO;
    switch (http) {
    case 400:
    case 413:
        status = PROTO_INVALID;
        break;
    case 401:
        status = PROTO_REFUSED;
        break;
    case 404:
        status = PROTO_NOTFOUND;
        break;
    case 429:
        status = PROTO_BUSY;
        break;
    case 503:
        status = PROTO_LOST;
        break;
    default:
        break;
    }
    if (!text)
        return proto_fail(error, status, "the coordinator answered with HTTP status %ld", http);
    return proto_fail(error, status, "the coordinator says: %s", text);
}

enum proto_status api__answer_odd(const char *what, struct proto_error *error)
{
    return proto_fail(error, PROTO_FORMAT,
                      "the answer %s: is this a Caravan coordinator of this version?", what);
}

/* Fills the handle for one exchange. Curl keeps connections between them. */
static void set_up(struct transfer *t, const char *url, const char *body,
                   struct curl_slist *headers, char *detail)
{
    CURL *curl = t->client->curl;
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    /* A cluster is never behind the proxy that the environment may name for the Internet. */
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)t->exchange->quiet_s);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    if (t->exchange->cancel) {
        curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
    }
    if (body) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
}

static struct curl_slist *make_headers(const struct api_client *client, const char *line, bool *ok)
{
    const char *lines[] = {"Content-Type: application/json", client->bearer, line};
    struct curl_slist *headers = NULL;
    *ok = true;
    for (int i = 0; i < 3 && *ok; i++) {
        if (!lines[i])
            continue;
        struct curl_slist *more = curl_slist_append(headers, lines[i]);
        *ok = more != NULL;
        headers = more ? more : headers;
    }
    return headers;
}

static enum proto_status perform(struct transfer *t, const char *detail)
{
    CURLcode code = curl_easy_perform(t->client->curl);
    long http = 0;
    curl_easy_getinfo(t->client->curl, CURLINFO_RESPONSE_CODE, &http);
    if (code || t->status)
        return transfer_failed(t, code, detail[0] ? detail : curl_easy_strerror(code));
    if (http == 200)
        return PROTO_OK;
    json_t *answer = json_loadb(t->refusal.data ? t->refusal.data : "", t->refusal.len, 0, NULL);
    enum proto_status status = api__answer_error(answer, http, t->error);
    json_decref(answer);
    return status;
}

enum proto_status api__exchange(struct api_client *client, const struct api__exchange *exchange,
                                struct proto_error *error)
{
    struct transfer t = {
        .client = client, .exchange = exchange, .error = error, .refusal.max = MAX_ERROR_BYTES};
    bool ok;
    struct curl_slist *headers = make_headers(client, exchange->header, &ok);
    char *url = NULL, *body = NULL, detail[CURL_ERROR_SIZE] = "";
    if (asprintf(&url, "%s%s", client->url, exchange->path) < 0)
        url = NULL;
    if (exchange->body)
        body = json_dumps(exchange->body, JSON_COMPACT);
    enum proto_status status;
    if (ok && url && (body || !exchange->body)) {
        set_up(&t, url, body, headers, detail);
        status = perform(&t, detail);
    } else {
        status = proto_fail_nomem(error, 0, "a call to the coordinator");
    }
    curl_easy_reset(client->curl);
    curl_slist_free_all(headers);
    free(t.refusal.data);
    free(url);
    free(body);
    return status;
}

const char *api__answer_header(struct api_client *client, const char *name)
{
    struct curl_header *header = NULL;
    if (curl_easy_header(client->curl, name, 0, CURLH_HEADER, -1, &header))
        return NULL;
    return header->value;
}

static enum proto_status keep(void *user, const char *data, size_t len, struct proto_error *error)
{
    return buffer_add(user, data, len, error);
}

enum proto_status api__exchange_json(struct api_client *client, const char *path, json_t *body,
                                     unsigned quiet_s, json_t **answer, struct proto_error *error)
{
    struct buffer buffer = {.max = MAX_ANSWER_BYTES};
    const struct api__exchange exchange = {
        .path = path, .body = body, .quiet_s = quiet_s, .sink = keep, .user = &buffer};
    enum proto_status status = api__exchange(client, &exchange, error);
    if (!status) {
        *answer = json_loadb(buffer.data ? buffer.data : "", buffer.len, JSON_ALLOW_NUL, NULL);
        if (!json_is_object(*answer)) {
            json_decref(*answer);
            status = api__answer_odd("is not a JSON object", error);
        }
    }
    free(buffer.data);
    return status;
}
