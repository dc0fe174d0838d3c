#ifndef PV_FUZZER_H
#define PV_FUZZER_H

#include <stddef.h>
#include <stdint.h>

/// libFuzzer's main loop, for a program that brings its own `main`.
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*callback)(const uint8_t *data, size_t size));

#endif
