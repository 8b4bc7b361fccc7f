/* API: what a client may ask over HTTP and how it is answered, in the shapes of the OpenAI API
 * (https://platform.openai.com/docs/api-reference), so that existing clients work unchanged. Reads the JSON of
 * requests, gives them to the service, and writes its events as answers. Knows no socket (exchange.h) and no job
 * (service.h).
 *
 * Owns the answers under way. Used on the transport's thread only; the three functions below are its callbacks. */
#ifndef COORDINATOR_API_H
#define COORDINATOR_API_H

#include "base/config.h"
#include "base/err.h"
#include "coordinator/exchange.h"
#include "coordinator/metrics.h"
#include "coordinator/model.h"
#include "coordinator/service.h"
#include "model/chat_template.h"

struct api;

/* All of it outlives the API. */
struct api_options {
    const struct config *config; /* context, max_output, max_choices, model_name */
    const struct model *model;
    struct service *service;
    struct metrics *metrics;          /* may be NULL */
    const struct chat_template *chat; /* NULL: the model has none, and none was named */
    const char *commit;               /* of this program: system_fingerprint */
};

/* ERR_CONFIG or ERR_REQUEST: what of the configuration does not fit the model. */
err api_create(const struct api_options *o, struct api **out);
/* Cancels what is under way; its exchanges have no owner then, so that api_gone, with a NULL, does nothing. NULL is
 * fine. */
void api_free(struct api *a);

/* A whole request: answers it, or keeps it until the service's events answer it. */
void api_request(struct api *a, struct exchange *x);
/* `x` is about to be freed: what still runs for it is cancelled. */
void api_gone(struct api *a, struct exchange *x);
/* Takes the service's events and writes what they answer. */
void api_events(struct api *a);

#endif
