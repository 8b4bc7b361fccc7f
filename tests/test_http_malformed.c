/* Ten thousand requests that are none: each is answered with a 4xx status (or 505) or is closed, and a
 * stream that runs meanwhile does not notice.
 *
 * With an argument, a port of this host, they go to the server there: test_http_malformed 8080. Then each
 * must not be answered with a 5xx status, and the server must still answer /health at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/http_server.h"

#define N_REQUESTS 10000
#define EVENT "data: event\n\n"

static struct server server;
static uint64_t random_state = 1;

static uint32_t draw(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static void put(struct bytes *b, const char *text) { assert_int_equal(bytes_append_str(b, text), OK); }

static void put_random(struct bytes *b, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)draw(256);
        assert_int_equal(bytes_append(b, &byte, 1), OK);
    }
}

static void put_many(struct bytes *b, const char *text, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) put(b, text);
}

static const char *one_of(const char *const *list, uint32_t n) { return list[draw(n)]; }
#define ONE_OF(...) one_of((const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

#define VALID "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n0123456789"

/* One request; the kind says in which way it is wrong. 1: it may also happen to be right. */
static int put_request(struct bytes *b, uint32_t kind) {
    switch (kind) {
    case 0: /* no text at all */
        put_random(b, 1 + draw(500));
        put(b, "\r\n\r\n");
        return 0;
    case 1: /* the end is missing */
        put(b, VALID);
        b->len = 1 + draw((uint32_t)b->len - 1);
        return 0;
    case 2: /* headers without end */
        put(b, "GET /echo HTTP/1.1\r\nHost: localhost\r\nLong: ");
        put_many(b, "0123456789abcdef", 2100 + draw(2000));
        put(b, "\r\n\r\n");
        return 0;
    case 3:
        put(b, "GET /echo HTTP/1.1\r\nHost: localhost\r\n");
        put_many(b, ONE_OF("A: b\r\n", "Cookie: a=b; c=d\r\n", "X:\r\n"), 9000);
        put(b, "\r\n");
        return 0;
    case 4:
        put(b, "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        put(b, ONE_OF("zz\r\nabc\r\n0\r\n\r\n", "-1\r\nabc\r\n", "3\r\nabcdef\r\n0\r\n\r\n", "ffffffffffffffffffff\r\nabc",
                      "3", "3\r\nab", "\r\n\r\n", "3;\r\r\nabc", "0x3\r\nabc\r\n0\r\n\r\n"));
        return 0;
    case 5:
        put(b, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: ");
        put(b, ONE_OF("-1", "1e3", "18446744073709551616", "99999999999", "abc", "0x10", "5 5"));
        put(b, "\r\n\r\nhello");
        return 0;
    case 6:
        put(b, ONE_OF("GET", "GET /echo", "GET /echo HTTP/9.9", "GET /echo HTTX/1.1", "/echo", "PATCH /echo HTTP/1.1",
                      "TRACE /echo HTTP/1.1", "get /echo HTTP/1.1", "GET /echo HTTP/1.1x"));
        put(b, "\r\nHost: localhost\r\n\r\n");
        return 0;
    case 7:
        put(b, "GET ");
        put(b, ONE_OF("/%00", "/%zz", "/%", "/echo%0d%0aSet-Cookie:a", "/\x01", "/%7F"));
        put(b, " HTTP/1.1\r\nHost: localhost\r\n\r\n");
        return 0;
    case 8:
        put(b, "GET /");
        put_many(b, "a/../%2e%2e/", 3000 + draw(500));
        put(b, " HTTP/1.1\r\nHost: localhost\r\n\r\n");
        return 0;
    default: /* a few bytes of a good one are others */
        put(b, VALID);
        for (uint32_t i = 0, n = 1 + draw(4); i < n; i++) b->data[draw((uint32_t)b->len)] = (uint8_t)draw(256);
        return 1;
    }
}

