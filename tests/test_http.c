/* The transport of the server, spoken to over plain sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <curl/curl.h>
#include <jansson.h>

#include "base/env.h"
#include "coordinator/keys.h"
#include "coordinator/request.h"
#include "tests/http_server.h"

#define HOST "Host: localhost\r\n"

static struct server server;

static void start(void) { assert_true(server_open(&server)); }

static void stop(void) {
    http_stop(server.http);
    server_join(&server);
    assert_int_equal(server.result, OK);
    server_close(&server);
    assert_int_equal(server.n_gone, server.n_asked); /* each is told the end, once */
}

static int ask(const char *request, const char *expected) {
    struct bytes answer = {0};
    int status = client_ask(&server, request, &answer);
    if (status && !strstr((char *)answer.data, expected)) {
        print_error("expected \"%s\" in:\n%s\n", expected, (char *)answer.data);
        status = -1;
    }
    bytes_free(&answer);
    return status;
}

static void wait_for(atomic_int *value, int wanted) {
    for (int i = 0; i < 1000 && *value != wanted; i++) clock_sleep_us(1000);
    assert_int_equal(*value, wanted);
}

/* Whether the other side closes, within the patience; what comes before is dropped. */
static int client_is_closed(int fd) {
    char piece[65536];
    ssize_t n;
    while ((n = recv(fd, piece, sizeof piece, 0)) > 0) {}
    return n == 0 || errno == ECONNRESET;
}

/* ---- exchanges alone ---- */

static void exchange_writes_errors(void **state) {
    struct exchange x = {0};
    (void)state;
    exchange_error_code(&x, 400, "context_length_exceeded", "messages", "%s", "too \xC3 long \"\n");
    exchange_write(&x, "more", 4);
    assert_int_equal(x.status, 400);
    assert_true(x.is_ended);
    assert_string_equal(x.answer_type, "application/json");
    json_t *o = json_loads((char *)x.out.data, 0, NULL), *e = json_object_get(o, "error");
    assert_string_equal(json_string_value(json_object_get(e, "message")), "too \xEF\xBF\xBD long \"\n");
    assert_string_equal(json_string_value(json_object_get(e, "type")), "invalid_request_error");
    assert_string_equal(json_string_value(json_object_get(e, "param")), "messages");
    assert_string_equal(json_string_value(json_object_get(e, "code")), "context_length_exceeded");
    json_decref(o);
    exchange_free(&x);
}

static void exchange_breaks_off_what_has_begun(void **state) {
    struct exchange x = {0}, events = {0};
    (void)state;
    exchange_begin(&x, 200, "text/plain");
    exchange_error(&x, 500, NULL, "no");
    assert_true(x.is_broken);
    assert_int_equal(x.out.len, 0);
    exchange_begin(&events, 200, "text/event-stream");
    exchange_error(&events, 500, NULL, "no");
    assert_true(events.is_ended && !events.is_broken);
    assert_string_equal((char *)events.out.data,
                        "data: {\"error\":{\"message\":\"no\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n");
    exchange_free(&x);
    exchange_free(&events);
}

static void exchange_is_taken_in_pieces(void **state) {
    struct exchange x = {0};
    (void)state;
    exchange_begin(&x, 200, "text/plain");
    uint8_t written = 0, taken = 0;
    for (int i = 0; i < 1000; i++) {
        for (int k = 0; k < 7; k++, written++) exchange_write(&x, &written, 1);
        while (exchange_unsent(&x) > 3) {
            assert_int_equal(x.out.data[x.out_at], taken++);
            exchange_take(&x, 1);
        }
    }
    assert_int_equal(exchange_unsent(&x), 3);
    assert_true(x.out.cap <= 128); /* what was taken gives its room back */
    exchange_free(&x);
}

/* ---- what is read here ---- */

static void paths_are_decoded_once(void **state) {
    static const struct { const char *raw, *path; } cases[] = {
        {"/a%20b", "/a b"}, {"/%2541", "/%41"}, {"/%c3%BC", "/\xC3\xBC"}, {"", ""}, {"/%00", NULL},
        {"/%", NULL}, {"/%4", NULL}, {"/%4g", NULL}, {"/%0a", NULL}, {"/a\x7F", NULL}, {"/%7f", NULL}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes out = {0};
        err e = request_decode_path(cases[i].raw, &out);
        assert_int_equal(e, cases[i].path ? OK : ERR_REQUEST);
        if (cases[i].path) assert_string_equal((char *)out.data, cases[i].path);
        bytes_free(&out);
    }
}

