/* The KV cache is given out in blocks of positions: who plans memory and who
 * computes must agree on the size. */
#ifndef MODEL_KV_H
#define MODEL_KV_H

#ifndef KV_BLOCK_TOKENS
#define KV_BLOCK_TOKENS 32 /* positions per block */
#endif

#endif
