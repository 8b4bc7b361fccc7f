#include "kernels/device.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

#include "base/cache_file.h"
#include "base/env.h"
#include "base/log.h"
#include "kernels/chain.h"
#include "kernels/program_cache.h"
#include "model/packed.h"

#define PLATFORMS_MAX 16
#define DEVICES_MAX 64

static const struct {
    const char *name, *text;
} sources[] = {
#include "kernel_sources.inc"
};

uint64_t device_sources_hash(void) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        for (const char *c = sources[i].text; *c; c++) h = (h ^ (uint8_t)*c) * 0x100000001b3u;
    return h;
}

static const char *source_text(const char *name) {
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        if (strcmp(sources[i].name, name) == 0) return sources[i].text;
    return NULL;
}

static const char *cl_error_name(cl_int code) {
    static const struct {
        cl_int code;
        const char *name;
    } names[] = {
        {CL_DEVICE_NOT_FOUND, "device not found"},
        {CL_DEVICE_NOT_AVAILABLE, "device not available"},
        {CL_COMPILER_NOT_AVAILABLE, "compiler not available"},
        {CL_MEM_OBJECT_ALLOCATION_FAILURE, "memory allocation failed"},
        {CL_OUT_OF_RESOURCES, "out of resources"},
        {CL_OUT_OF_HOST_MEMORY, "out of host memory"},
        {CL_BUILD_PROGRAM_FAILURE, "program did not build"},
        {CL_INVALID_BUFFER_SIZE, "invalid buffer size"},
        {CL_INVALID_KERNEL_NAME, "invalid kernel name"},
        {CL_INVALID_KERNEL_ARGS, "invalid kernel arguments"},
        {CL_INVALID_WORK_GROUP_SIZE, "invalid work-group size"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code) return names[i].name;
    return "error";
}

err device_check(const struct device *d, cl_int code, const char *what) {
    if (code == CL_SUCCESS) return OK;
    int is_memory = code == CL_MEM_OBJECT_ALLOCATION_FAILURE || code == CL_OUT_OF_HOST_MEMORY;
    return err_set(is_memory ? ERR_MEMORY : ERR_DEVICE, "device '%s': %s: %s (OpenCL code %d)",
                   d->name, what, cl_error_name(code), code);
}

struct found {
    cl_platform_id platform;
    cl_device_id device;
};

/* PoCL hides its device where it cannot keep compiled kernels: a user without a home that can be
 * written gets a folder for them among the temporary files. Before the first OpenCL call. */
static void cache_folder_choose(void) {
    const char *home = env_get("HOME"), *tmp = env_get("TMPDIR");
    if (!home || env_get("POCL_CACHE_DIR") || env_get("XDG_CACHE_HOME")) return;
    char path[600];
    snprintf(path, sizeof path, "%.500s/.cache", home);
    if (cache_folder_make(path)) return;
    snprintf(path, sizeof path, "%.500s/caravan-kernels-%u", tmp && *tmp ? tmp : "/tmp", (unsigned)geteuid());
    if (!cache_folder_make(path) || env_set("POCL_CACHE_DIR", path) != OK)
        log_warn("device.cache", "text=\"neither %s/.cache nor %s can be written; set POCL_CACHE_DIR\"", home, path);
}

/* Mesa offers a device on the processor to those who ask. Before the first OpenCL call. */
static void mesa_offer(const char *select) {
    int is_named = strcasestr(select, "rusticl") || strcasestr(select, "llvmpipe");
    if (is_named && !env_get("RUSTICL_ENABLE") && env_set("RUSTICL_ENABLE", "llvmpipe") != OK)
        log_warn("device.mesa", "text=\"%s\"", err_text());
}

/* Every device of every platform. A platform that fails is passed over. */
static uint32_t find_all(struct found out[DEVICES_MAX]) {
    cl_platform_id platforms[PLATFORMS_MAX];
    cl_uint n_platforms = 0;
    uint32_t n = 0;
    cache_folder_choose();
    if (clGetPlatformIDs(PLATFORMS_MAX, platforms, &n_platforms) != CL_SUCCESS) return 0;
    if (n_platforms > PLATFORMS_MAX) n_platforms = PLATFORMS_MAX;
    for (cl_uint p = 0; p < n_platforms; p++) {
        cl_device_id devices[DEVICES_MAX];
        cl_uint n_devices = 0;
        if (clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, DEVICES_MAX, devices, &n_devices) != CL_SUCCESS)
            continue;
        for (cl_uint i = 0; i < n_devices && n < DEVICES_MAX; i++)
            out[n++] = (struct found){platforms[p], devices[i]};
    }
    return n;
}

