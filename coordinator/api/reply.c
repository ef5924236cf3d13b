/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/json.h"

#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool api__fault_set(struct api__fault *fault, unsigned status, const char *param, const char *code,
                    const char *format, ...)
{
    fault->status = status;
    fault->code = code;
    fault->retry_s = 0;
    snprintf(fault->param, sizeof fault->param, "%s", param ? param : "");
    va_list args;
    va_start(args, format);
    vsnprintf(fault->message, sizeof fault->message, format, args);
    va_end(args);
    return false;
}

bool api__fault_from(struct api__fault *fault, const struct proto_error *error)
{
    unsigned status = 500;
    const char *code = NULL;
    switch (error->status) {
    case PROTO_INVALID:
        status = 400;
        break;
    case PROTO_BUSY:
        status = 429;
        code = "busy";
        break;
    case PROTO_LOST:
    case PROTO_TIMEOUT:
        status = 503;
        code = "worker_lost";
        break;
    case PROTO_CANCELLED:
        status = 503;
        code = "stopping";
        break;
    default:
        break;
    }
    return api__fault_set(fault, status, NULL, code, "%s", error->text);
}

bool api__fault_stopping(struct api__fault *fault)
{
    return api__fault_set(fault, 503, NULL, "stopping", "the coordinator is stopping");
}

static const char *fault_type(unsigned status)
{
    if (status == 429)
        return "rate_limit_error";
    return status < 500 ? "invalid_request_error" : "server_error";
}

json_t *api__fault_json(const struct api__fault *fault)
{
    return json_pack(
        "{s:{s:o, s:s, s:o, s:s?}}", "error", "message",
        api__json_text(fault->message, strlen(fault->message)), "type", fault_type(fault->status),
        "param", fault->param[0] ? api__json_text(fault->param, strlen(fault->param)) : json_null(),
        "code", fault->code);
}

enum MHD_Result api__reply(struct api__request *r, unsigned status, struct MHD_Response *response)
{
    if (!response)
        return MHD_NO;
    r->status = status;
    if (r->id[0])
        MHD_add_response_header(response, "X-Request-Id", r->id);
    enum MHD_Result result = MHD_queue_response(r->connection, status, response);
    MHD_destroy_response(response);
    return result;
}

/* Takes text over. */
static struct MHD_Response *text_response(const char *type, char *text, size_t len)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return NULL;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    return response;
}

enum MHD_Result api__reply_text(struct api__request *r, unsigned status, const char *type,
                                char *text, size_t len)
{
    return api__reply(r, status, text ? text_response(type, text, len) : NULL);
}

enum MHD_Result api__reply_json(struct api__request *r, unsigned status, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    return api__reply_text(r, status, "application/json", text, text ? strlen(text) : 0);
}

enum MHD_Result api__reply_fault(struct api__request *r, const struct api__fault *fault)
{
    json_t *json = api__fault_json(fault);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    struct MHD_Response *response =
        text ? text_response("application/json", text, strlen(text)) : NULL;
    if (!response)
        return MHD_NO;
    char retry[16];
    snprintf(retry, sizeof retry, "%u", fault->retry_s ? fault->retry_s : 1);
    if (fault->status == MHD_HTTP_TOO_MANY_REQUESTS || fault->status == 503)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, retry);
    if (fault->status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (fault->status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, api__allowed(r->route));
    return api__reply(r, fault->status, response);
}

bool api__gone(const struct api_server *server, struct MHD_Connection *connection)
{
    if (atomic_load(&server->stopping))
        return true;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!info)
        return true;
    struct pollfd fd = {.fd = info->connect_fd, .events = POLLRDHUP};
    return poll(&fd, 1, 0) > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

void api__working(struct MHD_Connection *connection, bool working)
{
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT,
                              working ? 0u : API__IDLE_TIMEOUT_S);
}

uint64_t api__now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void api__after_ms(struct timespec *at, long ms)
{
    clock_gettime(CLOCK_MONOTONIC, at);
    at->tv_nsec += ms * 1000000;
    at->tv_sec += at->tv_nsec / 1000000000;
    at->tv_nsec %= 1000000000;
}

bool api__next(const struct api_server *server, struct MHD_Connection *connection,
               struct coord_stream *stream, struct coord_event *event)
{
    while (!coord_stream_next(stream, event, API__POLL_MS))
        if (api__gone(server, connection))
            return false;
    return true;
}