static void origins(void **state) {
    (void)state;
    assert_true(request_origin_is_allowed("http://a:1", "a:1", ""));
    assert_true(request_origin_is_allowed("https://A:1", "a:1", ""));
    assert_false(request_origin_is_allowed("http://a:1.evil", "a:1", ""));
    assert_false(request_origin_is_allowed("null", "a:1", ""));
    assert_false(request_origin_is_allowed("http://b", "a:1", "http://c"));
    assert_true(request_origin_is_allowed("http://c", "a:1", "http://c"));
    assert_true(request_origin_is_allowed("null", NULL, "*"));
    assert_false(request_origin_is_allowed("http://a", NULL, ""));
}

static void names_of_the_server(void **state) {
    (void)state;
    static const char *const own[] = {"127.0.0.1:8080", "localhost:8080", "LOCALHOST", "a.localhost:1", "localhost.:1",
                                      "[::1]:8080", "10.0.0.1", NULL};
    static const char *const foreign[] = {"evil.example:8080", "notlocalhost", "127.0.0.1.evil.example", "", ":80",
                                          "1.2.3.4a"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        assert_true(request_host_is_allowed(own[i], "127.0.0.1", ""));
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        assert_false(request_host_is_allowed(foreign[i], "127.0.0.1", ""));
        assert_false(request_host_is_allowed(foreign[i], "localhost", "http://other"));
        assert_true(request_host_is_allowed(foreign[i], "0.0.0.0", "")); /* it may have any name */
        assert_true(request_host_is_allowed(foreign[i], "127.0.0.1", "*"));
    }
    assert_true(request_host_is_allowed("llm.example", "127.0.0.1", "https://llm.example"));
    assert_false(request_host_is_allowed("llm.example", "127.0.0.1", "https://llm"));
}

static void key_files(void **state) {
    static const struct { const char *text, *error; } cases[] = {
        {"", "f: there is no key"}, {"# only\n", "f: there is no key"},
        {"alice\n", "f:1: expected NAME KEY [PRIORITY], found one word"},
        {"alice 12345678 1 2\n", "f:1: expected NAME KEY [PRIORITY], found more"},
        {"a 12345678\n\nb short\n", "f:3: the key has 5 characters, not 8 to 255"},
        {"a 12345678 high", "f:1: the priority is no whole number from 0 to 1000"},
        {"a 12345678 1001", "f:1: the priority is no"}, {"a 12345678 -1", "f:1: the priority is no"},
        {"a 12345678\na 22345678", "f:2: the name 'a' is there twice"},
        {"a 12345678\nb 12345678", "f:2: 'b' has the key of 'a'"},
        {"a 1234567\xC3\xBC" "8", "f:1: the key has a character"}};
    struct keys *k;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(keys_parse("f", cases[i].text, strlen(cases[i].text), &k), ERR_CONFIG);
        if (!strstr(err_text(), cases[i].error)) fail_msg("%s: %s", cases[i].text, err_text());
        assert_null(strstr(err_text(), "12345678")); /* a key is never shown */
    }
    const char *good = "# who\r\n  alice  secret-of-alice\t7 # first\r\nbob secret-of-bob";
    assert_int_equal(keys_parse("f", good, strlen(good), &k), OK);
    assert_int_equal(keys_find(k, "secret-of-alice", 15), 0);
    assert_int_equal(keys_find(k, "secret-of-bob", 13), 1);
    assert_int_equal(keys_find(k, "secret-of-bo", 12), -1);
    assert_int_equal(keys_find(k, "secret-of-bobb", 14), -1);
    assert_int_equal(keys_find(k, "secret-of-bob\0", 14), -1);
    assert_int_equal(keys_find(k, "", 0), -1);
    assert_string_equal(keys_name(k, 1), "bob");
    assert_int_equal(keys_priority(k, 0), 7);
    assert_int_equal(keys_priority(k, 1), 0);
    keys_free(k);
}

/* ---- requests and answers ---- */