/* The status, or 0: closed without a word. */
static int send_malformed(const struct bytes *request) {
    char in[4096];
    size_t n = 0;
    int fd = client_open(&server);
    if (fd < 0) return -1;
    client_send(fd, request->data, request->len); /* it may be cut off on the way */
    shutdown(fd, SHUT_WR);
    for (ssize_t got; n < sizeof in - 1 && (got = recv(fd, in + n, sizeof in - 1 - n, 0)) != 0; n += (size_t)got)
        if (got < 0) {
            int is_late = errno == EAGAIN;
            if (is_late) n = 0;
            close(fd);
            return is_late ? -2 : n > 12 ? atoi(in + 9) : 0;
        }
    close(fd);
    in[n] = 0;
    return n > 12 ? atoi(in + 9) : 0;
}

static void attack(int is_own) {
    for (int i = 0; i < N_REQUESTS; i++) {
        struct bytes request = {0};
        uint32_t kind = draw(10);
        int may_be_right = put_request(&request, kind);
        int status = send_malformed(&request);
        int is_fine = status == 0 || (status >= 400 && status < 500) ||
                      status == 505 || /* HTTP/9.9 */
                      ((may_be_right || !is_own) && status == 200);
        if (!is_fine)
            fail_msg("status %d for request %d of kind %u:\n%.300s", status, i, kind, (char *)request.data);
        bytes_free(&request);
    }
}

/* Reads a stream for as long as the attack lasts. */
static atomic_int is_over, n_events, n_wrong;
static atomic_llong longest_us;

static void *read_stream(void *context) {
    struct bytes in = {0};
    char piece[4096];
    size_t at = 0;
    int fd = client_open(&server);
    (void)context;
    /* HTTP/1.0: nothing but the events themselves after the headers. */
    if (fd < 0 || !client_say(fd, "GET /endless HTTP/1.0\r\n\r\n") || !client_read_until(fd, &in, "\r\n\r\n" EVENT)) {
        n_wrong++;
        return NULL;
    }
    size_t n_head = (size_t)(strstr((char *)in.data, "\r\n\r\n") + 4 - (char *)in.data);
    int64_t last = clock_us();
    at = (in.len - n_head) % (sizeof EVENT - 1);
    while (!is_over) {
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n <= 0) n_wrong++;
        if (n <= 0) break;
        if (clock_us() - last > longest_us) longest_us = clock_us() - last;
        last = clock_us();
        for (ssize_t i = 0; i < n; i++) {
            if (piece[i] != EVENT[at]) n_wrong++;
            at = (at + 1) % (sizeof EVENT - 1);
            if (at == 0) n_events++;
        }
    }
    close(fd);
    bytes_free(&in);
    return NULL;
}

static void a_stream_is_not_disturbed(void **state) {
    pthread_t reader;
    (void)state;
    server_prepare(&server);
    server.config.max_connections = 64;
    assert_true(server_open(&server));
    assert_int_equal(pthread_create(&reader, NULL, read_stream, NULL), 0);
    int64_t begin = clock_us();
    attack(1);
    is_over = 1;
    pthread_join(reader, NULL);
    print_message("%d requests in %.1f s, %d events, longest pause %.0f ms\n", N_REQUESTS,
                  (double)(clock_us() - begin) / 1e6, (int)n_events, (double)longest_us / 1e3);
    assert_int_equal(n_wrong, 0);
    assert_true(n_events > (clock_us() - begin) / TICK_US / 20);
    assert_true(longest_us < 2000000);
    http_stop(server.http);
    server_join(&server);
    server_close(&server);
    assert_int_equal(server.n_gone, server.n_asked);
}

static void a_live_server_survives(void **state) {
    struct bytes answer = {0};
    (void)state;
    attack(0);
    assert_int_equal(client_ask(&server, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", &answer), 200);
    bytes_free(&answer);
}

int main(int argc, char **argv) {
    const struct CMUnitTest own[] = {cmocka_unit_test(a_stream_is_not_disturbed)};
    const struct CMUnitTest live[] = {cmocka_unit_test(a_live_server_survives)};
    if (argc < 2) return cmocka_run_group_tests(own, NULL, NULL);
    server.port = atoi(argv[1]);
    return cmocka_run_group_tests(live, NULL, NULL);
}
