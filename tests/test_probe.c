/* What ranks measure on its way to the planner: frames, their decoders against hostile bodies, the cluster made of
 * them, what is kept for the next start and what it depends on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/env.h"
#include "base/log.h"
#include "coordinator/measured.h"
#include "kernels/probe.h"
#include "node/frame.h"
#include "node/links.h"
#include "node/probe_cache.h"
#include "node/quota.h"

enum { N_RANKS = 4 };

/* Two ranks on "alpha", one on "beta", one on "gamma"; the fourth has a device with memory of its own. */
static const struct engine_rank ranks[N_RANKS] = {{.host = "alpha", .memory_bytes = 64000000000},
                                                  {.host = "beta", .memory_bytes = 8000000000},
                                                  {.host = "alpha", .memory_bytes = 63900000000},
                                                  {.host = "gamma", .memory_bytes = 16000000000}};
static struct plan_device devices[N_RANKS] = {
    {"pthread", 0, 4, 0}, {"", 0, 0, 0}, {"pthread", 0, 4, 0}, {"NVIDIA", 1, 0, 1}};

static struct probe_message asked(void) {
    struct probe_message m = {.is_again = 1, .deadline_ms = 60000, .n_ranks = N_RANKS, .devices = devices};
    m.has_format[FORMAT_Q4_K] = m.has_format[FORMAT_Q6_K] = 1;
    return m;
}

static struct probed_link of_0[] = {{1, 50e-6, 1.2e9, 1.3e9}, {2, 1e-6, 8e9, 8e9}, {3, 600e-6, 1.1e8, 1e8}},
                          of_1[] = {{3, 500e-6, 1.15e8, 1.15e8}};

static void answers(struct probed_rank r[N_RANKS]) {
    static const struct device_rates rates = {.read_per_s = 28.5e9, .int8_per_s = 6e11, .f32_per_s = 8e10,
        .row_per_s = {[FORMAT_Q4_K] = 24.25e9}, .few_per_s = {[FORMAT_Q4_K] = 2e11},
        .alone_per_s = {[FORMAT_Q4_K] = 26.5e9},
        .products_per_s = {[FORMAT_Q4_K] = 3e11, [FORMAT_Q6_K] = 1e12 / 3},
        .launch_s = 4e-6, .step_s = 40e-6, .pack_per_s = 1e9};
    for (int i = 0; i < N_RANKS; i++) {
        r[i] = (struct probed_rank){.is_host = i < 3, .is_cached = i == 1, .memory_bytes = 24000000000,
                                    .threads = 2, .rates = rates};
        snprintf(r[i].device, sizeof r[i].device, "Some Platform / device-%d", i);
    }
    r[3].rates.copy_per_s = 12e9;
    r[0].links = of_0;
    r[0].n_links = 3;
    r[1].links = of_1;
    r[1].n_links = 1;
}

/* As rank 0 puts them together, in the order in which they came. */
static void body_make(struct bytes *out) {
    static const int order[N_RANKS] = {2, 0, 3, 1};
    struct probed_rank r[N_RANKS];
    answers(r);
    for (int i = 0; i < N_RANKS; i++) {
        assert_int_equal(bytes_append_str(out, i ? "," : "["), OK);
        assert_int_equal(probed_put_rank(order[i], &r[order[i]], out), OK);
    }
    assert_int_equal(bytes_append_str(out, "]"), OK);
}

static void test_probe_round_trip(void **state) {
    (void)state;
    struct probe_message m = asked(), got;
    struct bytes b = {0};
    m.turn = 2;
    m.n_turns = 3;
    m.side = 2048;
    assert_int_equal(probe_message_put(&m, &b), OK);
    assert_int_equal(probe_message_get((char *)b.data, b.len, &got), OK);
    assert_int_equal(got.is_again, 1);
    assert_int_equal(got.is_reference, 0);
    assert_int_equal(got.deadline_ms, 60000);
    assert_int_equal(got.turn, 2);
    assert_int_equal(got.n_turns, 3);
    assert_int_equal(got.side, 2048);
    assert_true(probe_takes_turn(&got, 1) && probe_takes_turn(&got, 4) && !probe_takes_turn(&got, 2));
    assert_memory_equal(got.has_format, m.has_format, sizeof m.has_format);
    assert_int_equal(got.n_ranks, N_RANKS);
    assert_string_equal(got.devices[3].select, "NVIDIA");
    assert_int_equal(got.devices[3].index, 1);
    assert_int_equal(got.devices[3].has_index, 1);
    assert_int_equal(got.devices[2].has_index, 0);
    assert_int_equal(got.devices[2].threads, 4);
    probe_message_free(&got);
    for (size_t n = 0; n < b.len; n++) assert_int_not_equal(probe_message_get((char *)b.data, n, &got), OK);
    bytes_free(&b);
}

