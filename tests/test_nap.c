/* Naps: a socket ends them, they get longer only where it is sockets that do, and a socket that nobody reads, or whose
 * bytes have only left, keeps nobody awake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "node/nap.h"

#define LATER_US 5000
#define SHORT_US 100
#define LONG_US 1000

static int ends[2];

static void *later(void *unused) {
    (void)unused;
    clock_sleep_us(LATER_US);
    assert_int_equal(write(ends[1], "x", 1), 1);
    return NULL;
}

static int is_there(void) {
    char c;
    return recv(ends[0], &c, 1, MSG_DONTWAIT) == 1;
}

/* A message that comes after a while. */
static void message_await(struct nap *n) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, later, NULL), 0);
    while (!is_there()) nap_take(n, SHORT_US);
    nap_tell(n);
    pthread_join(thread, NULL);
}

/* The shortest of naps that nothing ends. */
static int64_t nap_us(struct nap *n) {
    int64_t least = INT64_MAX;
    for (int i = 0; i < 20; i++) {
        int64_t begin = clock_us();
        nap_take(n, SHORT_US);
        if (clock_us() - begin < least) least = clock_us() - begin;
    }
    return least;
}

static struct nap *nap_new(void) {
    struct nap *n = nap_create();
    assert_non_null(n);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    return n;
}

static void nap_end(struct nap *n) {
    close(ends[0]);
    close(ends[1]);
    nap_free(n);
}

static void test_get_longer(void **state) {
    struct nap *n = nap_new();
    (void)state;
    assert_true(nap_us(n) < LONG_US);
    for (int i = 0; i < 10; i++) message_await(n);
    assert_true(nap_us(n) >= LONG_US);
    nap_tell(n); /* of a message that no socket announced */
    assert_true(nap_us(n) < LONG_US);
    nap_end(n);
}

/* Two ends of a connection of which the one that reads is in no hurry to say so. */
static void connection_new(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), off = 0;
    assert_int_equal(bind(listener, (struct sockaddr *)&at, n), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &n), 0);
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(ends[0], (struct sockaddr *)&at, n), 0);
    ends[1] = accept(listener, NULL, NULL);
    assert_int_equal(setsockopt(ends[1], IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off), 0);
    close(listener);
}

static void test_sent_counts_as_gone(void **state) {
    struct nap *n = nap_create();
    (void)state;
    connection_new();
    for (int i = 0; i < 10; i++) message_await(n);
    assert_int_equal(write(ends[0], "x", 1), 1);
    assert_int_equal(read(ends[1], &(char){0}, 1), 1);
    assert_true(nap_us(n) >= LONG_US);
    nap_end(n);
}

/* Another process has the end that is to be read: here it would wake who naps. */
static void read_all_later(void) {
    char some[4096];
    close(ends[0]);
    clock_sleep_us(LATER_US);
    while (read(ends[1], some, sizeof some) > 0) {}
    _exit(0);
}

static void test_room_ends_it(void **state) {
    struct nap *n = nap_new();
    char some[4096] = {0};
    (void)state;
    while (send(ends[0], some, sizeof some, MSG_DONTWAIT) > 0) {}
    pid_t reader = fork();
    assert_true(reader >= 0);
    if (reader == 0) read_all_later();
    close(ends[1]);
    int64_t begin = clock_us();
    nap_take(n, 1000 * LATER_US);
    int64_t took = clock_us() - begin;
    assert_true(took >= LATER_US / 2 && took < 500 * LATER_US);
    nap_end(n);
    assert_int_equal(waitpid(reader, NULL, 0), reader);
}

static void test_unread_socket(void **state) {
    struct nap *n = nap_new();
    (void)state;
    assert_int_equal(write(ends[1], "x", 1), 1);
    int64_t begin = clock_us();
    for (int i = 0; i < 200; i++) nap_take(n, SHORT_US);
    assert_true(clock_us() - begin > 100 * SHORT_US);
    nap_end(n);
}

static void test_without(void **state) {
    (void)state;
    int64_t begin = clock_us();
    nap_take(NULL, SHORT_US);
    nap_tell(NULL);
    assert_true(clock_us() - begin >= SHORT_US);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_get_longer), cmocka_unit_test(test_sent_counts_as_gone),
                                       cmocka_unit_test(test_room_ends_it), cmocka_unit_test(test_unread_socket),
                                       cmocka_unit_test(test_without)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
