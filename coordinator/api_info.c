/* What the server says about itself and its model, and its tokenizer. */
#include <string.h>

#include "coordinator/api_parts.h"
#include "coordinator/page.h"

/* ---- GET /v1/models, /v1/models/NAME ---- */

static json_t *write_model(struct api *a) {
    return json_pack("{s:s, s:s, s:I, s:s, s:I}", "id", a->model, "object", "model", "created",
                     (json_int_t)a->created_s, "owned_by", "caravan", "max_model_len", (json_int_t)a->context);
}

err api_models(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    static const char folder[] = "/v1/models/";
    (void)root;
    if (strncmp(x->path, folder, sizeof folder - 1) != 0) {
        api_reply(x, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", write_model(a)));
        return OK;
    }
    json_t *asked = json_pack("{s:s}", "model", x->path + sizeof folder - 1);
    err e = asked ? api_check_model(a, f, asked) : err_set(ERR_REQUEST, "the name of the model is no UTF-8");
    json_decref(asked);
    if (e == OK) api_reply(x, 200, write_model(a));
    return e;
}

/* ---- POST /tokenize, /detokenize ---- */

/* A token's own text, or its bytes where it is part of a character, as llama.cpp's server has it. */
static json_t *write_piece(struct api *a, int32_t id) {
    struct bytes text = {0};
    json_t *piece = NULL;
    if (tokenizer_decode_token(a->o.model->tokenizer, id, 1, &text) == OK && bytes_append_str(&text, "") == OK) {
        piece = json_stringn((char *)text.data, text.len); /* NULL where it is no UTF-8 */
        if (!piece) piece = json_array();
        for (size_t i = 0; json_is_array(piece) && i < text.len; i++)
            json_array_append_new(piece, json_integer(text.data[i]));
    }
    bytes_free(&text);
    return json_pack("{s:I, s:o}", "id", (json_int_t)id, "piece", piece);
}

static void reply_tokens(struct api *a, struct exchange *x, const struct token_list *tokens, int with_pieces) {
    json_t *list = json_array();
    for (size_t i = 0; i < tokens->n; i++)
        json_array_append_new(list, with_pieces ? write_piece(a, tokens->ids[i]) : json_integer(tokens->ids[i]));
    api_reply(x, 200, json_pack("{s:o, s:I}", "tokens", list, "count", (json_int_t)tokens->n));
}

/* Each token becomes a value of JSON, or text of any length: more than a prompt may have are nobody's need. */
static err check_count(struct api *a, struct api_fault *f, const char *name, size_t n) {
    if (n <= a->context) return OK;
    f->code = API_TOO_LONG;
    return api_refuse(f, name, "%zu tokens are longer than the context of %u", n, a->context);
}

err api_tokenize(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    const char *content = NULL, *text = NULL;
    int add_special = 0, with_pieces = 0;
    TRY(api_read_text(f, root, "content", &content));
    TRY(api_read_text(f, root, "text", &text));
    TRY(api_read_bool(f, root, "add_special", &add_special));
    TRY(api_read_bool(f, root, "with_pieces", &with_pieces));
    if (content && text) return api_refuse(f, "text", "give content or text, not both");
    if (!content && !text) return api_refuse(f, "content", "missing; expected a string");
    const char *name = content ? "content" : "text", *given = content ? content : text;
    struct token_list tokens = {0};
    err e = api_encode(a, f, name, given, strlen(given), add_special, &tokens);
    if (e == OK) e = check_count(a, f, name, tokens.n);
    if (e == OK) reply_tokens(a, x, &tokens, with_pieces);
    token_list_free(&tokens);
    return e;
}

static err decode(struct api *a, const struct token_list *tokens, struct bytes *out) {
    struct token_stream s;
    err e = bytes_append_str(out, "");
    token_stream_init(&s, a->o.model->tokenizer, 1);
    for (size_t i = 0; i < tokens->n && e == OK; i++) e = token_stream_push(&s, tokens->ids[i], out);
    if (e == OK) e = token_stream_finish(&s, out);
    token_stream_free(&s);
    return e;
}

err api_detokenize(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    const json_t *ids = api_field(root, "tokens");
    const struct tokenizer *t = a->o.model->tokenizer;
    if (!t) return err_set(ERR_UNSUPPORTED, "the model carries no tokenizer");
    if (!ids) return api_refuse(f, "tokens", "missing; expected an array of tokens");
    if (!json_is_array(ids)) return api_expected(f, "tokens", "an array of tokens", ids);
    TRY(check_count(a, f, "tokens", json_array_size(ids)));
    struct token_list tokens = {0};
    struct bytes text = {0};
    err e = api_read_tokens(f, "tokens", ids, (uint32_t)tokenizer_n_vocab(t), &tokens);
    if (e == OK) e = decode(a, &tokens, &text);
    if (e == OK) api_reply(x, 200, json_pack("{s:s%}", "content", text.data, text.len));
    token_list_free(&tokens);
    bytes_free(&text);
    return e;
}

/* ---- GET /health, /ready, /metrics ---- */

static const char *state_name(enum service_state state) {
    switch (state) {
    case SERVICE_LOADING: return "loading";
    case SERVICE_READY: return "ready";
    case SERVICE_RECOVERING: return "recovering";
    case SERVICE_DRAINING: return "draining";
    case SERVICE_ENDED: return "ended";
    }
    return "unknown";
}

/* This thread answers: that is all that is asked. */
err api_health(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    (void)a, (void)root, (void)f;
    api_reply(x, 200, json_pack("{s:s}", "status", "ok"));
    return OK;
}

/* progress: 0 to 1, of loading. */
err api_ready(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    struct service_status s;
    (void)root, (void)f;
    service_status(a->o.service, &s);
    if (s.state == SERVICE_READY) {
        api_reply(x, 200, json_pack("{s:s}", "status", "ready"));
        return OK;
    }
    /* Reasons name hosts and files: where keys are asked for they are for those who have one. */
    int is_known = !*a->o.config->api_keys || strcmp(x->key_name, "-") != 0;
    json_t *o = json_pack("{s:s, s:s}", "status", state_name(s.state), "reason", is_known ? s.reason : "");
    if (o && s.state == SERVICE_LOADING && s.total_bytes)
        json_object_set_new(o, "progress", json_real((double)s.loaded_bytes / (double)s.total_bytes));
    exchange_header(x, "Retry-After", "5");
    api_reply(x, 503, o);
    return OK;
}

err api_metrics(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    struct service_status s;
    struct bytes text = {0};
    (void)root, (void)f;
    if (!a->o.metrics) return err_set(ERR_UNSUPPORTED, "no metrics are kept");
    service_status(a->o.service, &s);
    json_t *ranks = service_ranks(a->o.service);
    err e = metrics_print(a->o.metrics, &s, ranks, &text);
    if (e == OK) exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", text.data, text.len);
    json_decref(ranks);
    bytes_free(&text);
    return e;
}

/* ---- GET /, and /cluster for it ---- */

err api_page(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    (void)a, (void)root, (void)f;
    exchange_header(x, "Content-Security-Policy", PAGE_POLICY);
    exchange_header(x, "Cache-Control", "no-cache");
    exchange_reply(x, 200, "text/html; charset=utf-8", page_html, page_html_bytes);
    return OK;
}

static json_t *write_parts(const struct service_status *s) {
    return json_pack("{s:{s:I, s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I, s:I}, s:{s:f, s:f}}",
                     "plan", "stages", (json_int_t)s->n_stages, "shards", (json_int_t)s->n_shards, "ranks",
                     (json_int_t)s->n_ranks,
                     "queue", "waiting", (json_int_t)s->n_queued, "running", (json_int_t)s->n_running,
                     "kv", "blocks", (json_int_t)s->n_blocks, "used", (json_int_t)s->n_blocks_used, "cached",
                     (json_int_t)s->n_blocks_cached,
                     "tokens_per_s", "prompt", s->prompt_tokens_per_s, "answer", s->answer_tokens_per_s);
}

err api_cluster(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    struct service_status s;
    (void)root, (void)f;
    service_status(a->o.service, &s);
    json_t *ranks = service_ranks(a->o.service);
    json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:I, s:o}", "state", state_name(s.state), "reason", s.reason,
                          "model", a->model, "context", (json_int_t)a->context, "load_s", s.load_s, "uptime_s",
                          s.uptime_s, "steps", (json_int_t)s.n_steps, "ranks", ranks ? ranks : json_array());
    if (o) json_object_update_new(o, write_parts(&s));
    if (o && s.forecast_decode_per_s > 0)
        json_object_set_new(o, "forecast", json_pack("{s:f, s:f, s:f}", "decode_tokens_per_s", s.forecast_decode_per_s,
                                                     "prefill_tokens_per_s", s.forecast_prefill_per_s, "load_s",
                                                     s.forecast_load_s));
    api_reply(x, 200, o);
    return OK;
}
