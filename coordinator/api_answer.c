/* Answers under way: their choices run as requests of the service and are found again by its ids. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "coordinator/api_parts.h"

/* ---- the table of choices that run ---- */

static struct api_choice **bucket(struct api *a, uint64_t id) { return &a->running[id % API_BUCKETS]; }

static void table_add(struct api_choice *c) {
    struct api_choice **head = bucket(c->answer->api, c->id);
    c->next = *head;
    *head = c;
    c->is_running = 1;
    c->answer->n_running++;
}

static void table_remove(struct api_choice *c) {
    struct api_choice **at = bucket(c->answer->api, c->id);
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    c->is_running = 0;
    c->answer->n_running--;
}

static struct api_choice *table_find(struct api *a, uint64_t id) {
    struct api_choice *c = *bucket(a, id);
    while (c && c->id != id) c = c->next;
    return c;
}

/* ---- life ---- */

static void choice_free(struct api_choice *c) {
    if (c->is_running) {
        service_cancel(c->answer->api->o.service, c->id);
        table_remove(c);
    }
    token_stream_free(&c->place);
    bytes_free(&c->text);
    free(c->scores);
}

void api_answer_free(struct api_answer *w) {
    if (!w) return;
    for (size_t i = 0; w->choices && i < w->n_choices; i++) choice_free(&w->choices[i]);
    if (w->next) w->next->previous = w->previous;
    if (w->previous) w->previous->next = w->next;
    else if (w->api->answers == w) w->api->answers = w->next;
    if (w->x->owner == w) w->x->owner = NULL;
    api_prompts_free(w->prompts, w->n_prompts);
    free(w->choices);
    free(w);
}

static void choice_init(struct api_answer *w, size_t i) {
    struct api_choice *c = &w->choices[i];
    c->answer = w;
    c->index = (uint32_t)i;
    c->prompt = &w->prompts[i / (size_t)w->params.best_of];
    if (!w->api->o.model->tokenizer) return;
    token_stream_init(&c->place, w->api->o.model->tokenizer, 0);
    c->place.is_first = w->params.is_echo; /* else the text goes on where the prompt ended */
}

/* The same request alone and among others asks for the same: the seed depends on the place among the choices of
 * its own prompt only. */
static err submit(struct api_answer *w, size_t i) {
    struct api *a = w->api;
    struct api_choice *c = &w->choices[i];
    struct service_request r = {.sequence = w->params.sequence, .key = w->x->key, .priority = w->x->priority};
    struct sequence_options *s = &r.sequence;
    s->tokenizer = a->o.model->tokenizer;
    s->prompt = c->prompt->tokens.ids;
    s->n_prompt = c->prompt->tokens.n;
    s->max_tokens = c->prompt->max_tokens;
    s->n_vocab = a->n_vocab;
    s->context = a->context;
    s->dim = a->o.model->program->dim;
    s->pooling = w->params.pooling;
    s->seed += i % (size_t)w->params.best_of;
    s->biases = w->params.biases;
    s->stops = w->params.stops;
    s->scores_answer = w->params.has_scores || w->params.best_of > w->params.n;
    /* Without scores a prompt that gets no answer would ask for nothing at all. */
    s->scores_prompt = w->params.is_echo && (w->params.has_scores || s->max_tokens == 0);
    TRY(service_submit(a->o.service, &r, &c->id));
    table_add(c);
    return OK;
}

/* Embeddings of many texts go through the queue a few at a time; all choices of a text go at once or not at all. */
static err submit_some(struct api_answer *w) {
    size_t most = w->form ? w->n_choices : (size_t)w->api->o.config->max_choices;
    while (w->n_submitted < w->n_choices && w->n_running < most) {
        err e = submit(w, w->n_submitted);
        if (e == ERR_BUSY && !w->form && w->n_running) return OK; /* one of ours makes room */
        if (e != OK) return e;
        w->n_submitted++;
    }
    return OK;
}

static err check_lengths(struct api_answer *w, struct api_fault *f, const char *name) {
    for (size_t i = 0; i < w->n_prompts; i++) {
        struct api_prompt *p = &w->prompts[i];
        char item[48];
        snprintf(item, sizeof item, w->n_prompts > 1 ? "%s[%zu]" : "%s", name, i);
        TRY(api_check_length(w->api, f, item, p->tokens.n, &w->params, &p->max_tokens));
    }
    return OK;
}

static void name_answer(struct api_answer *w) {
    struct api *a = w->api;
    w->created_s = time(NULL);
    snprintf(w->id, sizeof w->id, "%s-%016llx%llx", w->form ? w->form->id_prefix : "embd",
             (unsigned long long)a->instance, (unsigned long long)a->n_answers++);
}

static void count_prompts(struct api_answer *w) {
    w->x->n_prompt = 0;
    for (size_t i = 0; i < w->n_prompts; i++) w->x->n_prompt += (uint32_t)w->prompts[i].tokens.n;
}