static void platform_text(const struct found *f, cl_platform_info what, char *out, size_t cap) {
    if (clGetPlatformInfo(f->platform, what, cap, out, NULL) != CL_SUCCESS) snprintf(out, cap, "?");
}

static void device_text(const struct found *f, cl_device_info what, char *out, size_t cap) {
    if (clGetDeviceInfo(f->device, what, cap, out, NULL) != CL_SUCCESS) snprintf(out, cap, "?");
}

static uint64_t device_number(const struct found *f, cl_device_info what, size_t size) {
    union {
        cl_ulong u64;
        cl_uint u32;
    } v = {0};
    if (clGetDeviceInfo(f->device, what, size, &v, NULL) != CL_SUCCESS) return 0;
    return size == sizeof v.u32 ? v.u32 : v.u64;
}

static cl_device_type device_type(const struct found *f) {
    return device_number(f, CL_DEVICE_TYPE, sizeof(cl_device_type));
}

err backend_list(struct device_description **out, uint32_t *n) {
    struct found all[DEVICES_MAX];
    *n = find_all(all);
    TRY(NEW(*out, *n));
    for (uint32_t i = 0; i < *n; i++) {
        struct device_description *d = &(*out)[i];
        cl_device_type type = device_type(&all[i]);
        platform_text(&all[i], CL_PLATFORM_NAME, d->platform, sizeof d->platform);
        device_text(&all[i], CL_DEVICE_NAME, d->name, sizeof d->name);
        device_text(&all[i], CL_DEVICE_VERSION, d->version, sizeof d->version);
        device_text(&all[i], CL_DRIVER_VERSION, d->driver, sizeof d->driver);
        snprintf(d->type, sizeof d->type, "%s", type & CL_DEVICE_TYPE_GPU ? "gpu"
                 : type & CL_DEVICE_TYPE_CPU ? "cpu" : "accelerator");
        d->memory_bytes = device_number(&all[i], CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(cl_ulong));
        d->allocation_bytes = device_number(&all[i], CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(cl_ulong));
        d->compute_units = (uint32_t)device_number(&all[i], CL_DEVICE_MAX_COMPUTE_UNITS, sizeof(cl_uint));
        d->local_bytes = (uint32_t)device_number(&all[i], CL_DEVICE_LOCAL_MEM_SIZE, sizeof(cl_ulong));
    }
    return OK;
}

/* Of `all` [n] those whose name holds `select`: fit [*n_fit]. `names` gets every name. */
static err devices_fit(const struct found *all, uint32_t n, const char *select, uint32_t *fit, uint32_t *n_fit,
                       struct bytes *names) {
    *n_fit = 0;
    for (uint32_t i = 0; i < n; i++) {
        char platform[128], name[128], full[260];
        platform_text(&all[i], CL_PLATFORM_NAME, platform, sizeof platform);
        device_text(&all[i], CL_DEVICE_NAME, name, sizeof name);
        snprintf(full, sizeof full, "%s / %s", platform, name);
        TRY(bytes_printf(names, "%s'%s'", i ? ", " : "", full));
        if (strcasestr(full, select)) fit[(*n_fit)++] = i;
    }
    return OK;
}