static void test_probe_bad(void **state) {
    (void)state;
    static const char *const bad[] = {
        "", "[]", "null", "{}",
        "{\"deadline_ms\":0,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[],\"devices\":[{\"select\":\"\",\"index\":0,\"threads\":0}]}",
        "{\"deadline_ms\":1,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[\"Q9\"],\"devices\":[{\"select\":\"\",\"index\":0,\"threads\":0}]}",
        "{\"deadline_ms\":1,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[7],\"devices\":[{\"select\":\"\",\"index\":0,\"threads\":0}]}",
        "{\"deadline_ms\":1,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[],\"devices\":[]}",
        "{\"deadline_ms\":1,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[],\"devices\":[{\"select\":\"\",\"index\":-1,\"threads\":0}]}",
        "{\"deadline_ms\":1,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[],\"devices\":[{\"select\":\"\",\"index\":0,\"threads\":1e3}]}",
        "{\"deadline_ms\":1,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[],\"devices\":[{\"select\":null,\"index\":0,\"threads\":0}]}",
        "{\"deadline_ms\":1,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[],\"devices\":[{\"select\":\"a\\u0000b\",\"index\":0,\"threads\":0}]}",
        "{\"deadline_ms\":1,\"turn\":0,\"n_turns\":0,\"side\":0,\"formats\":[],\"devices\":[1]}",
        "{\"deadline_ms\":1,\"turn\":3,\"n_turns\":2,\"side\":0,\"formats\":[],\"devices\":[{\"select\":\"\",\"index\":0,\"threads\":0}]}",
        "{\"deadline_ms\":1,\"formats\":[],\"devices\":[{\"select\":\"\",\"index\":0,\"threads\":0}]}",
    };
    struct probe_message m;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (probe_message_get(bad[i], strlen(bad[i]), &m) == OK) fail_msg("accepted: %s", bad[i]);
}

static void test_probed_round_trip(void **state) {
    (void)state;
    struct bytes b = {0};
    struct probed got;
    struct probed_rank want[N_RANKS];
    answers(want);
    body_make(&b);
    assert_int_equal(probed_get((char *)b.data, b.len, &got), OK);
    assert_int_equal(got.n_ranks, N_RANKS);
    for (int i = 0; i < N_RANKS; i++) {
        assert_string_equal(got.ranks[i].device, want[i].device);
        assert_int_equal(got.ranks[i].is_host, want[i].is_host);
        assert_int_equal(got.ranks[i].is_cached, want[i].is_cached);
        assert_int_equal(got.ranks[i].memory_bytes, want[i].memory_bytes);
        assert_memory_equal(&got.ranks[i].rates, &want[i].rates, sizeof want[i].rates); /* to the bit */
        assert_int_equal(got.ranks[i].n_links, want[i].n_links);
        if (want[i].n_links)
            assert_memory_equal(got.ranks[i].links, want[i].links, want[i].n_links * sizeof *want[i].links);
    }
    probed_free(&got);
    for (size_t n = 0; n < b.len; n++) assert_int_not_equal(probed_get((char *)b.data, n, &got), OK);
    bytes_free(&b);
}

static void test_device_of_any_bytes(void **state) {
    (void)state;
    struct bytes b = {0};
    struct probed got;
    struct probed_rank r = {.threads = 1};
    memset(r.device, 0xff, sizeof r.device - 1);
    r.device[0] = '"';
    assert_int_equal(bytes_append_str(&b, "["), OK);
    assert_int_equal(probed_put_rank(0, &r, &b), OK);
    assert_int_equal(bytes_append_str(&b, "]"), OK);
    assert_int_equal(probed_get((char *)b.data, b.len, &got), OK);
    assert_int_equal(strlen(got.ranks[0].device), sizeof r.device - 1);
    assert_memory_equal(got.ranks[0].device, "\"??", 3);
    probed_free(&got);
    bytes_free(&b);
}

