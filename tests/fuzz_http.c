/* libFuzzer harness of what clients send to the server, up to the API. Run:
 *   make fuzz && build-fuzz/fuzz_http FOLDER tests/corpus/http      FOLDER: where new inputs are kept
 *
 * The first byte says what the rest is: 'k' a file of keys, 'r' the parts of a request one per line, anything
 * else bytes that a client sends to a running server of this process before it closes its side. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/keys.h"
#include "coordinator/request.h"
#include "tests/http_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct server server;
static struct keys *keys;

static void require_at(int holds, int line) {
    if (holds) return;
    fprintf(stderr, "line %d: does not hold; errno: %s; error: %s\n", line, strerror(errno), err_text());
    abort();
}
#define require(holds) require_at(holds, __LINE__)

static void fuzz_keys(const char *text, size_t n) {
    struct keys *k;
    if (keys_parse("keys", text, n, &k) != OK) {
        require(strncmp(err_text(), "keys", 4) == 0);
        return;
    }
    require(strlen(keys_name(k, 0)) > 0 && keys_priority(k, 0) >= 0);
    for (size_t i = 0; i + 8 <= n; i++) { /* pieces of the file: some of them are keys */
        int found = keys_find(k, text + i, 8);
        if (found >= 0) require(strlen(keys_name(k, (uint32_t)found)) > 0);
    }
    keys_free(k);
}

/* The lines of a text of its own; an empty one: not sent. */
static void fuzz_request(const char *data, size_t n) {
    struct exchange x = {0};
    struct bytes path = {0}, quoted = {0};
    const char *lines[7] = {NULL};
    char *text = strndup(data, n), *at = text;
    require(text != NULL);
    for (int i = 0; i < 7 && at; i++) {
        char *line = strsep(&at, "\n");
        lines[i] = *line ? line : NULL;
    }
    struct request r = {.method = lines[0] ? lines[0] : "GET", .path = lines[1] ? lines[1] : "", .origin = lines[2],
                        .host = lines[3], .authorization = lines[4], .api_key = lines[5], .content_type = lines[6]};
    request_admit(&r, &server.config, keys, &x, &path);
    require(!x.is_broken && x.path && x.method && x.content_type && x.key_name);
    require(x.status == 0 || x.status == 204 || (x.status >= 400 && x.status < 500));
    require(x.status != 0 || strpbrk(x.path, "\r\n") == NULL);
    require(request_quote(x.path, 64, &quoted) == OK);
    for (size_t i = 0; i < quoted.len; i++) require(quoted.data[i] > ' ' && quoted.data[i] < 0x7F);
    exchange_free(&x);
    bytes_free(&path);
    bytes_free(&quoted);
    free(text);
}

/* Whatever comes, the server says something or nothing, and closes. */
static void fuzz_connection(const uint8_t *data, size_t n) {
    char answer[65536];
    ssize_t got;
    int fd = client_open(&server);
    if (fd < 0 && errno == EINTR) return;
    require(fd >= 0);
    client_send(fd, data, n);
    shutdown(fd, SHUT_WR);
    /* libFuzzer's alarm interrupts now and then. */
    while ((got = recv(fd, answer, sizeof answer, 0)) > 0 || (got < 0 && errno == EINTR)) {}
    require(got == 0 || errno == ECONNRESET);
    close(fd);
}

static void start(void) {
    static const char file[] = "alice secret-of-alice 5\nbob secret-of-bob\n";
    server_prepare(&server);
    server.config.max_body_kb = 8;
    server.config.header_timeout_s = server.config.idle_timeout_s = 5;
    snprintf(server.config.cors_origin, sizeof server.config.cors_origin, "http://there");
    require(keys_parse("keys", file, sizeof file - 1, &keys) == OK);
    require(server_open(&server));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!server.http) start();
    if (size == 0) return 0;
    if (data[0] == 'k') fuzz_keys((const char *)data + 1, size - 1);
    else if (data[0] == 'r') fuzz_request((const char *)data + 1, size - 1);
    else fuzz_connection(data + 1, size - 1);
    return 0;
}