/* The GPUs in turn, or where there is none the first that fits. */
static uint32_t device_turn(const struct found *all, const uint32_t *fit, uint32_t n_fit, uint32_t turn) {
    uint32_t gpus[DEVICES_MAX], n_gpus = 0;
    for (uint32_t i = 0; i < n_fit; i++)
        if (device_type(&all[fit[i]]) & CL_DEVICE_TYPE_GPU) gpus[n_gpus++] = fit[i];
    return n_gpus ? gpus[turn % n_gpus] : fit[0];
}

/* ERR_DEVICE lists what there is. */
static err device_choose(const struct device_choice *c, struct found *out) {
    const char *select = c->select ? c->select : "";
    mesa_offer(select);
    struct found all[DEVICES_MAX];
    uint32_t fit[DEVICES_MAX], n_fit, n = find_all(all);
    struct bytes names = {0};
    err e = devices_fit(all, n, select, fit, &n_fit, &names);
    if (e == OK && n == 0)
        e = err_set(ERR_DEVICE, "no OpenCL device on this host; install a driver "
                                "(for the CPU: apt-get install pocl-opencl-icd)");
    else if (e == OK && n_fit == 0)
        e = err_set(ERR_DEVICE, "no OpenCL device whose name holds '%s'; there are: %s", select,
                    (const char *)names.data);
    else if (e == OK && c->has_index && c->index >= n_fit)
        e = err_set(ERR_DEVICE, "no OpenCL device %u whose name holds '%s', counted from 0; there are: %s", c->index,
                    select, (const char *)names.data);
    else if (e == OK)
        *out = all[c->has_index ? fit[c->index] : device_turn(all, fit, n_fit, c->index)];
    bytes_free(&names);
    return e;
}

#if defined(__x86_64__) && defined(__linux__)
static int has_cpu_bits(unsigned subleaf, char reg, unsigned bits) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, subleaf, &a, &b, &c, &d) && ((reg == 'a' ? a : d) & bits) == bits;
}

/* Inline assembly of the host needs the host's own CPU and a compiler that passes it on. */
static enum dot_form host_dot_form(void) {
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512f")) return DOT_AVX512_VNNI;
    if (!__builtin_cpu_supports("avx2")) return DOT_PLAIN;
    return has_cpu_bits(1, 'a', 1u << 4) ? DOT_AVX_VNNI : DOT_AVX2;
}

