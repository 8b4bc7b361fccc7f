#include "coordinator/args.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static err text_add(struct args *a, const char *fmt, va_list list, va_list again) {
    size_t n = (size_t)vsnprintf(NULL, 0, fmt, list) + 1;
    if (a->n == ARGS_MAX) return err_set(a->full, "%s: more than %d arguments for one program", a->what, ARGS_MAX);
    TRY(bytes_reserve(&a->text, n));
    vsnprintf((char *)a->text.data + a->text.len, n, fmt, again);
    a->at[a->n++] = a->text.len;
    a->text.len += n;
    return OK;
}

err args_add(struct args *a, const char *fmt, ...) {
    va_list list, again;
    va_start(list, fmt);
    va_copy(again, list);
    err e = text_add(a, fmt, list, again);
    va_end(again);
    va_end(list);
    return e;
}

err args_add_words(struct args *a, const char *words, const char *separators) {
    for (const char *w = words + strspn(words, separators); *w; w += strspn(w, separators)) {
        size_t n = strcspn(w, separators);
        TRY(args_add(a, "%.*s", (int)n, w));
        w += n;
    }
    return OK;
}

char **args_list(struct args *a) {
    for (size_t i = 0; i < a->n; i++) a->list[i] = (char *)a->text.data + a->at[i];
    a->list[a->n] = NULL;
    return a->list;
}

void args_free(struct args *a) { bytes_free(&a->text); }
