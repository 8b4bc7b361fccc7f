#include "coordinator/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/utf8.h"
#include "coordinator/api_parts.h"

/* ---- errors ---- */

static int status_of(err e) {
    switch (e) {
    case ERR_REQUEST:
    case ERR_UNSUPPORTED: return 400;
    case ERR_BUSY: return 429;
    case ERR_JOB:
    case ERR_TIMEOUT: return 503;
    default: return 500;
    }
}

void api_fail(struct exchange *x, err e, const struct api_fault *f) {
    int status = status_of(e);
    const char *param = f && *f->param ? f->param : NULL;
    if (f && f->code) {
        exchange_error_code(x, strcmp(f->code, API_NO_MODEL) == 0 ? 404 : status, f->code, param, "%s", err_text());
        return;
    }
    if (status == 429) exchange_header(x, "Retry-After", "1");
    if (status == 503) exchange_header(x, "Retry-After", "5");
    exchange_error(x, status, param, "%s", err_text());
}

void api_reply(struct exchange *x, int status, json_t *root) {
    char *text = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (text) exchange_reply(x, status, "application/json", text, strlen(text));
    else exchange_error(x, 500, NULL, "not enough memory for the answer");
    free(text);
}

/* ---- routes ---- */

struct route {
    const char *method, *path; /* "/v1/models/": any path below it */
    const char *name;
    err (*answer)(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
};

static const struct route routes[] = {
    {"POST", "/v1/completions", "completions", api_completions},
    {"POST", "/v1/chat/completions", "chat", api_chat},
    {"POST", "/v1/embeddings", "embeddings", api_embeddings},
    {"GET", "/v1/models", "models", api_models},
    {"GET", "/v1/models/", "models", api_models},
    {"POST", "/tokenize", "tokenize", api_tokenize},
    {"POST", "/detokenize", "detokenize", api_detokenize},
    {"GET", "/health", "health", api_health},
    {"GET", "/ready", "ready", api_ready},
    {"GET", "/metrics", "metrics", api_metrics},
    {"GET", "/cluster", "cluster", api_cluster},
    {"GET", "/", "page", api_page},
};

static const struct route *find_route(const char *path) {
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        size_t n = strlen(routes[i].path);
        int is_folder = n > 1 && routes[i].path[n - 1] == '/';
        if (is_folder ? strncmp(path, routes[i].path, n) == 0 && path[n] : strcmp(path, routes[i].path) == 0)
            return &routes[i];
    }
    return NULL;
}

/* A web page may post "text/plain" anywhere without being asked first, but not this type: nobody's page uses up a
 * server that only listens to its own host. */
static int is_json(const char *type) {
    static const char want[] = "application/json";
    size_t n = sizeof want - 1;
    return strncasecmp(type, want, n) == 0 && (type[n] == 0 || type[n] == ';' || type[n] == ' ');
}

static void answer(struct api *a, const struct route *r, struct exchange *x) {
    struct api_fault fault = {0};
    json_t *root = NULL;
    err e = OK;
    if (strcmp(r->method, "POST") == 0) {
        if (!is_json(x->content_type)) {
            exchange_error(x, 415, NULL, "expected a body of type application/json, found \"%.80s\"",
                           x->content_type);
            return;
        }
        e = api_parse(x->body, x->n_body, &root);
    }
    if (e == OK) e = r->answer(a, x, root, &fault);
    if (e != OK) api_fail(x, e, &fault);
    json_decref(root);
}

void api_request(struct api *a, struct exchange *x) {
    const struct route *r = find_route(x->path);
    x->route = r ? r->name : "unknown";
    if (!r) {
        exchange_error(x, 404, NULL, "there is nothing at %.200s", x->path);
    } else if (strcmp(r->method, x->method) != 0) {
        exchange_header(x, "Allow", strcmp(r->method, "GET") == 0 ? "GET, HEAD" : r->method);
        exchange_error(x, 405, NULL, "%s answers %s only", r->path, r->method);
    } else {
        answer(a, r, x);
    }
}

void api_gone(struct api *a, struct exchange *x) {
    (void)a;
    if (x->owner) api_answer_free(x->owner);
}

void api_events(struct api *a) {
    struct service_event *next;
    for (struct service_event *e = service_take(a->o.service); e; e = next) {
        next = e->next;
        api_answer_event(a, e);
        service_event_free(e);
    }
}

/* ---- life ---- */

static err name_model(struct api *a) {
    const char *name = a->o.config->model_name, *path = a->o.model->path, *slash = strrchr(path, '/');
    snprintf(a->model, sizeof a->model, "%.255s", *name ? name : slash ? slash + 1 : path);
    size_t n = strlen(a->model);
    if (!*name && n > 5 && strcmp(a->model + n - 5, ".gguf") == 0) a->model[n -= 5] = 0;
    if (utf8_is_valid((uint8_t *)a->model, n)) return OK;
    return err_set(ERR_CONFIG, "the model's name is no UTF-8, as JSON needs it; give another with --model-name");
}

/* A text of n bytes has n / longest tokens at least: one that can never fit is refused before it costs time.
 * WordPiece makes one token of a whole unknown word. */
static err measure_tokens(struct api *a) {
    const struct tokenizer *t = a->o.model->tokenizer;
    struct bytes text = {0};
    err e = OK;
    if (strcmp(tokenizer_kind(t), "bert") == 0) return OK;
    for (size_t i = 0; i < tokenizer_n_vocab(t) && e == OK; i++) {
        text.len = 0;
        e = tokenizer_decode_token(t, (int32_t)i, 1, &text);
        if (text.len > a->token_bytes_max) a->token_bytes_max = text.len;
    }
    bytes_free(&text);
    return e;
}

static err prepare(struct api *a) {
    const struct tokenizer *t = a->o.model->tokenizer;
    TRY(model_context(a->o.model, a->o.config, &a->context));
    a->n_vocab = a->o.model->program->n_vocab;
    a->created_s = time(NULL);
    if (getrandom(&a->instance, sizeof a->instance, 0) != sizeof a->instance)
        return err_set(ERR_INTERNAL, "no random numbers for the ids of answers");
    TRY(name_model(a));
    return t ? measure_tokens(a) : OK;
}

err api_create(const struct api_options *o, struct api **out) {
    struct api *a;
    TRY(NEW(a, 1));
    a->o = *o;
    err e = prepare(a);
    if (e == OK) *out = a;
    else api_free(a);
    return e;
}

void api_free(struct api *a) {
    if (!a) return;
    while (a->answers) api_answer_free(a->answers);
    free(a);
}
