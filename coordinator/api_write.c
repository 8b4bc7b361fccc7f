/* Answers as JSON: the envelope that completions and chat have in common, whole or as events of a stream. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api_parts.h"

const char *api_finish_name(enum sequence_finish finish) { return finish == SEQUENCE_STOP ? "stop" : "length"; }

/* A prompt counts once, however many answers it gets; every token that was made for the client counts, also those
 * of answers that were not the best. */
static json_t *write_usage(const struct api_answer *w) {
    json_int_t n_prompt = 0, n_cached = 0, n_answer = 0;
    for (size_t i = 0; i < w->n_choices; i++) {
        n_answer += w->choices[i].n_answer;
        if (i % (size_t)w->params.best_of) continue;
        n_prompt += w->choices[i].n_prompt;
        n_cached += w->choices[i].n_cached;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", n_prompt, "completion_tokens", n_answer,
                     "total_tokens", n_prompt + n_answer, "prompt_tokens_details", "cached_tokens", n_cached);
}

/* Takes the choices. */
static json_t *write_envelope(const struct api_answer *w, const char *object, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", w->id, "object", object, "created",
                     (json_int_t)w->created_s, "model", w->api->model, "system_fingerprint", w->api->o.commit,
                     "choices", choices);
}

/* ---- streams ---- */

/* Takes the event. */
static void write_event(struct api_answer *w, json_t *event) {
    struct exchange *x = w->x;
    char *text = event ? json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(event);
    if (!text) {
        x->is_broken = 1;
        return;
    }
    if (x->status == 0) {
        exchange_header(x, "Cache-Control", "no-cache");
        exchange_begin(x, 200, "text/event-stream");
    }
    exchange_write(x, "data: ", 6);
    exchange_write(x, text, strlen(text));
    exchange_write(x, "\n\n", 2);
    free(text);
}

/* With include_usage every event has the field, null but in the last. */
static void write_chunk(struct api_choice *c, const struct api_piece *p) {
    struct api_answer *w = c->answer;
    json_t *event = write_envelope(w, w->form->chunk_object, json_pack("[o]", w->form->write_choice(c, p)));
    if (event && w->params.has_usage) json_object_set_new(event, "usage", json_null());
    write_event(w, event);
}

void api_write_piece(struct api_choice *c, const char *finish) {
    struct api_piece p = {.text = c->text.data ? (char *)c->text.data : "", .n_text = c->text.len,
                          .scores = c->scores, .n_scores = c->n_scores, .is_first = !c->has_written};
    int has_news = p.n_text || p.n_scores;
    if (has_news || (finish && p.is_first)) write_chunk(c, &p);
    else if (!finish) return;
    c->has_written = 1;
    c->text.len = 0;
    c->n_scores = 0;
    if (finish) write_chunk(c, &(struct api_piece){.text = "", .finish = finish});
}

static void end_stream(struct api_answer *w) {
    if (w->params.has_usage) {
        json_t *event = write_envelope(w, w->form->chunk_object, json_array());
        if (event) json_object_set_new(event, "usage", write_usage(w));
        write_event(w, event);
    }
    exchange_write(w->x, "data: [DONE]\n\n", 14);
    exchange_end(w->x);
}

/* ---- whole answers ---- */

static double mean_logprob(const struct api_choice *c) {
    return c->n_answer ? c->logprob_sum / c->n_answer : -INFINITY;
}

/* The best first; among equals the earlier. */
static int compare_choices(const void *left, const void *right) {
    const struct api_choice *a = *(struct api_choice *const *)left, *b = *(struct api_choice *const *)right;
    double ma = mean_logprob(a), mb = mean_logprob(b);
    if (ma != mb) return ma > mb ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static json_t *write_whole_choice(struct api_choice *c) {
    struct api_piece p = {.text = c->text.data ? (char *)c->text.data : "", .n_text = c->text.len,
                          .scores = c->scores, .n_scores = c->n_scores, .is_whole = 1, .is_first = 1,
                          .finish = api_finish_name(c->finish)};
    return c->answer->form->write_choice(c, &p);
}

/* The n best of each prompt's best_of. */
static json_t *write_choices(struct api_answer *w) {
    size_t n = (size_t)w->params.n, best_of = (size_t)w->params.best_of;
    json_t *list = json_array();
    struct api_choice **order = mem_zeroed(best_of, sizeof *order);
    for (size_t i = 0; i < w->n_prompts && order; i++) {
        for (size_t k = 0; k < best_of; k++) order[k] = &w->choices[i * best_of + k];
        if (best_of > n) qsort(order, best_of, sizeof *order, compare_choices);
        for (size_t k = 0; k < n; k++) {
            order[k]->index = (uint32_t)(i * n + k);
            json_array_append_new(list, write_whole_choice(order[k]));
        }
    }
    int is_whole = order && json_array_size(list) == n * w->n_prompts; /* memory never ran out */
    free(order);
    if (is_whole) return list;
    json_decref(list);
    return NULL;
}

void api_write_end(struct api_answer *w) {
    if (!w->form) {
        api_write_embeddings(w);
    } else if (w->params.is_stream) {
        end_stream(w);
    } else {
        json_t *choices = write_choices(w);
        json_t *root = choices ? write_envelope(w, w->form->object, choices) : NULL;
        if (root) json_object_set_new(root, "usage", write_usage(w));
        api_reply(w->x, 200, root);
    }
}
