/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/api/call.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int call_connect(const char *url)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* A server that hangs fails the test instead of stopping it. */
    struct timeval timeout = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

void call_send(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        bytes += n;
        len -= (size_t)n;
    }
}

/* Joins the chunks of a body in place. */
static size_t join_chunks(char *body, size_t len)
{
    size_t read = 0, written = 0;
    while (read < len) {
        char *end;
        size_t n = strtoul(body + read, &end, 16);
        size_t start = (size_t)(end - body) + 2;
        if (n == 0 || start + n > len)
            break;
        memmove(body + written, body + start, n);
        written += n;
        read = start + n + 2;
    }
    body[written] = '\0';
    return written;
}

struct answer call_receive(int fd)
{
    struct answer answer = {0};
    size_t cap = 65536, len = 0;
    char *bytes = malloc(cap + 1);
    ssize_t n;
    while ((n = recv(fd, bytes + len, cap - len, 0)) > 0) {
        len += (size_t)n;
        if (len == cap)
            bytes = realloc(bytes, (cap *= 2) + 1);
    }
    close(fd);
    bytes[len] = '\0';
    char *body = strstr(bytes, "\r\n\r\n");
    answer.head = bytes;
    if (!body)
        return answer;
    *body = '\0';
    answer.body = body + 4;
    answer.len = len - (size_t)(answer.body - bytes);
    answer.status = atoi(bytes + 9);
    if (strcasestr(bytes, "transfer-encoding: chunked"))
        answer.len = join_chunks(answer.body, answer.len);
    return answer;
}

struct answer call(const char *url, const char *method, const char *path, const char *headers,
                   const char *body)
{
    int fd = call_connect(url);
    if (fd < 0)
        return (struct answer){0};
    char head[2048], more[128] = "";
    if (body)
        snprintf(more, sizeof more, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                 strlen(body));
    int n =
        snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%s\r\n",
                 method, path, more, headers);
    call_send(fd, head, (size_t)n);
    if (body)
        call_send(fd, body, strlen(body));
    return call_receive(fd);
}

void answer_finish(struct answer *answer)
{
    free(answer->head);
    *answer = (struct answer){0};
}

json_t *answer_json(const struct answer *answer)
{
    return answer->body ? json_loadb(answer->body, answer->len, 0, NULL) : NULL;
}