#define RATES "\"read_per_s\":1,\"int8_per_s\":1,\"f32_per_s\":1,\"plain_per_s\":1,\"launch_s\":1,\"step_s\":1,\"copy_per_s\":0,\"pack_per_s\":1," \
    "\"quota_share\":0,\"quota_spare_s\":0,\"quota_message_s\":0,\"quota_link_per_s\":0"
#define RANK(rank, memory, rates, links)                                                                          \
    "{\"rank\":" rank ",\"device\":\"d\",\"is_host\":true,\"is_cached\":false,\"memory_bytes\":" memory            \
    ",\"threads\":1,\"rates\":{" rates "},\"links\":" links "}"
#define FORMATS ",\"row_per_s\":{},\"few_per_s\":{},\"alone_per_s\":{},\"products_per_s\":{}"
#define GOOD_1 RANK("1", "1", RATES FORMATS, "[]")

static void test_probed_bad(void **state) {
    (void)state;
    static const char *const bad[] = {
        "", "{}", "[]", "[1]", "[[]]", "[null]", "nan",
        "[" GOOD_1 "]",                                             /* no rank 0 */
        "[" GOOD_1 "," GOOD_1 "]",                                  /* twice */
        "[" RANK("0", "-1", RATES FORMATS, "[]") "]",
        "[" RANK("0", "1.5", RATES FORMATS, "[]") "]",
        "[" RANK("0", "1", RATES, "[]") "]",                        /* no formats */
        "[" RANK("0", "1", "\"read_per_s\":1" FORMATS, "[]") "]",   /* rates missing */
        "[" RANK("0", "1", RATES ",\"row_per_s\":{\"Q4_K\":-1},\"few_per_s\":{},\"alone_per_s\":{},\"products_per_s\":{}", "[]") "]",
        "[" RANK("0", "1", RATES ",\"row_per_s\":{\"Q4_K\":\"1\"},\"few_per_s\":{},\"alone_per_s\":{},\"products_per_s\":{}", "[]") "]",
        "[" RANK("0", "1", RATES ",\"row_per_s\":{\"Q4_K\":1e30},\"few_per_s\":{},\"alone_per_s\":{},\"products_per_s\":{}", "[]") "]",
        "[" RANK("0", "1", RATES ",\"row_per_s\":[1],\"few_per_s\":{},\"alone_per_s\":{},\"products_per_s\":{}", "[]") "]",
        "[" RANK("0", "1", RATES FORMATS ",\"launch_s\":2", "[]") "]", /* a key twice */
        "[" RANK("0", "1", RATES FORMATS, "null") "]",
        "[" RANK("0", "1", RATES FORMATS, "[{\"to\":0,\"latency_s\":1,\"bytes_per_s\":1,\"back_per_s\":1}]") "]", /* to itself */
        "[" RANK("0", "1", RATES FORMATS, "[{\"to\":1,\"latency_s\":1,\"bytes_per_s\":1,\"back_per_s\":1}]") "]",
        "[" RANK("0", "1", RATES FORMATS, "[{\"to\":1,\"latency_s\":-1,\"bytes_per_s\":1,\"back_per_s\":1}]") "," GOOD_1 "]",
        "[" RANK("0", "1", RATES FORMATS, "[{\"to\":1,\"latency_s\":1}]") "," GOOD_1 "]",
        "[" RANK("0", "1", RATES FORMATS, "[1,2,3]") "," GOOD_1 "]",
    };
    struct probed p;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (probed_get(bad[i], strlen(bad[i]), &p) == OK) fail_msg("accepted: %s", bad[i]);
    static const char good[] = "[" RANK("0", "1", RATES FORMATS, "[{\"to\":1,\"latency_s\":1,\"bytes_per_s\":1,\"back_per_s\":1}]") "," GOOD_1 "]";
    assert_int_equal(probed_get(good, strlen(good), &p), OK); /* so each was refused for what is wrong with it */
    probed_free(&p);
}

/* Any single byte of a good body in place of another: an error, or numbers that can be planned with. */
static void test_probed_bytes_changed(void **state) {
    (void)state;
    struct bytes b = {0};
    uint32_t random = 1;
    body_make(&b);
    for (int i = 0; i < 20000; i++) {
        struct probed p;
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 4) % b.len;
        uint8_t was = b.data[at];
        b.data[at] = (uint8_t)(random >> 20);
        if (probed_get((char *)b.data, b.len, &p) == OK) {
            for (uint32_t r = 0; r < p.n_ranks; r++) {
                assert_true(isfinite(p.ranks[r].rates.read_per_s) && p.ranks[r].rates.read_per_s >= 0);
                for (uint32_t l = 0; l < p.ranks[r].n_links; l++) assert_in_range(p.ranks[r].links[l].to, 0, N_RANKS - 1);
            }
            probed_free(&p);
        }
        b.data[at] = was;
    }
    bytes_free(&b);
}

