/* Slices on their way from one rank to another, over a transport of a few lines that can do harm: whatever comes
 * through is what gguf_read reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/gguf.h"
#include "node/stream.h"

#define MODEL "tests/golden/llama-shards-q4.q4_0.gguf"
#define CHUNK 1000
#define WINDOW 4
#define N_READERS 3
#define MESSAGES_MAX 4096
#define PATIENCE_US 20000000

/* What the transport does to message number `at`, counted through. */
enum harm { HARM_NONE, HARM_FLIP_DATA, HARM_FLIP_HEADER, HARM_SHORT, HARM_EMPTY, HARM_FLIP_EVERY };

struct message {
    uint8_t *data;
    size_t n;
};

struct transfer {
    struct gguf *file, *header; /* of the two ends */
    struct stream_in *in;
    struct stream_out *out;
    struct source_range *ranges;
    uint64_t *places;
    size_t n_ranges;
    atomic_size_t next; /* range to read */
    atomic_int n_wrong, n_readers;
    uint64_t wanted_bytes, sent_bytes, n_sent;
    enum harm harm;
    uint64_t harm_at;
    uint32_t n_damaged;
};

static void transfer_open(struct transfer *t) {
    struct bytes header = {0};
    *t = (struct transfer){0};
    assert_int_equal(gguf_open(MODEL, &t->file), OK);
    assert_int_equal(gguf_put_header(t->file, &header), OK);
    assert_int_equal(gguf_open_header("sent", header.data, header.len, &t->header), OK);
    bytes_free(&header);
    assert_int_equal(stream_in_create(t->header, WINDOW, CHUNK, &t->in), OK);
    assert_int_equal(stream_out_create(t->file, CHUNK, &t->out), OK);
}

static void transfer_close(struct transfer *t) {
    stream_in_free(t->in);
    stream_out_free(t->out);
    gguf_close(t->file);
    gguf_close(t->header);
    free(t->ranges);
    free(t->places);
}

/* Half of the rows of every tensor, and of every second one half of the columns. */
static void transfer_want(struct transfer *t) {
    size_t n = gguf_n_tensors(t->header);
    t->ranges = calloc(n, sizeof *t->ranges);
    t->places = calloc(n, sizeof *t->places);
    for (size_t i = 0; i < n; i++) {
        const struct gguf_tensor *x = gguf_tensor_at(t->header, i);
        uint64_t per = format_info(x->format)->block_values;
        struct source_range r = {(uint32_t)i, 0, x->dims[1] / 2, x->dims[1], 0, x->dims[0]};
        if (i % 2 && x->dims[0] >= 2 * per) r.col_begin = x->dims[0] / per / 2 * per;
        t->ranges[t->n_ranges] = r;
        t->wanted_bytes += source_range_bytes(t->header, &r);
        assert_int_equal(stream_in_want(t->in, &r, &t->places[t->n_ranges++]), OK);
    }
}

/* Row by row, as threads that load do; compares with the file. */
static void *reader(void *transfer) {
    struct transfer *t = transfer;
    uint8_t got[65536], expected[65536];
    for (size_t i; (i = atomic_fetch_add(&t->next, 1)) < t->n_ranges;) {
        uint64_t place = t->places[i];
        struct source_range r = t->ranges[i];
        for (uint64_t row = t->ranges[i].row_begin; row < t->ranges[i].row_end; row++) {
            r.row_begin = row;
            r.row_end = row + 1;
            uint64_t n = source_range_bytes(t->file, &r);
            if (stream_in_read(t->in, place, &r, got) != OK ||
                gguf_read(t->file, gguf_tensor_at(t->file, r.tensor), row, row + 1, r.col_begin, r.col_end, expected,
                          NULL) != OK || memcmp(got, expected, n) != 0)
                atomic_fetch_add(&t->n_wrong, 1);
            place += n;
        }
    }
    atomic_fetch_sub(&t->n_readers, 1);
    return NULL;
}

static void do_harm(const struct transfer *t, uint8_t *message, size_t *n) {
    if (t->harm != HARM_FLIP_EVERY && t->n_sent != t->harm_at) return;
    switch (t->harm) {
    case HARM_FLIP_DATA: message[*n - 1] ^= 4; break;
    case HARM_FLIP_HEADER: message[offsetof(struct stream_header, index)] ^= 1; break;
    case HARM_SHORT: *n -= 1; break;
    case HARM_EMPTY: *n = 0; break;
    case HARM_FLIP_EVERY: message[*n / 2] ^= 0x80; break;
    default: break;
    }
}

/* One round: what each end has to say goes over. */
static err transport(struct transfer *t, int *has_moved) {
    struct bytes request = {0};
    struct stream_piece piece;
    uint8_t sent[sizeof(struct stream_header) + CHUNK];
    uint8_t *room;
    size_t n;
    *has_moved = 0;
    err e = stream_in_request(t->in, &request);
    if (e == OK && request.len) e = stream_out_take(t->out, request.data, request.len);
    bytes_free(&request);
    while (e == OK && stream_out_next(t->out, &piece)) {
        assert_int_equal(stream_out_fill(t->out, &piece, sent, &n), OK);
        assert_true(n <= stream_in_message_bytes(t->in));
        do_harm(t, sent, &n);
        assert_non_null(room = stream_in_room(t->in)); /* the window is as large as what may be under way */
        memcpy(room, sent, n);
        t->sent_bytes += n;
        t->n_sent++;
        int is_damaged;
        e = stream_in_take(t->in, room, n, &is_damaged);
        t->n_damaged += (uint32_t)is_damaged;
        *has_moved = 1;
        if (e != OK) return e;
    }
    return e;
}

