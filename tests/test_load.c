/* The parts of `bench serve` that need no server: what is asked for, how an answer's stream is read, the figures, the
 * picture, and what is read from /metrics. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/load.h"
#include "coordinator/load_plot.h"
#include "coordinator/load_report.h"
#include "coordinator/load_watch.h"

/* ---- requests ---- */

static struct load_spec spec(void) {
    return (struct load_spec){.model = "a \"b\"", .seed = 7, .prompt_tokens = {5, 9}, .answer_tokens = {1, 4}, .n_shared = 3,
                              .ids = {300, 310}, .sampled_share = 0.5, .leaving_share = 0.25};
}

static json_t *body_of(const struct load_spec *s, uint64_t index, struct load_request *r) {
    struct bytes out = {0};
    load_request_make(s, index, r);
    assert_int_equal(load_request_body(s, r, &out), OK);
    json_t *root = json_loadb((const char *)out.data, out.len, 0, NULL);
    assert_non_null(root);
    bytes_free(&out);
    return root;
}

static void requests_are_within_what_was_asked(void **state) {
    (void)state;
    struct load_spec s = spec();
    int n_sampled = 0, n_leaving = 0, lengths[20] = {0};
    for (uint64_t i = 0; i < 2000; i++) {
        struct load_request r;
        json_t *body = body_of(&s, i, &r), *prompt = json_object_get(body, "prompt");
        assert_in_range(json_array_size(prompt), 8, 12);
        assert_int_equal(json_array_size(prompt), r.n_prompt);
        for (size_t k = 0; k < r.n_prompt; k++)
            assert_in_range(json_integer_value(json_array_get(prompt, k)), 300, 310);
        assert_in_range(r.n_answer, 1, 4);
        assert_int_equal(json_integer_value(json_object_get(body, "max_tokens")), r.n_answer);
        assert_true(json_is_true(json_object_get(body, "ignore_eos")) && json_is_true(json_object_get(body, "stream")));
        assert_string_equal(json_string_value(json_object_get(body, "model")), "a \"b\"");
        assert_int_equal(json_object_get(body, "seed") != NULL, r.is_sampled);
        assert_true(r.leaves == -1 || (r.leaves >= 0 && r.leaves < 1));
        n_sampled += r.is_sampled;
        n_leaving += r.leaves >= 0;
        lengths[r.n_prompt]++;
        json_decref(body);
    }
    assert_in_range(n_sampled, 900, 1100);
    assert_in_range(n_leaving, 420, 580);
    for (int n = 8; n <= 12; n++) assert_in_range(lengths[n], 320, 480);
}

static void the_same_seed_asks_the_same(void **state) {
    (void)state;
    struct load_spec s = spec(), other = spec();
    struct load_request r;
    other.seed = 8;
    json_t *a = body_of(&s, 5, &r), *again = body_of(&s, 5, &r), *next = body_of(&s, 6, &r), *b = body_of(&other, 5, &r);
    assert_true(json_equal(a, again));
    assert_false(json_equal(a, next));
    assert_false(json_equal(a, b));
    json_t *first = json_object_get(a, "prompt"), *second = json_object_get(next, "prompt");
    int is_same = 1;
    for (size_t i = 0; i < 8; i++) {
        int equal = json_equal(json_array_get(first, i), json_array_get(second, i));
        if (i < 3) assert_true(equal); /* shared */
        is_same &= equal;
    }
    assert_false(is_same);
    json_decref(a), json_decref(again), json_decref(next), json_decref(b);
}

static void prompts_may_be_words(void **state) {
    (void)state;
    struct load_spec s = spec();
    struct load_request r;
    s.is_text = 1;
    s.model = NULL;
    json_t *body = body_of(&s, 1, &r);
    const char *text = json_string_value(json_object_get(body, "prompt"));
    uint32_t n_words = 1;
    assert_non_null(text);
    for (; *text; text++) n_words += *text == ' ';
    assert_int_equal(n_words, r.n_prompt);
    assert_null(json_object_get(body, "model"));
    json_decref(body);
}

/* ---- answers ---- */

