#include "coordinator/request.h"

#include <string.h>
#include <strings.h>

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

err request_quote(const char *text, size_t most, struct bytes *out) {
    TRY(bytes_append_str(out, "\""));
    for (size_t i = 0; text[i] && i < most; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c > ' ' && c < 0x7F && c != '"' && c != '\\') TRY(bytes_append(out, &c, 1));
        else TRY(bytes_printf(out, "\\x%02X", c));
    }
    return bytes_append_str(out, "\"");
}
