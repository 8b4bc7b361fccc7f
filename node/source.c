#include "node/source.h"

uint64_t source_range_bytes(const struct gguf *g, const struct source_range *r) {
    enum format f = gguf_tensor_at(g, r->tensor)->format;
    return (r->row_end - r->row_begin) * format_bytes(f, (size_t)(r->col_end - r->col_begin));
}

static err file_read(void *context, const struct source_range *r, uint64_t place, void *dst) {
    const struct gguf *g = context;
    (void)place;
    return gguf_read(g, gguf_tensor_at(g, r->tensor), r->row_begin, r->row_end, r->col_begin, r->col_end, dst, NULL);
}

static void file_advise(void *context, const struct source_range *r) {
    const struct gguf *g = context;
    gguf_advise(g, gguf_tensor_at(g, r->tensor), r->row_begin, r->row_end);
}

struct source source_file(const struct gguf *g) {
    return (struct source){.context = (void *)(uintptr_t)g, .gguf = g, .read = file_read, .advise = file_advise};
}