static const char stream[] =
    ": a comment\n\n"
    "data: {\"choices\":[{\"text\":\"Hel\"}],\"usage\":null}\r\n\r\n"
    "event: x\ndata:{\"choices\":[{\"text\":\"\"}]}\n\n"
    "data: {\"choices\":[{\"text\":\"lo\\u0000\\u00e9\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,"
    "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n"
    "data: [DONE]\n\n";

/* However the network cuts it. */
static void streams_are_read_in_any_pieces(void **state) {
    (void)state;
    struct load_answer a = {0};
    for (size_t cut = 0; cut < sizeof stream; cut++) {
        size_t piece = cut ? cut : 1, n = sizeof stream - 1;
        load_answer_reset(&a);
        for (size_t at = 0; at < n; at += piece)
            assert_int_equal(load_answer_take(&a, 200, stream + at, n - at < piece ? n - at : piece), OK);
        load_answer_end(&a, 200);
        if (a.problem != LOAD_NO_PROBLEM) fail_msg("pieces of %zu: %s", piece, a.reason);
        assert_int_equal(a.text.len, 8);
        assert_memory_equal(a.text.data, "Hello\0\xc3\xa9", 8);
        assert_int_equal(a.n_chunks, 2);
        assert_int_equal(a.n_prompt, 12);
        assert_int_equal(a.n_answer, 3);
        assert_int_equal(a.n_cached, 4);
    }
    load_answer_free(&a);
}

static void check_problem(int status, const char *text, enum load_problem problem, const char *reason) {
    struct load_answer a = {0};
    assert_int_equal(load_answer_take(&a, status, text, strlen(text)), OK);
    load_answer_end(&a, status);
    if (a.problem != problem || !strstr(a.reason, reason)) fail_msg("%s: %d, %s", text, (int)a.problem, a.reason);
    load_answer_free(&a);
}

static void problems_are_told_apart(void **state) {
    (void)state;
    check_problem(200, "data: {\"choices\":[{\"text\":\"a\"}]}\n\n", LOAD_CUT_SHORT, "[DONE]");
    check_problem(200, "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: [DONE]", LOAD_CUT_SHORT, "[DONE]");
    check_problem(200, "", LOAD_CUT_SHORT, "[DONE]");
    check_problem(200, "data: nothing\n\ndata: [DONE]\n\n", LOAD_MALFORMED, "no JSON");
    check_problem(200, "data: {\"error\":{\"message\":\"out of it\"}}\n\ndata: [DONE]\n\n", LOAD_ERROR, "out of it");
    check_problem(200, "error: {\"error\":\"odd\"}\n\ndata: [DONE]\n\n", LOAD_ERROR, "odd");
    check_problem(429, "{\"error\":{\"message\":\"full\"}}", LOAD_REFUSED, "full");
    check_problem(502, "<html>bad gateway", LOAD_REFUSED, "<html>bad gateway");
}

static void lines_are_bounded(void **state) {
    (void)state;
    struct load_answer a = {0};
    static char block[65536];
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 1000; i++) assert_int_equal(load_answer_take(&a, 200, block, sizeof block), OK);
    assert_int_equal(a.problem, LOAD_MALFORMED);
    assert_true(a.line.cap <= 4 << 20);
    load_answer_free(&a);
    for (int i = 0; i < 1000; i++) assert_int_equal(load_answer_take(&a, 500, block, sizeof block), OK);
    assert_true(a.line.cap <= 1 << 20);
    load_answer_free(&a);
}

/* ---- figures ---- */

static void add_record(struct load_result *r, enum load_outcome outcome, double first_s, double end_s, uint32_t n_answer) {
    struct load_record record = {.request = {.n_answer = 5}, .outcome = outcome, .n_prompt = 10, .n_cached = 4,
                                 .n_answer = n_answer, .begin_s = 1, .first_s = first_s, .end_s = end_s};
    assert_int_equal(bytes_append(&r->records, &record, sizeof record), OK);
    r->n_done += outcome == LOAD_DONE, r->n_left += outcome == LOAD_LEFT, r->n_failed += outcome == LOAD_FAILED;
}

