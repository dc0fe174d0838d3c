// SPDX-License-Identifier: MIT
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CFuzzer.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/// One branch as the compiler describes it.
struct branch {
  uintptr_t address, flags;
};

void __real___sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *end);
void __real___sanitizer_cov_pcs_init(const struct branch *start, const struct branch *end);

static uint8_t *counters;
static const struct branch *branches, *branches_end;

// The program is linked with --wrap for both: what the compiler's constructors say is kept until the focus is known.
void __wrap___sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *end) {
  if (start != end) counters = start;
}

void __wrap___sanitizer_cov_pcs_init(const struct branch *start, const struct branch *end) {
  branches = start;
  branches_end = end;
}

static bool is_listening = true;
void pv_fuzzer_listen(bool listens) { is_listening = listens; }

// Every comparison is noted, for libFuzzer to put its operands into inputs. Those of a byte are so many, and so soon guessed,
// that they are not worth it. The others leave by a jump: libFuzzer takes note of who called.
void __wrap___sanitizer_cov_trace_cmp1(uint8_t left, uint8_t right) { (void)left, (void)right; }
void __wrap___sanitizer_cov_trace_const_cmp1(uint8_t left, uint8_t right) { (void)left, (void)right; }
#define COMPARISON(name, type) \
  void __real___sanitizer_cov_trace_##name(type left, type right); \
  void __wrap___sanitizer_cov_trace_##name(type left, type right) { \
    if (is_listening) __real___sanitizer_cov_trace_##name(left, right); \
  }
COMPARISON(cmp2, uint16_t)
COMPARISON(cmp4, uint32_t)
COMPARISON(cmp8, uint64_t)
COMPARISON(const_cmp2, uint16_t)
COMPARISON(const_cmp4, uint32_t)
COMPARISON(const_cmp8, uint64_t)

struct function {
  uintptr_t address;
  const char *name;
};

static int by_address(const void *left, const void *right) {
  uintptr_t a = ((const struct function *)left)->address, b = ((const struct function *)right)->address;
  return a < b ? -1 : a > b;
}

/// The functions of the running program, by address; its file stays mapped, for the names.
static struct function *functions(size_t *count) {
  int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (fd < 0 || fstat(fd, &status) < 0) abort();
  const char *file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (file == MAP_FAILED) abort();
  close(fd);
  const ElfW(Ehdr) *header = (const void *)file;
  const ElfW(Shdr) *sections = (const void *)(file + header->e_shoff);
  uintptr_t base = _r_debug.r_map->l_addr;
  struct function *list = NULL;
  *count = 0;
  for (unsigned index = 0; index < header->e_shnum; index++) {
    if (sections[index].sh_type != SHT_SYMTAB) continue;
    const ElfW(Sym) *symbols = (const void *)(file + sections[index].sh_offset);
    const char *names = file + sections[sections[index].sh_link].sh_offset;
    size_t total = sections[index].sh_size / sizeof *symbols;
    list = malloc(total * sizeof *list);
    if (list == NULL) abort();
    for (size_t symbol = 0; symbol < total; symbol++)
      if (ELF64_ST_TYPE(symbols[symbol].st_info) == STT_FUNC && symbols[symbol].st_value != 0)
        list[(*count)++] = (struct function){base + symbols[symbol].st_value, names + symbols[symbol].st_name};
  }
  if (list == NULL) abort();
  qsort(list, *count, sizeof *list, by_address);
  return list;
}

static const char *name_at(const struct function *list, size_t count, uintptr_t address) {
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (list[middle].address <= address) low = middle + 1;
    else high = middle;
  }
  return low > 0 ? list[low - 1].name : "";
}

static bool is_meant(const char *name, const char *words) {
  char word[64];
  bool is_named = false;
  for (int length; sscanf(words, "%63s%n", word, &length) == 1; words += length) {
    if (word[0] == '-' && strstr(name, word + 1) != NULL) return false;
    if (word[0] != '-' && strstr(name, word) != NULL) is_named = true;
  }
  return is_named;
}

size_t pv_fuzzer_focus(const char *words) {
  size_t count, total = (size_t)(branches_end - branches), shown = 0;
  struct function *list = functions(&count);
  const char *last = NULL;
  bool was_meant = false;
  // libFuzzer takes a few thousand pieces; a short gap costs less than one more of them.
  const size_t gap = 64;
  for (size_t start = 0; start < total;) {
    size_t end = start, unmeant = 0;
    for (size_t index = start; index < total && unmeant < gap; index++) {
      const char *name = name_at(list, count, branches[index].address);
      if (name != last) was_meant = is_meant(name, words);
      last = name;
      if (was_meant) end = index + 1, unmeant = 0;
      else if (end == start) start = end = index + 1;
      else unmeant++;
    }
    if (end == start) break;
    __real___sanitizer_cov_8bit_counters_init(counters + start, counters + end);
    __real___sanitizer_cov_pcs_init(branches + start, branches + end);
    shown += end - start;
    start = end;
  }
  free(list);
  return shown;
}
