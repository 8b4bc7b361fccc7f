#include "coordinator/client.h"

#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#define CONNECT_S 10
#define BODY_MAX (64 << 20) /* of client_get */
#define POLL_MS 100

struct call {
    struct call *previous, *next; /* of those under way */
    CURL *easy;
    void *context;
    void (*on_data)(void *context, int status, const void *data, size_t n);
    void (*on_end)(void *context, const struct client_end *end);
};

struct client {
    CURLM *multi;
    char *url;
    struct curl_slist *headers;
    struct call *calls;
};

/* ---- the server ---- */

static err add_header(struct client *c, const char *text) {
    struct curl_slist *more = curl_slist_append(c->headers, text);
    if (!more) return err_set(ERR_MEMORY, "cannot keep a header");
    c->headers = more;
    return OK;
}

static err add_headers(struct client *c, const char *api_key) {
    struct bytes line = {0};
    TRY(add_header(c, "Content-Type: application/json"));
    TRY(add_header(c, "Expect:")); /* libcurl would ask first, and wait, before it sends a long prompt */
    if (!api_key) return OK;
    err e = bytes_printf(&line, "Authorization: Bearer %s", api_key);
    if (e == OK) e = add_header(c, (const char *)line.data);
    bytes_free(&line);
    return e;
}

static err check_url(const char *url) {
    CURLU *parts = curl_url();
    char *host = NULL;
    int is_http = strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
    int is_good = parts && is_http && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
                  curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK && *host;
    curl_free(host);
    curl_url_cleanup(parts);
    return is_good ? OK : err_set(ERR_USAGE, "\"%s\" is no server: expected http://HOST:PORT", url);
}

err client_open(const char *url, const char *api_key, struct client **out) {
    struct client *c;
    *out = NULL;
    TRY(check_url(url));
    if (api_key && api_key[strcspn(api_key, "\r\n")]) return err_set(ERR_USAGE, "an API key has no line ends");
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return err_set(ERR_INTERNAL, "libcurl does not start");
    TRY(NEW(c, 1));
    c->multi = curl_multi_init();
    c->url = strdup(url);
    err e = c->multi && c->url ? add_headers(c, api_key) : err_set(ERR_MEMORY, "cannot start a client");
    if (e != OK) {
        client_close(c);
        return e;
    }
    size_t n = strlen(c->url);
    while (n && c->url[n - 1] == '/') c->url[--n] = 0; /* paths begin with one */
    *out = c;
    return OK;
}

void client_close(struct client *c) {
    if (!c) return;
    while (c->calls) client_cancel(c, c->calls);
    curl_multi_cleanup(c->multi);
    curl_slist_free_all(c->headers);
    free(c->url);
    free(c);
}

/* ---- calls ---- */

static size_t take_data(char *data, size_t size, size_t n, void *context) {
    struct call *call = context;
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    call->on_data(call->context, (int)status, data, size * n);
    return size * n;
}

static CURLcode set_up(struct client *c, struct call *call, const struct client_request *r, const char *url) {
    CURL *easy = call->easy;
    CURLcode rc = curl_easy_setopt(easy, CURLOPT_URL, url);
    if (!rc) rc = curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    if (!rc) rc = curl_easy_setopt(easy, CURLOPT_HTTPHEADER, c->headers);
    if (!rc) rc = curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_data);
    if (!rc) rc = curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    if (!rc) rc = curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    if (!rc) rc = curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    if (!rc) rc = curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(r->deadline_s * 1000));
    if (!rc && r->body) rc = curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)r->n_body);
    if (!rc && r->body) rc = curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, r->body);
    return rc;
}

static void call_free(struct client *c, struct call *call) {
    if (call->previous) call->previous->next = call->next;
    else if (c->calls == call) c->calls = call->next;
    if (call->next) call->next->previous = call->previous;
    if (call->easy) curl_multi_remove_handle(c->multi, call->easy);
    curl_easy_cleanup(call->easy);
    free(call);
}

err client_start(struct client *c, const struct client_request *r, struct call **out) {
    struct bytes url = {0};
    struct call *call;
    TRY(NEW(call, 1));
    call->easy = curl_easy_init();
    call->context = r->context;
    call->on_data = r->on_data;
    call->on_end = r->on_end;
    err e = bytes_printf(&url, "%s%s", c->url, r->path);
    int is_good = e == OK && call->easy && set_up(c, call, r, (const char *)url.data) == CURLE_OK &&
                  curl_multi_add_handle(c->multi, call->easy) == CURLM_OK;
    bytes_free(&url);
    if (!is_good) {
        curl_easy_cleanup(call->easy);
        free(call);
        return err_set(ERR_MEMORY, "cannot start a request");
    }
    call->next = c->calls;
    if (c->calls) c->calls->previous = call;
    c->calls = call;
    *out = call;
    return OK;
}

void client_cancel(struct client *c, struct call *call) { call_free(c, call); }

static void call_end(struct client *c, CURL *easy, CURLcode rc) {
    char *private = NULL;
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    struct call *call = (struct call *)(void *)private;
    struct client_end end = {
        .status = (int)status, .failure = rc == CURLE_OK ? NULL : curl_easy_strerror(rc),
        .is_unreachable = rc == CURLE_COULDNT_CONNECT || rc == CURLE_COULDNT_RESOLVE_HOST,
        .is_late = rc == CURLE_OPERATION_TIMEDOUT};
    call->on_end(call->context, &end);
    call_free(c, call);
}

err client_poll(struct client *c, int timeout_ms) {
    int n_running, n_left;
    CURLMcode rc = curl_multi_perform(c->multi, &n_running);
    if (rc == CURLM_OK) rc = curl_multi_poll(c->multi, NULL, 0, timeout_ms, NULL);
    if (rc == CURLM_OK) rc = curl_multi_perform(c->multi, &n_running);
    if (rc != CURLM_OK) return err_set(ERR_INTERNAL, "libcurl: %s", curl_multi_strerror(rc));
    for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &n_left)) != NULL;)
        if (m->msg == CURLMSG_DONE) call_end(c, m->easy_handle, m->data.result);
    return OK;
}

/* ---- one alone ---- */

struct get {
    struct bytes *body;
    struct client_end end;
    int is_over, is_full;
};

static void get_data(void *context, int status, const void *data, size_t n) {
    struct get *g = context;
    (void)status;
    if (g->body->len + n > BODY_MAX || bytes_append(g->body, data, n) != OK) g->is_full = 1;
}

static void get_end(void *context, const struct client_end *end) {
    struct get *g = context;
    g->end = *end;
    g->is_over = 1;
}

err client_get(struct client *c, const char *path, double deadline_s, int *status, struct bytes *body) {
    struct get g = {.body = body};
    struct client_request r = {
        .path = path, .deadline_s = deadline_s, .context = &g, .on_data = get_data, .on_end = get_end};
    struct call *call;
    TRY(client_start(c, &r, &call));
    err e = OK;
    while (!g.is_over && !g.is_full && e == OK) e = client_poll(c, POLL_MS);
    if (!g.is_over) client_cancel(c, call);
    TRY(e);
    if (g.is_full) return err_set(ERR_MEMORY, "%s%s: the answer is too long", c->url, path);
    if (g.end.failure) return err_set(ERR_FILE, "%s: %s", c->url, g.end.failure);
    *status = g.end.status;
    return OK;
}