static struct load_result some_result(void) {
    struct load_result r = {.n_begun = 5, .n_chunks = 9, .seconds = 10};
    add_record(&r, LOAD_DONE, 2, 4, 5);
    add_record(&r, LOAD_DONE, 1.5, 2, 1);
    add_record(&r, LOAD_LEFT, 3, 5, 3);
    add_record(&r, LOAD_LEFT, 0, 5, 0); /* before anything came */
    add_record(&r, LOAD_FAILED, 9, 10, 2);
    for (int i = 1; i <= 200; i++) {
        float gap = (float)(201 - i) * 0.001f;
        assert_int_equal(bytes_append(&r.gaps, &gap, sizeof gap), OK);
    }
    for (int i = 0; i < 100; i++) {
        struct load_bin bin = {.n_chunks = i == 50 ? 9 : 0, .n_done = i == 99, .n_under_way = 2};
        assert_int_equal(bytes_append(&r.bins, &bin, sizeof bin), OK);
    }
    return r;
}

static void is_near(double a, double b) {
    if (fabs(a - b) > 1e-6) fail_msg("%g, expected %g", a, b);
}

static void figures_are_right(void **state) {
    (void)state;
    struct load_result r = some_result();
    struct load_summary s;
    assert_int_equal(load_summarise(&r, "x", &s), OK);
    const struct load_times *t = s.times;
    assert_int_equal(t[LOAD_FIRST].n, 3);
    is_near(t[LOAD_FIRST].mean, (1 + 0.5 + 2) / 3);
    is_near(t[LOAD_FIRST].p50, 1);
    is_near(t[LOAD_FIRST].max, 2);
    is_near(t[LOAD_BETWEEN].p50, 0.1);
    is_near(t[LOAD_BETWEEN].p90, 0.18);
    is_near(t[LOAD_BETWEEN].p99, 0.198);
    is_near(t[LOAD_BETWEEN].max, 0.2);
    assert_int_equal(t[LOAD_PER_TOKEN].n, 1);
    is_near(t[LOAD_PER_TOKEN].mean, 0.5);
    assert_int_equal(t[LOAD_WHOLE].n, 2);
    is_near(t[LOAD_WHOLE].max, 3);
    assert_int_equal(s.n_prompt, 30);
    assert_int_equal(s.n_cached, 12);
    assert_int_equal(s.n_answer, 9);
    assert_int_equal(s.n_short, 1);
    json_t *json = load_json(&s);
    assert_non_null(json);
    is_near(json_real_value(json_object_get(json, "total_tokens_per_s")), 3.9);
    is_near(json_real_value(json_object_get(json_object_get(json, "between_tokens_s"), "p99")), 0.198);
    json_decref(json);
    load_summary_free(&s);
    load_result_free(&r);
}

static void series_keep_the_sum(void **state) {
    (void)state;
    struct load_result r = some_result();
    struct load_summary s;
    struct load_series series;
    struct load_bin quiet = {0};
    for (int i = 0; i < 5000; i++) assert_int_equal(bytes_append(&r.bins, &quiet, sizeof quiet), OK);
    assert_int_equal(load_summarise(&r, "x", &s), OK);
    s.n_answer = 18; /* two tokens in each event */
    assert_int_equal(load_series_make(&s, &series), OK);
    double tokens = 0, done = 0;
    assert_in_range(series.n, 20, 200);
    for (size_t i = 0; i < series.n; i++) {
        tokens += series.tokens_per_s[i] * series.bin_s;
        done += series.requests_per_s[i] * series.bin_s;
    }
    is_near(tokens, 18);
    is_near(done, 1);
    load_series_free(&series);
    load_summary_free(&s);
    load_result_free(&r);
}

/* Elements are closed in order, and all text is escaped: an SVG that a browser takes. */
static void check_xml(const char *text) {
    char open[16][32];
    int depth = 0;
    for (const char *at = text; (at = strchr(at, '<')) != NULL;) {
        const char *end = strchr(at, '>');
        char name[32];
        assert_non_null(end);
        assert_int_equal(sscanf(at + 1, "%31[a-z/]", name), 1);
        if (*name == '/') assert_string_equal(name + 1, open[--depth]);
        else if (end[-1] != '/') strcpy(open[depth++], name);
        assert_in_range(depth, 0, 8);
        at = end;
    }
    assert_int_equal(depth, 0);
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    assert_null(strstr(text, "<script"));
}

