#include "coordinator/peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

/* Logs may stand before it. */
static json_t *json_find(const char *out, char opening) {
    const char *at = strchr(out, opening);
    return at ? json_loads(at, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
}

static int is_speed(double tokens_per_s) { return tokens_per_s > 0 && tokens_per_s < 1e12; }

/* ---- llama-bench ---- */

err peer_parse_llama_bench(const char *out, uint32_t n_prompt, uint32_t n_tokens, struct peer_speed *speed,
                           char *version, size_t cap) {
    json_t *tests = json_find(out, '['), *test;
    size_t i;
    *speed = (struct peer_speed){0};
    json_array_foreach(tests, i, test) {
        json_int_t read = json_integer_value(json_object_get(test, "n_prompt"));
        json_int_t written = json_integer_value(json_object_get(test, "n_gen"));
        double tokens_per_s = json_number_value(json_object_get(test, "avg_ts"));
        const char *commit = json_string_value(json_object_get(test, "build_commit"));
        if (read == n_prompt && written == 0) speed->prefill = tokens_per_s;
        if (read == 0 && written == n_tokens) speed->decode = tokens_per_s;
        snprintf(version, cap, "%s (%lld)", commit ? commit : "unknown",
                 json_integer_value(json_object_get(test, "build_number")));
    }
    int is_json = json_is_array(tests);
    json_decref(tests);
    if (!is_json) return err_set(ERR_FORMAT, "printed no JSON array");
    if (!is_speed(speed->prefill) || !is_speed(speed->decode))
        return err_set(ERR_FORMAT, "printed no speed for %u tokens read or %u written", n_prompt, n_tokens);
    return OK;
}

/* ---- dllama ---- */

/* "   nTokens: 63" and "   tokens/s: 12.34 (...)" after a line that says `title`. */
static int section_get(const char *out, const char *title, double *n, double *tokens_per_s) {
    const char *at = strstr(out, title), *tokens = at ? strstr(at, "nTokens:") : NULL;
    const char *rate = tokens ? strstr(tokens, "tokens/s:") : NULL;
    if (!rate) return 0;
    *n = strtod(tokens + strlen("nTokens:"), NULL);
    *tokens_per_s = strtod(rate + strlen("tokens/s:"), NULL);
    return *n >= 1 && is_speed(*tokens_per_s);
}

/* "Eval   12 ms Sync    3 ms | ... | (32 tokens)" and "Pred   12 ms Sync    3 ms | ... | text". */
struct sums {
    double eval_ms, eval_tokens, pred_ms, pred_tokens;
};

static void line_add(const char *line, size_t n, struct sums *s) {
    unsigned work, sync, tokens;
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)(n < sizeof text ? n : sizeof text - 1), line);
    const char *eval = strstr(text, "Eval"), *pred = strstr(text, "Pred"), *count = strrchr(text, '(');
    if (eval && sscanf(eval, "Eval%u ms Sync%u ms", &work, &sync) == 2 && count &&
        sscanf(count, "(%u tokens)", &tokens) == 1) {
        s->eval_ms += work + sync;
        s->eval_tokens += tokens;
    } else if (pred && sscanf(pred, "Pred%u ms Sync%u ms", &work, &sync) == 2) {
        s->pred_ms += work + sync;
        s->pred_tokens += 1;
    }
}

err peer_parse_dllama(const char *out, struct peer_speed *speed, uint32_t *n_prompt) {
    double n_read, n_written;
    if (section_get(out, "\nEvaluation\n", &n_read, &speed->prefill) &&
        section_get(out, "\nPrediction\n", &n_written, &speed->decode)) {
        *n_prompt = (uint32_t)n_read;
        return OK;
    }
    struct sums s = {0};
    for (const char *line = out; *line;) {
        size_t n = strcspn(line, "\n");
        line_add(line, n, &s);
        line += n + (line[n] == '\n');
    }
    if (s.eval_ms <= 0 || s.pred_ms <= 0) return err_set(ERR_FORMAT, "printed no times of steps");
    *n_prompt = (uint32_t)s.eval_tokens;
    *speed = (struct peer_speed){s.eval_tokens * 1e3 / s.eval_ms, s.pred_tokens * 1e3 / s.pred_ms};
    return OK;
}

/* ---- ours ---- */

err peer_parse_caravan(const char *out, struct peer_speed *speed, char *device, size_t cap) {
    json_t *root = json_find(out, '{'), *row = json_array_get(json_object_get(root, "rows"), 0);
    const char *name = json_string_value(json_object_get(root, "device"));
    speed->prefill = json_number_value(json_object_get(row, "prefill_tokens_per_s"));
    speed->decode = json_number_value(json_object_get(row, "decode_tokens_per_s"));
    snprintf(device, cap, "%s", name ? name : "unknown");
    json_decref(root);
    if (!is_speed(speed->prefill) || !is_speed(speed->decode)) return err_set(ERR_FORMAT, "printed no speed");
    return OK;
}