err api_answer_start(struct api *a, struct exchange *x, struct api_fault *f, const struct api_form *form,
                     const struct api_params *p, const char *name, struct api_prompt *prompts, size_t n_prompts) {
    struct api_answer *w;
    err e = NEW(w, 1);
    if (e != OK) {
        api_prompts_free(prompts, n_prompts);
        return e;
    }
    *w = (struct api_answer){.api = a, .x = x, .form = form, .params = *p, .prompts = prompts,
                             .n_prompts = n_prompts, .n_choices = n_prompts * (size_t)p->best_of,
                             .begin_us = clock_us()};
    name_answer(w);
    e = NEW(w->choices, w->n_choices);
    for (size_t i = 0; i < w->n_choices && e == OK; i++) choice_init(w, i);
    if (e == OK) e = check_lengths(w, f, name);
    for (size_t i = 0; i < n_prompts && e == OK && p->is_echo; i++) e = api_prompt_show(a, &prompts[i]);
    if (e == OK) e = submit_some(w);
    if (e != OK) {
        api_answer_free(w);
        return e;
    }
    count_prompts(w);
    w->next = a->answers;
    if (w->next) w->next->previous = w;
    a->answers = w;
    x->owner = w;
    return OK;
}

/* ---- events ---- */

static err keep_scores(struct api_choice *c, const struct token_score *scores, size_t n) {
    if (c->n_scores + n > c->cap_scores) {
        size_t cap = c->n_scores + n > 2 * c->cap_scores ? c->n_scores + n : 2 * c->cap_scores;
        struct token_score *grown = mem_resized(c->scores, cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        c->scores = grown;
        c->cap_scores = cap;
    }
    memcpy(c->scores + c->n_scores, scores, n * sizeof *scores);
    c->n_scores += n;
    return OK;
}

static void observe_token(struct api_choice *c) {
    struct api_answer *w = c->answer;
    int64_t now = clock_us();
    if (c->last_us)
        metrics_observe(w->api->o.metrics, METRIC_BETWEEN_TOKENS, (double)(now - c->last_us) * 1e-6);
    else
        metrics_observe(w->api->o.metrics, METRIC_FIRST_TOKEN, (double)(now - w->begin_us) * 1e-6);
    c->last_us = now;
    w->x->n_answer++;
}

static err take_token(struct api_choice *c, const struct service_event *e) {
    observe_token(c);
    c->n_answer++;
    if (e->n_tokens) c->logprob_sum += (double)e->tokens[0].logprob;
    if (c->answer->params.has_scores) TRY(keep_scores(c, e->tokens, e->n_tokens));
    return bytes_append(&c->text, e->text, e->n_text);
}

static err take_end(struct api_choice *c, const struct service_event *e) {
    c->finish = e->finish;
    c->n_prompt = e->n_prompt;
    c->n_cached = e->n_cached;
    c->n_answer = e->n_answer;
    return bytes_append(&c->text, e->text, e->n_text);
}

static err take(struct api_choice *c, struct service_event *e) {
    struct api_answer *w = c->answer;
    if (!c->has_begun && w->params.is_echo) TRY(bytes_append(&c->text, c->prompt->text.data, c->prompt->text.len));
    c->has_begun = 1;
    switch (e->kind) {
    case SERVICE_PROMPT: return w->params.has_scores ? keep_scores(c, e->tokens, e->n_tokens) : OK;
    case SERVICE_TOKEN: return take_token(c, e);
    case SERVICE_EMBEDDING: return api_take_embedding(c, e->values, e->n_values);
    case SERVICE_DONE: return take_end(c, e);
    case SERVICE_FAILED: return err_set(e->code, "%s", e->text ? e->text : err_name(e->code));
    }
    return OK;
}

/* The last event of a choice. */
static err finish_choice(struct api_choice *c) {
    struct api_answer *w = c->answer;
    table_remove(c);
    w->n_done++;
    if (c->index % (size_t)w->params.best_of == 0) w->x->n_cached += c->n_cached;
    return submit_some(w);
}

void api_answer_event(struct api *a, struct service_event *e) {
    struct api_choice *c = table_find(a, e->id);
    if (!c) return; /* cancelled while its events were on the way */
    struct api_answer *w = c->answer;
    int is_end = e->kind == SERVICE_DONE || e->kind == SERVICE_FAILED;
    err taken = take(c, e);
    if (taken == OK && w->params.is_stream)
        api_write_piece(c, is_end ? api_finish_name(c->finish) : NULL);
    if (taken == OK && is_end) taken = finish_choice(c);
    else if (is_end) table_remove(c);
    if (taken != OK) api_fail(w->x, taken, NULL);
    else if (w->n_done == w->n_choices) api_write_end(w);
    else return;
    api_answer_free(w);
}