static void pictures_are_whole(void **state) {
    (void)state;
    struct load_result results[2] = {some_result(), {.seconds = 0}}; /* the second: nothing came at all */
    struct load_summary runs[2];
    struct bytes out = {0};
    for (int i = 0; i < 2; i++) assert_int_equal(load_summarise(&results[i], i ? "nothing" : "some", &runs[i]), OK);
    assert_int_equal(load_plot("a <model> & \"more\"", runs, 2, &out), OK);
    check_xml((const char *)out.data);
    assert_non_null(strstr((const char *)out.data, "a &lt;model&gt; &amp;"));
    assert_non_null(strstr((const char *)out.data, ">tokens/s</text>"));
    out.len = 0;
    assert_int_equal(load_plot("empty", runs + 1, 1, &out), OK);
    check_xml((const char *)out.data);
    bytes_free(&out);
    for (int i = 0; i < 2; i++) {
        load_summary_free(&runs[i]);
        load_result_free(&results[i]);
    }
}

/* ---- /metrics ---- */

static const char figures[] =
    "# HELP caravan_kv_blocks_used 99\n# TYPE caravan_kv_blocks_used gauge\ncaravan_kv_blocks_used 17\n"
    "caravan_requests_queued 2\ncaravan_requests_running 3\nprocess_resident_memory_bytes 1.5e8\n"
    "caravan_rank_resident_memory_bytes{rank=\"0\",host=\"a} 5 \\\" b\"} 1000\n"
    "caravan_rank_resident_memory_bytes{rank=\"2\",host=\"b\"} 3000\n"
    "caravan_rank_resident_memory_bytes{rank=\"999\",host=\"b\"} 1\n";

static void metrics_are_read(void **state) {
    (void)state;
    struct load_watch_sample s;
    assert_true(load_watch_parse(figures, &s));
    is_near(s.blocks_used, 17);
    is_near(s.requests, 5);
    assert_int_equal(s.n_processes, 4);
    is_near(s.resident_bytes[0], 1.5e8);
    is_near(s.resident_bytes[1], 1000);
    is_near(s.resident_bytes[2], 0);
    is_near(s.resident_bytes[3], 3000);
    assert_false(load_watch_parse("llamacpp:kv_cache_tokens 5\n", &s));
    assert_false(load_watch_parse("", &s));
    assert_false(load_watch_parse("caravan_kv_blocks_used{", &s));
}

static void memory_is_compared_in_fifths(void **state) {
    (void)state;
    struct load_watch w = {0};
    struct load_watch_memory m;
    for (int i = 0; i < 300; i++) {
        struct load_watch_sample s = {.at_s = i, .n_processes = 2, .resident_bytes = {100, i < 60 ? 1 : i < 240 ? 200 : 203}};
        assert_int_equal(bytes_append(&w.samples, &s, sizeof s), OK);
    }
    assert_int_equal(load_watch_n_processes(&w), 2);
    assert_true(load_watch_memory(&w, 1, 300, &m));
    is_near(m.second, 200);
    is_near(m.last, 203);
    assert_false(load_watch_memory(&w, 1, 5, &m)); /* too few samples */
    json_t *json = load_watch_json(&w);
    assert_int_equal(json_array_size(json_array_get(json_object_get(json, "resident_bytes"), 1)), 300);
    json_decref(json);
    load_watch_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_within_what_was_asked), cmocka_unit_test(the_same_seed_asks_the_same),
        cmocka_unit_test(prompts_may_be_words), cmocka_unit_test(streams_are_read_in_any_pieces),
        cmocka_unit_test(problems_are_told_apart), cmocka_unit_test(lines_are_bounded),
        cmocka_unit_test(figures_are_right), cmocka_unit_test(series_keep_the_sum), cmocka_unit_test(pictures_are_whole),
        cmocka_unit_test(metrics_are_read), cmocka_unit_test(memory_is_compared_in_fifths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
