// SPDX-License-Identifier: MIT
#ifndef PV_FUZZER_H
#define PV_FUZZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// libFuzzer's main loop, for a program that brings its own `main`.
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*callback)(const uint8_t *data, size_t size));

/// Whether libFuzzer is told of comparisons from now on; it is at first.
void pv_fuzzer_listen(bool listens);

/// Shows libFuzzer the branches of functions whose mangled names contain one of the words, and none of those that have a minus
/// before them; words are separated by blanks. It looks at every branch that it knows after each input, also at those of modules
/// that no input ever reaches. Call it once, before the main loop. The number of branches that are shown.
size_t pv_fuzzer_focus(const char *words);
#endif
