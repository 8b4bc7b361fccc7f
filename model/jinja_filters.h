/* Tables of filters; private to model/. */
#ifndef MODEL_JINJA_FILTERS_H
#define MODEL_JINJA_FILTERS_H

#include "model/jinja_run.h"

/* Those of lists and dicts; ends with a NULL name. */
extern const struct jinja_builtin jinja_list_filters[];

#endif
