/* Sizes that every part must agree on, planner, coordinator and node alike. */
#ifndef MODEL_LIMITS_H
#define MODEL_LIMITS_H

#define KV_BLOCK_TOKENS 32 /* positions per block of KV cache */
#define ATTEND_CHUNK 256   /* positions per attention chunk: part of the numbers */
#define STEP_OUTS_MAX 64   /* wanted rows of one step: bounds the memory of logits */
#define TOP_LOGPROBS_MAX 20 /* most probable tokens that an output may list */

#endif
