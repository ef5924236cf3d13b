/* SPDX-License-Identifier: Apache-2.0 */
#include "net/address.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

const char *net_address_port(const char *endpoint)
{
    const char *colon = strrchr(endpoint, ':');
    return starts_with(endpoint, "tcp://") && colon ? colon + 1 : "";
}

static bool port_ok(const char *port, bool listening)
{
    if (listening && strcmp(port, "*") == 0)
        return true;
    char *end;
    long value = strtol(port, &end, 10);
    return port[0] >= '0' && port[0] <= '9' && *end == 0 && value <= 65535 &&
           value >= (listening ? 0 : 1);
}

enum proto_status net_address_endpoint(const char *address, bool listening, char *endpoint,
                                       size_t bytes, struct proto_error *error)
{
    const char *scheme =
        starts_with(address, "ipc://") || starts_with(address, "tcp://") ? "" : "tcp://";
    int n = snprintf(endpoint, bytes, "%s%s", scheme, address);
    bool fits = n > 0 && (size_t)n < bytes;
    if (fits && starts_with(endpoint, "ipc://") && endpoint[6])
        return PROTO_OK;
    const char *port = net_address_port(endpoint);
    bool has_host = port > endpoint + 7;
    if (fits && has_host && port_ok(port, listening))
        return PROTO_OK;
    return proto_fail(error, PROTO_INVALID,
                      "address \"%.200s\": expected HOST:PORT with a port from %d to 65535, such "
                      "as 192.168.1.20:7400",
                      address, listening ? 0 : 1);
}

/* Cuts "tcp://HOST:PORT" into HOST (without brackets) and PORT. */
static bool split(const char *endpoint, char *host, size_t bytes, const char **port)
{
    *port = net_address_port(endpoint);
    if (!**port)
        return false;
    const char *first = endpoint + strlen("tcp://"), *end = *port - 1;
    if (*first == '[' && end > first && end[-1] == ']') {
        first++;
        end--;
    }
    if (end <= first || (size_t)(end - first) >= bytes)
        return false;
    memcpy(host, first, (size_t)(end - first));
    host[end - first] = 0;
    return true;
}

static enum proto_status local_name(int fd, char *host, size_t bytes, struct proto_error *error)
{
    struct sockaddr_storage own;
    socklen_t len = sizeof own;
    char text[NI_MAXHOST];
    if (getsockname(fd, (struct sockaddr *)&own, &len) != 0 ||
        getnameinfo((struct sockaddr *)&own, len, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
        return proto_fail(error, PROTO_IO,
                          "this machine's own address cannot be found; name it "
                          "with --advertise HOST:PORT");
    snprintf(host, bytes, strchr(text, ':') ? "[%s]" : "%s", text);
    return PROTO_OK;
}

enum proto_status net_address_towards(const char *endpoint, char *host, size_t bytes,
                                      struct proto_error *error)
{
    char name[256];
    const char *port;
    if (!split(endpoint, name, sizeof name, &port))
        return proto_fail(error, PROTO_INVALID, "%s: expected tcp://HOST:PORT", endpoint);
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *found = NULL;
    int rc = getaddrinfo(name, port, &hints, &found);
    if (rc != 0)
        return proto_fail(error, PROTO_NOTFOUND, "host %s: %s", name, gai_strerror(rc));
    enum proto_status status = proto_fail(error, PROTO_IO, "no route to host %s", name);
    for (struct addrinfo *at = found; at && status != PROTO_OK; at = at->ai_next) {
        int fd = socket(at->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        /* Connecting a datagram socket sends nothing; it only picks the route. */
        if (connect(fd, at->ai_addr, at->ai_addrlen) == 0)
            status = local_name(fd, host, bytes, error);
        close(fd);
    }
    freeaddrinfo(found);
    return status;
}
