#include "kernels/tune.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/env.h"
#include "base/log.h"

const struct tunable tunables[N_TUNABLES] = {
#define TUNE_ROW(name, fallback, concern, help, ...) \
    {#name, fallback, concern, help, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t), {__VA_ARGS__}},
    TUNE_LIST(TUNE_ROW)
#undef TUNE_ROW
};

#define ONE(n) 1, {n}
/* Kernel 0 of two, which keeps sums in registers and adds in the order of k; KREG is of the other. */
const struct clblast_kernel clblast_kernels[N_CLBLAST_KERNELS] = {
    [CLBLAST_XGEMM] = {"Xgemm", 16,
                       {{"GEMMK", ONE(0)}, {"KREG", ONE(1)}, {"KWG", 4, {1, 8, 16, 32}}, {"KWI", 4, {1, 2, 4, 8}},
                        {"MDIMA", 6, {1, 2, 4, 8, 16, 32}}, {"MDIMC", 6, {1, 2, 4, 8, 16, 32}},
                        {"MWG", 5, {8, 16, 32, 64, 128}}, {"NDIMB", 6, {1, 2, 4, 8, 16, 32}},
                        {"NDIMC", 6, {1, 2, 4, 8, 16, 32}}, {"NWG", 5, {8, 16, 32, 64, 128}},
                        {"SA", 2, {0, 1}}, {"SB", 2, {0, 1}}, {"STRM", 2, {0, 1}}, {"STRN", 2, {0, 1}},
                        {"VWM", 5, {1, 2, 4, 8, 16}}, {"VWN", 5, {1, 2, 4, 8, 16}}}},
    [CLBLAST_DIRECT] = {"XgemmDirect", 10,
                        {{"KWID", 4, {1, 2, 8, 16}}, {"MDIMAD", 6, {1, 2, 4, 8, 16, 32}},
                         {"MDIMCD", 6, {1, 2, 4, 8, 16, 32}}, {"NDIMBD", 6, {1, 2, 4, 8, 16, 32}},
                         {"NDIMCD", 6, {1, 2, 4, 8, 16, 32}}, {"PADA", 2, {0, 1}}, {"PADB", 2, {0, 1}},
                         {"VWMD", 4, {1, 2, 4, 8}}, {"VWND", 4, {1, 2, 4, 8}}, {"WGD", 4, {8, 16, 32, 64}}}},
    [CLBLAST_ROUTINE] = {"GemmRoutine", 1, {{"XGEMM_MIN_INDIRECT_SIZE", 6, {1, 64, 128, 256, 512, 4096}}}},
};

void tune_defaults(struct tuning *out) {
    memset(out, 0, sizeof *out);
    for (int i = 0; i < N_TUNABLES; i++) out->values[i] = tunables[i].fallback;
}

int tune_is_legal(const struct tunable *t, uint32_t value) {
    for (uint32_t i = 0; i < t->n_values; i++)
        if (t->values[i] == value) return 1;
    return 0;
}

/* ---- CLBlast's rules, as its own tuners have them ---- */

static uint32_t parameter(enum clblast_id kernel, const uint32_t *values, const char *name) {
    const struct clblast_kernel *k = &clblast_kernels[kernel];
    for (uint32_t i = 0; i < k->n_parameters; i++)
        if (strcmp(k->parameters[i].name, name) == 0) return values[i];
    return 0;
}

static int divides(uint32_t part, uint32_t whole) { return part > 0 && whole % part == 0; }

static const char *xgemm_breach(const uint32_t *v) {
#define P(name) parameter(CLBLAST_XGEMM, v, #name)
    uint32_t items = P(MDIMC) * P(NDIMC);
    if (!divides(P(MDIMC) * P(VWM), P(MWG))) return "MWG is no multiple of MDIMC * VWM";
    if (!divides(P(NDIMC) * P(VWN), P(NWG))) return "NWG is no multiple of NDIMC * VWN";
    if (!divides(P(MDIMA) * P(VWM), P(MWG))) return "MWG is no multiple of MDIMA * VWM";
    if (!divides(P(NDIMB) * P(VWN), P(NWG))) return "NWG is no multiple of NDIMB * VWN";
    if (!divides(P(KWI), P(KWG))) return "KWG is no multiple of KWI";
    if (!divides(P(MDIMA), items)) return "MDIMC * NDIMC is no multiple of MDIMA";
    if (!divides(P(NDIMB), items)) return "MDIMC * NDIMC is no multiple of NDIMB";
    if (!divides(items / P(MDIMA), P(KWG))) return "KWG is no multiple of MDIMC * NDIMC / MDIMA";
    if (!divides(items / P(NDIMB), P(KWG))) return "KWG is no multiple of MDIMC * NDIMC / NDIMB";
#undef P
    return NULL;
}

static const char *direct_breach(const uint32_t *v) {
#define P(name) parameter(CLBLAST_DIRECT, v, #name)
    uint32_t items = P(MDIMCD) * P(NDIMCD);
    if (!divides(P(KWID), P(WGD))) return "WGD is no multiple of KWID";
    if (!divides(P(MDIMCD) * P(VWMD), P(WGD))) return "WGD is no multiple of MDIMCD * VWMD";
    if (!divides(P(NDIMCD) * P(VWND), P(WGD))) return "WGD is no multiple of NDIMCD * VWND";
    if (!divides(P(MDIMAD) * P(VWMD), P(WGD))) return "WGD is no multiple of MDIMAD * VWMD";
    if (!divides(P(NDIMBD) * P(VWND), P(WGD))) return "WGD is no multiple of NDIMBD * VWND";
    if (!divides(P(MDIMAD), items)) return "MDIMCD * NDIMCD is no multiple of MDIMAD";
    if (!divides(P(NDIMBD), items)) return "MDIMCD * NDIMCD is no multiple of NDIMBD";
    if (!divides(items / P(MDIMAD), P(WGD))) return "WGD is no multiple of MDIMCD * NDIMCD / MDIMAD";
    if (!divides(items / P(NDIMBD), P(WGD))) return "WGD is no multiple of MDIMCD * NDIMCD / NDIMBD";
#undef P
    return NULL;
}

const char *clblast_breach(enum clblast_id kernel, const uint32_t *values) {
    switch (kernel) {
    case CLBLAST_XGEMM: return xgemm_breach(values);
    case CLBLAST_DIRECT: return direct_breach(values);
    default: return NULL;
    }
}

/* ---- reading ---- */

struct reading {
    const struct tune_device *device;
    struct tuning *out;
    int has_platform, has_device, is_other;
    uint32_t seen[N_CLBLAST_KERNELS]; /* parameters, a bit each */
    unsigned line[N_CLBLAST_KERNELS];
};

static err read_name(const struct config_item *item, const char *whole, int is_exact, int *fits) {
    if (!item->text || !*item->text) return err_set(ERR_CONFIG, "expected a text in quotes");
    *fits = is_exact ? strcmp(whole, item->text) == 0 : strstr(whole, item->text) != NULL;
    return OK;
}

static err read_tunable(struct reading *r, const struct config_item *item, const char *name) {
    for (int i = 0; i < N_TUNABLES; i++) {
        if (strcmp(tunables[i].name, name) != 0) continue;
        if (!item->is_whole || item->whole < 0 || item->whole > UINT32_MAX ||
            !tune_is_legal(&tunables[i], (uint32_t)item->whole))
            return err_set(ERR_CONFIG, "no value that this tunable may have");
        r->out->values[i] = (uint32_t)item->whole;
        return OK;
    }
    return err_set(ERR_CONFIG, "no such tunable");
}

static err read_parameter(struct reading *r, const struct config_item *item, const char *path) {
    for (int k = 0; k < N_CLBLAST_KERNELS; k++) {
        const struct clblast_kernel *kernel = &clblast_kernels[k];
        size_t n = strlen(kernel->name);
        if (strncmp(path, kernel->name, n) != 0 || path[n] != '.') continue;
        for (uint32_t i = 0; i < kernel->n_parameters; i++) {
            const struct clblast_parameter *p = &kernel->parameters[i];
            if (strcmp(p->name, path + n + 1) != 0) continue;
            for (uint32_t v = 0; v < p->n_values; v++)
                if (item->is_whole && item->whole == p->values[v]) {
                    r->out->clblast[k][i] = p->values[v];
                    r->seen[k] |= 1u << i;
                    r->line[k] = item->line;
                    return OK;
                }
            return err_set(ERR_CONFIG, "no value that this parameter may have");
        }
        return err_set(ERR_CONFIG, "CLBlast's %s has no such parameter", kernel->name);
    }
    return err_set(ERR_CONFIG, "no such kernel of CLBlast, or no parameter of it");
}

static err read_item(void *context, const struct config_item *item) {
    struct reading *r = context;
    const struct tune_device *d = r->device;
    int fits = 1;
    if (strcmp(item->path, "platform") == 0) {
        TRY(read_name(item, d->platform, 0, &fits));
        r->has_platform = 1;
    } else if (strcmp(item->path, "device") == 0) {
        TRY(read_name(item, d->name, 0, &fits));
        r->has_device = 1;
    } else if (strcmp(item->path, "driver") == 0) {
        TRY(read_name(item, d->driver, 1, &fits));
        if (!fits && !r->is_other)
            return err_set(ERR_CONFIG, "made for driver \"%s\", this one is \"%s\": run caravan tune again",
                           item->text, d->driver);
    } else if (strncmp(item->path, "tunables.", 9) == 0) {
        return read_tunable(r, item, item->path + 9);
    } else if (strncmp(item->path, "clblast.", 8) == 0) {
        return read_parameter(r, item, item->path + 8);
    } else {
        return err_set(ERR_CONFIG, "unknown key");
    }
    r->is_other |= !fits;
    return OK;
}

static err check_whole(struct reading *r, const char *path) {
    if (!r->has_platform || !r->has_device)
        return err_set(ERR_CONFIG, "%s: says no platform or no device", path);
    for (int k = 0; k < N_CLBLAST_KERNELS; k++) {
        if (!r->seen[k]) continue;
        const struct clblast_kernel *kernel = &clblast_kernels[k];
        for (uint32_t i = 0; i < kernel->n_parameters; i++)
            if (!(r->seen[k] >> i & 1))
                return err_set(ERR_CONFIG, "%s:%u: clblast.%s: %s is missing", path, r->line[k], kernel->name,
                               kernel->parameters[i].name);
        const char *breach = clblast_breach((enum clblast_id)k, r->out->clblast[k]);
        if (breach) return err_set(ERR_CONFIG, "%s:%u: clblast.%s: %s", path, r->line[k], kernel->name, breach);
        r->out->has_clblast[k] = 1;
    }
    return OK;
}

err tune_read(const char *path, const struct tune_device *d, struct tuning *out, int *is_for_device) {
    struct reading r = {.device = d, .out = out};
    tune_defaults(out);
    err e = config_walk(path, read_item, &r);
    if (e == OK) e = check_whole(&r, path);
    *is_for_device = e == OK && !r.is_other;
    if (*is_for_device) snprintf(out->source, sizeof out->source, "%s", path);
    else tune_defaults(out);
    return e;
}

/* ---- writing ---- */

/* As libconfig reads a text in quotes. */
static err put_text(struct bytes *out, const char *key, const char *text) {
    TRY(bytes_printf(out, "%s = \"", key));
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c >= ' ') TRY(bytes_printf(out, "%s%c", *c == '"' || *c == '\\' ? "\\" : "", *c));
    return bytes_append_str(out, "\";\n");
}