static void test_cluster(void **state) {
    (void)state;
    struct bytes b = {0};
    struct cluster *c;
    struct probe_message m = asked();
    body_make(&b);
    assert_int_equal(measured_cluster(ranks, N_RANKS, &m, (char *)b.data, b.len, &c), OK);
    assert_int_equal(c->n_hosts, 3);
    assert_int_equal(c->n_devices, N_RANKS);
    assert_string_equal(c->hosts[0].name, "alpha");
    assert_string_equal(c->hosts[2].name, "gamma");
    assert_int_equal(c->hosts[0].memory_bytes, 64000000000);
    static const uint32_t host_of[N_RANKS] = {0, 1, 0, 2};
    for (uint32_t r = 0; r < N_RANKS; r++) {
        assert_int_equal(c->devices[r].host, host_of[r]);
        assert_int_equal(c->devices[r].rank, r);
        assert_string_equal(c->devices[r].select, devices[r].select);
        assert_int_equal(c->devices[r].index, devices[r].index);
        assert_int_equal(c->devices[r].memory_bytes, r == 3 ? 24000000000 : 0);
        assert_true(c->devices[r].rates.read_per_s == 28.5e9);
    }
    assert_true(cluster_link_of(c, 2, 1).latency_s == 50e-6); /* hosts in pairs, whichever rank measured */
    assert_true(cluster_link_of(c, 2, 1).bytes_per_s == 1.2e9 && cluster_link_of(c, 1, 2).bytes_per_s == 1.3e9);
    assert_true(cluster_link_of(c, 3, 1).latency_s == 500e-6);
    assert_true(cluster_link_of(c, 0, 2).latency_s == 1e-6);
    assert_true(c->between.latency_s == 600e-6 && c->between.bytes_per_s == 1e8);
    assert_true(c->inside.bytes_per_s == 8e9);
    cluster_free(c);
    m.n_ranks = 3;
    assert_int_equal(measured_cluster(ranks, 3, &m, (char *)b.data, b.len, &c), ERR_JOB);
    bytes_free(&b);
}

/* Who takes a turn is believed, the others said nothing new; once all is known no turn is left. */
static void test_turns(void **state) {
    (void)state;
    struct bytes b = {0};
    struct cluster *c;
    struct probe_message m = asked();
    m.is_again = m.has_format[FORMAT_Q6_K] = 0;
    body_make(&b);
    assert_int_equal(measured_cluster(ranks, N_RANKS, &m, (char *)b.data, b.len, &c), OK);
    assert_int_equal(measured_turns(c, &m), 0);
    for (uint32_t r = 0; r < N_RANKS; r++) c->devices[r].rates.alone_per_s[FORMAT_Q4_K] = 0;
    m.n_turns = measured_turns(c, &m);
    assert_int_equal(m.n_turns, MEASURED_TURNS);
    for (m.turn = 1; m.turn <= m.n_turns; m.turn++) {
        assert_int_equal(measured_turns(c, &m), MEASURED_TURNS);
        assert_int_equal(measured_alone(c, &m, (char *)b.data, b.len), OK);
        for (uint32_t r = 0; r < N_RANKS; r++)
            assert_true(c->devices[r].rates.alone_per_s[FORMAT_Q4_K] == (r < m.turn ? 26.5e9 : 0));
    }
    assert_int_equal(measured_turns(c, &m), 0);
    c->n_devices = 3;
    assert_int_equal(measured_alone(c, &m, (char *)b.data, b.len), ERR_JOB);
    cluster_free(c);
    bytes_free(&b);
}

/* Whole super-blocks, however a side is halved. */
static void test_side(void **state) {
    (void)state;
    static const uint32_t side_of[][2] = {{0, 4096}, {100, 256}, {256, 256}, {1500, 1280}, {3072, 3072}, {5120, 4096}};
    for (size_t i = 0; i < sizeof side_of / sizeof *side_of; i++)
        assert_int_equal(probe_side(side_of[i][0]), side_of[i][1]);
}

