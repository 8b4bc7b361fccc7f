#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ERR_TEXT_BYTES 1024

static _Thread_local char text_last[ERR_TEXT_BYTES];

err err_set(err code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(text_last, sizeof text_last, fmt, args);
    va_end(args);
    return code;
}

err err_context(err code, const char *fmt, ...) {
    char inner[ERR_TEXT_BYTES];
    memcpy(inner, text_last, sizeof inner);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text_last, sizeof text_last, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof text_last)
        snprintf(text_last + n, sizeof text_last - (size_t)n, ": %s", inner);
    return code;
}

const char *err_text(void) { return text_last; }

const char *err_name(err code) {
    static const char *const names[] = {
#define ERR_NAME(code, text) text,
        ERR_LIST(ERR_NAME)
#undef ERR_NAME
    };
    return (unsigned)code < sizeof names / sizeof *names ? names[code] : "?";
}