err tune_text(const struct tuning *t, const struct tune_device *d, const char *made_by, struct bytes *out) {
    TRY(bytes_printf(out, "# Made by caravan tune%s; see kernels/tune.h.\n", made_by));
    TRY(put_text(out, "platform", d->platform));
    TRY(put_text(out, "device", d->name));
    TRY(put_text(out, "driver", d->driver));
    TRY(bytes_append_str(out, "tunables = {\n"));
    for (int i = 0; i < N_TUNABLES; i++)
        TRY(bytes_printf(out, "  %s = %u;\n", tunables[i].name, t->values[i]));
    TRY(bytes_append_str(out, "};\nclblast = {\n"));
    for (int k = 0; k < N_CLBLAST_KERNELS; k++) {
        if (!t->has_clblast[k]) continue;
        const struct clblast_kernel *kernel = &clblast_kernels[k];
        TRY(bytes_printf(out, "  %s = {\n", kernel->name));
        for (uint32_t i = 0; i < kernel->n_parameters; i++)
            TRY(bytes_printf(out, "    %s = %u;\n", kernel->parameters[i].name, t->clblast[k][i]));
        TRY(bytes_append_str(out, "  };\n"));
    }
    return bytes_append_str(out, "};\n");
}

/* "portable-computing-language-pthread-haswell": letters and digits, what is between them one dash. */
static void slug(const char *text, char *out, size_t cap) {
    size_t n = strlen(out);
    for (const char *c = text; *c && n + 2 < cap; c++) {
        int is_letter = (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9');
        if (*c >= 'A' && *c <= 'Z') out[n++] = (char)(*c - 'A' + 'a');
        else if (is_letter) out[n++] = *c;
        else if (n > 0 && out[n - 1] != '-') out[n++] = '-';
    }
    while (n > 0 && out[n - 1] == '-') n--;
    out[n] = 0;
}

err tune_user_path(const struct tune_device *d, char *out, size_t cap) {
    const char *folder = env_get("XDG_CONFIG_HOME"), *home = env_get("HOME");
    char name[200] = "", base[400];
    slug(d->platform, name, sizeof name / 2);
    strcat(name, "-");
    slug(d->name, name, sizeof name);
    if (folder && *folder == '/') snprintf(base, sizeof base, "%s", folder);
    else if (home && *home == '/') snprintf(base, sizeof base, "%.380s/.config", home);
    else return err_set(ERR_CONFIG, "neither XDG_CONFIG_HOME nor HOME names a folder");
    if (snprintf(out, cap, "%s/caravan/tune/%s.cfg", base, name) >= (int)cap)
        return err_set(ERR_CONFIG, "%s: too long a path", base);
    return OK;
}

/* Every folder above a file. */
static err folders_make(const char *path) {
    char folder[TUNE_SOURCE_BYTES];
    snprintf(folder, sizeof folder, "%s", path);
    for (char *c = folder + 1; *c; c++) {
        if (*c != '/') continue;
        *c = 0;
        if (mkdir(folder, 0777) != 0 && errno != EEXIST)
            return err_set(ERR_FILE, "cannot make the folder %s: %s", folder, strerror(errno));
        *c = '/';
    }
    return OK;
}

/* First beside it, then in its place: a reader sees the old file or the new one. */
err tune_store(const struct tuning *t, const struct tune_device *d, const char *made_by, const char *path) {
    struct bytes text = {0};
    char beside[TUNE_SOURCE_BYTES + 32];
    err e;
    TRY_GOTO(tune_text(t, d, made_by, &text), done);
    TRY_GOTO(folders_make(path), done);
    snprintf(beside, sizeof beside, "%s.%ld", path, (long)getpid());
    FILE *f = fopen(beside, "wb");
    int is_good = f && fwrite(text.data, 1, text.len, f) == text.len;
    if (f && fclose(f) != 0) is_good = 0;
    if (!is_good || rename(beside, path) != 0) {
        e = err_set(ERR_FILE, "cannot write %s: %s", path, strerror(errno));
        unlink(beside);
    }
done:
    bytes_free(&text);
    return e;
}

/* ---- finding ---- */

/* Whether the file gave the tuning. */
static int take(const char *path, const struct tune_device *d, struct tuning *out) {
    int is_for_device;
    if (tune_read(path, d, out, &is_for_device) != OK)
        log_warn("device.tune", "text=\"%s; this file is not used\"", err_text());
    return is_for_device;
}

/* In the order of their names. */
static int take_from_folder(const char *folder, const struct tune_device *d, struct tuning *out) {
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, alphasort), is_taken = 0;
    for (int i = 0; i < n; i++) {
        char path[TUNE_SOURCE_BYTES];
        size_t len = strlen(entries[i]->d_name);
        int is_cfg = len > 4 && strcmp(entries[i]->d_name + len - 4, ".cfg") == 0;
        if (!is_taken && is_cfg &&
            snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name) < (int)sizeof path)
            is_taken = take(path, d, out);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    return is_taken;
}

/* Those that come with the program: beside it, beside the folder that it was built in, or where it is installed. */
static int take_shipped(const struct tune_device *d, struct tuning *out) {
    static const char *const places[] = {"configs/tune", "../configs/tune", "../share/caravan/tune"};
    char program[300], folder[340];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) return 0;
    program[n] = 0;
    char *slash = strrchr(program, '/');
    if (slash) *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(folder, sizeof folder, "%s/%s", program, places[i]);
        if (take_from_folder(folder, d, out)) return 1;
    }
    return 0;
}

void tune_find(const struct tune_device *d, struct tuning *out) {
    char path[TUNE_SOURCE_BYTES];
    tune_defaults(out);
    if (tune_user_path(d, path, sizeof path) == OK && access(path, F_OK) == 0 && take(path, d, out)) return;
    take_shipped(d, out);
}
