# Caravan. `make help` lists the targets.

BUILD  ?= build
CC     ?= gcc
# SAN=1: AddressSanitizer and UBSan, in a build folder of its own.
SAN    ?= 0

PACKAGES = build-essential pkg-config libopenmpi-dev openmpi-bin \
  ocl-icd-opencl-dev opencl-headers pocl-opencl-icd libclblast-dev \
  libconfig-dev libjansson-dev libpcre2-dev libutf8proc-dev libhwloc-dev \
  libcmocka-dev oclgrind mesa-opencl-icd procps \
  libmicrohttpd-dev libcurl4-openssl-dev libedit-dev libxxhash-dev curl

PKGS = libconfig jansson libpcre2-8 libutf8proc hwloc libmicrohttpd libcurl libedit libxxhash
CPPFLAGS += -I. -I$(BUILD) -D_GNU_SOURCE -DCL_TARGET_OPENCL_VERSION=120 \
  -DCARAVAN_COMMIT='"$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)"'
CFLAGS  ?= -O2 -g
WARN     = -std=c11 -Wall -Wextra -Wshadow -Wconversion -Werror
# Contraction would change the plain-C reference's bits.
NUMERICS = -ffp-contract=off
ifeq ($(SAN),1)
BUILD  := build-san
CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
LDFLAGS += -fsanitize=address,undefined
SAN_OBJS = $(BUILD)/tests/sanitized.o
endif
ifeq ($(filter help deps,$(MAKECMDGOALS)),)
EXT_CFLAGS := $(shell pkg-config --cflags $(PKGS) ompi-c 2>/dev/null | sed 's/-I/-isystem /g')
EXT_LIBS   := $(shell pkg-config --libs $(PKGS) ompi-c 2>/dev/null) -lOpenCL -lclblast -lm -lpthread
endif

# As many compilers as cores, unless -j was given.
PARALLEL = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null || echo 2))