/* All that is wanted comes through, whatever happens to one message. */
static err run(struct transfer *t) {
    pthread_t threads[N_READERS];
    int has_moved;
    int64_t begin = clock_us();
    atomic_store(&t->n_readers, N_READERS);
    for (int i = 0; i < N_READERS; i++) assert_int_equal(pthread_create(&threads[i], NULL, reader, t), 0);
    while (atomic_load(&t->n_readers) > 0) {
        err e = transport(t, &has_moved);
        if (e != OK) return e; /* the threads wait for ever, as those of a rank that ends */
        if (clock_us() - begin > PATIENCE_US) fail_msg("the transfer stands still after %lu messages", t->n_sent);
        if (!has_moved) clock_sleep_us(20);
    }
    for (int i = 0; i < N_READERS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(t->n_wrong, 0);
    stream_in_finish(t->in);
    for (int i = 0; i < 100 && !stream_in_is_over(t->in); i++) TRY(transport(t, &has_moved));
    assert_true(stream_in_is_over(t->in));
    return OK;
}

static void all_comes_through(void **state) {
    (void)state;
    struct transfer t;
    transfer_open(&t);
    transfer_want(&t);
    assert_int_equal(run(&t), OK);
    uint64_t n_messages = t.wanted_bytes / CHUNK + 2;
    assert_true(t.n_sent <= n_messages);
    assert_true(t.sent_bytes <= t.wanted_bytes + n_messages * sizeof(struct stream_header)); /* each byte once */
    transfer_close(&t);
}

static void damage_is_repaired(void **state) {
    (void)state;
    static const enum harm harms[] = {HARM_FLIP_DATA, HARM_FLIP_HEADER, HARM_SHORT, HARM_EMPTY};
    struct transfer t;
    transfer_open(&t);
    transfer_want(&t);
    uint64_t last = t.wanted_bytes / CHUNK; /* a short one; behind it comes the end */
    transfer_close(&t);
    const uint64_t at[] = {0, 1, 3, last / 2, last - 1, last, last + 1};
    for (size_t h = 0; h < sizeof harms / sizeof *harms; h++)
        for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
            transfer_open(&t);
            transfer_want(&t);
            t.harm = harms[h];
            t.harm_at = at[i];
            assert_int_equal(run(&t), OK);
            assert_int_equal(t.n_damaged, 1);
            transfer_close(&t);
        }
}

static void damage_without_end_is_an_error(void **state) {
    (void)state;
    struct transfer *t = malloc(sizeof *t); /* and stays: its readers wait on */
    transfer_open(t);
    transfer_want(t);
    t->harm = HARM_FLIP_EVERY;
    assert_int_equal(run(t), ERR_JOB);
    assert_non_null(strstr(err_text(), "damaged"));
    assert_true(t->n_sent < 200);
}

/* Nobody reads: no more than the window is under way, and what has been wanted late comes late. */
static void window_bounds_what_is_under_way(void **state) {
    (void)state;
    struct transfer t;
    int has_moved;
    transfer_open(&t);
    transfer_want(&t);
    for (int i = 0; i < 10; i++) assert_int_equal(transport(&t, &has_moved), OK);
    assert_int_equal(t.n_sent, WINDOW);
    uint64_t place;
    const struct gguf_tensor *x = gguf_tensor_at(t.file, 1);
    struct source_range late = {1, 0, 0, 1, 0, x->dims[0]};
    assert_int_equal(stream_in_want(t.in, &late, &place), OK);
    t.ranges = realloc(t.ranges, (t.n_ranges + 1) * sizeof *t.ranges);
    t.places = realloc(t.places, (t.n_ranges + 1) * sizeof *t.places);
    t.ranges[t.n_ranges] = late;
    t.places[t.n_ranges++] = place;
    assert_int_equal(run(&t), OK);
    transfer_close(&t);
}

static void hostile_requests_are_refused(void **state) {
    (void)state;
    struct transfer t;
    transfer_open(&t);
    uint64_t rows = gguf_tensor_at(t.file, 1)->dims[1], cols = gguf_tensor_at(t.file, 1)->dims[0];
    uint32_t n = (uint32_t)gguf_n_tensors(t.file);
    const struct source_range bad[] = {
        {n, 0, 0, 1, 0, 32},        {UINT32_MAX, 0, 0, 1, 0, 32}, {1, 0, 0, rows + 1, 0, cols},
        {1, 0, 2, 1, 0, cols},      {1, 0, 0, 1, 0, cols + 32},   {1, 0, 0, 1, 1, cols},
        {1, 0, 0, UINT64_MAX, 0, cols}, {1, 0, 0, 1, 32, 32},
    };
    struct { uint64_t limit; uint32_t n_again, n_wants, is_end, zero; struct source_range want; } r;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r.limit = 8, r.n_again = 0, r.n_wants = 1, r.is_end = r.zero = 0, r.want = bad[i];
        assert_int_equal(stream_out_take(t.out, &r, sizeof r), ERR_JOB);
    }
    r.want = (struct source_range){1, 0, 0, 1, 0, cols};
    for (size_t cut = 0; cut < sizeof r; cut++) assert_int_equal(stream_out_take(t.out, &r, cut), ERR_JOB);
    r.n_wants = UINT32_MAX, r.n_again = UINT32_MAX;
    assert_int_equal(stream_out_take(t.out, &r, sizeof r), ERR_JOB);
    struct stream_piece piece;
    assert_false(stream_out_next(t.out, &piece));
    transfer_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_comes_through), cmocka_unit_test(damage_is_repaired),
        cmocka_unit_test(window_bounds_what_is_under_way), cmocka_unit_test(hostile_requests_are_refused),
        cmocka_unit_test(damage_without_end_is_an_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