static void requests_are_answered(void **state) {
    (void)state;
    server_prepare(&server);
    start();
    assert_int_equal(ask("POST /echo?x=1 HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", "hello"), 200);
    assert_int_equal(ask("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
                         "hello"), 200);
    assert_int_equal(ask("GET /late HTTP/1.1\r\n" HOST "\r\n", "\r\n\r\nlate"), 200);
    assert_int_equal(ask("GET /none HTTP/1.1\r\n" HOST "\r\n", "no such path: /none"), 404);
    assert_int_equal(ask("GET /a%00b HTTP/1.1\r\n" HOST "\r\n", "control character"), 400);
    assert_int_equal(ask("DELETE /echo HTTP/1.1\r\n" HOST "\r\n", "Allow: GET, HEAD"), 405);
    assert_int_equal(ask("OPTIONS /echo HTTP/1.1\r\n" HOST "\r\n", "Allow: GET, HEAD"), 204);
    assert_int_equal(ask("GET /broken HTTP/1.1\r\n" HOST "\r\n", "server_error"), 500);
    assert_int_equal(ask("GET /fail HTTP/1.0\r\n\r\n", "text/event-stream"), 200);
    assert_int_equal(ask("nonsense\r\n\r\n", ""), 0);
    stop();
}

static void a_connection_is_used_again(void **state) {
    struct bytes in = {0};
    (void)state;
    server_prepare(&server);
    start();
    int fd = client_open(&server);
    for (int i = 0; i < 50; i++) {
        struct bytes head = {0}, body = {0};
        assert_true(client_say(fd, i % 3 == 0 ? "HEAD /echo HTTP/1.1\r\n" HOST "\r\n"
                                              : "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi"));
        if (i % 3 == 0) {
            assert_true(client_read_until(fd, &in, "\r\n\r\n"));
            assert_non_null(strstr((char *)in.data, "X-Method: GET"));
            bytes_free(&in);
        } else {
            assert_int_equal(client_read_answer(fd, &in, &head, &body), 200);
            assert_string_equal((char *)body.data, "hi");
        }
        bytes_free(&head);
        bytes_free(&body);
    }
    close(fd);
    bytes_free(&in);
    stop();
}

static void pipelined_requests_are_answered_in_order(void **state) {
    struct bytes in = {0}, head = {0}, body = {0};
    (void)state;
    server_prepare(&server);
    start();
    int fd = client_open(&server);
    assert_true(client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\n1"
                               "GET /late HTTP/1.1\r\n" HOST "\r\n"
                               "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\n2"
                               "GET /late HTTP/1.1\r\n" HOST "\r\n"));
    for (int i = 0; i < 4; i++, head.len = 0) assert_int_equal(client_read_answer(fd, &in, &head, &body), 200);
    assert_string_equal((char *)body.data, "1late2late");
    close(fd);
    bytes_free(&in);
    bytes_free(&head);
    bytes_free(&body);
    stop();
}

static void streams_come_as_they_are_written(void **state) {
    struct bytes in = {0};
    (void)state;
    server_prepare(&server);
    start();
    int fd = client_open(&server);
    assert_true(client_say(fd, "GET /stream/20 HTTP/1.1\r\n" HOST "\r\nGET /fail HTTP/1.1\r\n" HOST "\r\n"));
    assert_true(client_read_until(fd, &in, "data: event\n\n"));
    int n = 0; /* the first is here long before the last is written */
    for (char *p = (char *)in.data; (p = strstr(p, "event")); p++) n++;
    assert_true(n >= 1 && n < 20);
    assert_true(client_read_until(fd, &in, "\r\n0\r\n\r\nHTTP/1.1 200"));
    assert_true(client_read_until(fd, &in, "failed\",\"type\":\"server_error\""));
    n = 0;
    for (char *p = (char *)in.data; (p = strstr(p, "event\n")); p++) n++;
    assert_int_equal(n, 20);
    close(fd);
    bytes_free(&in);
    stop();
}

