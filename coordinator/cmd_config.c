/* caravan config --example: the text of configs/example.cfg. */
#include <stdio.h>

#include "coordinator/commands.h"
#include "coordinator/options.h"

err cmd_config(int argc, char **argv) {
    struct config config;
    struct option_result words;
    int is_example = 0;
    const struct option own[] = {
        {"example", OPTION_SWITCH, &is_example, NULL, "print every key with its default", 0, 0}};
    const struct option_set set = {"config --example", "Prints an example configuration file.", 0,
                                   own, 1, 0};
    TRY(options_parse(&set, argc, argv, &config, &words));
    if (words.is_help) return OK;
    if (!is_example) return err_set(ERR_USAGE, "config: give --example");
    struct bytes text = {0};
    err e = config_example(&text);
    if (e == OK) fwrite(text.data, 1, text.len, stdout);
    bytes_free(&text);
    return e;
}