/* Tile registers are large: Linux grants them to a process that asks. */
static int host_has_amx(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* asm/prctl.h */
    return host_dot_form() == DOT_AVX512_VNNI && has_cpu_bits(0, 'd', 1u << 24 | 1u << 25) && /* TILE, INT8 */
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#else
static enum dot_form host_dot_form(void) { return DOT_PLAIN; }
static int host_has_amx(void) { return 0; }
#endif

#define COMPUTE_CAPABILITY_MAJOR_NV 0x4000 /* cl_nv_device_attribute_query */
#define COMPUTE_CAPABILITY_MINOR_NV 0x4001

/* Of a device that makes its own vectors out of work-items. */
static enum dot_form device_dot_form(const struct found *f) {
    char extensions[8192];
    device_text(f, CL_DEVICE_EXTENSIONS, extensions, sizeof extensions);
    if (strstr(extensions, "cl_khr_integer_dot_product")) return DOT_KHR;
    if (!strstr(extensions, "cl_nv_device_attribute_query")) return DOT_PLAIN;
    uint64_t major = device_number(f, COMPUTE_CAPABILITY_MAJOR_NV, sizeof(cl_uint));
    uint64_t minor = device_number(f, COMPUTE_CAPABILITY_MINOR_NV, sizeof(cl_uint));
    return major * 10 + minor >= 61 ? DOT_DP4A : DOT_PLAIN;
}

/* A device that wants vectors gets a group of lanes per work-item; one that makes its
 * own out of work-items gets a lane. */
static struct kernel_forms forms_choose(const struct device *d, const struct found *f) {
    int is_own = d->is_cpu && d->is_pocl;
    if (device_number(f, CL_DEVICE_PREFERRED_VECTOR_WIDTH_FLOAT, sizeof(cl_uint)) > 1)
        return (struct kernel_forms){PACKED_LANES, is_own ? host_dot_form() : DOT_PLAIN,
                                     is_own && host_has_amx(), 1, 0, 0};
    return (struct kernel_forms){1, device_dot_form(f), 0, 1, 0, 0};
}

err device_open(const struct device_choice *c, struct device *out) {
    struct found f;
    TRY(device_choose(c, &f));
    memset(out, 0, sizeof *out);
    out->id = f.device;
    platform_text(&f, CL_PLATFORM_NAME, out->platform, sizeof out->platform);
    device_text(&f, CL_DEVICE_NAME, out->name, sizeof out->name);
    device_text(&f, CL_DEVICE_VERSION, out->version, sizeof out->version);
    device_text(&f, CL_DRIVER_VERSION, out->driver, sizeof out->driver);
    tune_defaults(&out->tuning);
    out->memory_bytes = device_number(&f, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(cl_ulong));
    out->allocation_bytes = device_number(&f, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(cl_ulong));
    out->is_cpu = (device_type(&f) & CL_DEVICE_TYPE_CPU) != 0;
    out->is_pocl = strstr(out->platform, "Portable Computing Language") != NULL;
    out->forms = forms_choose(out, &f);
    /* Others may run a function only once somebody waits for it, and on that one's thread. */
    out->can_call = out->is_cpu && out->is_pocl &&
                    (device_number(&f, CL_DEVICE_EXECUTION_CAPABILITIES, sizeof(cl_ulong)) & CL_EXEC_NATIVE_KERNEL);
    cl_int code;
    out->context = clCreateContext(NULL, 1, &out->id, NULL, NULL, &code);
    TRY(device_check(out, code, "create a context"));
    await_init(&out->await);
    out->queue = clCreateCommandQueue(out->context, out->id, 0, &code);
    err e = device_check(out, code, "create a queue");
    if (e != OK) device_close(out);
    return e;
}

void device_close(struct device *d) {
    if (d->queue) {
        chain_free(d->chain);
        clFinish(d->queue);
        await_free(&d->await);
        clReleaseCommandQueue(d->queue);
    }
    if (d->context) clReleaseContext(d->context);
    d->queue = NULL;
    d->context = NULL;
}

err device_queue(struct device *d, cl_command_queue *out) {
    *out = d->queue;
    d->is_busy = 1;
    return d->chain ? chain_flush(d->chain) : OK;
}

err device_finish(struct device *d) {
    cl_command_queue queue;
    TRY(device_queue(d, &queue));
    TRY(device_check(d, clFinish(queue), "finish"));
    d->is_busy = 0;
    return OK;
}

void *device_address(cl_mem m) {
    void *at = NULL;
    return clGetMemObjectInfo(m, CL_MEM_HOST_PTR, sizeof at, &at, NULL) == CL_SUCCESS ? at : NULL;
}

uint8_t *device_place(const struct device *d, cl_mem m) { return d->chain && !d->is_busy ? device_address(m) : NULL; }

/* The log of a failed build, its first lines. */
static err build_error(const struct device *d, cl_program program) {
    char log[600] = "";
    size_t n = 0;
    if (clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &n) == CL_SUCCESS && n) {
        char *whole = malloc(n + 1);
        if (whole && clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, n, whole, NULL) == CL_SUCCESS) {
            whole[n] = 0;
            snprintf(log, sizeof log, "%s", whole);
        }
        free(whole);
    }
    for (char *c = log; *c; c++)
        if (*c == '\n') *c = ' ';
    return err_set(ERR_DEVICE, "device '%s': kernels do not build: %s", d->name, log);
}

static const char *const dot_names[N_DOT_FORMS] = {
    [DOT_AVX2] = "DOT_AVX2", [DOT_AVX_VNNI] = "DOT_AVX_VNNI", [DOT_AVX512_VNNI] = "DOT_AVX512_VNNI",
    [DOT_DP4A] = "DOT_DP4A", [DOT_KHR] = "DOT_KHR"};