static void an_answer_is_continued(void **state) {
    struct bytes in = {0}, head = {0}, body = {0};
    (void)state;
    server_prepare(&server);
    start();
    int fd = client_open(&server);
    assert_true(client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
    assert_int_equal(client_read_answer(fd, &in, &head, &body), 100);
    head.len = 0;
    assert_true(client_say(fd, "body"));
    assert_int_equal(client_read_answer(fd, &in, &head, &body), 200);
    assert_string_equal((char *)body.data, "body");
    assert_true(client_say(fd, "GET /large HTTP/1.1\r\n" HOST "\r\n"));
    head.len = body.len = 0;
    assert_int_equal(client_read_answer(fd, &in, &head, &body), 200);
    assert_int_equal(body.len, LARGE_BYTES);
    close(fd);
    bytes_free(&in);
    bytes_free(&head);
    bytes_free(&body);
    stop();
}

/* ---- limits ---- */

static void bodies_have_a_limit(void **state) {
    struct bytes in = {0}, head = {0}, body = {0};
    static char megabyte[1 << 20];
    (void)state;
    server_prepare(&server);
    server.config.max_body_kb = 64;
    start();
    assert_int_equal(ask("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 65537\r\n\r\n", "longer than the 64 KiB"), 413);
    assert_int_equal(ask("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\n", ""), 413);
    assert_int_equal(ask("POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 65537\r\n\r\n", "KiB"), 413);
    int fd = client_open(&server); /* a chunked body says nothing beforehand */
    memset(megabyte, 'm', sizeof megabyte);
    assert_true(client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n100000\r\n"));
    assert_true(client_send(fd, megabyte, sizeof megabyte));
    assert_true(client_say(fd, "\r\n0\r\n\r\n"));
    assert_int_equal(client_read_answer(fd, &in, &head, &body), 413);
    close(fd);
    fd = client_open(&server); /* exactly the limit is fine */
    head.len = body.len = 0;
    bytes_free(&in);
    assert_true(client_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 65536\r\n\r\n"));
    assert_true(client_send(fd, megabyte, 65536));
    assert_int_equal(client_read_answer(fd, &in, &head, &body), 200);
    assert_int_equal(body.len, 65536);
    close(fd);
    fd = client_open(&server); /* headers, too */
    head.len = body.len = 0;
    bytes_free(&in);
    assert_true(client_say(fd, "GET / HTTP/1.1\r\nA: "));
    assert_true(client_send(fd, megabyte, 65536));
    client_say(fd, "\r\n\r\n");
    int status = client_read_answer(fd, &in, &head, &body);
    assert_true(status == 431 || status == 413 || status == 0);
    close(fd);
    bytes_free(&in);
    bytes_free(&head);
    bytes_free(&body);
    stop();
}

static void slow_requests_are_cut(void **state) {
    (void)state;
    server_prepare(&server);
    server.config.header_timeout_s = 0.3;
    server.config.idle_timeout_s = 0.6;
    start();
    int silent = client_open(&server), head = client_open(&server), body = client_open(&server);
    int idle = client_open(&server);
    struct bytes in = {0}, answer = {0};
    assert_true(client_say(idle, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\n1"));
    assert_int_equal(client_read_answer(idle, &in, &answer, &answer), 200);
    int64_t begin = clock_us();
    client_say(body, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 100\r\n\r\n");
    client_say(head, "GET /echo HT");
    for (int i = 0; i < 8; i++) { /* a byte now and then does not help */
        clock_sleep_us(50000);
        client_say(head, "T");
        client_say(body, "b");
    }
    assert_true(client_is_closed(silent));
    assert_true(client_is_closed(head));
    assert_true(client_is_closed(body));
    assert_true(clock_us() - begin < 2000000);
    assert_true(client_is_closed(idle));
    assert_true(clock_us() - begin > 500000);
    close(silent);
    close(head);
    close(body);
    close(idle);
    bytes_free(&in);
    bytes_free(&answer);
    assert_int_equal(server.n_asked, 1);
    stop();
}

static void a_client_that_does_not_read_is_cut(void **state) {
    (void)state;
    server_prepare(&server);
    server.config.unsent_max_kb = 256;
    server.config.idle_timeout_s = 30;
    start();
    int small = 4096, fd = client_open(&server);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_true(client_say(fd, "GET /flood HTTP/1.1\r\n" HOST "\r\n"));
    wait_for(&server.n_asked, 1);
    int n_others = 0;
    int64_t begin = clock_us(), slowest = 0;
    while (server.n_gone < n_others + 1 && clock_us() - begin < 8000000) { /* others are served meanwhile */
        int64_t asked = clock_us();
        assert_int_equal(ask("GET /echo HTTP/1.1\r\n" HOST "\r\n", ""), 200);
        if (clock_us() - asked > slowest) slowest = clock_us() - asked;
        n_others++;
        clock_sleep_us(5000);
    }
    assert_true(n_others > 20);
    assert_true(slowest < 1000000);
    wait_for(&server.n_gone, n_others + 1);
    assert_true(client_is_closed(fd));
    close(fd);
    stop();
}

static void a_client_that_stops_reading_is_idle(void **state) {
    (void)state;
    server_prepare(&server);
    server.config.idle_timeout_s = 0.4;
    start();
    int small = 4096, fd = client_open(&server);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_true(client_say(fd, "GET /large HTTP/1.1\r\n" HOST "\r\n"));
    int64_t begin = clock_us();
    while (server.n_gone < 1 && clock_us() - begin < 5000000) clock_sleep_us(1000);
    assert_int_equal(server.n_gone, 1);
    assert_true(clock_us() - begin > 350000);
    close(fd);
    fd = client_open(&server); /* one that reads slowly is none */
    char piece[65536];
    size_t total = 0;
    assert_true(client_say(fd, "GET /large HTTP/1.1\r\n" HOST "\r\n"));
    for (ssize_t n; total < LARGE_BYTES && (n = recv(fd, piece, sizeof piece, 0)) > 0; total += (size_t)n)
        clock_sleep_us(8000);
    assert_true(total >= LARGE_BYTES);
    close(fd);
    stop();
}

static void connections_have_a_limit(void **state) {
    struct timeval soon = {.tv_usec = 400000}, later = {.tv_sec = 5};
    struct bytes in = {0}, answer = {0};
    int fds[4];
    (void)state;
    server_prepare(&server);
    server.config.max_connections = 3;
    start();
    for (int i = 0; i < 3; i++) {
        fds[i] = client_open(&server);
        assert_true(client_say(fds[i], "GET /never HTTP/1.1\r\n" HOST "\r\n"));
    }
    wait_for(&server.n_asked, 3);
    fds[3] = client_open(&server);
    setsockopt(fds[3], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
    assert_true(client_say(fds[3], "GET /echo HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(client_read_answer(fds[3], &in, &answer, &answer), 0); /* it waits for its turn */
    setsockopt(fds[3], SOL_SOCKET, SO_RCVTIMEO, &later, sizeof later);
    close(fds[0]);
    assert_int_equal(client_read_answer(fds[3], &in, &answer, &answer), 200);
    assert_int_equal(ask("GET /echo HTTP/1.1\r\n" HOST "\r\n", ""), 200); /* the idle one has given way */
    assert_true(client_is_closed(fds[3]));
    for (int i = 1; i < 4; i++) close(fds[i]);
    bytes_free(&in);
    bytes_free(&answer);
    stop();
}

/* ---- leaving ---- */

static void leaving_is_noticed(void **state) {
    static const char *const paths[] = {"/never", "/endless", "/flood"};
    (void)state;
    server_prepare(&server);
    start();
    for (int i = 0; i < 6; i++) { /* by FIN and by RST, while waiting and while streaming */
        char request[100];
        struct linger reset = {.l_onoff = 1};
        int fd = client_open(&server);
        snprintf(request, sizeof request, "GET %s HTTP/1.1\r\n" HOST "\r\n", paths[i / 2]);
        assert_true(client_say(fd, request));
        wait_for(&server.n_asked, i + 1);
        clock_sleep_us(20000);
        assert_int_equal(server.n_gone, i);
        if (i % 2) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd);
        wait_for(&server.n_gone, i + 1); /* within a second */
    }
    stop();
}

static void draining_lets_answers_end(void **state) {
    struct bytes in = {0}, never = {0};
    (void)state;
    server_prepare(&server);
    server.config.drain_s = 0.8;
    start();
    int idle = client_open(&server), stream = client_open(&server), stuck = client_open(&server);
    assert_true(client_say(stream, "GET /stream/50 HTTP/1.1\r\n" HOST "\r\n"));
    assert_true(client_say(stuck, "GET /never HTTP/1.1\r\n" HOST "\r\n"));
    wait_for(&server.n_asked, 2);
    int64_t begin = clock_us();
    http_stop(server.http);
    assert_true(client_is_closed(idle));
    assert_true(client_read_until(stream, &in, "\r\n0\r\n\r\n"));
    assert_true(clock_us() - begin > 100000 && clock_us() - begin < 700000);
    assert_true(client_open(&server) < 0); /* nobody listens any more */
    assert_true(client_is_closed(stream));
    assert_false(client_read_until(stuck, &never, "HTTP"));
    server_join(&server);
    assert_true(clock_us() - begin > 700000 && clock_us() - begin < 2500000);
    assert_int_equal(server.n_gone, 2);
    server_close(&server);
    close(idle);
    close(stream);
    close(stuck);
    bytes_free(&in);
    bytes_free(&never);
}

/* Told to stop once more, it does not wait for answers. */
static void stopping_twice_ends_at_once(void **state) {
    (void)state;
    server_prepare(&server);
    server.config.drain_s = 60;
    start();
    int stuck = client_open(&server);
    assert_true(client_say(stuck, "GET /never HTTP/1.1\r\n" HOST "\r\n"));
    wait_for(&server.n_asked, 1);
    int64_t begin = clock_us();
    http_stop(server.http);
    clock_sleep_us(100000);
    assert_int_equal(server.n_gone, 0);
    http_stop(server.http);
    server_join(&server);
    assert_true(clock_us() - begin < 10000000);
    assert_int_equal(server.n_gone, 1);
    server_close(&server);
    close(stuck);
}

static void closing_without_running(void **state) {
    (void)state;
    server_prepare(&server);
    assert_int_equal(server_listen(&server), OK);
    int fd = client_open(&server);
    http_close(server.http);
    close(fd);
}

/* ---- who may ---- */

/* A file in the temporary folder, with its path. */
static void write_file(char *path, size_t cap, const char *text) {
    snprintf(path, cap, "%s/caravan-http-XXXXXX", env_get("TMPDIR") ? env_get("TMPDIR") : "/tmp");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void keys_are_asked_for(void **state) {
    (void)state;
    server_prepare(&server);
    write_file(server.config.api_keys, sizeof server.config.api_keys, "alice secret-of-alice 3\nbob secret-of-bob\n");
    start();
    unlink(server.config.api_keys);
    assert_int_equal(ask("GET /who HTTP/1.1\r\n" HOST "\r\n", "WWW-Authenticate: Bearer"), 401);
    assert_int_equal(ask("GET /who HTTP/1.1\r\n" HOST "\r\n", "\"code\":\"invalid_api_key\""), 401);
    assert_int_equal(ask("GET /metrics HTTP/1.1\r\n" HOST "\r\n", ""), 401);
    assert_int_equal(ask("GET /who HTTP/1.1\r\n" HOST "Authorization: Bearer secret-of-alic\r\n\r\n", "not known"), 401);
    assert_int_equal(ask("GET /who HTTP/1.1\r\n" HOST "Authorization: secret-of-alice\r\n\r\n", "not known"), 401);
    assert_int_equal(ask("POST /who HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc", "is needed"), 401);
    assert_int_equal(server.n_asked, 0);
    assert_int_equal(ask("GET /who HTTP/1.1\r\n" HOST "Authorization: bearer secret-of-alice\r\n\r\n", "\r\n\r\n0 3"), 200);
    assert_int_equal(ask("GET /who HTTP/1.1\r\n" HOST "X-API-Key: secret-of-bob\r\n\r\n", "\r\n\r\n1 0"), 200);
    assert_int_equal(ask("GET /health HTTP/1.1\r\n" HOST "\r\n", "no such path"), 404); /* asked of the API */
    assert_int_equal(ask("OPTIONS /who HTTP/1.1\r\n" HOST "\r\n", ""), 204);
    stop();
}

static void pages_of_other_origins(void **state) {
    (void)state;
    server_prepare(&server);
    start();
    assert_int_equal(ask("GET /echo HTTP/1.1\r\n" HOST "Origin: http://localhost\r\n\r\n", ""), 200);
    assert_int_equal(ask("GET /echo HTTP/1.1\r\n" HOST "Origin: http://there\r\n\r\n", "cors_origin"), 403);
    assert_int_equal(ask("OPTIONS /echo HTTP/1.1\r\n" HOST "Origin: http://there\r\n\r\n", ""), 403);
    assert_int_equal(server.n_asked, 1);
    stop();
    server_prepare(&server);
    snprintf(server.config.cors_origin, sizeof server.config.cors_origin, "http://there");
    start();
    assert_int_equal(ask("GET /echo HTTP/1.1\r\n" HOST "Origin: http://there\r\n\r\n",
                         "Access-Control-Allow-Origin: http://there"), 200);
    assert_int_equal(ask("OPTIONS /echo HTTP/1.1\r\n" HOST "Origin: http://there\r\n"
                         "Access-Control-Request-Method: POST\r\n\r\n", "Access-Control-Allow-Headers: *, Auth"), 204);
    assert_int_equal(ask("GET /echo HTTP/1.1\r\n" HOST "Origin: http://elsewhere\r\n\r\n", ""), 403);
    stop();
}

static void requests_are_logged(void **state) {
    struct bytes log = {0};
    (void)state;
    server_prepare(&server);
    write_file(server.config.access_log, sizeof server.config.access_log, "before\n");
    char path[CONFIG_TEXT_BYTES];
    snprintf(path, sizeof path, "%s", server.config.access_log);
    write_file(server.config.api_keys, sizeof server.config.api_keys, "alice secret-of-alice\n");
    start();
    unlink(server.config.api_keys);
    ask("GET /who?key=secret-of-alice HTTP/1.1\r\n" HOST "Authorization: Bearer secret-of-alice\r\n\r\n", "");
    ask("GET /a%22%20b%C3%BC HTTP/1.1\r\n" HOST "Authorization: Bearer wrong-secret\r\n\r\n", "");
    ask("POST /who HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nzzz\r\n", "");
    int fd = client_open(&server);
    assert_true(client_say(fd, "GET /never HTTP/1.1\r\n" HOST "X-API-Key: secret-of-alice\r\n\r\n"));
    wait_for(&server.n_asked, 2);
    close(fd);
    wait_for(&server.n_gone, 2);
    stop();
    assert_int_equal(bytes_read_file(&log, path), OK);
    unlink(path);
    const char *text = (char *)log.data;
    assert_int_equal(strncmp(text, "before\ntime=2", 13), 0);
    assert_non_null(strstr(text, "method=\"GET\" path=\"/who\" status=200 bytes=3 "));
    assert_non_null(strstr(text, "route=test prompt=0 cached=0 answer=0 key=alice end=done\n"));
    assert_non_null(strstr(text, "path=\"/a\\x22\\x20b\\xC3\\xBC\" status=401 "));
    assert_non_null(strstr(text, "route=other prompt=0 cached=0 answer=0 key=- end=done\n"));
    assert_non_null(strstr(text, "status=400 "));
    assert_non_null(strstr(text, "end=malformed\n"));
    assert_non_null(strstr(text, "path=\"/never\" status=499 bytes=0 "));
    assert_non_null(strstr(text, "key=alice end=left\n"));
    assert_null(strstr(text, "secret"));
    bytes_free(&log);
}

/* ---- opening ---- */

static void listen_fails_with(err code, const char *text) {
    assert_int_equal(server_listen(&server), code);
    if (!strstr(err_text(), text)) fail_msg("expected \"%s\" in: %s", text, err_text());
}

static void what_cannot_be_opened_is_told(void **state) {
    struct server other;
    char url[100];
    (void)state;
    server_prepare(&other);
    server = other;
    assert_int_equal(server_listen(&other), OK);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", other.port);
    assert_string_equal(http_url(other.http), url);
    server.config.port = (uint64_t)other.port;
    snprintf(url, sizeof url, "cannot listen at 127.0.0.1, port %d: Address already in use", other.port);
    listen_fails_with(ERR_FILE, url);
    http_close(other.http);
    snprintf(server.config.host, sizeof server.config.host, "no.such.host.invalid");
    listen_fails_with(ERR_CONFIG, "host = \"no.such.host.invalid\": ");
    server_prepare(&server);
    snprintf(server.config.api_keys, sizeof server.config.api_keys, "/no/such/file");
    listen_fails_with(ERR_CONFIG, "api_keys: cannot open /no/such/file");
    server_prepare(&server);
    snprintf(server.config.access_log, sizeof server.config.access_log, "/no/such/file");
    listen_fails_with(ERR_CONFIG, "access_log: cannot open /no/such/file");
    server_prepare(&server);
    snprintf(server.config.tls_key, sizeof server.config.tls_key, "key.pem");
    listen_fails_with(ERR_CONFIG, "tls_certificate is not set");
    snprintf(server.config.tls_certificate, sizeof server.config.tls_certificate, "/no/such/file");
    listen_fails_with(ERR_CONFIG, "tls_certificate: cannot open /no/such/file");
    write_file(server.config.tls_certificate, sizeof server.config.tls_certificate, "text");
    listen_fails_with(ERR_CONFIG, "is no PEM file");
    unlink(server.config.tls_certificate);
}

static void addresses(void **state) {
    static const struct { const char *host, *url; } cases[] = {
        {"localhost", "http://localhost:"}, {"0.0.0.0", "http://0.0.0.0:"}, {"::1", "http://[::1]:"},
        {"[::1]", "http://[::1]:"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        server_prepare(&server);
        snprintf(server.config.host, sizeof server.config.host, "%s", cases[i].host);
        err e = server_listen(&server);
        if (e == ERR_FILE && strchr(cases[i].host, ':')) continue; /* a host without IPv6 */
        assert_int_equal(e, OK);
        assert_int_equal(strncmp(http_url(server.http), cases[i].url, strlen(cases[i].url)), 0);
        http_close(server.http);
    }
}

/* ---- TLS ---- */

static size_t keep_body(char *data, size_t size, size_t n, void *context) {
    return bytes_append(context, data, size * n) == OK ? size * n : 0;
}

static CURLcode get(const char *url, const char *certificate, struct bytes *body) {
    CURL *c = curl_easy_init();
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_CAINFO, certificate);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, 10L);
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, keep_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, body);
    CURLcode code = curl_easy_perform(c);
    curl_easy_cleanup(c);
    return code;
}

static void tls(void **state) {
    char command[4 * CONFIG_TEXT_BYTES], url[200];
    struct bytes body = {0};
    (void)state;
    server_prepare(&server);
    write_file(server.config.tls_certificate, sizeof server.config.tls_certificate, "");
    write_file(server.config.tls_key, sizeof server.config.tls_key, "");
    snprintf(command, sizeof command, "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
             "-addext subjectAltName=IP:127.0.0.1 -out %s -keyout %s 2>/dev/null", server.config.tls_certificate,
             server.config.tls_key);
    if (system(command) != 0) {
        print_message("tls: skipped, the openssl program makes no certificate here\n");
        skip();
    }
    assert_int_equal(http_check(&server.config), OK);
    start();
    assert_int_equal(strncmp(http_url(server.http), "https://127.0.0.1:", 18), 0);
    const char *paths[] = {"/late", "/stream/3", "/large"};
    size_t lengths[] = {4, 3 * 13, LARGE_BYTES};
    for (int i = 0; i < 3; i++, body.len = 0) {
        snprintf(url, sizeof url, "%s%s", http_url(server.http), paths[i]);
        assert_int_equal(get(url, server.config.tls_certificate, &body), CURLE_OK);
        assert_int_equal(body.len, lengths[i]);
    }
    assert_int_equal(ask("GET /echo HTTP/1.1\r\n" HOST "\r\n", ""), 0); /* no TLS, no answer */
    stop();
    /* A key that is not the certificate's. */
    snprintf(command, sizeof command, "openssl genrsa -out %s 2048 2>/dev/null", server.config.tls_key);
    assert_int_equal(system(command), 0);
    listen_fails_with(ERR_CONFIG, "no certificate and its key");
    assert_int_equal(http_check(&server.config), ERR_CONFIG);
    unlink(server.config.tls_certificate);
    unlink(server.config.tls_key);
    bytes_free(&body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exchange_writes_errors),
        cmocka_unit_test(exchange_breaks_off_what_has_begun),
        cmocka_unit_test(exchange_is_taken_in_pieces),
        cmocka_unit_test(paths_are_decoded_once),
        cmocka_unit_test(origins), cmocka_unit_test(names_of_the_server),
        cmocka_unit_test(key_files),
        cmocka_unit_test(requests_are_answered),
        cmocka_unit_test(a_connection_is_used_again),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(streams_come_as_they_are_written),
        cmocka_unit_test(an_answer_is_continued),
        cmocka_unit_test(bodies_have_a_limit),
        cmocka_unit_test(slow_requests_are_cut),
        cmocka_unit_test(a_client_that_does_not_read_is_cut),
        cmocka_unit_test(a_client_that_stops_reading_is_idle),
        cmocka_unit_test(connections_have_a_limit),
        cmocka_unit_test(leaving_is_noticed),
        cmocka_unit_test(draining_lets_answers_end),
        cmocka_unit_test(stopping_twice_ends_at_once),
        cmocka_unit_test(closing_without_running),
        cmocka_unit_test(keys_are_asked_for),
        cmocka_unit_test(pages_of_other_origins),
        cmocka_unit_test(requests_are_logged),
        cmocka_unit_test(what_cannot_be_opened_is_told),
        cmocka_unit_test(addresses),
        cmocka_unit_test(tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