static void write_file(const char *name, const char *text);
static char folder[64]; /* of this test alone */

/* A measured cluster written as a file and read again is the same but for what a file cannot say. */
static void test_cluster_written(void **state) {
    (void)state;
    struct bytes b = {0}, text = {0};
    struct cluster *c, *got;
    struct probe_message m = asked();
    struct engine_rank named[N_RANKS];
    char path[512];
    memcpy(named, ranks, sizeof ranks);
    snprintf(named[3].host, sizeof named[3].host, "10.0.0.1 \"odd\"");
    body_make(&b);
    assert_int_equal(measured_cluster(named, N_RANKS, &m, (char *)b.data, b.len, &c), OK);
    assert_int_equal(cluster_write(c, &text), OK);
    write_file("cluster.cfg", (char *)text.data);
    snprintf(path, sizeof path, "%s/cluster.cfg", folder);
    if (cluster_read(path, &got) != OK) fail_msg("%s\n%s", err_text(), (char *)text.data);
    assert_int_equal(got->n_hosts, 3);
    assert_int_equal(got->n_devices, N_RANKS);
    static const uint32_t rank_of[N_RANKS] = {0, 2, 1, 3}; /* a file goes by hosts */
    for (uint32_t i = 0; i < N_RANKS; i++) {
        const struct cluster_device *d = &got->devices[i], *want = &c->devices[rank_of[i]];
        assert_string_equal(got->hosts[d->host].name, c->hosts[want->host].name);
        assert_int_equal(got->hosts[d->host].memory_bytes, c->hosts[want->host].memory_bytes);
        assert_string_equal(d->select, want->select);
        assert_int_equal(d->threads, want->threads);
        assert_int_equal(d->is_host, want->is_host);
        assert_int_equal(d->memory_bytes, want->memory_bytes);
        const double *have = (const double *)&d->rates, *rates = (const double *)&want->rates;
        for (size_t k = 0; k < sizeof d->rates / sizeof *have; k++)
            assert_true(fabs(have[k] - rates[k]) <= 1e-5 * rates[k]);
    }
    for (uint32_t i = 0; i < N_RANKS; i++)
        for (uint32_t k = 0; k < N_RANKS; k++) {
            if (i == k) continue;
            struct cluster_link l = cluster_link_of(got, i, k), want = cluster_link_of(c, rank_of[i], rank_of[k]);
            struct cluster_link back = cluster_link_of(c, rank_of[k], rank_of[i]);
            if (back.bytes_per_s < want.bytes_per_s) want = back;
            assert_true(fabs(l.latency_s - want.latency_s) < 1e-5 * want.latency_s);
            assert_true(fabs(l.bytes_per_s - want.bytes_per_s) < 1e-5 * want.bytes_per_s);
        }
    cluster_free(got);
    cluster_free(c);
    bytes_free(&text);
    bytes_free(&b);
}

/* What a job takes the ranks' reading for. */
static void joined(struct probed *p, const double *expected) {
    struct bytes b = {0};
    struct cluster *c;
    struct probe_message same = asked();
    struct plan_device alike[N_RANKS] = {{.threads = 0}};
    same.devices = alike;
    assert_int_equal(bytes_append_str(&b, "["), OK);
    for (uint32_t r = 0; r < N_RANKS; r++) {
        if (r) assert_int_equal(bytes_append_str(&b, ","), OK);
        assert_int_equal(probed_put_rank((int)r, &p->ranks[r], &b), OK);
    }
    assert_int_equal(bytes_append_str(&b, "]"), OK);
    assert_int_equal(measured_cluster(ranks, N_RANKS, &same, (char *)b.data, b.len, &c), OK);
    for (uint32_t r = 0; r < N_RANKS; r++) assert_true(c->devices[r].rates.read_per_s == expected[r]);
    cluster_free(c);
    bytes_free(&b);
}

/* Three devices of a kind: the one that is a little faster counts as the others, the one at half the speed does not,
 * nor one that has a quota. */
