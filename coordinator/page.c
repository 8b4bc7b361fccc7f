#include "coordinator/page.h"

const char page_html[] =
#include "coordinator/page.html.inc"
    ;

const size_t page_html_bytes = sizeof page_html - 1;
