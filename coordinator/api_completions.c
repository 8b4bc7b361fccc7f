/* POST /v1/completions */
#include "coordinator/api_parts.h"
#include "model/limits.h"

#define TOKENS_UNLESS_ASKED 16

static json_t *write_choice(struct api_choice *c, const struct api_piece *p) {
    int has_scores = c->answer->params.has_scores && (p->is_whole || p->n_scores);
    return json_pack("{s:s%, s:I, s:o, s:s?}", "text", p->text, p->n_text, "index", (json_int_t)c->index, "logprobs",
                     has_scores ? api_completion_scores(c, p->scores, p->n_scores) : json_null(), "finish_reason",
                     p->finish);
}

const struct api_form api_completion_form = {"cmpl", "text_completion", "text_completion", write_choice};

static err read_params(struct api *a, struct api_fault *f, const json_t *root, struct api_params *p) {
    static const char *const max_names[] = {"max_tokens", NULL};
    int64_t n_top = -1;
    p->max_tokens = -1;
    p->tokens_unless_asked = TOKENS_UNLESS_ASKED;
    TRY(api_read_params(a, f, root, max_names, p));
    TRY(api_read_bool(f, root, "echo", &p->is_echo));
    TRY(api_read_whole(f, root, "logprobs", 0, TOP_LOGPROBS_MAX, &n_top));
    p->has_scores = n_top >= 0;
    p->sequence.n_top = p->has_scores ? (uint32_t)n_top : 0;
    if (p->max_tokens == 0 && !p->is_echo)
        return api_refuse(f, "max_tokens", "0 is for echo: true only; expected a whole number from 1");
    return OK;
}

err api_completions(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    struct api_params p = {0};
    struct api_prompt *prompts;
    size_t n;
    uint64_t most = a->o.config->max_choices;
    TRY(read_params(a, f, root, &p));
    TRY(api_read_prompts(a, f, root, "prompt", (size_t)most, &prompts, &n));
    if (n * (size_t)p.best_of > most) {
        api_prompts_free(prompts, n);
        return api_refuse(f, p.best_of > p.n ? "best_of" : "n",
                          "%zu prompts of %lld answers each; a request may have %llu", n, (long long)p.best_of,
                          (unsigned long long)most);
    }
    return api_answer_start(a, x, f, &api_completion_form, &p, "prompt", prompts, n);
}