static void test_noise_is_joined(void **state) {
    (void)state;
    struct bytes b = {0};
    struct probed p;
    body_make(&b);
    assert_int_equal(probed_get((char *)b.data, b.len, &p), OK);
    const double rates[N_RANKS] = {30e9, 36e9, 15e9, 33e9};
    for (uint32_t r = 0; r < N_RANKS; r++) {
        snprintf(p.ranks[r].device, sizeof p.ranks[r].device, "%s", r < 3 ? "a kind" : "another");
        p.ranks[r].is_host = 1;
        p.ranks[r].rates.read_per_s = rates[r];
    }
    joined(&p, (double[]){30e9, 30e9, 15e9, 33e9});
    p.ranks[1].rates.quota_share = 0.5;
    joined(&p, rates);
    probed_free(&p);
    bytes_free(&b);
}

/* A rank in a control group of its own may use less than its host has. */
static void test_memory_of_a_rank(void **state) {
    (void)state;
    struct bytes b = {0};
    struct cluster *c;
    struct probe_message m = asked();
    struct engine_rank capped[N_RANKS];
    memcpy(capped, ranks, sizeof ranks);
    capped[2].memory_bytes = 2000000000;
    body_make(&b);
    assert_int_equal(measured_cluster(capped, N_RANKS, &m, (char *)b.data, b.len, &c), OK);
    assert_int_equal(c->hosts[0].memory_bytes, 64000000000);
    assert_int_equal(c->devices[0].memory_bytes, 0);
    assert_int_equal(c->devices[2].memory_bytes, 2000000000);
    cluster_free(c);
    bytes_free(&b);
}

/* Everybody meets everybody once, nobody two at a time; of many hosts each its neighbours. */
static void test_tournament(void **state) {
    (void)state;
    for (uint32_t n = 1; n <= 40; n++) {
        static uint8_t has_met[40][40];
        memset(has_met, 0, sizeof has_met);
        for (uint32_t r = 0; r < links_n_rounds(n); r++)
            for (uint32_t h = 0; h < n; h++) {
                int other = links_partner(n, r, h);
                if (other < 0) continue;
                assert_in_range(other, 0, n - 1);
                assert_int_not_equal(other, h);
                assert_int_equal(links_partner(n, r, (uint32_t)other), h);
                has_met[h][other]++;
            }
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < n; b++) {
                int are_neighbours = a + 1 == b || b + 1 == a || (a == 0 && b == n - 1) || (b == 0 && a == n - 1);
                if (n <= LINKS_ALL_HOSTS) assert_int_equal(has_met[a][b], a != b);
                else if (are_neighbours) assert_in_range(has_met[a][b], 1, 2);
            }
        if (n > LINKS_ALL_HOSTS) assert_true(links_n_rounds(n) <= 4);
    }
}

/* ---- what is kept ---- */

static void write_file(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
}

/* The one file of the cache, its text and its path. */
static void cache_file(char path[512], char text[8192]) {
    char command[256];
    snprintf(command, sizeof command, "ls %s/caravan/probe/*", folder);
    FILE *f = popen(command, "r");
    assert_non_null(fgets(path, 512, f));
    assert_null(fgets(text, 8192, f)); /* nothing half written beside it */
    pclose(f);
    path[strcspn(path, "\n")] = 0;
    f = fopen(path, "re");
    text[fread(text, 1, 8191, f)] = 0;
    fclose(f);
}

static void replace(const char *path, const char *text) {
    assert_int_equal(unlink(path), 0);
    write_file(path + strlen(folder) + 1, text);
}

