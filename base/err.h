/* Errors: one list of codes, and the text of the last one.
 *
 * A function that can fail returns `err`; 0 is success and results go out
 * through pointers. The text is recorded once, where the facts are known
 * (file, tensor, expected, found), with err_set(); callers pass the code on
 * with TRY(). Each thread has its own text. Nothing here ends the process. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#define ERR_LIST(X)                                                            \
    X(OK, "ok")                                                                \
    X(ERR_USAGE, "wrong usage")             /* command line */                 \
    X(ERR_CONFIG, "bad configuration")      /* configuration file */           \
    X(ERR_REQUEST, "bad request")           /* a client's mistake */           \
    X(ERR_BUSY, "too much at once")         /* asked again later, it may work */ \
    X(ERR_FILE, "file error")               /* open, read, write */            \
    X(ERR_FORMAT, "malformed file")         /* content breaks its format */    \
    X(ERR_UNSUPPORTED, "not supported")     /* valid, but nothing we run */    \
    X(ERR_MEMORY, "not enough memory")      /* host or device */               \
    X(ERR_DEVICE, "device error")           /* OpenCL */                       \
    X(ERR_JOB, "job failed")                /* a rank or the launcher */       \
    X(ERR_TIMEOUT, "deadline passed")       /* a wait that took too long */    \
    X(ERR_INTERNAL, "internal error")       /* a bug of ours */

typedef enum {
#define ERR_ENUM(code, text) code,
    ERR_LIST(ERR_ENUM)
#undef ERR_ENUM
} err;

/* Records the text of this thread's error and returns `code`. */
err err_set(err code, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts "text: " in front of the recorded text; returns `code`. For a caller
 * that knows something the failing function did not (which file, which key). */
err err_context(err code, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* The text recorded last in this thread; never NULL. */
const char *err_text(void);

/* The general meaning of a code, "malformed file". */
const char *err_name(err code);

/* Returns from the calling function when `expr` fails. */
#define TRY(expr)                                                              \
    do {                                                                       \
        err try_err_ = (expr);                                                 \
        if (try_err_ != OK) return try_err_;                                   \
    } while (0)

/* The same for functions with something to free: `e` must be in scope. */
#define TRY_GOTO(expr, label)                                                  \
    do {                                                                       \
        e = (expr);                                                            \
        if (e != OK) goto label;                                               \
    } while (0)

#endif