uint32_t item_blocks(const struct kernel_forms *f) { return f->lanes_per_item == PACKED_LANES ? 4 : 1; }

/* What every program starts with. INLINE: arrays that a helper is given stay in registers, which sums must: in memory
 * each addition waits for the one before to be stored. */
static err prefix_put(const struct kernel_forms *f, struct bytes *text) {
    if (!f->is_free) TRY(bytes_append_str(text, "#pragma OPENCL FP_CONTRACT OFF\n"));
    TRY(bytes_append_str(text, "#define INLINE static __attribute__((always_inline))\n"));
    TRY(bytes_printf(text, "#define LPI %u\n#define TREE_DEPTH 6\n", f->lanes_per_item));
    TRY(bytes_printf(text, "#define ITEM_BLOCKS %u\n", item_blocks(f)));
    TRY(bytes_printf(text, "#define CHUNK %d\n", ATTEND_CHUNK));
    TRY(bytes_printf(text, "#define Q8_SUM_TIMES (%d)\n#define Q8_SUM_HALF_TIMES (%d)\n", Q8_SUM_TIMES,
                     Q8_SUM_HALF_TIMES));
    TRY(bytes_printf(text, "#define ACT_SILU %d\n#define ACT_GELU_TANH %d\n", ACT_SILU, ACT_GELU_TANH));
    TRY(bytes_append_str(text, "#define S_F16 0\n#define S_K45 1\n#define S_Q6 2\n#define S_Q3 3\n#define S_Q2 4\n"));
    if (f->dot != DOT_PLAIN) TRY(bytes_printf(text, "#define %s\n", dot_names[f->dot]));
    if (f->has_amx) TRY(bytes_append_str(text, "#define DOT_AMX\n"));
    if (!f->has_half) TRY(bytes_append_str(text, "#define INTEGER_HALF\n"));
    TRY(bytes_append_str(text, "#define ITEM_PARAMS\n"));
    TRY(bytes_append_str(text, source_text("fetch.cl")));
    TRY(bytes_append_str(text, "#define NUMBER_FUNCTION INLINE\n#define REAL float\n#define AS_REAL as_float\n"
                               "#define AS_INT as_int\n#define NUMBER(n) number_##n\n"));
    TRY(bytes_append_str(text, source_text("number.cl")));
    TRY(bytes_append_str(text, "#undef REAL\n#undef AS_REAL\n#undef AS_INT\n#undef NUMBER\n"
                               "#define REAL float16\n#define AS_REAL as_float16\n#define AS_INT as_int16\n"
                               "#define NUMBER(n) number16_##n\n"));
    return bytes_append_str(text, source_text("number.cl"));
}

static err program_text(const struct kernel_forms *forms, const char *const *files, struct bytes *text) {
    TRY(prefix_put(forms, text));
    for (; *files; files++) {
        const char *piece = **files == '#' ? *files : source_text(*files);
        if (!piece) return err_set(ERR_INTERNAL, "no kernel text '%s'", *files);
        TRY(bytes_append_str(text, piece));
        TRY(bytes_append_str(text, "\n"));
    }
    return OK;
}

/* Whether a text has `name` as a word of its own. */
static int is_named(const char *text, const char *name) {
    size_t n = strlen(name);
    for (const char *at = text; (at = strstr(at, name)); at += n)
        if ((at == text || (!isalnum((unsigned char)at[-1]) && at[-1] != '_')) && !isalnum((unsigned char)at[n]) &&
            at[n] != '_')
            return 1;
    return 0;
}

/* Only those that the text names: another value compiles again only what it concerns. */
static err build_options(const struct device *d, const struct kernel_forms *forms, const char *text,
                         struct bytes *out) {
    TRY(bytes_append_str(out, "-cl-std=CL1.2"));
    if (forms->is_free) TRY(bytes_append_str(out, " -cl-fast-relaxed-math"));
    for (int i = 0; i < N_TUNABLES; i++)
        if (is_named(text, tunables[i].name))
            TRY(bytes_printf(out, " -D %s=%u", tunables[i].name, d->tuning.values[i]));
    return OK;
}

