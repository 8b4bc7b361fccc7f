/* Page: the web page of `serve`, page.html as it is, put into the program by the
 * build. Never changes: any thread. */
#ifndef COORDINATOR_PAGE_H
#define COORDINATOR_PAGE_H

#include <stddef.h>

extern const char page_html[];   /* [page_html_bytes], then a NUL */
extern const size_t page_html_bytes;

/* All that the page may do: its own script and style, and requests to its own server. */
#define PAGE_POLICY                                                                                  \
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; " \
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

#endif
