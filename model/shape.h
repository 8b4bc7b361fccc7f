/* Shapes: models that are described, not there: a program without a file's data, for planning.
 *
 * A file (libconfig), in the words of GGUF's metadata; configs/shapes/ has examples, docs/planning.md explains every
 * key:
 *
 *     name = "Llama 3 70B"; architecture = "llama"; format = "Q4_K";     of all matrices
 *     layers = 80; dim = 8192; heads = 64; kv_heads = 8; head_dim = 128; ff = 28672; vocab = 128256; context = 8192;
 *     formats = { head = "Q6_K"; };      by group, over `format`: attention, ff, embedding, head, router
 *     experts = 16; experts_used = 2;    a mixture: ff is of one expert
 *     tied = true;                       the head is the embedding table
 *
 * The tensors are those that a converter would write, so the architecture's own code makes the program; norms and
 * biases are F32. */
#ifndef MODEL_SHAPE_H
#define MODEL_SHAPE_H

#include "model/program.h"

struct shape; /* owns the tensors of its program */

/* ERR_CONFIG names file, line and key. */
err shape_read(const char *path, struct shape **out);
void shape_free(struct shape *s);
const struct program *shape_program(const struct shape *s);
/* Its tensors, as a file that is not there. */
const struct gguf *shape_gguf(const struct shape *s);

#endif