err device_build(struct device *d, const struct kernel_forms *forms, const char *const *files,
                 cl_program *out) {
    struct bytes text = {0}, options_text = {0};
    cl_program program = NULL;
    err e;
    TRY_GOTO(program_text(forms, files, &text), done);
    TRY_GOTO(build_options(d, forms, (const char *)text.data, &options_text), done);
    const char *options = (const char *)options_text.data;
    if (d->keeps_programs && (program = program_cache_get(d, options, &text))) goto done;
    cl_int code;
    const char *source = (const char *)text.data;
    program = clCreateProgramWithSource(d->context, 1, &source, &text.len, &code);
    TRY_GOTO(device_check(d, code, "create a program"), done);
    d->has_compiled = 1;
    if (clBuildProgram(program, 1, &d->id, options, NULL, NULL) != CL_SUCCESS) e = build_error(d, program);
    else if (d->keeps_programs) program_cache_put(d, options, &text, program);
done:
    bytes_free(&text);
    bytes_free(&options_text);
    if (e != OK && program) clReleaseProgram(program);
    if (e == OK) *out = program;
    return e;
}

static err memory_create(struct device *d, cl_mem_flags flags, size_t n_bytes, void *at, cl_mem *out) {
    if (d->allocation_bytes && n_bytes > d->allocation_bytes)
        return err_set(ERR_MEMORY, "device '%s': one buffer of %zu MB is needed, %llu MB are possible; "
                                   "use more shards or stages",
                       d->name, n_bytes >> 20, (unsigned long long)(d->allocation_bytes >> 20));
    cl_int code;
    *out = clCreateBuffer(d->context, CL_MEM_READ_WRITE | flags, n_bytes, at, &code);
    return device_check(d, code, "allocate memory");
}

static void CL_CALLBACK on_memory_gone(cl_mem mem, void *at) {
    (void)mem;
    free(at);
}

err device_memory(struct device *d, size_t n_bytes, cl_mem *out) {
    if (n_bytes == 0) n_bytes = 64;
    if (!d->can_chain) return memory_create(d, 0, n_bytes, NULL, out);
    void *at = mem_on_large_pages(n_bytes);
    if (!at) return ERR_MEMORY;
    err e = memory_create(d, CL_MEM_USE_HOST_PTR, n_bytes, at, out);
    if (e == OK) e = device_check(d, clSetMemObjectDestructorCallback(*out, on_memory_gone, at), "watch memory");
    else free(at);
    return e;
}

err device_memory_at(struct device *d, void *at, size_t n_bytes, cl_mem *out) {
    return memory_create(d, CL_MEM_USE_HOST_PTR, n_bytes, at, out);
}

err device_launch(struct device *d, cl_kernel kernel, const struct device_arg *args, uint32_t n_args,
                  uint32_t n_dims, const size_t *global, const size_t *local) {
    for (uint32_t i = 0; i < n_dims; i++)
        if (global[i] == 0) return OK;
    err e = OK;
    if (d->chain && chain_take(d->chain, kernel, args, n_args, n_dims, global, &e)) return e;
    TRY(e);
    cl_command_queue queue;
    TRY(device_queue(d, &queue));
    for (uint32_t i = 0; i < n_args; i++)
        TRY(device_check(d, clSetKernelArg(kernel, i, args[i].size, args[i].value), "set a kernel argument"));
    return device_check(d, clEnqueueNDRangeKernel(queue, kernel, n_dims, NULL, global, local, 0, NULL, NULL),
                        "enqueue a kernel");
}

err device_launch_items(struct device *d, cl_kernel kernel, const struct device_arg *args,
                        uint32_t n_args, size_t n) {
    size_t local = d->tuning.values[TUNE_GROUP_ITEMS], global = (n + local - 1) / local * local;
    return device_launch(d, kernel, args, n_args, 1, &global, &local);
}