FOLDERS = base model partition kernels node coordinator
SRCS := $(foreach d,$(FOLDERS),$(sort $(wildcard $(d)/*.c)))
OBJS := $(SRCS:%.c=$(BUILD)/%.o)
CLS  := $(sort $(wildcard kernels/cl/*.cl))
TEMPLATES := $(sort $(wildcard model/chat_templates/*.jinja))
comma := ,
space := $(subst ,, )
TESTS := $(sort $(wildcard tests/test_*.c))
TEST_BINS := $(TESTS:tests/%.c=$(BUILD)/tests/%)
FUZZERS := $(sort $(wildcard tests/fuzz_*.c))

.PHONY: all demo test bench lint clean help deps build fuzz
.DEFAULT_GOAL := all

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

all: deps ## install what is missing, build
	@$(MAKE) --no-print-directory $(PARALLEL) build

build: $(if $(wildcard main.c),$(BUILD)/caravan) ## build only
	@if [ "$(BUILD)" = build ] && [ -f build/caravan ]; then ln -sf build/caravan caravan; fi

deps: ## install missing packages (apt-get)
	@tests/install_packages $(PACKAGES)

demo: all ## the demo model on 4 ranks
	@tests/demo

test: all ## every test; last line "N passed, N failed"
	@$(MAKE) --no-print-directory $(PARALLEL) $(TEST_BINS)
	@tests/run $(BUILD)

bench: all ## benchmarks, as ratios
	@bench/run

lint: ## include rules, function sizes, names
	@tests/lint

clean: ## remove what was built
	rm -rf build build-san build-fuzz caravan

# V=1 shows whole command lines.
ifneq ($(V),1)
quiet = @printf '  %-4s %s\n' $(1) $@;
endif

$(BUILD)/caravan: $(OBJS) $(BUILD)/main.o $(SAN_OBJS)
	$(call quiet,LD)$(CC) $(LDFLAGS) -o $@ $^ $(EXT_LIBS)

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(OBJS) $(SAN_OBJS)
	$(call quiet,LD)$(CC) $(LDFLAGS) -o $@ $^ $(EXT_LIBS) -lcmocka

# Their own service, and their own chat template, stand before the real ones.
$(BUILD)/tests/test_api $(BUILD)/tests/test_api_answers build-fuzz/fuzz_api: LDFLAGS += -Wl,-z,muldefs

# Only device.c holds the kernel texts, only chat_template.c the templates, only page.c the page, only main.c the commit.
$(BUILD)/kernels/device.o: $(BUILD)/kernel_sources.inc
$(BUILD)/model/chat_template.o: $(BUILD)/model/chat_templates.inc
$(BUILD)/coordinator/page.o: $(BUILD)/coordinator/page.html.inc
$(BUILD)/main.o: $(wildcard .git/logs/HEAD)
# Nothing but loops over floats, which this makes vectors of; the order of additions stays.
$(BUILD)/node/payload.o $(BUILD)/node/sums.o: CFLAGS += -O3 -fno-trapping-math

$(BUILD)/%.o: %.c
	@mkdir -p $(dir $@)
	$(call quiet,CC)$(CC) $(CPPFLAGS) $(EXT_CFLAGS) $(CFLAGS) $(WARN) $(NUMERICS) -MMD -MP -c -o $@ $<

# The lines of a text file as one C string.
c_string = sed -e 's/[\\"?]/\\&/g' -e 's/.*/"&\\n"/'

# The kernel sources, as C strings.
$(BUILD)/kernel_sources.inc: $(CLS)
	@mkdir -p $(BUILD)
	@for f in $(CLS); do \
	  printf '{"%s",\n' "$$(basename $$f)"; $(c_string) $$f; printf '},\n'; done > $@

# The chat templates that come with the program, and their names.
$(BUILD)/model/chat_templates.inc: $(TEMPLATES)
	@mkdir -p $(dir $@)
	@{ echo '#ifndef CHAT_TEMPLATE_NAMES'; \
	  for f in $(TEMPLATES); do \
	    printf '{"%s",\n' "$$(basename $$f .jinja)"; $(c_string) $$f; printf '},\n'; done; \
	  echo '#else'; echo '"$(subst $(space),$(comma) ,$(strip $(notdir $(TEMPLATES:.jinja=))))"'; \
	  echo '#endif'; } > $@

# Any other text file that C code includes as a string: $(BUILD)/folder/name.ext.inc
$(BUILD)/%.inc: %
	@mkdir -p $(dir $@)
	@$(c_string) $< > $@

# libFuzzer (clang): build-fuzz/fuzz_NAME, all sources with its sanitizers
FUZZ_FLAGS = -g -O1 -std=c11 $(NUMERICS) -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
FUZZ_OBJS := $(SRCS:%.c=build-fuzz/%.o)
fuzz: ## fuzzers of the parsers (clang)
	@$(MAKE) --no-print-directory $(PARALLEL) $(FUZZERS:tests/%.c=build-fuzz/%)
build-fuzz/kernels/device.o: $(BUILD)/kernel_sources.inc
build-fuzz/model/chat_template.o: $(BUILD)/model/chat_templates.inc
build-fuzz/coordinator/page.o: $(BUILD)/coordinator/page.html.inc
build-fuzz/%.o: %.c
	@mkdir -p $(dir $@)
	$(call quiet,CC)clang $(CPPFLAGS) $(EXT_CFLAGS) $(FUZZ_FLAGS) -MMD -MP -c -o $@ $<
build-fuzz/%: build-fuzz/tests/%.o $(FUZZ_OBJS)
	$(call quiet,LD)clang -fsanitize=fuzzer,address,undefined $(LDFLAGS) -o $@ $^ $(EXT_LIBS)

-include $(OBJS:.o=.d) $(BUILD)/main.d $(TEST_BINS:=.d) $(FUZZ_OBJS:.o=.d)
.SECONDARY:
