#include "coordinator/request.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

#define ALLOWED_METHODS "GET, HEAD, POST, OPTIONS"

/* ---- texts ---- */

static int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

err request_decode_path(const char *raw, struct bytes *out) {
    for (const char *p = raw; *p; p++) {
        int c = (unsigned char)*p;
        if (c == '%') {
            int high = digit_of(p[1]), low = high < 0 ? -1 : digit_of(p[2]);
            if (low < 0) return err_set(ERR_REQUEST, "the path has a '%%' without two hexadecimal digits");
            c = high * 16 + low;
            p += 2;
        }
        if (c < ' ' || c == 0x7F) return err_set(ERR_REQUEST, "the path has a control character");
        char byte = (char)c;
        TRY(bytes_append(out, &byte, 1));
    }
    return bytes_append(out, "", 0);
}

const char *request_bearer(const char *authorization, size_t *n) {
    if (strncasecmp(authorization, "bearer ", 7) != 0) return NULL;
    const char *key = authorization + 7;
    key += strspn(key, " \t");
    *n = strcspn(key, " \t");
    return key[*n + strspn(key + *n, " \t")] ? NULL : key;
}

int request_origin_is_allowed(const char *origin, const char *host, const char *allowed) {
    if (strcmp(allowed, "*") == 0 || strcasecmp(origin, allowed) == 0) return 1;
    if (!host) return 0;
    /* A proxy in front may speak TLS where we do not: the scheme says nothing. */
    if (strncasecmp(origin, "http://", 7) == 0) return strcasecmp(origin + 7, host) == 0;
    if (strncasecmp(origin, "https://", 8) == 0) return strcasecmp(origin + 8, host) == 0;
    return 0;
}

/* Whether a name of [n] bytes means this machine whoever answers for names, or is an address. */
static int is_own_name(const char *name, size_t n) {
    static const char local[] = "localhost";
    size_t n_local = sizeof local - 1;
    if (n && name[n - 1] == '.') n--;
    if (n >= n_local && strncasecmp(name + n - n_local, local, n_local) == 0)
        return n == n_local || name[n - n_local - 1] == '.';
    return name[0] == '[' || (n && strspn(name, "0123456789.") >= n);
}

/* A page of a foreign name whose owner lets the name mean 127.0.0.1 ("DNS rebinding") is of the same origin as far as
 * its browser can see. Only the name that it asked for tells: one that listens to this machine alone has no other. */
int request_host_is_allowed(const char *host, const char *listening, const char *allowed) {
    static const char *const local[] = {"127.0.0.1", "localhost", "::1", "[::1]"};
    int is_local = 0;
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) is_local |= strcasecmp(listening, local[i]) == 0;
    if (!is_local || !host || strcmp(allowed, "*") == 0) return 1;
    const char *name = strstr(allowed, "://");
    if (name && strcasecmp(name + 3, host) == 0) return 1;
    return is_own_name(host, host[0] == '[' ? 1 : strcspn(host, ":"));
}

err request_quote(const char *text, size_t most, struct bytes *out) {
    TRY(bytes_append_str(out, "\""));
    for (size_t i = 0; text[i] && i < most; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c > ' ' && c < 0x7F && c != '"' && c != '\\') TRY(bytes_append(out, &c, 1));
        else TRY(bytes_printf(out, "\\x%02X", c));
    }
    return bytes_append_str(out, "\"");
}

/* ---- who may ask for what ---- */

size_t request_body_most(const struct config *config) { return (size_t)config->max_body_kb * 1024; }

void request_refuse_body(struct exchange *x, const struct config *config) {
    exchange_error(x, 413, NULL, "the body is longer than the %" PRIu64 " KiB that this server takes",
                   config->max_body_kb);
}

/* The page and what tells that the server is alive are for everybody. */
static int is_public(const char *path) {
    static const char *const paths[] = {"/", "/health", "/ready", "/favicon.ico"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (strcmp(path, paths[i]) == 0) return 1;
    return 0;
}

static void check_key(const struct request *r, const struct keys *keys, struct exchange *x) {
    const char *key = r->api_key;
    size_t n = key ? strlen(key) : 0;
    if (!keys) return;
    if (r->authorization) key = request_bearer(r->authorization, &n);
    int index = key ? keys_find(keys, key, n) : -1;
    if (index >= 0) {
        x->key = (uint32_t)index;
        x->priority = keys_priority(keys, x->key);
        x->key_name = keys_name(keys, x->key);
    } else if (!is_public(x->path)) {
        exchange_error(x, 401, NULL, r->authorization || r->api_key ? "the API key is not known here"
                       : "an API key is needed, as header \"Authorization: Bearer KEY\"");
    }
}

static void check_method(const char *method, struct exchange *x) {
    static const char *const methods[] = {"GET", "POST", "HEAD", "OPTIONS"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strcmp(method, methods[i]) == 0) return;
    exchange_header(x, "Allow", ALLOWED_METHODS);
    exchange_error(x, 405, NULL, "the method must be one of " ALLOWED_METHODS);
}

/* What a browser asks before it lets a page of another origin use the API. */
static void answer_options(struct exchange *x, const char *cors_origin) {
    exchange_header(x, "Allow", ALLOWED_METHODS);
    if (*cors_origin) {
        exchange_header(x, "Access-Control-Allow-Methods", ALLOWED_METHODS);
        exchange_header(x, "Access-Control-Allow-Headers", "*, Authorization, Content-Type, X-API-Key");
        exchange_header(x, "Access-Control-Max-Age", "600");
    }
    exchange_reply(x, 204, NULL, "", 0);
}

/* Of several reasons to refuse it the first stands. */
void request_admit(const struct request *r, const struct config *config, const struct keys *keys,
                   struct exchange *x, struct bytes *path) {
    x->method = strcmp(r->method, "HEAD") == 0 ? "GET" : r->method;
    x->content_type = r->content_type ? r->content_type : "";
    x->key_name = "-";
    err e = request_decode_path(r->path, path);
    x->path = path->data ? (const char *)path->data : "";
    if (e == ERR_MEMORY) x->is_broken = 1;
    else if (e != OK) exchange_error(x, 400, NULL, "%s", err_text());
    check_method(r->method, x);
    if (r->origin && !request_origin_is_allowed(r->origin, r->host, config->cors_origin))
        exchange_error(x, 403, NULL,
                       "web pages of this origin may not use this server; the key cors_origin allows one");
    if (!keys && !request_host_is_allowed(r->host, config->host, config->cors_origin))
        exchange_error(x, 403, NULL, "this server was asked for by a name that is not this machine's; the key "
                                     "cors_origin allows one (\"http://NAME:PORT\")");
    if (strcmp(r->method, "OPTIONS") == 0) answer_options(x, config->cors_origin);
    if (r->n_body > request_body_most(config)) request_refuse_body(x, config);
    check_key(r, keys, x);
}