static void test_cache(void **state) {
    (void)state;
    static const char key[] = "host \"a\", 2 ranks, cores 0-1, driver 1.0";
    char path[512], text[8192], other[8192];
    struct probed_rank want[N_RANKS], got;
    answers(want);
    assert_int_equal(probe_cache_get(key, &got), 0);
    probe_cache_put(key, &want[0]);
    memset(&got, 0xff, sizeof got);
    assert_int_equal(probe_cache_get(key, &got), 1);
    assert_string_equal(got.device, want[0].device);
    assert_memory_equal(&got.rates, &want[0].rates, sizeof got.rates);
    assert_int_equal(got.threads, 2);
    assert_int_equal(got.n_links, 0);
    assert_null(got.links);
    assert_int_equal(probe_cache_get("host \"a\", 2 ranks, cores 0-1, driver 1.1", &got), 0);
    cache_file(path, text);
    snprintf(other, sizeof other, "%s", text);
    *strchr(strstr(other, "cores"), '1') = '3'; /* as if two keys had one name */
    replace(path, other);
    assert_int_equal(probe_cache_get(key, &got), 0);
    static const char *const broken[] = {"", "{", "[]", "null", "{\"key\":1}", "\xff\xfe"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        replace(path, broken[i]);
        assert_int_equal(probe_cache_get(key, &got), 0);
    }
    for (size_t n = 0; n + 1 < strlen(text); n += 7) { /* cut short */
        snprintf(other, sizeof other, "%.*s", (int)n, text);
        replace(path, other);
        assert_int_equal(probe_cache_get(key, &got), 0);
    }
    replace(path, text);
    assert_int_equal(probe_cache_get(key, &got), 1);
    assert_int_equal(chmod(path, 0666), 0); /* somebody else could have written it */
    assert_int_equal(probe_cache_get(key, &got), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(probe_cache_get(key, &got), 0);
    probe_cache_put(key, &want[0]); /* only slower the next time */
    assert_int_equal(rmdir(path), 0);
    probe_cache_put(key, &want[1]); /* what was refused can be written anew */
    assert_int_equal(probe_cache_get(key, &got), 1);
    assert_string_equal(got.device, want[1].device);
}

static void make_folder(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

#define CGROUPS "sys/fs/cgroup"

static double quota(const char *cgroups) {
    write_file("proc/self/cgroup", cgroups);
    return quota_find(folder).processors;
}

static void test_quota(void **state) {
    (void)state;
    static const char *const folders[] = {"proc", "proc/self", "sys", "sys/fs", CGROUPS, CGROUPS "/a", CGROUPS "/a/b",
                                          CGROUPS "/cpu", CGROUPS "/cpu/c"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) make_folder(folders[i]);
    assert_true(quota("0::/a/b\n") == 0);
    write_file(CGROUPS "/a/b/cpu.max", "max 100000\n");
    assert_true(quota("0::/a/b\n") == 0);
    write_file(CGROUPS "/a/b/cpu.max", "150000 100000\n");
    assert_true(quota("0::/a/b\n") == 1.5);
    assert_float_equal(quota_find(folder).period_s, 0.1, 1e-9);
    write_file(CGROUPS "/a/cpu.max", "25000 50000\n"); /* the group above gives less */
    assert_true(quota("0::/a/b\n") == 0.5);
    assert_float_equal(quota_find(folder).period_s, 0.05, 1e-9);
    struct quota half = {0.5, 0.1};
    assert_true(fabs(quota_spare_s(&half, 1) - 0.052) < 1e-9);
    assert_true(fabs(quota_spare_s(&half, 2) - 0.077) < 1e-9 && quota_spare_s(&half, 0.5) == 0);
    assert_true(quota("0::/\n") == 0);
    write_file(CGROUPS "/cpu/c/cpu.cfs_quota_us", "-1\n");
    write_file(CGROUPS "/cpu/c/cpu.cfs_period_us", "100000\n");
    assert_true(quota("4:cpu,cpuacct:/c\n0::/\n") == 0);
    write_file(CGROUPS "/cpu/c/cpu.cfs_quota_us", "50000\n");
    assert_true(quota("9:name=systemd:/c\n4:cpuacct,cpu:/c\n0::/\n") == 0.5);
    assert_true(quota("9:name=systemd:/c\n4:cpuset:/c\n") == 0);
    assert_true(quota("0::/a/b\n4:cpu:/c\n") == 0.5);
    assert_true(quota("nonsense\n::\n4:cpu\n") == 0);
    assert_true(quota("4:cpu:/gone\n") == 0);
}

static int folder_begin(void **state) {
    (void)state;
    log_set_level(0); /* every broken file is warned of */
    snprintf(folder, sizeof folder, "/tmp/caravan-test-probe-XXXXXX");
    return mkdtemp(folder) && env_set("XDG_CACHE_HOME", folder) == OK ? 0 : -1;
}

static int folder_end(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probe_round_trip),
        cmocka_unit_test(test_probe_bad),
        cmocka_unit_test(test_probed_round_trip),
        cmocka_unit_test(test_device_of_any_bytes),
        cmocka_unit_test(test_probed_bad),
        cmocka_unit_test(test_probed_bytes_changed),
        cmocka_unit_test(test_cluster),
        cmocka_unit_test(test_noise_is_joined),
        cmocka_unit_test(test_turns), cmocka_unit_test(test_side), cmocka_unit_test(test_cluster_written),
        cmocka_unit_test(test_memory_of_a_rank),
        cmocka_unit_test(test_tournament),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_quota),
    };
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
