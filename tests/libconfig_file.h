/* What tests of readers of libconfig files share: a file of a given text, and what is said of a bad one. */
#ifndef TESTS_LIBCONFIG_FILE_H
#define TESTS_LIBCONFIG_FILE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"

#define TEST_FILE "/tmp/caravan-test-file-XXXXXX"
static char path[] = TEST_FILE;

/* At `path`, to be unlinked. */
static void write_bytes(const char *text, size_t n) {
    memcpy(path, TEST_FILE, sizeof path);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), (ssize_t)n);
    close(fd);
}

/* The text made the reader give `e`: ERR_CONFIG, one line that begins with "PATH:line" and contains `said`. */
static void check_said(const char *text, err e, const char *line, const char *said) {
    char where[64];
    if (e != ERR_CONFIG) fail_msg("%s: gave %d", text, e);
    snprintf(where, sizeof where, "%s:%s", path, line);
    if (strncmp(err_text(), where, strlen(where)) != 0 || !strstr(err_text(), said) || strchr(err_text(), '\n'))
        fail_msg("said \"%s\", expected \"%s ... %s\"", err_text(), where, said);
}

#endif
